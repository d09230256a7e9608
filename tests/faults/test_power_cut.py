"""The power is cut at every durable step of an update, and the craft still runs one whole set of software.

A two-component update (a folder with its health check, and a file), once good and once bad (its health check fails, so
that it is rolled back). Each cut is followed by boots until nothing is left to do, and what holds is looked at after
the cut and at the end:

1. Each component that is current is whole, byte by byte, and of the old or of the new release.
2. Both are of one release. Between two switches of one update they cannot be, so there the journal must say SWITCHED
   or ROLLING_BACK: the agent finishes that before it does anything else, and nothing was activated or checked so far.
3. What was activated (the device's own command) or checked was one whole set, always.
4. No release counter floor ever shrinks.
5. The hub has exactly one final result of the action, the right one, and an inventory that says what runs.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from device_agent.core import journal as journals
from tests.faults.medium import Loss
from tests.faults.power_cut import Boot, Cut, boot
from tests.support.craft import Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload

PRODUCT = "mavsdk"
OLD, GOOD, BAD = "1.0.0", "2.0.0", "3.0.0"
FINAL = {GOOD: "success", BAD: "rolled_back"}
REDUCED_STEP = 17
"""Of the sweep in the normal suite: every so many points, each with the next kind of loss."""
MEMORY = Path("/dev/shm")
pytestmark = pytest.mark.xdist_group("power-cut")

ACTIVATE = """#!/bin/sh
# What starts the payload on a real craft: here it writes down what it would have started.
cd "$(dirname "$0")/state/slots" || exit 1
printf '%s %s\n' "$(cat server/current/VERSION)" "$(cat params/current/params)" >> ../../ran
"""


def payloads(version: str) -> list[Payload]:
    # The check also looks at the other component: a health check of a mixed set would fail and be seen.
    same = '[ "$(cat VERSION)" = "$(cat ../../params/current/params)" ] || exit 9'
    check = f"#!/bin/sh\n{same}\nexit {int(version == BAD)}\n"
    folder = {"check": check.encode(), "lib/data": f"data of {version} ".encode() * 400, "VERSION": version.encode()}
    return [Payload("server", folder, ("./check",)), Payload("params", version.encode())]


def sets() -> dict[str, dict[str, str]]:
    """What runs when a release runs whole: path to digest."""
    import hashlib

    return {
        version: {
            **{f"server/{path}": hashlib.sha256(raw).hexdigest() for path, raw in payloads(version)[0].content.items()},  # type: ignore[union-attr]
            "params/params": hashlib.sha256(version.encode()).hexdigest(),
        }
        for version in (OLD, GOOD, BAD)
    }


@dataclass
class Lab:
    """A hub with three releases, and one craft for each cut."""

    fleet: Fleet
    folder: Path
    count: int = 0
    whole: dict[str, dict[str, str]] = field(default_factory=sets)

    def craft_on_old(self) -> Craft:
        self.count += 1
        place = self.folder / f"{self.count}"
        place.mkdir()
        craft = self.fleet.new_craft(place / "state", self.fleet.url, f"cut-{self.folder.name}-{self.count}")
        script = place / "activate"
        script.write_text(ACTIVATE)
        script.chmod(0o755)
        craft.settings(f"[activate]\nargv = [{json.dumps(str(script))}]\n")
        self.fleet.publisher.assign(f"{PRODUCT}@{OLD}", craft.device_id)
        boot(craft.state, Cut(0))
        assert craft.running() == self.whole[OLD]
        return craft


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("power-cut")
    # Thousands of fsyncs: on a file system in memory they cost nothing, and the model does the losing anyway.
    crafts = MEMORY / f"sdx-power-cut-{os.getpid()}" if os.access(MEMORY, os.W_OK) else folder / "crafts"
    crafts.mkdir()
    try:
        with start_fleet(folder / "fleet") as fleet:
            for version in (OLD, GOOD, BAD):
                fleet.publisher.publish(PRODUCT, version, payloads(version))
            yield Lab(fleet, crafts)
    finally:
        shutil.rmtree(crafts)


class Watch:
    """Looks at a craft after every boot, and remembers what may never shrink."""

    def __init__(self, lab: Lab, craft: Craft, version: str) -> None:
        self._lab, self._craft, self._version = lab, craft, version
        self._floor = 0

    def look(self, when: str) -> None:
        journal = journals.decode((self._craft.state / "journal.json").read_bytes())
        floor = journal.floors.get(PRODUCT, 0)
        assert floor >= self._floor, f"{when}: the floor shrank from {self._floor} to {floor}"
        self._floor = floor
        running = self._craft.running()
        of = {component: self._release_of(component, running, when) for component in ("server", "params")}
        state = type(journal.state).__name__
        assert len(set(of.values())) == 1 or state in {"Switched", "RollingBack"}, f"{when}: {of} in {state}"
        for line in (self._craft.state.parent / "ran").read_text().splitlines():
            assert line in {f"{v} {v}" for v in (OLD, self._version)}, f"{when}: activated {line!r}"

    def _release_of(self, component: str, running: dict[str, str], when: str) -> str:
        """(1) Which release this component is of, as a whole."""
        files = {path: digest for path, digest in running.items() if path.startswith(f"{component}/")}
        for version in (OLD, self._version):
            if files == {p: d for p, d in self._lab.whole[version].items() if p.startswith(f"{component}/")}:
                return version
        raise AssertionError(f"{when}: {component} is neither old nor new: {files}")

    def look_at_the_end(self, when: str) -> None:
        self.look(when)
        ends_on = self._version if self._version == GOOD else OLD
        assert self._craft.running() == self._lab.whole[ends_on], f"{when}: {self._craft.running()}"
        with self._lab.fleet.client() as client:
            device = client.get(f"/api/v1/devices/{self._craft.device_id}").raise_for_status().json()
            events = timeline(client, self._craft.device_id)
        action = device["action"]
        assert action["state"] == FINAL[self._version], f"{when}: {action}"
        results = [event for event in events if event["kind"] in {"result", "late_result"}]
        mine = [event for event in results if event["detail"]["action"] == action["id"]]
        assert [event["kind"] for event in mine] == ["result"], f"{when}: {mine}"
        versions = {part["name"]: part["version"] for part in device["components"]}
        assert versions == {"server": ends_on, "params": ends_on}, f"{when}: the hub believes {versions}"


def timeline(client: Any, device: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    path = f"/api/v1/devices/{device}/timeline"
    while path:
        answer = client.get(path).raise_for_status()
        events += answer.json()["items"]
        path = answer.links.get("next", {}).get("url", "")
    return events


def one_cut(lab: Lab, version: str, cuts: list[Cut]) -> Boot:
    """An update with these cuts, one in each boot; returns the first boot."""
    craft = lab.craft_on_old()
    watch = Watch(lab, craft, version)
    lab.fleet.publisher.assign(f"{PRODUCT}@{version}", craft.device_id)
    first: Boot | None = None
    when = "at the start"
    for cut in cuts:
        booted = boot(craft.state, cut)
        first = first or booted
        when = f"{version}, {cuts}, cut at {booted.where}"
        watch.look(when)
        if not booted.was_cut:
            break
    boot(craft.state, Cut(0))
    watch.look_at_the_end(when)
    shutil.rmtree(craft.state.parent)
    assert first is not None
    return first


def points_of(lab: Lab, version: str) -> int:
    """How many points an update without a cut passes."""
    passed = one_cut(lab, version, [Cut(0)]).passed
    return len(passed)


@pytest.mark.parametrize("version", [GOOD, BAD])
@pytest.mark.timeout(300)
def test_power_cut_sweep_reduced(lab: Lab, version: str) -> None:
    losses = list(Loss)
    points = points_of(lab, version)
    chosen = range(1, points + 1, REDUCED_STEP)
    for number, at in enumerate(chosen):
        one_cut(lab, version, [Cut(at, losses[number % len(losses)])])
    print(f"{version}: {len(chosen)} cuts at {points} points")
