"""Filling slots, switching them, and switching back: the effects STAGE, SWITCH and SWITCH_BACK."""

from collections.abc import Callable

from device_agent.core.errors import AgentError, InstallError
from device_agent.core.plan import Item, Plan
from device_agent.handlers.slots import Handler
from device_agent.ports.commands import Outcome
from device_agent.ports.downloads import Downloads
from device_agent.worker.pause import Unwanted
from device_agent.worker.workplace import Workplace


class Installation:
    """Works on the slots of a plan, through the handlers.

    Args:
        place: The worker's tools.
        downloads: Where the payloads lie.
        heed: Raises when the action is no longer wanted.
    """

    def __init__(self, place: Workplace, downloads: Downloads, heed: Callable[[], None]) -> None:
        self._place, self._downloads, self._heed = place, downloads, heed

    def stage(self, plan: Plan) -> None:
        """Fill every inactive slot and read it back; if one cannot be, none keeps anything.

        Raises:
            InstallError, TrustError, OSError, Unwanted: It did not work, or is not wanted any more.
        """
        try:
            for item in plan.items:
                handler = self._handler(item)
                handler.check(item)
                handler.stage(item, self._downloads.chunks(item.component.sha256, item.length))
                handler.verify(item)
                self._heed()
        except (AgentError, OSError, Unwanted):
            self.discard(plan)
            raise

    def discard(self, plan: Plan) -> None:
        for item in plan.items:
            if item.component.type in self._place.handlers:
                self._handler(item).discard(item)

    def switch(self, plan: Plan) -> Outcome:
        """Make the new set current and activate it."""
        for group in self._groups(plan):
            self._handler(group[0]).switch(group)
        return self._activate()

    def switch_back(self, plan: Plan) -> None:
        """Make the old set current and activate it, whatever the activation says: there is nothing older to go to."""
        for group in reversed(self._groups(plan)):
            self._handler(group[0]).rollback(group)
        self._activate()

    def _activate(self) -> Outcome:
        command = self._place.settings.activate
        if command is None:
            return Outcome(True, "there is no activation command")
        return self._place.commands.run(command.argv, None, command.timeout_s)

    def _groups(self, plan: Plan) -> list[list[Item]]:
        """The items that are switched in one step, in the order of the plan."""
        groups: dict[str, list[Item]] = {}
        for item in plan.items:
            groups.setdefault(self._handler(item).group, []).append(item)
        return list(groups.values())

    def _handler(self, item: Item) -> Handler:
        handler = self._place.handlers.get(item.component.type)
        if handler is None:
            raise InstallError(f"No handler here installs the type {item.component.type!r} of {item.component.name}.")
        return handler
