"""One hub, one team, one pair of good releases; each test gets a craft of its own on version 1.0.0, and a proxy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware_schemas.release import ReleaseManifest
from tests.support.craft import Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.forge import StolenDirector
from tests.support.mitm import Mitm
from tests.support.publisher import Payload

PRODUCT = "mavsdk"


def payloads(version: str, *, healthy: bool = True) -> list[Payload]:
    """A program with a health check, and a parameter file."""
    check = b"#!/bin/sh\nexit 0\n" if healthy else b"#!/bin/sh\nexit 1\n"
    server = {"check": check, "bin/server": f"server {version}".encode() * 2000, "VERSION": version.encode()}
    return [
        Payload("server", server, ("./check",)),
        Payload("params", f"RTL_ALT,{version.replace('.', '')}\n".encode()),
    ]


@dataclass
class Scene:
    """What an attack test stands on.

    Attributes:
        fleet: The hub with its keys.
        craft: Enrolled, on 1.0.0, healthy; talks to the hub through `mitm`.
        mitm: Honest until told otherwise.
        old, new: The manifests of 1.0.0 (installed) and 2.0.0 (published).
    """

    fleet: Fleet
    craft: Craft
    mitm: Mitm
    old: ReleaseManifest
    new: ReleaseManifest

    @property
    def stolen_director(self) -> StolenDirector:
        return StolenDirector(self.fleet.director_signers, self.craft.device_id)

    def assign_new(self) -> None:
        self.fleet.publisher.assign(f"{PRODUCT}@2.0.0", self.craft.device_id)

    def assert_refused(self, code: str, attack: Callable[[], None] | None = None) -> None:
        """Run the agent into the attack: it refuses with `code`, and nothing on the craft has changed."""
        before = self.craft.unchanged()
        assert before["running"], "the craft must have something to lose"
        if attack is not None:
            attack()
        outcome = self.craft.run_once()
        status = self.craft.status()
        assert code in str(status["last_result"]) + str(status["last_error"]), (outcome, status)
        assert outcome.code in {1, 5}, outcome
        assert self.craft.unchanged() == before
        assert no_unverified_bytes_outside_downloads(self.craft)

    def assert_recovers(self) -> None:
        """After the attack, the honest hub still gets its update through."""
        self.mitm.rules.clear()
        self.assign_new()
        outcome = self.craft.run_once()
        assert outcome.code == 0, (outcome, self.craft.status())
        assert {version for version, _ in self.craft.unchanged()["versions"].values()} == {"2.0.0"}


def no_unverified_bytes_outside_downloads(craft: Craft) -> bool:
    """Slots hold only components of releases that were installed, none half written."""
    return all("2.0.0" not in path.read_text(errors="ignore") for path in (craft.state / "slots").rglob("VERSION"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet")) as running:
        running.releases = {
            version: running.publisher.publish(PRODUCT, version, payloads(version)) for version in ("1.0.0", "2.0.0")
        }
        yield running


@pytest.fixture
def scene(fleet: Fleet, tmp_path: Path) -> Iterator[Scene]:
    with Mitm(fleet.url) as mitm:
        craft = fleet.new_craft(tmp_path / "craft", mitm.url)
        fleet.publisher.assign(f"{PRODUCT}@1.0.0", craft.device_id)
        outcome = craft.run_once()
        assert outcome.code == 0, (outcome, craft.status())
        yield Scene(fleet, craft, mitm, fleet.releases["1.0.0"], fleet.releases["2.0.0"])
