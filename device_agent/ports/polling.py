"""One poll: ask what changed, with the answer of last time as the condition."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from device_agent.core.errors import TransportError
from device_agent.ports.hub import Link, failure
from firmware_schemas.device_api import INTERVAL_HEADER, PollAnswer

POLL_PATH = "/device/v1/poll"
_MAX_ANSWER_BYTES = 16 * 1024
_MAX_ACTION_CHARS = 128
_DEADLINE_S = 30.0
_LONGEST_INTERVAL_S = 86_400.0


class Polled(NamedTuple):
    """What a poll brought.

    Attributes:
        answer: None where nothing changed since the last one.
        interval_s: Seconds to the next poll, before jitter.
    """

    answer: PollAnswer | None
    interval_s: float


class Poller:
    """Polls, and remembers the ETag while the process lives: the first poll of a process always gets an answer.

    Args:
        hub: Where.

    Attributes:
        interval_s: What the hub last said; 0 before it has.
    """

    def __init__(self, hub: Link) -> None:
        self._hub = hub
        self._etag = ""
        self._jitter_s = 0.0
        self.interval_s = 0.0

    def poll(self) -> Polled:
        """Ask once.

        Raises:
            TransportError: No answer, or one that is neither 200 nor 304; its code is the hub's.
        """
        headers = {"if-none-match": self._etag} if self._etag else {}
        answer = self._hub.exchange(
            "GET", POLL_PATH, headers=headers, longest_bytes=_MAX_ANSWER_BYTES, deadline_s=_DEADLINE_S
        )
        self.interval_s = interval_s = _interval_s(answer.headers.get(INTERVAL_HEADER, ""))
        if answer.status == 304 and self._etag:
            return Polled(None, interval_s)
        if answer.status != 200:
            raise failure(answer, "the poll")
        try:
            decoded = msgspec.json.decode(answer.body, type=PollAnswer)
        except msgspec.DecodeError as error:
            raise TransportError(f"The answer to the poll cannot be read: {error}.", "answer_malformed") from error
        if len(decoded.action) > _MAX_ACTION_CHARS:
            raise TransportError("The answer to the poll names an action without end.", "answer_malformed")
        self._etag = answer.headers.get("etag", "")
        self._jitter_s = float(min(max(decoded.jitter_s, 0), _LONGEST_INTERVAL_S))
        return Polled(decoded, interval_s)

    def forget(self) -> None:
        """Have the next poll answered in full."""
        self._etag = ""

    def next_in_s(self, interval_s: float, uniform: Callable[[float, float], float]) -> float:
        """Seconds to the next poll: the interval and full jitter."""
        return interval_s + uniform(0.0, self._jitter_s)


def _interval_s(text: str) -> float:
    """The hub's interval, within what a craft may be asked."""
    seconds = float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 60.0
    return min(max(seconds, 1.0), _LONGEST_INTERVAL_S)
