"""How a worker ends."""

from typing import NamedTuple

from device_agent.core.errors import AgentError


class Pause(NamedTuple):
    """Why a worker stops here, and when it wants to go on.

    Attributes:
        wake_s: Seconds until the next one; None where only the hub can give it work.
        error: What prevents it from going on; None where nothing is wrong.
        gate: What the flight gate said, where that is what it waits for.
    """

    wake_s: float | None = None
    error: AgentError | None = None
    gate: str = ""


class Unwanted(Exception):
    """The hub wants something else than what is being done."""
