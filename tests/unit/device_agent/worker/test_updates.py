"""An update from the poll to the report, and every way in which it may end otherwise."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from device_agent.handlers.slot_set import current_slot
from device_agent.ports.storage import DiskStorage
from firmware_schemas.device_api import InventoryReport
from firmware_schemas.release import Constraint
from tests.support.publisher import Payload, canonical_tar
from tests.support.static_hub import StaticHub, enrolled, serving
from tests.unit.device_agent.worker.conftest import ACTIVATE, HEALTH, Craft, payloads


def test_a_good_release_runs_and_is_reported_once(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    assert craft.version() == "2"
    assert craft.journal.floors == {"app": 2}
    assert hub.ended() == [(action, "success", "")]
    assert craft.status()["outbox"] == 0
    assert craft.run_once() == 0
    assert hub.ended() == [(action, "success", "")]


def test_after_the_result_comes_an_inventory_that_says_what_runs(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.run_once()
    body = hub.reports[-1].body
    assert isinstance(body, InventoryReport)
    assert {part.version for part in body.components} == {"2.0.0"}
    assert body.floors == {"app": 2}


def test_only_what_differs_is_fetched_and_switched(hub: StaticHub, craft: Craft) -> None:
    parts = [payloads(1)[0], Payload("params", b"other\n")]
    hub.assign(hub.publish("app", 2, parts))
    before = (craft.home.slots / "server" / "current").readlink()
    assert craft.run_once() == 0
    assert (craft.home.slots / "server" / "current").readlink() == before
    fetched = [path for _method, path in hub.asked if path.startswith("/blobs/")]
    assert len(fetched) == 2, "the manifest and the parameter file"


def test_a_damaged_slot_is_installed_again(hub: StaticHub, craft: Craft) -> None:
    """What lies on the medium is compared, not what the journal remembers."""
    (craft.home.slots / "server" / "current" / "VERSION").write_text("tampered")
    hub.assign(hub.publish("app", 2, [payloads(1)[0], Payload("params", b"x")]))
    assert craft.run_once() == 0
    assert craft.version() == "1"


def blobs(hub: StaticHub) -> list[str]:
    return [path.rpartition("/")[2] for _method, path in hub.asked if path.startswith("/blobs/")]


def test_going_back_costs_the_link_a_manifest(hub: StaticHub, craft: Craft) -> None:
    """What ran before lies in the other slot still."""
    old = hub.publish("app", 1, payloads(1))
    hub.assign(hub.publish("app", 2, payloads(2), revert_counter=1))
    assert craft.run_once() == 0
    hub.asked.clear()
    hub.assign(old)
    assert craft.run_once() == 0
    assert craft.version() == "1"
    assert craft.last() == ("success", "")
    assert not set(blobs(hub)) & {part.sha256 for part in old.components}
    assert craft.journal.floors == {"app": 1}


def test_what_lies_in_the_other_slot_and_is_damaged_is_fetched_again(hub: StaticHub, craft: Craft) -> None:
    old = hub.publish("app", 1, payloads(1))
    hub.assign(hub.publish("app", 2, payloads(2), revert_counter=1))
    assert craft.run_once() == 0
    (craft.home.slots / "server" / "a" / "VERSION").write_text("tampered")
    hub.asked.clear()
    hub.assign(old)
    assert craft.run_once() == 0
    assert craft.version() == "1"
    fetched = {part.name for part in old.components if part.sha256 in blobs(hub)}
    assert fetched == {"server"}


def test_nothing_assigned_is_nothing_to_do(hub: StaticHub, craft: Craft) -> None:
    hub.assign()
    assert craft.run_once() == 0
    assert hub.ended() == []


def test_an_unhealthy_release_is_rolled_back_and_not_tried_again(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    craft.commands.answers["./check"] = lambda: craft.version() != "2"
    assert craft.run_once() == 1
    assert craft.version() == "1"
    assert craft.journal.floors == {"app": 1}
    assert hub.ended() == [(action, "rolled_back", "health_failed")]
    inventory = hub.reports[-1].body
    assert isinstance(inventory, InventoryReport)
    assert {part.version for part in inventory.components} == {"1.0.0"}
    hub.version += 1
    again = hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 5
    assert hub.ended()[1:] == [(again, "refused", "payload_digest_known_bad")]


def test_a_new_component_that_fails_leaves_no_current_slot(hub: StaticHub, craft: Craft) -> None:
    extra = hub.publish("extra", 1, [Payload("tool", {"check": b"#!/bin/sh\n", "VERSION": b"1"}, ("./check",))])
    craft.commands.answers["./check"] = lambda: not (craft.home.slots / "tool" / "current").exists()
    hub.assign(extra)
    assert craft.run_once() == 1
    assert not (craft.home.slots / "tool" / "current").exists()
    assert current_slot(craft.home.slots, "tool") == ""
    assert craft.version() == "1"


def test_the_trial_lasts_as_long_as_the_release_says(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\ninterval_s = 10.0\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=95))
    began_s = craft.clock.now_s
    assert craft.run_once() == 0
    assert craft.clock.now_s - began_s >= 95
    assert craft.commands.ran.count(("./check",)) >= 10
    assert craft.last() == ("success", "")


def test_a_late_failure_in_the_trial_rolls_back(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\ninterval_s = 10.0\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=60))
    began_s = craft.clock.now_s
    craft.commands.answers["./check"] = lambda: craft.clock.now_s < began_s + 45
    assert craft.run_once() == 1
    assert craft.last() == ("rolled_back", "health_failed")


def test_a_slow_start_is_given_its_grace(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\ninterval_s = 5.0\ngrace_s = 30.0\n")
    hub.assign(hub.publish("app", 2, payloads(2)))
    began_s = craft.clock.now_s
    craft.commands.answers["./check"] = lambda: craft.clock.now_s >= began_s + 20
    assert craft.run_once() == 0
    assert craft.version() == "2"


def test_the_trial_ends_although_the_grace_is_longer(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\ninterval_s = 5.0\ngrace_s = 86400.0\noverrun_s = 50.0\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=10))
    craft.commands.answers["./check"] = lambda: False
    assert craft.run_once() == 1
    assert craft.last() == ("rolled_back", "trial_deadline")


def test_a_switch_that_somebody_undid_is_no_healthy_trial(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=60))
    craft.work(restarted=True)
    link = craft.home.slots / "server" / "current"
    link.unlink()
    link.symlink_to("a")
    craft.work()
    assert craft.last() == ("rolled_back", "health_failed")


def test_an_archive_that_is_refused_half_way_leaves_nothing(hub: StaticHub, craft: Craft) -> None:
    good, bad = canonical_tar({"a": b"x" * 1000})[:1536], canonical_tar({"b": b"y"})
    hostile = Payload("tool", good + bad.replace(b"b\0", b"/\0", 1), kind="directory")
    hub.assign(hub.publish("hostile", 1, [hostile]))
    assert craft.run_once() == 1
    assert craft.last()[0] == "failed"
    assert not (craft.home.slots / "tool" / "a").exists()


class Forgetful(DiskStorage):
    """A medium that stores something else than it was given."""

    def write_stream(self, path: Path, chunks: Iterator[bytes], mode: int = 0o600) -> None:
        super().write_stream(path, (bytes(len(chunk)) for chunk in chunks), mode)


def test_a_slot_that_reads_back_otherwise_is_not_switched_to(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once(storage=Forgetful()) == 1
    assert craft.last() == ("failed", "install_failed")
    assert craft.version() == "1"


def test_the_devices_own_check_counts(hub: StaticHub, craft: Craft) -> None:
    craft.settings(HEALTH)
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.commands.answers["/own/check"] = lambda: False
    assert craft.run_once() == 1
    assert craft.last() == ("rolled_back", "health_failed")


def test_activation_runs_after_the_switch_and_again_after_the_switch_back(hub: StaticHub, craft: Craft) -> None:
    craft.settings(ACTIVATE)
    seen: list[str] = []

    def activate() -> bool:
        seen.append(craft.version())
        return True

    craft.commands.answers |= {"/own/activate": activate, "./check": lambda: False}
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 1
    assert seen == ["2", "1"]


def test_an_activation_that_fails_rolls_back(hub: StaticHub, craft: Craft) -> None:
    craft.settings(ACTIVATE)
    craft.commands.answers["/own/activate"] = lambda: craft.version() == "1"
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 1
    assert craft.last() == ("rolled_back", "activation_failed")
    assert craft.version() == "1"


def test_an_unreachable_hub_never_rolls_back_a_healthy_craft(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=60))
    assert craft.work(restarted=True).wake_s is not None
    assert craft.state == "TRIAL"
    hub.down = True
    craft.run_once()
    assert craft.version() == "2"
    assert craft.last() == ("success", "")
    assert hub.ended() == []
    hub.down = False
    assert craft.run_once() == 0
    assert [result for _action, result, _code in hub.ended()] == ["success"]


def test_the_link_is_lost_while_fetching_and_comes_back(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    server = next(digest for digest, raw in hub.blobs.items() if b"2" * 5000 in raw)
    real = hub.answer

    def broken(method: str, path: str, headers: object, body: bytes) -> object:
        if path.endswith(server):
            return 503, {"retry-after": "7"}, b""
        return real(method, path, headers, body)  # type: ignore[arg-type]

    hub.answer = broken  # type: ignore[method-assign, assignment]
    pause = craft.work(restarted=True)
    assert craft.state == "DOWNLOADING"
    assert pause.error is not None
    assert pause.error.code == "http_503"
    assert pause.wake_s is not None
    assert pause.wake_s >= 7, "what the hub asked for"
    hub.answer = real  # type: ignore[method-assign]
    assert craft.work().error is None
    assert craft.version() == "2"
    assert craft.journal.finished[-1] == action


def test_a_payload_that_the_hub_lost_ends_the_action(hub: StaticHub, craft: Craft) -> None:
    manifest = hub.publish("app", 2, payloads(2))
    action = hub.assign(manifest)
    del hub.blobs[manifest.components[0].sha256]
    assert craft.run_once() == 1
    assert hub.ended() == [(action, "failed", "payload_missing")]
    assert craft.version() == "1"


def test_metadata_that_the_hub_lost_end_the_action(hub: StaticHub, craft: Craft) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    del hub.files[f"{hub.base('director')}{hub.version}.targets.json"]
    assert craft.run_once() == 1
    assert hub.ended() == [(action, "failed", "metadata_missing")]


def test_too_little_storage_is_refused_before_anything_is_fetched(hub: StaticHub, craft: Craft) -> None:
    craft.settings(f"[limits]\nstorage_reserve_bytes = {2**62}\n")
    manifest = hub.publish("app", 2, payloads(2))
    hub.assign(manifest)
    assert craft.run_once() == 1
    assert craft.last() == ("refused", "storage_too_small")
    assert not any(path.endswith(manifest.components[0].sha256) for _method, path in hub.asked)


def test_a_release_that_needs_another_one_waits_for_it(hub: StaticHub, craft: Craft) -> None:
    needs = hub.publish("needy", 1, [Payload("needy", b"x")], requires=(Constraint("base", 2),))
    hub.assign(needs)
    assert craft.run_once() == 5
    assert craft.last() == ("refused", "incompatible")


def test_a_byte_budget_that_is_used_up_waits_for_the_next_day(hub: StaticHub, craft: Craft) -> None:
    """Over real HTTP, where bytes are counted: what has come is kept, and the rest follows."""
    hub.packs, hub.life = False, timedelta(days=3)
    action = hub.assign(hub.publish("app", 2, [Payload("params", bytes(range(256)) * 4000)]))
    craft.settings("[limits]\nbytes_per_day = 600000\n")
    with serving(hub) as url:
        settings = craft.home.settings
        settings.write_text(settings.read_text().replace("http://127.0.0.1:1", url))
        assert craft.run_once(hub=None) == 1
        assert craft.error() == "budget_exhausted"
        assert craft.state == "DOWNLOADING"
        kept = sum(path.stat().st_size for path in craft.home.downloads.glob("*.part"))
        assert 400_000 < kept < 600_000
        assert craft.run_once(hub=None) == 1, "a restart is no new day"
        craft.clock.sleep(86_400)
        assert craft.run_once(hub=None) == 0
    assert hub.ended() == [(action, "success", "")]


def test_downloads_are_gone_when_the_action_has_ended(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    craft.run_once()
    assert not list(craft.home.downloads.iterdir())


def test_a_first_installation(hub: StaticHub, tmp_path: Path) -> None:
    craft = Craft(hub, enrolled(hub, tmp_path / "fresh"))
    hub.poll["inventory"] = True
    assert craft.run_once() == 0
    assert hub.kinds() == ["usage", "inventory"]
    hub.assign(hub.publish("app", 1, payloads(1)))
    assert craft.run_once() == 0
    assert craft.version() == "1"
    assert hub.kinds().count("inventory") == 2, "one for the update and for the wish together"


@pytest.mark.parametrize("starts", [1, 3])
def test_a_version_that_kills_the_agent_is_rolled_back(hub: StaticHub, craft: Craft, starts: int) -> None:
    """The trial survives only so many starts: each restart is a new boot here."""
    craft.settings(f"[trial]\nstarts = {starts}\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=600))
    craft.work(restarted=True)
    for _ in range(starts):
        craft.clock.reboot()
        craft.work(restarted=True)
        assert craft.state == "TRIAL"
    craft.clock.reboot()
    craft.work(restarted=True)
    assert craft.version() == "1"
    assert craft.last() == ("rolled_back", "trial_starts_used_up")


def test_a_worker_that_was_only_waiting_uses_up_no_start(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\nstarts = 1\ninterval_s = 10.0\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=100))
    pause = craft.work(restarted=True)
    while pause.wake_s is not None:
        craft.clock.sleep(pause.wake_s)
        pause = craft.work()
    assert craft.last() == ("success", "")


def test_time_before_a_reboot_counts_once_it_was_saved(hub: StaticHub, craft: Craft) -> None:
    craft.settings("[trial]\ninterval_s = 61.0\n")
    hub.assign(hub.publish("app", 2, payloads(2), trial_s=100))
    craft.work(restarted=True)
    craft.clock.sleep(61)
    craft.work()
    craft.clock.reboot()
    pause = craft.work(restarted=True)
    assert pause.wake_s == pytest.approx(39), "100 seconds less the 61 that were saved"
