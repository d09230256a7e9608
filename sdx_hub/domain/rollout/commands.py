"""What people may command in which state, and what state that leads to.

The table is everything: a command that is not in it is refused, and changes nothing. `cancel` is for whatever has not
ended. Of what has ended only the way back is left: some mistakes show when everybody has the release.
"""

from typing import Final, Literal, get_args

from sdx_hub.domain.errors import ConflictError

Command = Literal["approve", "pause", "resume", "halt", "revert", "cancel", "advance", "retry", "skip"]
COMMANDS: Final[tuple[Command, ...]] = get_args(Command)

TABLE: Final[dict[str, dict[Command, str]]] = {
    # There are no members yet: these two can only be let go on or be given up.
    "approval": {"approve": "preparing", "cancel": "cancelled"},
    "preparing": {"cancel": "cancelled"},
    "running": {
        "pause": "paused",
        "halt": "halted",
        "revert": "reverting",
        "cancel": "cancelled",
        "advance": "running",
        "retry": "running",
        "skip": "running",
    },
    "paused": {
        "resume": "running",
        "halt": "halted",
        "revert": "reverting",
        "cancel": "cancelled",
        "retry": "paused",
        "skip": "paused",
    },
    "halted": {
        "resume": "running",
        "revert": "reverting",
        "cancel": "cancelled",
        "retry": "halted",
        "skip": "halted",
    },
    # On its way back, which ends by itself: a device that does not answer is given up after a while.
    "reverting": {},
    "reverted": {},
    "finished": {"revert": "reverting"},
    "cancelled": {"revert": "reverting"},
}
_DONE: Final[dict[Command, str]] = {
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
    "halt": "halted",
    "revert": "reverted",
    "cancel": "cancelled",
    "advance": "advanced",
    "retry": "retried",
    "skip": "told to skip devices",
}
_IS: Final = {
    "approval": "waits for approval",
    "preparing": "is being prepared",
    "running": "is running",
    "paused": "is paused",
    "halted": "is halted",
    "reverting": "is being reverted",
    "reverted": "was reverted",
    "finished": "has finished",
    "cancelled": "was cancelled",
}


def after(command: Command, state: str) -> str:
    """The state of a rollout after a command.

    Raises:
        ConflictError: Not in this state (`rollout_state`); the message says what is possible.
    """
    possible = TABLE[state]
    if command in possible:
        return possible[command]
    instead = f"Possible now: {', '.join(sorted(possible))}." if possible else _NOTHING[state]
    raise ConflictError(
        f"A rollout that {_IS[state]} cannot be {_DONE[command]}. {instead}",
        "rollout_state",
        state=state,
        possible=sorted(possible),
    )


_NOTHING: Final = {
    "reverting": "It ends by itself when every device is back or given up.",
    "reverted": "Start another one.",
}
