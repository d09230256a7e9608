"""The flight gate, and a hub that changes its mind."""

from collections.abc import Callable
from typing import Any

import msgspec

from device_agent.worker import MAX_GATE_WAITS
from tests.support.static_hub import StaticHub
from tests.unit.device_agent.worker.conftest import Craft, payloads

GATE = '[gate]\nkind = "command"\nargv = ["/own/gate"]\nretry_s = 30.0\n'


def gate(craft: Craft, *answers: bool) -> list[bool]:
    """Have the gate answer so, and after that always as the last time."""
    craft.settings(GATE)
    asked: list[bool] = []

    def answer() -> bool:
        asked.append(answers[min(len(asked), len(answers) - 1)])
        return asked[-1]

    craft.commands.answers["/own/gate"] = answer
    return asked


def progress(hub: StaticHub) -> list[tuple[str, str]]:
    bodies: list[dict[str, Any]] = [msgspec.to_builtins(report.body) for report in hub.reports]
    return [(body["state"], body["code"]) for body in bodies if body["kind"] == "progress"]


def test_the_gate_is_asked_before_installing_and_before_switching(hub: StaticHub, craft: Craft) -> None:
    asked = gate(craft, True)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    assert asked == [True, True]


def test_nothing_is_written_to_a_slot_while_the_gate_is_closed(hub: StaticHub, craft: Craft) -> None:
    gate(craft, False)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 1
    assert craft.state == "READY"
    slots = sorted(path.name for path in (craft.home.slots / "server").iterdir())
    assert slots == ["a", "current"]
    assert craft.clock.slept == [30.0] * MAX_GATE_WAITS
    assert craft.status()["gate"]["closed"]
    assert hub.ended() == []


def test_a_gate_that_closes_while_staging_keeps_the_old_version(hub: StaticHub, craft: Craft) -> None:
    gate(craft, True, False)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 1
    assert craft.state == "INSTALLING"
    assert craft.version() == "1"


def test_a_gate_that_opens_again_lets_the_update_through(hub: StaticHub, craft: Craft) -> None:
    gate(craft, False, True, False, False, True)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    assert craft.version() == "2"


def test_what_is_staged_already_is_not_written_again(hub: StaticHub, craft: Craft) -> None:
    gate(craft, True, False, True)
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.work(restarted=True)
    staged = craft.home.slots / "server" / "b" / "VERSION"
    before = staged.stat().st_ino
    craft.work()
    assert craft.version() == "2"
    assert staged.stat().st_ino == before


def test_a_closed_gate_is_reported_once(hub: StaticHub, craft: Craft) -> None:
    gate(craft, False)
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.run_once()
    assert progress(hub) == [("DOWNLOADING", ""), ("VERIFIED", ""), ("READY", "gate_closed")]


def test_each_step_is_reported(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.run_once()
    assert progress(hub) == [("DOWNLOADING", ""), ("VERIFIED", ""), ("INSTALLING", ""), ("TRIAL", "")]


def test_a_gate_that_opens_again_is_reported(hub: StaticHub, craft: Craft) -> None:
    """Closed before the slots are filled and before the switch: a craft on its way to fly is waiting both times."""
    gate(craft, False, True, False, False, True)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    assert progress(hub)[2:] == [
        ("READY", "gate_closed"),
        ("INSTALLING", ""),
        ("READY", "gate_closed"),
        ("INSTALLING", ""),
        ("TRIAL", ""),
    ]


def waiting(craft: Craft, hub: StaticHub) -> str:
    """Bring the craft to a closed gate; return the action that waits there."""
    gate(craft, False)
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    craft.work(restarted=True)
    assert craft.state == "READY"
    return action


def test_another_action_cancels_the_one_that_waits(hub: StaticHub, craft: Craft) -> None:
    first = waiting(craft, hub)
    craft.commands.answers["/own/gate"] = lambda: True
    second = hub.assign(hub.publish("app", 3, payloads(3)))
    craft.work()
    assert craft.version() == "3"
    assert craft.run_once() == 0
    assert hub.ended() == [(first, "cancelled", "cancelled"), (second, "success", "")]


def test_an_assignment_that_is_taken_back_cancels(hub: StaticHub, craft: Craft) -> None:
    first = waiting(craft, hub)
    hub.assign()
    craft.work()
    assert craft.state == "IDLE"
    craft.run_once()
    assert hub.ended() == [(first, "cancelled", "cancelled")]
    assert craft.version() == "1"


def test_a_poll_that_is_not_known_cancels_nothing(hub: StaticHub, craft: Craft) -> None:
    waiting(craft, hub)
    craft.work(lambda: None)
    assert craft.state == "READY"


def after(craft: Craft, point: Callable[[], bool], then: str, first: str) -> Callable[[], str]:
    """The hub wants `first`, and `then` from the moment on that `point` is true."""
    return lambda: then if point() else first


def test_a_cancel_while_staging_empties_the_slots(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    slot = craft.home.slots / "server" / "b"
    craft.work(after(craft, slot.exists, "", action), restarted=True)
    assert craft.last() == ("cancelled", "cancelled")
    assert not slot.exists()
    assert craft.version() == "1"


def test_a_cancel_after_the_switch_comes_too_late(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2), trial_s=30))
    wanted = after(craft, lambda: craft.version() == "2", "", action)
    pause = craft.work(wanted, restarted=True)
    assert pause.wake_s is not None
    craft.clock.sleep(pause.wake_s + 30)
    craft.work(wanted)
    assert craft.last() == ("success", "")
    craft.run_once()
    assert ("TRIAL", "cancel_rejected") in progress(hub)


def test_the_signed_action_counts_and_not_the_polled_one(hub: StaticHub, craft: Craft) -> None:
    """Somebody assigned again between the poll and the fetch of the instructions."""
    signed = hub.assign(hub.publish("app", 2, payloads(2)))
    craft.work(lambda: "d.older", restarted=True)
    assert craft.journal.finished[-1] == signed
    assert craft.version() == "2"


def test_a_poll_that_was_served_under_another_name_starts_nothing_again(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.work(lambda: "d.older", restarted=True)
    hub.asked.clear()
    assert craft.work(lambda: "d.older").wake_s is None
    assert hub.asked == []


def test_a_director_that_is_behind_is_asked_again_later(hub: StaticHub, craft: Craft) -> None:
    pause = craft.work(lambda: "d.newer", restarted=True)
    assert pause.error is not None
    assert pause.error.code == "director_behind"
    assert pause.wake_s is not None
    assert hub.ended() == []
