"""`sdx hub backup` and `restore` between a hub in a folder and one on PostgreSQL and S3, with craft that go on."""

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from sdx_hub.demo.servers.seaweed import SeaweedServer
from tests.support.commands import sdx_hub
from tests.support.craft import Craft
from tests.support.fleet import FAST, Fleet, start_fleet
from tests.support.hub import HubProcess
from tests.support.postgres import Databases
from tests.support.publisher import Payload
from tests.support.s3 import fresh_bucket

KINDS = ("folder", "servers")
UPLOAD = os.urandom(300_000)


@dataclass(frozen=True)
class Services:
    """Where hubs can keep what they have."""

    databases: Databases
    s3_server: SeaweedServer

    def settings(self, kind: str) -> dict[str, str]:
        """Of a new hub: nothing in a `folder`, or a new database and a new bucket on `servers`."""
        if kind == "folder":
            return {}
        return {"SDX_DATABASE_URL": self.databases.new(), **fresh_bucket(self.s3_server).settings}


@pytest.fixture(scope="module")
def services(databases: Databases, s3_server: SeaweedServer) -> Services:
    return Services(databases, s3_server)


@dataclass(frozen=True)
class Origin:
    """A hub that was backed up while it ran, and was stopped.

    Attributes:
        craft: Runs a release that came from it; its state is copied before it is used.
        upload: Id of an upload that is half way.
    """

    fleet: Fleet
    settings: dict[str, str]
    craft: Craft
    upload: str
    file: Path
    done: dict[str, Any]


@pytest.fixture(scope="module", params=KINDS)
def origin(
    request: pytest.FixtureRequest, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Origin]:
    folder = tmp_path_factory.mktemp(request.param)
    settings = services.settings(request.param)
    with start_fleet(folder / "fleet", **settings) as fleet:
        craft = fleet.new_craft(folder / "craft", fleet.url)
        fleet.publisher.assign(fleet.publish_next(), craft.device_id)
        run(craft)
        upload = half_an_upload(fleet)
        file = folder / "file"
        code, done = sdx_hub("backup", file, "--data", fleet.hub.data, settings=settings)
        assert code == 0, done
        assert fleet.hub.stop() == 0
        yield Origin(fleet, settings, craft, upload, file, done)


def run(craft: Craft) -> None:
    """Once, or again where the hub sent it away because this machine is busy."""
    for _ in range(10):
        if craft.run_once().code == 0:
            return
    raise AssertionError(craft.status())


def order() -> dict[str, Any]:
    digest = hashlib.sha256(UPLOAD).hexdigest()
    return {"sha256": digest, "length": len(UPLOAD), "encoding": "identity", "decoded_length": len(UPLOAD)}


def half_an_upload(fleet: Fleet) -> str:
    with fleet.client() as client:
        begun = client.post("/api/v1/uploads", json=order()).raise_for_status().json()
        path = f"/api/v1/uploads/{begun['id']}"
        client.patch(path, content=UPLOAD[:100_000], headers={"upload-offset": "0"}).raise_for_status()
    return str(begun["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_goes_on_where_it_was_restored(origin: Origin, services: Services, tmp_path: Path, kind: str) -> None:
    settings = services.settings(kind)
    data = tmp_path / "data"
    code, back = sdx_hub("restore", origin.file, "--data", data, settings=settings)
    assert code == 0, back
    assert (back["rows"], back["payloads"]) == (origin.done["rows"], origin.done["payloads"])
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    code, seen = sdx_hub("doctor", "--data", data, settings=settings)
    assert (code, seen["ok"]) == (0, True), seen

    hub = HubProcess(data, FAST | settings)
    hub.port = origin.fleet.hub.port  # Where the craft knows it.
    hub.start()
    try:
        fleet = replace(origin.fleet, hub=hub)
        craft = replace(
            origin.craft, state=Path(shutil.copytree(origin.craft.state, tmp_path / "craft", symlinks=True))
        )
        bearer = {"authorization": f"Bearer {craft.token}"}
        poll = f"{hub.url}/device/v1/poll"
        assert httpx.get(poll, headers=bearer).status_code in {200, 304}
        before = craft.running()
        fleet.publisher.assign(fleet.publish_next(), craft.device_id)
        run(craft)
        assert craft.running() != before
        with fleet.client() as client:
            shown = client.get(f"/api/v1/devices/{craft.device_id}").raise_for_status().json()
            assert shown["serial"] == craft.serial
        finish_the_upload(fleet, origin.upload)
        code, seen = sdx_hub("doctor", "--data", data, settings=settings)
        assert (code, seen["ok"]) == (0, True), seen
    finally:
        hub.close()


def finish_the_upload(fleet: Fleet, upload: str) -> None:
    """Its first piece is gone: the hub says where to go on, and takes it from there."""
    with fleet.client() as client:
        path = f"/api/v1/uploads/{upload}"
        refused = client.patch(path, content=UPLOAD[100_000:], headers={"upload-offset": "100000"})
        assert (refused.status_code, refused.json()["code"], refused.json()["offset"]) == (409, "offset_mismatch", 0)
        begun = client.post("/api/v1/uploads", json=order()).raise_for_status().json()
        assert (begun["id"], begun["offset"]) == (upload, 0)
        client.patch(path, content=UPLOAD, headers={"upload-offset": "0"}).raise_for_status()
        assert client.post("/api/v1/uploads", json=order()).json()["exists"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_of_a_busy_hub_is_consistent(services: Services, tmp_path: Path, kind: str) -> None:
    """Taken while somebody publishes: every release that it has is there whole, and no audit entry is missing."""
    settings = services.settings(kind)
    with start_fleet(tmp_path / "fleet", **settings) as fleet:
        stop = threading.Event()
        published: list[int] = []

        def publish() -> None:
            while not stop.is_set():
                number = len(published) + 1
                fleet.publisher.publish("busy", f"1.0.{number}", [Payload("app", f"{number}".encode() * 1000)])
                published.append(number)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            code, done = sdx_hub("backup", tmp_path / "file", "--data", fleet.hub.data, settings=settings)
            assert code == 0, done
        finally:
            stop.set()
            thread.join()
        assert published
    data = tmp_path / "back"
    assert sdx_hub("restore", tmp_path / "file", "--data", data)[0] == 0
    code, seen = sdx_hub("doctor", "--data", data)
    assert code == 0, seen


def test_what_is_there_already_is_never_overwritten(origin: Origin, tmp_path: Path) -> None:
    data = origin.fleet.hub.data
    code, refused = sdx_hub("backup", origin.file, "--data", data, settings=origin.settings)
    assert (code, refused["error"]["code"]) == (1, "file_exists")
    code, refused = sdx_hub("restore", origin.file, "--data", data, settings=origin.settings)
    assert (code, refused["error"]["code"]) == (1, "database_not_empty")
    if origin.settings:
        code, refused = sdx_hub("restore", origin.file, "--data", tmp_path / "new", settings=origin.settings)
        assert (code, refused["error"]["code"]) == (1, "database_not_empty")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_leaves_nothing(services: Services, tmp_path: Path, kind: str) -> None:
    (tmp_path / "bad").write_bytes(bytes(1024))
    data = tmp_path / "back" / "data"
    code, refused = sdx_hub("restore", tmp_path / "bad", "--data", data, settings=services.settings(kind))
    assert (code, refused["error"]["code"]) == (5, "backup_damaged"), refused
    assert not (tmp_path / "back").exists()


def test_a_backup_that_craft_are_ahead_of(tmp_path: Path) -> None:
    """What the lost hub said last is never said again with other content; new keys bring such craft back."""
    with start_fleet(tmp_path / "fleet") as fleet:
        craft = fleet.new_craft(tmp_path / "craft", fleet.url)
        fleet.publisher.assign(fleet.publish_next(), craft.device_id)
        run(craft)
        assert sdx_hub("backup", tmp_path / "file", "--data", fleet.hub.data)[0] == 0
        fleet.publisher.assign(fleet.publish_next(), craft.device_id)
        run(craft)
        ahead = craft.running()
        fleet.hub.stop()
        assert sdx_hub("restore", tmp_path / "file", "--data", tmp_path / "back")[0] == 0
        hub = HubProcess(tmp_path / "back", FAST)
        hub.port = fleet.hub.port
        hub.start()
        try:
            restored = replace(fleet, hub=hub, _newest=2)
            # One desired state later, as the lost one was: the craft must not take it for that.
            release = restored.publish_next()
            restored.publisher.assign(release, craft.device_id)
            craft.run_once()
            assert craft.running() == ahead
            assert craft.status()["last_result"]["result"] == "refused", craft.status()
            restored.rotate_online_keys("image")
            restored.publisher.assign(release, craft.device_id)
            run(craft)
            assert {part["version"] for part in craft.status()["components"]} == {"3.3.0"}
        finally:
            hub.close()
