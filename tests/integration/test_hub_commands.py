"""`sdx hub init | migrate | doctor | backup | restore | token | online-key`, as processes, on a real hub's folder."""

import hashlib
import json
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url

from sdx_hub.adapters.blobs import key_of
from sdx_hub.demo.servers.process import free_port
from tests.support.commands import sdx_hub
from tests.support.fleet import start_fleet
from tests.support.hub import HubProcess
from tests.support.people import hold_ceremony
from tests.support.postgres import Databases
from tests.support.publisher import Payload
from tests.support.s3 import Bucket

CONTENT = b"a payload that must survive\n" * 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a hub that has published something and was stopped."""
    with start_fleet(tmp_path_factory.mktemp("hub")) as fleet:
        fleet.publisher.publish("kept", "1.0.0", [Payload("app", CONTENT)])
        assert fleet.hub.stop() == 0
        (fleet.hub.data / "admin").write_text(fleet.admin_token)
        yield fleet.hub.data


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(folder, tmp_path / "data"))


def finding(document: Any, check: str) -> Any:
    return next(each for each in document["findings"] if each["check"] == check)


def test_init_makes_a_hub_once(tmp_path: Path) -> None:
    hold_ceremony(tmp_path / "ceremony", datetime.now(UTC), "nav")
    code, made = sdx_hub("init", "--data", tmp_path / "hub", "--ceremony", tmp_path / "ceremony", "--admin", "alice")
    assert code == 0
    raw = (tmp_path / "ceremony" / "image" / "1.root.json").read_bytes()
    assert made["image_root_sha256"] == hashlib.sha256(raw).hexdigest()
    assert made["admin_token"].startswith("sdx_")
    assert stat.S_IMODE((tmp_path / "hub").stat().st_mode) == 0o700
    assert {stat.S_IMODE(key.stat().st_mode) for key in (tmp_path / "hub" / "online").iterdir()} == {0o600}
    code, again = sdx_hub("init", "--data", tmp_path / "hub", "--ceremony", tmp_path / "ceremony")
    assert (code, again["error"]["code"]) == (1, "hub_initialised")
    hub = HubProcess(tmp_path / "hub", {})
    hub.start()
    try:
        who = httpx.get(f"{hub.url}/api/v1/whoami", headers={"authorization": f"Bearer {made['admin_token']}"})
        assert (who.json()["name"], who.json()["role"]) == ("alice", "admin")
    finally:
        hub.close()


def test_init_refuses_a_ceremony_that_was_tampered_with(tmp_path: Path) -> None:
    hold_ceremony(tmp_path / "ceremony", datetime.now(UTC), "nav")
    file = tmp_path / "ceremony" / "image" / "1.root.json"
    document = json.loads(file.read_bytes())
    document["signed"]["version"] = 1
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    file.write_text(json.dumps(document))
    code, refused = sdx_hub("init", "--data", tmp_path / "hub", "--ceremony", tmp_path / "ceremony")
    assert code == 5, refused
    assert not list((tmp_path / "hub").glob("online/*"))


def test_migrate_says_that_there_is_nothing_to_do(data: Path) -> None:
    code, answer = sdx_hub("migrate", "--data", data)
    assert (code, answer["error"]["code"]) == (3, "nothing_to_do")


def test_doctor_is_content_with_a_good_hub(data: Path) -> None:
    code, seen = sdx_hub("doctor", "--data", data)
    assert (code, seen["ok"]) == (0, True), seen
    checks = {each["check"] for each in seen["findings"]}
    assert checks == {
        *("database", "audit log", "image repository", "director root", "online keys", "payloads", "expiry")
    }


def sql(data: Path, *statements: str) -> None:
    database = sqlite3.connect(data / "hub.db")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


BREAKAGES: dict[str, tuple[Callable[[Path], object], str, str, int]] = {
    "an audit entry was changed": (
        lambda data: sql(data, "DROP TRIGGER audit_entry_no_update", "UPDATE audit_entry SET actor='x' WHERE seq=2"),
        "audit log",
        "audit_chain_broken",
        5,
    ),
    "the last audit entry was removed": (
        lambda data: sql(
            data,
            "DROP TRIGGER audit_entry_no_delete",
            "DELETE FROM audit_entry WHERE seq=(SELECT max(seq) FROM audit_entry)",
        ),
        "audit log",
        "audit_chain_broken",
        5,
    ),
    "a payload is missing": (
        lambda data: (data / "blobs" / key_of(hashlib.sha256(CONTENT).hexdigest(), "identity")).unlink(),
        "payloads",
        "payload_missing",
        1,
    ),
    "a payload has rotted": (
        lambda data: (data / "blobs" / key_of(hashlib.sha256(CONTENT).hexdigest(), "identity")).write_bytes(b"x"),
        "payloads",
        "payload_missing",
        1,
    ),
    "an online key is missing": (
        lambda data: (data / "online" / "director-targets.key").unlink(),
        "online keys",
        "online_key_unreadable",
        1,
    ),
    "an online key can be read by others": (
        lambda data: (data / "online" / "director-targets.key").chmod(0o644),
        "online keys",
        "online_key_exposed",
        1,
    ),
    "signed metadata was changed": (
        lambda data: sql(
            data,
            "UPDATE metadata_file SET raw = CAST(replace(CAST(raw AS TEXT), 'nav/*/*/*', 'nav/*/*/x') AS BLOB) "
            "WHERE role = 'targets' AND repository = 'image'",
        ),
        "image repository",
        "signature_invalid",
        5,
    ),
    "metadata has expired": (
        lambda data: sql(data, "UPDATE metadata_file SET expires_at = '2020-01-01 00:00:00' WHERE role = 'team-nav'"),
        "expiry",
        "metadata_expired",
        1,
    ),
    "the schema is another one's": (
        lambda data: sql(data, "UPDATE alembic_version SET version_num = '9999'"),
        "database",
        "database_newer",
        1,
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_doctor_finds_what_is_broken(data: Path, name: str) -> None:
    break_it, check, code, exit_code = BREAKAGES[name]
    break_it(data)
    got, seen = sdx_hub("doctor", "--data", data)
    assert got == exit_code, seen
    found = finding(seen, check)
    assert (found["ok"], found["code"]) == (False, code), seen
    assert seen["ok"] is False


def test_a_backup_that_is_not_whole_is_no_success(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "blobs")
    code, done = sdx_hub("backup", tmp_path / "file", "--data", data)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert code == 1
    assert f"blobs/{key_of(sha256, 'identity')}" in done["left_out"]


def test_doctor_warns_before_metadata_expires(data: Path) -> None:
    sql(data, "UPDATE metadata_file SET created_at = '2020-01-01 00:00:00' WHERE role = 'team-nav'")
    code, seen = sdx_hub("doctor", "--data", data)
    assert code == 0, seen
    assert finding(seen, "expiry")["code"] == "metadata_alarm"
    assert finding(seen, "expiry")["warning"] is True


def test_tokens_without_a_token(data: Path) -> None:
    """Whoever has the data folder can let people in, and shut them out, also while nothing runs."""
    code, made = sdx_hub("token", "new", "--name", "bob", "--role", "publisher", "--days", "3", "--data", data)
    assert code == 0
    assert made["token"].startswith("sdx_")
    code, listed = sdx_hub("token", "list", "--data", data)
    assert [each["role"] for each in listed if each["name"] == "bob"] == ["publisher"]
    assert "token" not in listed[0]
    assert sdx_hub("token", "revoke", made["id"], "--data", data)[0] == 0
    _, listed = sdx_hub("token", "list", "--data", data)
    assert all(each["revoked_at"] for each in listed if each["name"] == "bob")
    code, refused = sdx_hub("token", "revoke", "nobody", "--data", data)
    assert (code, refused["error"]["code"]) == (1, "token_not_found")
    assert sdx_hub("doctor", "--data", data)[0] == 0


def test_every_command_on_servers(tmp_path: Path, databases: Databases, s3: Bucket) -> None:
    """On PostgreSQL and S3 as in a folder; `serve`, `backup` and `restore` have tests of their own."""
    settings = {"SDX_DATABASE_URL": databases.new(), **s3.settings}
    data = ("--data", tmp_path / "hub")
    for command in ("doctor", "token list", "backup x", "serve"):
        code, refused = sdx_hub(*command.split(), *data, settings=settings)
        assert (code, refused["error"]["code"]) == (1, "hub_not_initialised"), command
    hold_ceremony(tmp_path / "ceremony", datetime.now(UTC), "nav")
    code, made = sdx_hub("init", *data, "--ceremony", tmp_path / "ceremony", settings=settings)
    assert code == 0, made
    code, again = sdx_hub("init", *data, "--ceremony", tmp_path / "ceremony", settings=settings)
    assert (code, again["error"]["code"]) == (1, "hub_initialised")
    code, answer = sdx_hub("migrate", *data, settings=settings)
    assert (code, answer["error"]["code"]) == (3, "nothing_to_do")
    code, token = sdx_hub("token", "new", "--name", "bob", "--role", "viewer", *data, settings=settings)
    assert code == 0, token
    assert sdx_hub("token", "revoke", token["id"], *data, settings=settings)[0] == 0
    code, listed = sdx_hub("token", "list", *data, settings=settings)
    assert {each["name"]: bool(each["revoked_at"]) for each in listed} == {"admin": False, "bob": True}
    code, seen = sdx_hub("doctor", *data, settings=settings)
    assert (code, seen["ok"]) == (0, True), seen
    assert {path.name for path in (tmp_path / "hub").iterdir()} <= {"online", "uploads"}


@pytest.mark.parametrize("command", ["migrate", "doctor", "token list", "backup x", "serve"])
def test_a_database_that_is_away(tmp_path: Path, command: str) -> None:
    url = f"postgresql+asyncpg://sdx:hidden@127.0.0.1:{free_port()}/sdx"
    code, refused = sdx_hub(*command.split(), "--data", tmp_path, settings={"SDX_DATABASE_URL": url})
    assert (code, refused["error"]["code"]) == (1, "database_unavailable")
    assert "hidden" not in str(refused)


def test_a_database_that_lets_nobody_in(tmp_path: Path, databases: Databases) -> None:
    url = databases.new()
    password = make_url(url).password
    assert isinstance(password, str)
    for wrong, said in ((url.replace(password, "guessed"), "password"), (f"{url}_no", "does not exist")):
        code, refused = sdx_hub("doctor", "--data", tmp_path, settings={"SDX_DATABASE_URL": wrong})
        assert (code, refused["error"]["code"]) == (1, "database_unavailable")
        assert said in refused["error"]["message"]
        assert "guessed" not in str(refused)


@pytest.mark.parametrize("command", ["doctor", "backup"])
def test_a_blob_store_that_cannot_be_used(data: Path, s3: Bucket, tmp_path: Path, command: str) -> None:
    """It is away, or it refuses the credentials: said as such, and no half backup stays."""
    away = f"s3://sdx?endpoint=http://127.0.0.1:{free_port()}"
    for wrong, told in (
        ({"SDX_BLOB_URL": away}, "blob_store_unavailable"),
        ({"SDX_BLOB_SECRET": "guessed"}, "blob_store_denied"),
    ):
        arguments = [tmp_path / "file"] if command == "backup" else []
        code, answer = sdx_hub(command, *arguments, "--data", data, settings=s3.settings | wrong)
        got = finding(answer, "payloads")["code"] if command == "doctor" else answer["error"]["code"]
        assert (code, got) == (1, told), answer
        assert "guessed" not in str(answer)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_doctor_warns_of_a_folder_of_keys_that_others_can_read(data: Path, tmp_path: Path) -> None:
    """As one that several replicas share may be."""
    shared = shutil.copytree(data / "online", tmp_path / "keys")
    shared.chmod(0o755)
    code, seen = sdx_hub("doctor", "--data", data, settings={"SDX_KEYS_DIR": str(shared)})
    assert code == 0, seen
    found = finding(seen, "online keys")
    assert (found["ok"], found["warning"], found["code"]) == (False, True, "online_keys_folder_open")


@pytest.mark.parametrize("command", ["doctor", "token list", "backup x"])
def test_a_folder_without_a_hub_is_said_to_be_one(tmp_path: Path, command: str) -> None:
    code, refused = sdx_hub(*command.split(), "--data", tmp_path / "nothing")
    assert code == 1
    assert refused["error"]["code"] == "hub_not_initialised"
    assert not (tmp_path / "nothing").exists()
