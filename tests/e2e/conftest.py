"""A hub and the people of team nav, each on a machine of their own; everything through the real commands."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.hub import HubProcess
from tests.support.machine import Machine


@dataclass
class House:
    """Who and what there is.

    Attributes:
        keeper: Keeps the hub's machine and the keys of the roots; an admin.
        alice, bob, carol: Team nav; alice publishes, bob approves, carol publishes.
    """

    keeper: Machine
    alice: Machine
    bob: Machine
    carol: Machine
    hub: HubProcess
    image_root_sha256: str
    admin_token: str

    @property
    def url(self) -> str:
        return self.hub.url

    def person(self, folder: Path, name: str, role: str) -> Machine:
        """A new machine with a token of that role."""
        machine = Machine(folder)
        machine.login(self.url, self.token(name, role), self.image_root_sha256)
        return machine

    def token(self, name: str, role: str) -> str:
        made = httpx.post(
            f"{self.url}/api/v1/tokens",
            json={"name": name, "role": role, "life_s": 3600},
            headers={"authorization": f"Bearer {self.admin_token}"},
            timeout=30,
        )
        made.raise_for_status()
        return str(made.json()["token"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    base = tmp_path_factory.mktemp("house")
    keeper = Machine(base / "keeper")
    people = {name: Machine(base / name) for name in ("alice", "bob", "carol")}
    brought = []
    for name, machine in people.items():
        made = machine.unlocked("keys", "new", f"{name}.key").json
        assert made["owner"] == name
        public = machine.folder / f"{name}.pub"
        brought += ["--team-key", f"nav={public}"]
    quorums = ["--root", "1/2", "--targets", "1/2", "--director", "1/2", "--fleet-config", "1/2", "--team", "nav=2/3"]
    keeper.signs("keys", "ceremony", "ceremony", *quorums, *brought)
    team_file = keeper.folder / "ceremony" / "image" / "1.team-nav.json"
    for name in ("alice", "bob"):
        people[name].signs("keys", "sign", str(team_file), "--signer", f"{name}.key")
    first = keeper.sdx("hub", "init", "--data", "hub", "--ceremony", "ceremony")
    hub = HubProcess(keeper.folder / "hub", {"SDX_POLL_INTERVAL_S": "1", "SDX_POLL_JITTER_S": "1"})
    hub.start()
    house = House(
        keeper, **people, hub=hub, image_root_sha256=first["image_root_sha256"], admin_token=first["admin_token"]
    )
    try:
        keeper.login(hub.url, house.admin_token, house.image_root_sha256)
        roles = {"alice": "publisher", "bob": "approver", "carol": "publisher"}
        for name, machine in people.items():
            machine.login(hub.url, house.token(name, roles[name]), house.image_root_sha256)
        yield house
    finally:
        hub.close()
