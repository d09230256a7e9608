"""A person's own TUF client: what a hub that lies or stands still shows to somebody who is about to sign."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from sdx_hub.domain.errors import NotFound, TrustError, Unavailable
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.image_view import METADATA, ImageView
from tests.support.people import People, hold_ceremony, sign
from tests.support.team import ROLE

TEAM = "nav"


class Repository:
    """An image repository in memory, which can be made to lie."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.people: People = hold_ceremony(folder / "ceremony", self.now, TEAM)
        image = folder / "ceremony" / "image"
        self.root = (image / "1.root.json").read_bytes()
        self.files = {path.name: path.read_bytes() for path in image.iterdir()}
        self._online = json.loads((folder / "ceremony" / "online" / "signers.json").read_text())
        self._folder = folder / "ceremony" / "online"
        self.versions = {"targets": 1, ROLE: 1, "fleet-config": 1}
        self.number = 0
        self.seal()

    def seal(self, life: timedelta = timedelta(days=1)) -> None:
        """The next snapshot and timestamp."""
        self.number += 1
        expires = self.now + life
        meta = {f"{role}.json": MetaFile(version) for role, version in self.versions.items()}
        snapshot = self._sign("snapshot", Snapshot(self.number, expires=self.now + timedelta(days=7), meta=meta))
        self.files[f"{self.number}.snapshot.json"] = snapshot
        timestamp = Timestamp(self.number, expires=expires, snapshot_meta=MetaFile(self.number))
        self.files["timestamp.json"] = self._sign("timestamp", timestamp)

    def next_team(self, people: int = 2, expires: datetime | None = None) -> None:
        signed = Metadata[Targets].from_bytes(self.files[f"{self.versions[ROLE]}.{ROLE}.json"]).signed
        signed.version += 1
        signed.expires = expires or self.now + timedelta(days=100)
        self.versions[ROLE] = signed.version
        self.files[f"{signed.version}.{ROLE}.json"] = sign(Metadata(signed), self.people[ROLE][:people])

    def _sign(self, role: str, signed: Any) -> bytes:
        entry = self._online[f"image/{role}"]
        root = Metadata[Root].from_bytes(self.root).signed
        path = self._folder / entry["uri"].removeprefix("file2:")
        signer = CryptoSigner.from_priv_key_uri(f"file2:{path}", root.keys[entry["keyid"]])
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(signer)
        return metadata.to_bytes()

    def hub(self) -> HubClient:
        def handle(request: httpx.Request) -> httpx.Response:
            name = request.url.path.removeprefix(METADATA)
            if name in self.files:
                return httpx.Response(200, content=self.files[name])
            return httpx.Response(404, json={"code": "metadata_not_found", "detail": name})

        return HubClient("https://hub.example", "", httpx.MockTransport(handle))

    def view(self, folder: Path) -> ImageView:
        return ImageView(self.hub(), folder, self.root)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_the_team_is_given_as_its_people_signed_it(repository: Repository, tmp_path: Path) -> None:
    repository.next_team()
    repository.seal()
    view = repository.view(tmp_path / "seen").team(ROLE)
    assert (view.role, view.current.version, view.team) == (ROLE, 2, TEAM)
    signed = repository.view(tmp_path / "seen").signed_team(ROLE)
    assert len(signed.signatures) == 2
    with pytest.raises(NotFound) as unknown:
        repository.view(tmp_path / "seen").team("team-other")
    assert unknown.value.code == "role_unknown"


@pytest.mark.parametrize("people", [0, 1])
def test_a_team_below_its_threshold_is_refused(repository: Repository, tmp_path: Path, people: int) -> None:
    repository.next_team(people)
    repository.seal()
    with pytest.raises(TrustError) as refused:
        repository.view(tmp_path / "seen").team(ROLE)
    assert refused.value.code == "image_refused"


def test_an_expired_team_is_shown_with_a_warning_so_that_it_can_go_on(repository: Repository, tmp_path: Path) -> None:
    repository.next_team(expires=repository.now - timedelta(days=1))
    repository.seal()
    view = repository.view(tmp_path / "seen")
    assert view.team(ROLE).current.version == 2
    assert any("expired" in warning for warning in view.warnings)


@pytest.mark.parametrize("people", [0, 1])
def test_an_expired_team_is_still_verified(repository: Repository, tmp_path: Path, people: int) -> None:
    repository.next_team(people, repository.now - timedelta(days=1))
    repository.seal()
    with pytest.raises(TrustError) as refused:
        repository.view(tmp_path / "seen").team(ROLE)
    assert refused.value.code in {"image_refused", "metadata_invalid"}


def test_a_hub_that_goes_back_is_refused(repository: Repository, tmp_path: Path) -> None:
    before = dict(repository.files)
    repository.next_team()
    repository.seal()
    repository.view(tmp_path / "seen").team(ROLE)
    repository.files = before
    with pytest.raises(TrustError) as refused:
        repository.view(tmp_path / "seen")
    assert refused.value.code == "image_refused"


def test_a_hub_that_stands_still_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.seal(life=-timedelta(hours=1))
    with pytest.raises(TrustError) as refused:
        repository.view(tmp_path / "seen")
    assert refused.value.code == "image_refused"


def test_metadata_of_somebody_else_is_refused(repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    mixed = ImageView(other.hub(), tmp_path / "other-seen", other.root)
    assert mixed.root.version == 1
    with pytest.raises(TrustError) as refused:
        ImageView(other.hub(), tmp_path / "seen", repository.root)
    assert refused.value.code == "image_refused"


def test_a_hub_that_is_away_is_no_refusal(repository: Repository, tmp_path: Path) -> None:
    hub = HubClient("https://hub.example", "", httpx.MockTransport(lambda _: httpx.Response(503)))
    with pytest.raises(Unavailable) as away:
        ImageView(hub, tmp_path / "seen", repository.root)
    assert away.value.code == "hub_unreachable"
