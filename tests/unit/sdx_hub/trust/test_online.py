"""The hub's own keys: found by the root, opened when needed, and never guessed at."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Timestamp

from sdx_hub.domain.errors import BadInput, ConflictError, Unavailable
from sdx_hub.trust import handover
from sdx_hub.trust.online import OnlineKeyInfo, OnlineSigners, file_of
from tests.support.people import hold_ceremony

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hold_ceremony(tmp_path / "ceremony", NOW, "nav").folder


def root(folder: Path) -> Root:
    return Metadata[Root].from_file(str(folder / "image/1.root.json")).signed


def known(folder: Path) -> OnlineSigners:
    signers = OnlineSigners(folder / "online")
    signers.learn(handover.read_ceremony(folder, NOW).online)
    return signers


def test_a_seal_is_what_the_root_accepts(folder: Path) -> None:
    raw = known(folder).seal("image", "timestamp", root(folder), Timestamp(1, expires=NOW + timedelta(days=1)))
    metadata = Metadata[Any].from_bytes(raw)
    root(folder).verify_delegate("timestamp", metadata.signed_bytes, metadata.signatures)
    assert len(metadata.signatures) == 1
    assert b"\n" not in raw


def test_a_key_that_no_root_names_signs_nothing(folder: Path) -> None:
    signers = known(folder)
    info = handover.make_key(folder / "online", "image", "timestamp")
    signers.learn([info])
    raw = signers.seal("image", "timestamp", root(folder), Timestamp(1, expires=NOW + timedelta(days=1)))
    assert info.key.keyid not in Metadata[Any].from_bytes(raw).signatures


def test_every_key_that_the_root_names_signs(folder: Path) -> None:
    signers = known(folder)
    info = handover.make_key(folder / "online", "image", "timestamp")
    wanted = root(folder)
    wanted.add_key(info.key, "timestamp")
    wanted.roles["timestamp"].threshold = 2
    with pytest.raises(ConflictError) as missing:
        signers.seal("image", "timestamp", wanted, Timestamp(1))
    assert missing.value.code == "online_key_missing"
    signers.learn([info])
    raw = signers.seal("image", "timestamp", wanted, Timestamp(1, expires=NOW + timedelta(days=1)))
    metadata = Metadata[Any].from_bytes(raw)
    wanted.verify_delegate("timestamp", metadata.signed_bytes, metadata.signatures)


def test_a_key_is_only_for_its_own_role(folder: Path) -> None:
    """The snapshot's key does not sign timestamps, even where a root would let it."""
    signers = known(folder)
    wanted = root(folder)
    wanted.roles["timestamp"].keyids = list(wanted.roles["snapshot"].keyids)
    with pytest.raises(ConflictError) as missing:
        signers.for_role("image", "timestamp", wanted)
    assert missing.value.code == "online_key_missing"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("nothing")])
def test_a_key_file_that_is_lost(folder: Path, spoil: Any) -> None:
    signers = known(folder)
    spoil(folder / "online" / "image-snapshot.key")
    with pytest.raises(Unavailable) as refused:
        signers.for_role("image", "snapshot", root(folder))
    assert refused.value.code == "online_key_unreadable"


@pytest.mark.parametrize("name", ["../x.key", "/etc/passwd", "a/b", "", ".", ".."])
def test_a_key_file_is_in_the_folder_of_online_keys(folder: Path, name: str) -> None:
    with pytest.raises(BadInput) as refused:
        file_of(f"file2:{name}")
    assert refused.value.code == "online_key_uri"
    signers = OnlineSigners(folder / "online")
    online = handover.read_ceremony(folder, NOW).online
    key = next(info.key for info in online if (info.repository, info.role) == ("image", "snapshot"))
    signers.learn([OnlineKeyInfo("image", "snapshot", f"file2:{name}", key)])
    with pytest.raises(BadInput):
        signers.for_role("image", "snapshot", root(folder))


def test_other_schemes_have_no_file() -> None:
    assert file_of("hsm:2?label=hub") is None
    assert file_of("file2:image-snapshot.key") == "image-snapshot.key"
