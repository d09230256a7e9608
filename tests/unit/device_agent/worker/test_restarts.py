"""What a fresh start does in each state, and what a failing medium does; the full sweep is in tests/faults."""

from pathlib import Path

import pytest

from device_agent.core.errors import SettingsError
from device_agent.ports.storage import DiskStorage
from tests.support.static_hub import StaticHub
from tests.unit.device_agent.worker.conftest import Craft, payloads


class Stop(BaseException):
    """The power is cut."""


class StoppingStorage(DiskStorage):
    """Stops before the rename of a journal that holds a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        if target.name == "journal.json" and self._text in target.read_text():
            raise Stop


@pytest.mark.parametrize(
    "state",
    ["OFFERED", "DOWNLOADING", "VERIFIED", "READY", "INSTALLING", "SWITCHED", "TRIAL", "COMMITTED", "REPORTED"],
)
def test_a_stop_in_any_state_ends_in_one_result(hub: StaticHub, craft: Craft, state: str) -> None:
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    with pytest.raises(Stop):
        craft.run_once(storage=StoppingStorage(f'"state":"{state}"'))
    assert craft.state == state
    assert craft.run_once() == 0
    assert hub.ended() == [(action, "success", "")]
    assert craft.version() == "2"


@pytest.mark.parametrize("state", ["ROLLING_BACK", "ROLLED_BACK", "FAILED"])
def test_a_stop_on_the_way_back_ends_in_one_result(hub: StaticHub, craft: Craft, state: str) -> None:
    manifest = hub.publish("app", 2, payloads(2))
    action = hub.assign(manifest)
    craft.commands.answers["./check"] = lambda: craft.version() != "2"
    if state == "FAILED":
        del hub.blobs[manifest.components[0].sha256]
    with pytest.raises(Stop):
        craft.run_once(storage=StoppingStorage(f'"state":"{state}"'))
    craft.run_once()
    assert [(name, result) for name, result, _code in hub.ended()] == [
        (action, "failed" if state == "FAILED" else "rolled_back")
    ]
    assert craft.version() == "1"


def test_staging_that_never_ends_is_given_up(hub: StaticHub, craft: Craft) -> None:
    """A payload that kills the agent each time must not do so for ever."""
    action = hub.assign(hub.publish("app", 2, payloads(2)))
    with pytest.raises(Stop):
        craft.run_once(storage=StoppingStorage('"state":"INSTALLING"'))
    for _ in range(4):
        with pytest.raises(Stop):
            craft.run_once(storage=StoppingStorage('"state":"INSTALLING"'))
    assert craft.run_once() == 1
    assert hub.ended() == [(action, "failed", "install_failed")]
    assert craft.version() == "1"


class FullStorage(DiskStorage):
    """A medium that takes nothing for slots."""

    def make_folder(self, path: Path, mode: int = 0o700) -> None:
        if path.name == "b":
            raise OSError(28, "No space left on device")
        super().make_folder(path, mode)


def test_a_full_medium_fails_the_action_and_keeps_the_old_version(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once(storage=FullStorage()) == 1
    assert craft.last() == ("failed", "install_failed")
    assert craft.version() == "1"


class ReadOnlyMetadata(DiskStorage):
    def write_file(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        if "metadata" in path.parts:
            raise OSError(30, "Read-only file system")
        super().write_file(path, data, mode)


def test_a_medium_that_fails_before_staging_is_tried_again(hub: StaticHub, craft: Craft) -> None:
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once(storage=ReadOnlyMetadata()) == 1
    assert craft.error() == "storage_failed"
    assert hub.ended() == []
    assert craft.run_once() == 0
    assert craft.error() == ""


def test_a_damaged_journal_is_for_a_person_to_mend(craft: Craft) -> None:
    craft.home.journal.write_bytes(b"{")
    with pytest.raises(SettingsError, match="damaged"):
        craft.run_once()
    assert craft.home.journal.read_bytes() == b"{"


def test_two_agents_in_one_folder(craft: Craft) -> None:
    from device_agent.ports.lock import locked

    with locked(craft.home.agent_lock), pytest.raises(SettingsError) as caught:
        craft.run_once()
    assert caught.value.code == "state_busy"


def test_a_new_poll_token_is_used_once_it_is_acknowledged(hub: StaticHub, craft: Craft) -> None:
    before = craft.home.token.read_text()
    hub.poll["rotate_token"] = True
    hub.down = False
    assert craft.run_once() == 0
    assert hub.kinds() == ["token"]
    assert craft.home.token.read_text() != before
    assert craft.home.token.read_text().startswith("sdxd_")
    assert not craft.home.next_token.exists()


def test_an_unacknowledged_token_is_not_used_and_not_made_twice(hub: StaticHub, craft: Craft) -> None:
    before = craft.home.token.read_text()
    craft.work(rotate_token=True)
    announced = craft.home.next_token.read_bytes()
    craft.work(rotate_token=True)
    assert craft.home.next_token.read_bytes() == announced
    hub.down = True
    craft.run_once()
    assert craft.home.token.read_text() == before
