"""Rollouts of the demo, ordered and watched with the commands that people use."""

from collections.abc import Callable

from msgspec import Struct

from sdx_hub.cli.failures import HALTED
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.tools import Tools


class Ended(Struct, frozen=True):
    """How a rollout stood when it was not watched any more.

    Attributes:
        id: `ro-3`.
        halted: It was stopped, and the command said so with its exit code, 6.
        state, wave: Of the rollout.
        sentence: Why.
    """

    id: str
    halted: bool
    state: str
    wave: int
    sentence: str


class Rolling:
    """Rollouts of one person.

    Args:
        tools: The person's.
        say: Takes a sentence for the person who watches.
    """

    def __init__(self, tools: Tools, say: Callable[[str], None]) -> None:
        self._tools = tools
        self._say = say

    def start(self, release: str, waves: str, *more: str) -> Ended:
        """Order a rollout, and watch it until it ends or stops."""
        command = ("rollout", "start", release, "--waves", waves, *more, "--watch")
        self._say(f"$ sdx {' '.join(command)}")
        return self._watched(*command, "--yes")

    def revert(self, rollout: str, reason: str) -> Ended:
        """Bring every touched craft back, and watch that."""
        self._say(f"$ sdx rollout revert {rollout} --watch")
        return self._watched("rollout", "revert", rollout, "--reason", reason, "--watch", "--yes")

    def touched(self, rollout: str) -> dict[str, str]:
        """What became of each craft that was offered the release, by serial."""
        outcomes = self._tools.sdx("rollout", "evidence", rollout)["outcomes"]
        return {outcome["serial"]: outcome["state"] for outcome in outcomes}

    def replayed(self, rollout: str) -> int:
        """Make every decision of the hub again; return how many there were.

        Raises:
            DemoError: One comes out otherwise, or there is none.
        """
        found = self._tools.sdx("rollout", "evidence", rollout)
        if not found["replayed"] or found["same"] != found["replayed"]:
            raise DemoError(f"Of {found['replayed']} decisions of {rollout}, {found['same']} come out the same again.")
        return int(found["replayed"])

    def _watched(self, *arguments: str) -> Ended:
        code, answer = self._tools.watched(*arguments, hear=lambda line: self._say(f"  {line}"))
        if code == HALTED:
            last, why = answer["extra"]["last"], answer["message"].split("\n")[0]
            return Ended(last["id"], True, last["state"], last["wave"], why)
        if code != 0:
            raise DemoError(f"`sdx {' '.join(arguments)}` ended with {code}: {answer}")
        return Ended(answer["id"], False, answer["state"], answer["wave"], answer["reason"])
