"""The time that expiry is checked against, made of what was signed and of what passed since boot (step 1).

The system clock and the receiver are never asked: one wakes in 1970, the other can be made to say 2099 (ADR 6).
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from device_agent.core.errors import TrustError

LATEST_S = 253_402_300_799
"""The end of the year 9999: later seconds are no date in Python, and no honest signing time."""


class TimeFloor(Struct, frozen=True):
    """The largest signed time of accepted instructions, and when in which boot it was learnt.

    Attributes:
        keyids: Key ids of the director's timestamp role that vouched for it, sorted. When a new root replaces them,
            the floor is worth nothing: stolen keys may have set it to 2099.
    """

    time_s: int = 0
    boot_id: str = ""
    since_boot_s: int = 0
    keyids: tuple[str, ...] = ()


def decode_floor(raw: bytes | None) -> TimeFloor:
    """Read a floor back; a damaged one counts as none, since it is only a lower bound."""
    if raw is None:
        return TimeFloor()
    try:
        return msgspec.json.decode(raw, type=TimeFloor)
    except msgspec.DecodeError:
        return TimeFloor()


def encode_floor(floor: TimeFloor) -> bytes:
    return msgspec.json.encode(floor)


def vouched_for_by(floor: TimeFloor, keyids: Iterable[str]) -> TimeFloor:
    """The floor, or a fresh one where the keys that set it were replaced."""
    return floor if floor.keyids == tuple(sorted(keyids)) else TimeFloor()


def earliest_now_s(floor: TimeFloor, boot_id: str, since_boot_s: int) -> int:
    """It cannot be earlier than this: the floor, and what has passed since in the same boot."""
    passed = since_boot_s - floor.since_boot_s if boot_id == floor.boot_id else 0
    return min(floor.time_s + max(passed, 0), LATEST_S)


def checked_signed_time(value: object) -> int:
    """The signing time of a timestamp.

    Raises:
        TrustError: It is no whole number of seconds in this calendar (code `metadata_malformed`).
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LATEST_S:
        raise TrustError("The director's timestamp does not say when it was signed.", "metadata_malformed")
    return value


def as_datetime(time_s: int) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)
