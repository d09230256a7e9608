"""The ceremony: quorums that are refused, what is in the folder, and who can sign alone."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from firmware_schemas.errors import InvalidName
from sdx_hub.domain.errors import BadInput, ConflictError, TrustError
from sdx_hub.trust import ceremony, keys, pkcs8
from sdx_hub.trust.ceremony import CeremonyPlan, Quorum
from tests.support.team import NOW

PASSPHRASE = "a long passphrase"


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 16)


def plan(**fields: object) -> CeremonyPlan:
    return CeremonyPlan({"nav": Quorum(2, 3)}, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["3/3", "1/1", "0/2", "4/3", "2", "a/b", "-1/2", "2/17", "2/3 ", "2/3\n", "１/２"])
def test_quorums_that_are_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        ceremony.parse_quorum(text)
    assert refused.value.code == "ceremony_threshold"


@pytest.mark.parametrize(("text", "quorum"), [("3/5", Quorum(3, 5)), ("1/2", Quorum(1, 2)), ("2/16", Quorum(2, 16))])
def test_quorums(text: str, quorum: Quorum) -> None:
    assert ceremony.parse_quorum(text) == quorum
    assert str(quorum) == text


def test_the_folder_holds_what_trust_asks_for(tmp_path: Path) -> None:
    folder = tmp_path / "ceremony"
    before = os.umask(0)
    try:
        result = ceremony.hold(plan(), folder, PASSPHRASE, NOW)
    finally:
        os.umask(before)
    assert result.missing == {}
    assert set(result.one_person) == {"root", "targets", "director", "fleet-config", "team-nav"}
    raw = (folder / "image" / "1.root.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == result.image_root_sha256
    image = Metadata[Root].from_bytes(raw)
    image.signed.verify_delegate("root", image.signed_bytes, image.signatures)
    assert (image.signed.roles["root"].threshold, len(image.signed.roles["root"].keyids)) == (3, 5)
    assert (image.signed.roles["targets"].threshold, len(image.signed.roles["targets"].keyids)) == (2, 3)
    assert image.signed.roles["snapshot"].keyids != image.signed.roles["timestamp"].keyids, "separate online keys"
    assert image.signed.consistent_snapshot
    targets = Metadata[Targets].from_file(str(folder / "image" / "1.targets.json"))
    image.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    roles = targets.signed.delegations.roles if targets.signed.delegations else None
    assert roles is not None
    assert {name: (role.threshold, role.terminating, role.paths) for name, role in roles.items()} == {
        "fleet-config": (2, True, ["fleet-config/*/*/*"]),
        "team-nav": (2, True, ["nav/*/*/*"]),
    }
    for role in roles:
        first = Metadata[Targets].from_file(str(folder / "image" / f"1.{role}.json"))
        targets.signed.verify_delegate(role, first.signed_bytes, first.signatures)
    director = Metadata[Root].from_file(str(folder / "director" / "1.root.json"))
    director.signed.verify_delegate("root", director.signed_bytes, director.signatures)
    assert not set(director.signed.keys) & set(image.signed.keys), "other people, other keys"
    summary = json.loads((folder / "ceremony.json").read_text())
    assert summary["one_person"] is True


def test_private_files_are_for_their_holder_only(tmp_path: Path) -> None:
    folder = tmp_path / "ceremony"
    before = os.umask(0)
    try:
        ceremony.hold(plan(), folder, PASSPHRASE, NOW)
    finally:
        os.umask(before)
    for private in [*folder.glob("keys/*.key"), *folder.glob("online/*")]:
        assert stat.S_IMODE(private.stat().st_mode) == 0o600, private
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "online").stat().st_mode) == 0o700
    for private in folder.glob("keys/*.key"):
        assert b"ENCRYPTED PRIVATE KEY" in private.read_bytes()
    text = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert PASSPHRASE.encode() not in text


def test_brought_keys_stay_with_their_holders(tmp_path: Path) -> None:
    brought = {role: [keys.generate(f"{role}-{n}")[1] for n in range(3)] for role in ("targets", "team-nav")}
    result = ceremony.hold(plan(brought=brought), tmp_path / "c", PASSPHRASE, NOW)
    assert result.missing == {"image/1.targets.json": 2, "image/1.team-nav.json": 2}
    assert "targets" not in result.one_person
    assert "team-nav" not in result.one_person
    assert result.owners["team-nav"] == ("team-nav-0", "team-nav-1", "team-nav-2")
    assert not list((tmp_path / "c" / "keys").glob("targets*"))


def test_nothing_is_overwritten_and_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ceremony"
    folder.mkdir()
    (folder / "something").touch()
    with pytest.raises(ConflictError) as refused:
        ceremony.hold(plan(), folder, PASSPHRASE, NOW)
    assert refused.value.code == "key_exists"
    (folder / "something").unlink()
    with pytest.raises(BadInput) as short:
        ceremony.hold(plan(), folder, "short", NOW)
    assert short.value.code == "passphrase_too_short"

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(ceremony, "_root", fail)
    with pytest.raises(OSError, match="full"):
        ceremony.hold(plan(), folder, PASSPHRASE, NOW)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_one_person_with_two_keys_of_a_role_is_refused() -> None:
    alice = keys.generate("alice")[1]
    renamed = keys.owned(alice.key, "bob")
    for pair in ([alice, keys.generate("alice")[1]], [alice, renamed]):
        with pytest.raises(TrustError) as refused:
            ceremony.check_plan(plan(brought={"root": pair}))
        assert refused.value.code == "key_twice"


def test_too_many_keys_and_unknown_roles_are_refused() -> None:
    people = [keys.generate(f"p{n}")[1] for n in range(4)]
    for brought in ({"targets": people}, {"team-other": people[:1]}):
        with pytest.raises(BadInput) as refused:
            ceremony.check_plan(plan(brought=brought))
        assert refused.value.code == "ceremony_keys"


@pytest.mark.parametrize("name", ["root", "targets", "fleet-config", "director", "director-root"])
def test_reserved_team_names(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        ceremony.check_plan(CeremonyPlan({name: Quorum(2, 3)}))
    assert refused.value.code == "team_name"


@pytest.mark.parametrize("name", ["Nav", "a/b", "..", ""])
def test_team_names_that_are_no_names(name: str) -> None:
    with pytest.raises(InvalidName):
        ceremony.check_plan(CeremonyPlan({name: Quorum(2, 3)}))
