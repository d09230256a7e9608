"""A release that is bad on one revision of the board stops itself: 24 real agents, the real commands."""

import hashlib
import json
from pathlib import Path

import pytest

from sdx_hub.demo.fleet import BOARD, NEW_BOARD
from sdx_hub.demo.one_hub import Demo
from sdx_hub.demo.rolling import Rolling
from sdx_hub.demo.servers.process import free_port

DEVICES = 24
WAVES = "1,10%,50%,100%"
FIRST, GOOD, BAD = "1.0.0", "1.1.0", "1.2.0"
_HEALTHY = "#!/bin/sh\nsha256sum --check --quiet SHA256SUMS\n"
_SICK = "#!/bin/sh\necho 'the new board has another gyroscope' >&2\nexit 1\n"


class SmallDemo(Demo):
    """The demo's fleet with software that is made here: nothing is fetched."""

    product = "autopilot"

    def prepare_software(self, _cache: Path) -> None:
        for version in (FIRST, GOOD, BAD):
            self._payload(version, version, _HEALTHY)
            (self.folder / "payloads" / f"{version}.param").write_text(f"RTL_ALT,{version[2]}500\n")
        self._payload(f"{BAD}-{NEW_BOARD}", BAD, _SICK)

    def _payload(self, name: str, version: str, check: str) -> None:
        folder = self.folder / "payloads" / name
        folder.mkdir(parents=True)
        content = f"{version}\n"
        (folder / "VERSION").write_text(content)
        (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content.encode()).hexdigest()}  VERSION\n")
        (folder / "check").write_text(check)
        (folder / "check").chmod(0o755)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_good_release_reaches_all_and_a_bad_one_stops_itself(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    story = SmallDemo(tmp_path, DEVICES, free_port(), print)
    try:
        story.prepare_software(tmp_path)
        story.start_hub()
        story.enrol_fleet()
        story.release(FIRST)
        story.wait_for(FIRST, "success")
        rolling = Rolling(story.alice, print)

        story.build(GOOD, revert_to=FIRST)
        story.publish(GOOD)
        good = rolling.start(f"autopilot@{GOOD}", WAVES)
        assert (good.halted, good.state, good.wave) == (False, "finished", 4), good
        assert list(rolling.touched(good.id).values()) == ["committed"] * DEVICES
        assert story.wait_for(GOOD, "success") == DEVICES

        story.build(BAD, revert_to=GOOD)
        story.publish(BAD)
        bad = rolling.start(f"autopilot@{BAD}", WAVES)
        assert bad.halted, "exit code 6"
        assert bad.state in {"paused", "halted"}
        assert bad.wave < 3
        boards = {craft.serial: craft.hardware for craft in story.craft}
        met = rolling.touched(bad.id)
        assert len(met) <= 3, "those of the first two waves"
        assert {boards[serial] for serial, state in met.items() if state == "rolled_back"} == {NEW_BOARD}

        back = rolling.revert(bad.id, "bad on the new board")
        assert (back.halted, back.state) == (False, "reverted"), back
        assert set(rolling.touched(bad.id).values()) == {"reverted"}
        touched = [craft for craft in story.craft if craft.serial in met]
        assert story.wait_for(GOOD, "success", touched) == len(met)
        assert all(story.runs(craft) == GOOD for craft in story.craft)
        assert {craft.hardware for craft in touched} == {BOARD, NEW_BOARD}

        assert rolling.replayed(good.id) >= 4, "four waves were opened"
        assert rolling.replayed(bad.id) >= 4, "waves, the stop, the revert, its end"
        assert json.loads((tmp_path / "running.json").read_text())["url"] == story.url
    finally:
        story.close()
