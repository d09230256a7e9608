"""Updates that are cut off: a hub, craft to sacrifice, and somebody who looks on. See test_power_cut.py."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from device_agent.core import journal as journals
from device_agent.core.errors import SettingsError
from tests.faults.power_cut import Boot, Cut, boot
from tests.support.craft import Craft
from tests.support.fleet import Fleet

PRODUCT = "mavsdk"
GOOD, BAD = "good", "bad"
FINAL = {GOOD: "success", BAD: "rolled_back"}
UPDATES = 12
"""A craft goes through so many updates, each with a cut; then a new one takes its place."""

ACTIVATE = """#!/bin/sh
# What starts the payload on a real craft: here it writes down what it would have started.
cd "$(dirname "$0")/state/slots" || exit 1
printf '%s %s\n' "$(cat server/current/VERSION)" "$(cat params/current/params)" >> ../../ran
"""


def payloads(version: str) -> tuple[dict[str, bytes], bytes]:
    """The folder and the file of a release. Minor version 9 is bad: its health check fails."""
    # The check looks at the other component too: in a mixed set even a good release would fail it, and be seen.
    same = '[ "$(cat VERSION)" = "$(cat ../../params/current/params)" ] || exit 9'
    check = f"#!/bin/sh\n{same}\nexit {int('.9.' in version)}\n"
    data = f"data of {version} ".encode() * 400
    return {"check": check.encode(), "lib/data": data, "VERSION": version.encode()}, version.encode()


def whole(version: str) -> dict[str, dict[str, str]]:
    """What runs of each component when the release runs: path to digest."""
    folder, file = payloads(version)
    return {
        "server": {f"server/{path}": hashlib.sha256(raw).hexdigest() for path, raw in folder.items()},
        "params": {"params/params": hashlib.sha256(file).hexdigest()},
    }


def version_of(kind: str, number: int) -> str:
    """Release counters grow along the updates of a craft; a bad release is never committed."""
    return f"{number + 1}.{9 if kind == BAD else 0}.0"


@dataclass
class Lab:
    """A hub with all releases, and craft to sacrifice."""

    fleet: Fleet
    client: httpx.Client
    folder: Path

    def assign(self, version: str, craft: Craft) -> None:
        body = {"release": f"{PRODUCT}@{version}", "devices": [craft.device_id]}
        assert self.client.post("/api/v1/assignments", json=body).raise_for_status().json()["assigned"]

    def new_craft(self, name: str) -> Craft:
        """A craft that has been updated before, so that both of its slots are in use; it runs 2.0.0."""
        place = self.folder / name
        place.mkdir()
        craft = self.fleet.new_craft(place / "state", self.fleet.url, f"cut-{name}")
        script = place / "activate"
        script.write_text(ACTIVATE)
        script.chmod(0o755)
        use = json.dumps(str(fly(craft)))
        craft.settings(f"[activate]\nargv = [{json.dumps(str(script))}]\n\n[usage]\nfile = {use}\n")
        for version in ("1.0.0", "2.0.0"):
            self.assign(version, craft)
            boot(craft.state, Cut(0))
        return craft


_flights = count(1)


def fly(craft: Craft) -> Path:
    """Have the craft one more flight to report: once in each update, however fast that goes."""
    file = craft.state.parent / "use.json"
    file.write_text(json.dumps({"flights": next(_flights), "running_s": 0}))
    return file


class Update:
    """One update of a craft from a release that runs to the next, with somebody who looks on."""

    def __init__(self, lab: Lab, craft: Craft, kind: str, old: str, new: str) -> None:
        self._lab, self._craft, self._kind, self._old, self._new = lab, craft, kind, old, new
        self._floor = 0
        self._ran = craft.state.parent / "ran"

    def go(self, cuts: Sequence[Cut]) -> list[Boot]:
        """Update, cut the power once in each boot, boot until it is at rest; look after every boot."""
        self._ran.unlink()
        self._look("before the update")
        self._lab.assign(self._new, self._craft)
        fly(self._craft)
        boots = []
        for cut in [*cuts, Cut(0)]:
            boots.append(boot(self._craft.state, cut))
            when = f"{self._old} -> {self._new}, {cuts}: {', then '.join(one.where for one in boots)}"
            self._look(when)
            if not boots[-1].was_cut:
                break
        self._look_at_the_end(when)
        return boots

    def _look(self, when: str) -> None:
        try:
            journal = journals.decode((self._craft.state / "journal.json").read_bytes())
        except SettingsError as error:
            raise AssertionError(f"{when}: {error}") from error
        floor = journal.floors[PRODUCT]
        assert floor >= self._floor, f"{when}: the floor shrank from {self._floor} to {floor}"
        self._floor = floor
        releases = {self._release_of(component, when) for component in ("server", "params")}
        assert len(releases) == 1, f"{when}: {releases} in {type(journal.state).__name__}"
        ran = self._ran.read_text().splitlines() if self._ran.exists() else []
        assert set(ran) <= {f"{version} {version}" for version in (self._old, self._new)}, f"{when}: activated {ran}"

    def _release_of(self, component: str, when: str) -> str:
        """Which release this component is of, as a whole."""
        running = self._craft.running()
        files = {path: digest for path, digest in running.items() if path.startswith(f"{component}/")}
        for version in (self._old, self._new):
            if files == whole(version)[component]:
                return version
        raise AssertionError(f"{when}: {component} is neither old nor new: {files}")

    def _look_at_the_end(self, when: str) -> None:
        ends_on = self._new if self._kind == GOOD else self._old
        releases = {component: self._release_of(component, when) for component in ("server", "params")}
        assert releases == {"server": ends_on, "params": ends_on}, f"{when}: {releases}"
        assert self._ran.read_text().splitlines()[-1] == f"{ends_on} {ends_on}", f"{when}: something else was activated"
        identity = self._craft.device_id
        device = self._lab.client.get(f"/api/v1/devices/{identity}").raise_for_status().json()
        action = device["action"]
        assert action["state"] == FINAL[self._kind], f"{when}: {action}"
        results = [
            event["kind"]
            for event in timeline(self._lab.client, identity)
            if event["kind"] in {"result", "late_result"} and event["detail"]["action"] == action["id"]
        ]
        assert results == ["result"], f"{when}: the hub got {results}"
        versions = {part["name"]: part["version"] for part in device["components"]}
        assert versions == releases, f"{when}: the hub believes {versions}"


def timeline(client: httpx.Client, device: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    path = f"/api/v1/devices/{device}/timeline"
    while path:
        answer = client.get(path).raise_for_status()
        events += answer.json()["items"]
        path = answer.links.get("next", {}).get("url", "")
    return events


_names = count(1)


def sweep(lab: Lab, kind: str, cuts: Sequence[Sequence[Cut]]) -> list[list[Boot]]:
    """Many updates, each with its cuts, on as many craft as it takes; returns the boots of each."""
    found: list[list[Boot]] = []
    for start in range(0, len(cuts), UPDATES):
        craft = lab.new_craft(f"{kind}-{next(_names)}")
        running = "2.0.0"
        for number, one in enumerate(cuts[start : start + UPDATES], 2):
            new = version_of(kind, number)
            found.append(Update(lab, craft, kind, running, new).go(one))
            running = new if kind == GOOD else running
        shutil.rmtree(craft.state.parent)
    return found


def points_of(lab: Lab, kind: str) -> list[str]:
    """The points that an update without a cut passes."""
    return sweep(lab, kind, [[Cut(0)]])[0][0].passed


def summary(kind: str, what: str, points: Sequence[str], boots: Sequence[Sequence[Boot]]) -> str:
    """The size of a sweep, for people."""
    reached = [one for one in boots if one[0].was_cut]
    assert len(reached) >= 0.99 * len(boots), "cuts that came after the end test nothing"
    return f"{kind} release: {len(reached)} {what} at {len(points)} points; each ended whole, with one final result"
