"""What a look at a running trial means: the effect WATCH. Pure, but for the look itself."""

from device_agent.core.states import Break, Event, Healthy, Trial, Watched
from device_agent.ports.commands import Outcome
from device_agent.settings import TrialSettings

SAVE_EVERY_S = 60
"""How much of a watch may be watched again after a power cut: the journal is not written at every look."""


def watched_s(trial: Trial, boot_id: str, now_s: int) -> int:
    """Seconds that the new version has been watched; time of another boot does not count."""
    return trial.watched_s + (max(now_s - trial.since_s, 0) if boot_id == trial.boot_id else 0)


def judge(
    trial: Trial, outcome: Outcome, settings: TrialSettings, boot_id: str, now_s: int
) -> tuple[Event | None, float]:
    """What follows from a round of health checks.

    Args:
        trial: The trial as the journal has it.
        outcome: Of the checks.
        settings: Of the device.
        boot_id: This boot.
        now_s: CLOCK_BOOTTIME, whole seconds.

    Returns:
        The event, or None; and after how many seconds to look again where the trial goes on.
    """
    total_s = watched_s(trial, boot_id, now_s)
    lasts_s = trial.plan.value.trial_s
    saved: Event | None = None
    if boot_id != trial.boot_id or now_s - trial.since_s >= SAVE_EVERY_S:
        saved = Watched(boot_id, now_s, total_s)
    if outcome.ok:
        if total_s >= lasts_s:
            return Healthy(), 0.0
        return saved, min(settings.interval_s, lasts_s - total_s)
    if total_s >= lasts_s + settings.overrun_s:
        return Break("trial_deadline", f"Not healthy {total_s} s after the switch: {outcome.detail}"), 0.0
    if total_s >= settings.grace_s:
        return Break("health_failed", outcome.detail), 0.0
    return saved, settings.interval_s
