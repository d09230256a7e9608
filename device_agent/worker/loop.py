"""The worker: do the duty of the state, write what follows into the journal, until there is something to wait for.

The order is always the same: an effect is performed, its event is looked up in the table, the new journal is made
durable, and only then is the next effect performed. So a power cut at any moment has at most one effect done again.
"""

from collections.abc import Callable

from device_agent.core import journal as journals
from device_agent.core.backoff import delay_s, is_final
from device_agent.core.errors import AgentError, BudgetExhausted, InstallError, TransportError, TrustError
from device_agent.core.journal import Journal, LastResult, advance, result_of
from device_agent.core.machine import Effect
from device_agent.core.plan import Instruction, Plan, Verified
from device_agent.core.states import (
    Accept,
    Activated,
    Arm,
    Begin,
    Break,
    Cancel,
    Committed,
    Downloading,
    Event,
    Failed,
    Filed,
    GateOpened,
    Idle,
    Installing,
    Offer,
    Offered,
    Ready,
    Refuse,
    Reported,
    Restart,
    RolledBack,
    RollingBack,
    Staged,
    State,
    Switched,
    SwitchedBack,
    Trial,
    VerifiedState,
    action_of,
    tag_of,
)
from device_agent.handlers.slot_set import current_slot
from device_agent.ports.commands import Outcome
from device_agent.ports.notes import Problem, WorkerNote
from device_agent.ports.storage import read_optional, replace_file
from device_agent.worker.install import Installation
from device_agent.worker.pause import Pause, Unwanted
from device_agent.worker.prepare import Preparation
from device_agent.worker.trial import judge
from device_agent.worker.workplace import Workplace

_CANCELLABLE = (Offered, Downloading, VerifiedState, Ready, Installing)
_ABOUT_THE_DEVICE = frozenset({401, 403})
"""Final, but for the device and not for the action: an operator may accept it yet."""

Wanted = Callable[[], str | None]
"""The action that the hub wants now; empty where nothing is assigned, None where that is not known."""


class Worker:
    """One run over the journal.

    Args:
        place: Tools.
        wanted: See there; asked again and again, since it may change while we work.
        before: What the last worker left.
    """

    def __init__(self, place: Workplace, wanted: Wanted, before: WorkerNote) -> None:
        self._place, self._wanted, self._before = place, wanted, before
        self._hint, self._served = before.hint, before.served
        self._plan: Verified[Plan] | None = None
        self._rejected = False
        self._waited = bool(before.gate)
        self.reported_inventory = False
        self.ended: list[LastResult] = []
        self._preparation = Preparation(place, self._heed)
        self._installation = Installation(place, self._preparation.downloads, self._heed)
        raw = read_optional(place.home.journal)
        self._journal = journals.decode(raw) if raw is not None else Journal()

    @property
    def journal(self) -> Journal:
        return self._journal

    def note(self, pause: Pause) -> WorkerNote:
        """What the poller and the next worker should know."""
        error = pause.error
        problem = Problem(error.code, str(error)) if error is not None else None
        attempt = self._before.attempt + 1 if error is not None else 0
        hint = None if isinstance(self._journal.state, Idle) else self._hint
        return WorkerNote(pause.wake_s, attempt, problem, pause.gate, hint, self._served)

    def run(self, *, restarted: bool) -> Pause:
        """Work until there is something to wait for.

        Args:
            restarted: The agent started, or the last worker died: the table has a row for that.
        """
        if restarted:
            self._post(Restart(self._place.clock.boot_id(), self._place.clock.since_boot_s()))
        while True:
            pause = self._advance()
            if pause is not None:
                return pause

    def _advance(self) -> Pause | None:
        """Perform one effect, or take up what is wanted."""
        state = self._journal.state
        if isinstance(state, Idle):
            wanted = self._wanted()
            if not wanted or wanted in self._journal.finished or wanted == self._served:
                return Pause()
            self._hint, self._plan = wanted, None
            self._post(Offer(wanted))
            return None
        try:
            self._heed()
            return self._perform(*self._journal.effects())
        except Unwanted:
            if isinstance(self._journal.state, Installing):
                self._installation.discard(self._journal.state.plan.value)
            self._post(Cancel("The hub wants something else now."))
        except TrustError as error:
            self._post(Refuse(error.code, str(error)))
        except InstallError as error:
            if isinstance(self._journal.state, RollingBack):
                return self._later(error)
            self._post(Break(error.code, str(error)))
        except TransportError as error:
            if is_final(error.status) and error.status not in _ABOUT_THE_DEVICE:
                self._post(Break(error.code, str(error)))
                return None
            return self._later(error)
        except OSError as error:
            return self._storage_failed(error)
        return None

    def _perform(self, effect: Effect) -> Pause | None:
        perform: dict[Effect, Callable[..., Pause | None]] = {
            Effect.CHECK: self._check,
            Effect.FETCH: self._fetch,
            Effect.ARM: self._arm,
            Effect.ASK_GATE: self._ask_gate,
            Effect.STAGE: self._stage,
            Effect.SWITCH: self._switch,
            Effect.WATCH: self._watch,
            Effect.SWITCH_BACK: self._switch_back,
            Effect.SIGN_RESULT: self._sign_result,
            Effect.FILE_RESULT: self._file_result,
        }
        return perform[effect](self._journal.state)

    # -- effects -----------------------------------------------------------------------------------------------------

    def _check(self, _state: Offered) -> None:
        plan = self._verified()
        if missing := self._preparation.missing_bytes(plan.value):
            self._post(Refuse("storage_too_small", f"{missing} bytes of storage are missing: make room, assign again."))
            return
        self._plan = plan
        self._post(Begin())
        if plan.value.items:
            self._place.reporter.progress(plan.value.action, tag_of(Downloading))

    def _fetch(self, state: Downloading) -> None:
        if self._plan is None or self._plan.value.action != state.action:
            # An earlier worker lost the link here: instructions should be fresh.
            self._plan = self._verified()
        self._preparation.fetch(self._plan.value)
        self._post(Accept(self._plan))
        if self._plan.value.items:
            self._milestone(self._journal.state)

    def _arm(self, _state: VerifiedState) -> None:
        self._post(Arm())

    def _ask_gate(self, _state: Ready) -> Pause | None:
        pause = self._gate_is_closed()
        if pause is None:
            self._post(GateOpened())
            self._opened(self._journal.state)
        return pause

    def _stage(self, state: Installing) -> Pause | None:
        self._installation.stage(state.plan.value)
        pause = self._gate_is_closed()
        if pause is None:
            if self._waited:
                self._opened(state)
            self._post(Staged(self._place.settings.trial.starts))
        return pause

    def _switch(self, state: Switched) -> None:
        try:
            outcome = self._installation.switch(state.plan.value)
        except OSError as error:
            outcome = Outcome(False, f"A slot could not be switched: {error.strerror}")
        if outcome.ok:
            self._post(Activated(self._place.clock.boot_id(), self._place.clock.since_boot_s()))
            self._place.reporter.progress(state.plan.value.action, tag_of(Trial))
        else:
            self._post(Break("activation_failed", outcome.detail))

    def _watch(self, state: Trial) -> Pause | None:
        place = self._place
        self._reject_cancel(state)
        outcome = self._look(state.plan.value)
        now_s = place.clock.since_boot_s()
        event, wait_s = judge(state, outcome, place.settings.trial, place.clock.boot_id(), now_s)
        if event is not None:
            self._post(event)
        return Pause(wake_s=wait_s) if isinstance(self._journal.state, Trial) else None

    def _switch_back(self, state: RollingBack) -> None:
        self._installation.switch_back(state.plan.value)
        self._post(SwitchedBack())

    def _sign_result(self, state: Committed | Failed | RolledBack) -> None:
        if isinstance(state, Committed):
            # Before the result: what the craft is used from here on is use of the new version.
            self._place.reporter.usage(self._place.usage, at_once=True)
        self._post(self._place.reporter.sign_result(self._journal, result_of(state)))

    def _file_result(self, state: Reported) -> None:
        self._place.reporter.file_result(state.counter, state.envelope)
        last = self._journal.last
        if last is not None and last.result in {"success", "rolled_back"}:
            self._place.reporter.inventory(self._journal)
            self.reported_inventory = True
        self._preparation.downloads.keep_only(frozenset())
        self._post(Filed())
        self._served = self._hint
        if last is not None:
            self.ended.append(last)

    # -- the parts that effects share --------------------------------------------------------------------------------

    def _verified(self) -> Verified[Plan]:
        """Verify what the director says now.

        Raises:
            TrustError, TransportError, InstallError, SettingsError: See `Preparation.verify`.
            Unwanted: It is another action than the one that payloads were being fetched for.
        """
        plan = self._preparation.verify(self._journal, self._adopt)
        if plan.value.action in self._journal.finished:
            # Only now: old metadata of either repository is refused as such, and not taken for a slow hub.
            raise TransportError(
                "The poll names a newer action than the director has signed: it is behind.", "director_behind"
            )
        return plan

    def _adopt(self, instruction: Instruction) -> None:
        """Go on with the action that is signed: the poll that offered one is not."""
        state = self._journal.state
        if instruction.action == action_of(state) or instruction.action in self._journal.finished:
            return
        if not isinstance(state, Offered):
            raise Unwanted
        self._post(Offer(instruction.action))

    def _heed(self) -> None:
        """Raise if the hub has changed its mind and it is not too late."""
        if isinstance(self._journal.state, _CANCELLABLE) and self._is_unwanted():
            raise Unwanted

    def _is_unwanted(self) -> bool:
        wanted = self._wanted()
        return wanted is not None and wanted not in {self._hint, action_of(self._journal.state)}

    def _reject_cancel(self, state: Trial) -> None:
        """After the switch only health decides; say so once."""
        if self._is_unwanted() and not self._rejected:
            self._rejected = True
            self._place.reporter.progress(
                state.plan.value.action, tag_of(Trial), "cancel_rejected", "The new version is on trial already."
            )

    def _milestone(self, state: State) -> None:
        """Tell of a state that nobody acts on: it costs no connection of its own."""
        self._place.reporter.progress(action_of(state), tag_of(type(state)), patient=True)

    def _opened(self, state: State) -> None:
        self._waited = False
        self._milestone(state)

    def _gate_is_closed(self) -> Pause | None:
        answer = self._place.gate.ask()
        if answer.is_open:
            return None
        if not self._waited:
            # Also where the slots are filled already: a craft that waits for the ground may fly out of reach, and that
            # is no sign of an installation gone wrong.
            action = action_of(self._journal.state)
            self._place.reporter.progress(action, tag_of(Ready), "gate_closed", answer.reason)
        self._waited = True
        return Pause(wake_s=self._place.settings.gate.retry_s, gate=answer.reason)

    def _look(self, plan: Plan) -> Outcome:
        """One round of checks: what is current is what was installed, and it says that it is well."""
        for item in plan.items:
            name = item.component.name
            if current_slot(self._place.home.slots, name) != item.slot:
                return Outcome(False, f"{name}: another slot is current than the one that was switched to")
        return self._place.health.check(plan.probes)

    def _later(self, error: AgentError) -> Pause:
        attempt = self._before.attempt + 1
        asked_s = error.retry_after_s if isinstance(error, TransportError) else 0.0
        # An exhausted budget is known to last: there is no point in asking again before.
        longest_s = 86_400.0 if isinstance(error, BudgetExhausted) else 900.0
        wake_s = delay_s(attempt, self._place.uniform, longest_s=longest_s, retry_after_s=asked_s)
        return Pause(wake_s=wake_s, error=error)

    def _storage_failed(self, error: OSError) -> Pause | None:
        """The disk said no: final while nothing has been switched and something was staged, else tried again."""
        said = f"The storage failed: {error.strerror or error}."
        if isinstance(self._journal.state, Installing):
            self._post(Break("install_failed", said))
            return None
        return self._later(AgentError(said, "storage_failed"))

    def _post(self, event: Event) -> None:
        after = advance(self._journal, event)
        if after != self._journal:
            replace_file(self._place.storage, self._place.home.journal, journals.encode(after))
            self._journal = after
