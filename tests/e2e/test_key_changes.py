"""Changing who may sign, with the real commands: a team's key, the hub's own keys, the director's root."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from tuf.api.metadata import Metadata, Root

from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.image_view import ImageView
from tests.e2e.conftest import House
from tests.e2e.test_publishing import build
from tests.support.machine import Machine

KEYS = "ceremony/keys"


def roles(house: House) -> dict[str, Any]:
    listed = house.keeper.sdx("keys", "list")
    return {f"{each['repository']}/{each['role']}": each for each in listed}


def owners(house: House, role: str) -> set[str]:
    return {key["owner"] for key in roles(house)[role]["keys"]}


def hub_root(house: House, repository: str) -> Root:
    answer = httpx.get(f"{house.url}/api/v1/trust/{repository}/root", timeout=30)
    return Metadata[Root].from_bytes(answer.content).signed


def test_a_team_key_is_replaced(house: House, tmp_path: Path) -> None:
    file = build(house.alice, "1.0.0")
    house.alice.signs("release", "sign", file, "--signer", "alice.key")
    house.alice.sdx("release", "publish", file)
    house.carol.signs("release", "sign", "nav@1.0.0", "--signer", "carol.key")
    assert owners(house, "image/team-nav") == {"alice", "bob", "carol"}

    dave = house.person(tmp_path / "dave", "dave", "publisher")
    public = dave.unlocked("keys", "new", "dave.key").json["public"]
    change = ("keys", "rotate", "team-nav", "--add", str(dave.folder / public), "--drop", "carol")
    planned = house.keeper.sdx(*change, "--dry-run")
    assert list(house.keeper.folder.glob("*.targets.json")) == []
    written = house.keeper.sdx(*change)
    files = [each["file"] for each in written["files"]]
    assert [each["role"] for each in written["files"]] == ["image/targets", "image/team-nav"], (
        "carol had signed the team's metadata, so the team signs it anew"
    )
    assert [each["role"] for each in planned["files"]] == [each["role"] for each in written["files"]]
    assert house.keeper.run(*change).error == "key_exists"

    early = house.keeper.run("keys", "push", *files, "--yes")
    assert (early.code, early.error) == (5, "below_threshold")
    signed = house.keeper.signs("keys", "sign", files[0], "--signer", f"{KEYS}/targets-1.key")
    assert signed["complete"]
    assert any("- carol" in line for line in signed["changes"])
    assert any("+ dave" in line for line in signed["changes"])
    team_file = house.keeper.folder / files[1]
    refused = house.carol.unlocked("keys", "sign", str(team_file), "--signer", "carol.key", "--yes")
    assert (refused.code, refused.error) == (5, "key_not_in_role")
    house.alice.signs("keys", "sign", str(team_file), "--signer", "alice.key")
    assert dave.signs("keys", "sign", str(team_file), "--signer", "dave.key")["complete"]
    forbidden = house.alice.run("keys", "push", *(str(house.keeper.folder / each) for each in files), "--yes")
    assert (forbidden.code, forbidden.error) == (4, "not_allowed")
    pushed = house.keeper.sdx("keys", "push", *files, "--yes")
    assert pushed["accepted"] == ["image/targets 2", "image/team-nav 3"]
    assert owners(house, "image/team-nav") == {"alice", "bob", "dave"}

    following = build(house.carol, "1.1.0")
    refused = house.carol.unlocked("release", "sign", following, "--signer", "carol.key", "--yes")
    assert (refused.code, refused.error) == (5, "key_not_in_role")
    (dave.folder / following).write_bytes((house.carol.folder / following).read_bytes())
    dave.signs("release", "sign", following, "--signer", "dave.key")
    dave.sdx("release", "publish", following)
    assert house.bob.signs("release", "sign", "nav@1.1.0", "--signer", "bob.key")["state"] == "published"
    assert house.alice.sdx("release", "verify", "nav@1.0.0")["state"] == "published", "what was published stays"


@pytest.mark.parametrize(
    "named", [["timestamp", "snapshot"], ["director/targets", "director/snapshot", "director/timestamp"]]
)
def test_the_hubs_own_keys_are_replaced_by_one_new_root(house: House, named: list[str]) -> None:
    repository = "director" if named[0].startswith("director") else "image"
    roles_of_hub = [name.rpartition("/")[2] for name in named]
    held = {role: hub_root(house, repository).roles[role].keyids for role in roles_of_hub}
    before = roles(house)[f"{repository}/root"]["version"]
    files = set((house.keeper.folder / "hub" / "online").iterdir())
    house.keeper.sdx("keys", "rotate", *named, "--online", "--data", "hub", "--dry-run")
    assert set((house.keeper.folder / "hub" / "online").iterdir()) == files
    written = house.keeper.sdx("keys", "rotate", *named, "--online", "--data", "hub")
    (file,) = [each["file"] for each in written["files"]]
    holder = "director-root-1" if repository == "director" else "root-1"
    signed = house.keeper.signs("keys", "sign", file, "--signer", f"{KEYS}/{holder}.key")
    assert signed["complete"]
    assert [each["by"] for each in signed["signatures"]] == [f"root {before}", f"root {before + 1}"]
    pushed = house.keeper.sdx("keys", "push", file, "--yes")
    assert pushed["accepted"] == [f"{repository}/root {before + 1}"]
    for role in roles_of_hub:
        following = hub_root(house, repository).roles[role].keyids
        assert len(following) == 1
        assert following != held[role]
    with HubClient(house.url) as hub:
        root = (house.keeper.folder / "ceremony" / "image" / "1.root.json").read_bytes()
        view = ImageView(hub, house.keeper.folder / f"fresh-{repository}", root)
        assert view.root.version == roles(house)["image/root"]["version"]
    (house.keeper.folder / file).unlink()


def test_a_new_team_and_new_expiries(house: House) -> None:
    adding: list[str] = []
    for name, machine in (("alice", house.alice), ("bob", house.bob), ("carol", house.carol)):
        adding += ["--add", str(machine.folder / f"{name}.pub")]
    written = house.keeper.sdx("keys", "rotate", "team-radio", *adding, "--threshold", "1")
    files = [each["file"] for each in written["files"]]
    assert [each["role"] for each in written["files"]] == ["image/targets", "image/team-radio"]
    house.keeper.signs("keys", "sign", files[0], "--signer", f"{KEYS}/targets-1.key")
    assert house.carol.signs("keys", "sign", str(house.keeper.folder / files[1]), "--signer", "carol.key")["complete"]
    assert house.keeper.sdx("keys", "push", *files, "--yes")["accepted"][-1] == "image/team-radio 1"
    file = build(house.carol, "1.0.0", product="radio")
    # Carol may sign for team nav, too, unless an earlier change took that away.
    signed = house.carol.signs("release", "sign", file, "--signer", "carol.key", "--role", "team-radio")
    assert (signed["role"], signed["complete"]) == ("team-radio", True)
    assert house.carol.sdx("release", "publish", file)["state"] == "published"
    for file in files:
        (house.keeper.folder / file).unlink()

    (again,) = house.keeper.sdx("keys", "rotate", "team-radio")["files"]
    assert (again["role"], again["version"]) == ("image/team-radio", 3)
    house.carol.signs("keys", "sign", str(house.keeper.folder / again["file"]), "--signer", "carol.key")
    assert house.keeper.sdx("keys", "push", again["file"], "--yes")["accepted"] == ["image/team-radio 3"]
    assert house.carol.sdx("release", "verify", "radio@1.0.0")["state"] == "published"


def test_a_file_that_publishes_something_is_not_signed_as_a_key_change(house: House, tmp_path: Path) -> None:
    bob: Machine = house.bob
    outdated = house.keeper.folder / "ceremony" / "image" / "1.targets.json"
    copied = tmp_path / "9.targets.json"
    copied.write_bytes(outdated.read_bytes().replace(b'"version":1}', b'"version":9}'))
    refused = bob.unlocked("keys", "sign", str(copied), "--signer", "bob.key", "--yes")
    assert (refused.code, refused.error) == (1, "metadata_outdated")
    (again,) = house.keeper.sdx("keys", "rotate", "fleet-config", "-o", str(tmp_path))["files"]
    path = Path(again["file"])
    extra = '"targets":{"fleet-config/a/1/x":{"length":1,"hashes":{"sha256":"00"}}}'
    smuggled = path.read_text().replace('"targets":{}', extra)
    assert smuggled != path.read_text()
    path.write_text(smuggled)
    refused = house.keeper.unlocked("keys", "sign", str(path), "--signer", f"{KEYS}/fleet-config-1.key", "--yes")
    assert (refused.code, refused.error) == (5, "targets_changed")
