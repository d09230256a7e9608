"""Key files: never overwritten, never readable by others, and a key id is the digest of its key."""

import copy
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from firmware_schemas.errors import InvalidName
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError
from sdx_hub.trust import keys, pkcs8

PASSPHRASE = "a long passphrase"


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is the point of scrypt, but not of most tests here."""
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 16)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_pair_has_exact_modes_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        public = keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "alice.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "alice.pub").stat().st_mode) == 0o644
    read = keys.read_public(tmp_path / "alice.pub")
    assert (read.owner, read.keyid) == ("alice", public.keyid)


def test_the_private_part_is_encrypted_and_standard(tmp_path: Path) -> None:
    keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    pem = (tmp_path / "alice.key").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    private = load_pem_private_key(pem, PASSPHRASE.encode())
    assert isinstance(private, Ed25519PrivateKey)
    with pytest.raises(ValueError):
        load_pem_private_key(pem, b"another passphrase")
    raw = private.private_bytes_raw()
    assert raw not in pem
    assert raw.hex().encode() not in pem


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_openssl_opens_the_private_part(tmp_path: Path) -> None:
    public = keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    command = ["openssl", "pkey", "-in", str(tmp_path / "alice.key"), "-passin", "stdin", "-pubout", "-outform", "DER"]
    done = subprocess.run(command, input=PASSPHRASE.encode(), capture_output=True, check=True)
    assert done.stdout[-32:].hex() == public.key.keyval["public"]


@pytest.mark.usefixtures("cheap")
def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    before = (tmp_path / "alice.key").read_bytes()
    with pytest.raises(ConflictError) as refused:
        keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    assert refused.value.code == "key_exists"
    (tmp_path / "bob.pub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError):
        keys.create_pair(tmp_path / "bob.key", "bob", PASSPHRASE)
    assert not (tmp_path / "bob.key").exists(), "no half of a pair"
    assert (tmp_path / "alice.key").read_bytes() == before


def test_a_short_passphrase_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        keys.create_pair(tmp_path / "alice.key", "alice", "seven77")
    assert refused.value.code == "passphrase_too_short"
    assert list(tmp_path.iterdir()) == []


def document(tmp_path: Path) -> dict[str, Any]:
    keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    found: dict[str, Any] = json.loads((tmp_path / "alice.pub").read_text())
    return found


@pytest.mark.usefixtures("cheap")
def test_a_key_under_another_id_than_its_digest_is_refused(tmp_path: Path) -> None:
    """Else one key could be brought under two ids, and count twice against a threshold."""
    good = document(tmp_path)
    bad = copy.deepcopy(good) | {"keyid": "0" * 64}
    with pytest.raises(TrustError, match="digest") as refused:
        keys.parse_public(bad, "bad.pub")
    assert refused.value.code == "key_file_invalid"
    other = keys.generate("mallory")[1].document()
    swapped = copy.deepcopy(good)
    swapped["key"]["keyval"] = other["key"]["keyval"]
    with pytest.raises(TrustError):
        keys.parse_public(swapped, "swapped.pub")


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(
    "change",
    [
        lambda good: [],
        lambda good: None,
        lambda good: {},
        lambda good: good | {"key": "x"},
        lambda good: good | {"key": good["key"] | {"scheme": "none"}},
        lambda good: good | {"key": good["key"] | {"keyval": {"public": "zz"}}},
        lambda good: good | {"key": {k: v for k, v in good["key"].items() if k != "x-sdx-keyowner"}},
        lambda good: good | {"key": good["key"] | {"x-sdx-keyowner": 5}},
    ],
)
def test_what_is_no_public_key_file_is_refused(tmp_path: Path, change: Any) -> None:
    with pytest.raises(TrustError) as refused:
        keys.parse_public(change(document(tmp_path)), "bad.pub")
    assert refused.value.code == "key_file_invalid"


def test_a_missing_a_huge_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        keys.read_public(tmp_path / "nobody.pub")
    assert missing.value.code == "key_file_missing"
    for name, content in (("huge.pub", b" " * (keys.MAX_KEY_FILE_BYTES + 1)), ("broken.pub", b"{")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrustError) as refused:
            keys.read_public(tmp_path / name)
        assert refused.value.code == "key_file_invalid"


def test_an_owner_that_could_be_mistaken_is_refused() -> None:
    for owner in ("Alice", "a b", "", "../alice", "alice\n"):
        with pytest.raises(InvalidName):
            keys.generate(owner)


def test_one_person_or_one_key_twice_in_a_role_is_refused() -> None:
    alice, bob = keys.generate("alice")[1], keys.generate("bob")[1]
    keys.check_distinct([alice, bob], "root")
    renamed = keys.owned(alice.key, "alice-again")
    second = keys.generate("alice")[1]
    for pair in ([alice, bob, second], [alice, renamed]):
        with pytest.raises(TrustError) as refused:
            keys.check_distinct(pair, "root")
        assert refused.value.code == "key_twice"
