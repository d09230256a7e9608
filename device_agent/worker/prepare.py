"""From an offer to verified payloads in the download folder: the effects CHECK and FETCH."""

import shutil
from collections.abc import Callable

from device_agent.core.errors import TransportError, TrustError
from device_agent.core.journal import Journal
from device_agent.core.plan import Instruction, Item, Plan, Verified
from device_agent.ports.downloads import Downloads
from device_agent.ports.hub import TooLarge, TooSlow, failure
from device_agent.trust.refresh import Fetch, MetadataFolder
from device_agent.trust.verify import Verifier
from device_agent.worker.facts import gather
from device_agent.worker.workplace import Workplace


class Preparation:
    """Verifies instructions and brings payloads.

    Args:
        place: The worker's tools.
        heed: Raises when the action is no longer wanted.
    """

    def __init__(self, place: Workplace, heed: Callable[[], None]) -> None:
        self._place = place
        home = place.home
        self.downloads = Downloads(
            home.downloads,
            place.storage,
            place.hub,
            clock=place.clock,
            limits=place.settings.limits,
            uniform=place.uniform,
            heed=heed,
        )
        self._folders = {name: MetadataFolder(home.metadata(name), place.storage) for name in ("director", "image")}

    def verify(self, journal: Journal, adopt: Callable[[Instruction], None]) -> Verified[Plan]:
        """Steps 1 to 5 of the trust order.

        Args:
            journal: What is installed.
            adopt: Told of the signed instruction before its releases are looked at; it may refuse to go on.

        Raises:
            TrustError, TransportError, InstallError, SettingsError: See `Verifier`.
        """
        place = self._place
        facts = gather(journal, place.handlers, place.home.slots, place.device_id, place.settings.hardware)
        verifier = Verifier(
            self._folders["director"],
            self._folders["image"],
            self._fetcher(f"/tuf/director/{place.device_id}/metadata/"),
            self._fetcher("/tuf/image/metadata/"),
            place.clock,
        )
        instruction = verifier.instruction(facts)
        adopt(instruction)
        longest_s = place.settings.trial.longest_s
        return verifier.plan(instruction, facts, self.downloads.read, longest_trial_s=longest_s)

    def missing_bytes(self, plan: Plan) -> int:
        """How many bytes of storage the plan lacks: each payload as it comes, and unpacked beside what runs."""
        need = sum(2 * item.length for item in self._absent(plan))
        free = shutil.disk_usage(self._place.home.root).free - self._place.settings.limits.storage_reserve_bytes
        return max(need - free, 0) if plan.items else 0

    def fetch(self, plan: Plan) -> None:
        """Step 6: every payload that the plan installs, verified by its digest.

        Raises:
            TrustError, TransportError, InstallError: See `Downloads.fetch`.
        """
        absent = self._absent(plan)
        self.downloads.keep_only(frozenset(item.component.sha256 for item in absent))
        for item in absent:
            self.downloads.fetch(item.component.sha256, item.length)

    def _absent(self, plan: Plan) -> list[Item]:
        """The items whose content is not in its slot already.

        What ran before lies in the other slot still: going back to it costs the link nothing. The slot is read back
        again before it is switched to.
        """
        return [item for item in plan.items if not self._is_in_its_slot(item)]

    def _is_in_its_slot(self, item: Item) -> bool:
        handler = self._place.handlers.get(item.component.type)
        found = handler.digest(item.component.name, item.slot, item.file_name) if handler is not None else None
        return found == item.component.sha256

    def _fetcher(self, base: str) -> Fetch:
        def fetch(name: str, longest_bytes: int) -> bytes | None:
            deadline_s = self._place.settings.limits.metadata_deadline_s
            try:
                answer = self._place.hub.exchange(
                    "GET", base + name, longest_bytes=longest_bytes, deadline_s=deadline_s
                )
            except TooLarge as error:
                # Endless data: no genuine file has so many bytes, so this is no matter of trying again.
                raise TrustError(str(error), "metadata_too_large") from error
            except TooSlow as error:
                raise TransportError(str(error), "metadata_too_slow") from error
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise failure(answer, base + name)
            return answer.body

        return fetch
