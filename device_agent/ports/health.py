"""Whether the craft is healthy: its own checks, and those that the installed components bring."""

from collections.abc import Callable, Sequence
from pathlib import Path

from device_agent.core.plan import Probe
from device_agent.ports.commands import Commands, Outcome
from device_agent.settings import Command


class Health:
    """Runs every check; all must pass.

    Args:
        commands: Runs them.
        own: The device's checks, from agent.toml.
        folder_of: The current folder of a component.
    """

    def __init__(self, commands: Commands, own: Sequence[Command], folder_of: Callable[[str], Path]) -> None:
        self._commands, self._own, self._folder_of = commands, own, folder_of

    def check(self, probes: Sequence[Probe]) -> Outcome:
        """The first check that fails, or a passing outcome."""
        for command in self._own:
            outcome = self._commands.run(command.argv, None, command.timeout_s)
            if not outcome.ok:
                return outcome
        for probe in probes:
            outcome = self._commands.run(probe.argv, self._folder_of(probe.component), probe.timeout_s)
            if not outcome.ok:
                return Outcome(False, f"{probe.component}: {outcome.detail}")
        return Outcome(True, "every health check passed")
