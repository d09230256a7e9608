"""What the poll does when the hub itself is in trouble, and what it leaves to others."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sdx_hub import migrations
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.api.poll import PATH, PollPath
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.services.devices.fleet_memory import token_key
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings, elapsed_s
from sdx_hub.services.devices.token_table import NO_KEY

TOKEN = "sdxd_known"


@pytest.fixture
async def fleet(tmp_path: Path) -> Any:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    await migrations.upgrade(database)
    async with database.unit_of_work() as uow:
        uow.session.add(
            Device(
                id=f"d-{'0' * 20}",
                number=1,
                serial="one",
                device_key="ab" * 32,
                hardware="any",
                state="accepted",
                token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(),
                desired_version=7,
                change_seq=1,
                created_at=datetime.now(UTC),
            )
        )
        await uow.commit()
    state = FleetState(database, SystemClock(), PollSettings(interval_s=42))
    await state.load()
    yield state
    await database.close()


class Client:
    """Speaks ASGI to the poll."""

    def __init__(self) -> None:
        self.passed_on: list[str] = []
        self.app = PollPath(self._elsewhere)

    async def _elsewhere(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed_on.append(scope["path"])

    async def get(self, path: str = PATH, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "path": path, "method": "GET", "headers": pairs}
        await self.app(scope, None, send)
        return (sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]) if sent else (0, {}, b"")


async def test_a_known_device_is_answered_while_the_database_is_away(
    fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    client.app.serve(fleet)

    async def away() -> tuple[int, int]:
        raise OSError("the database is away")

    monkeypatch.setattr(fleet, "_look", away)
    status, headers, _ = await client.get(authorization=f"Bearer {TOKEN}")
    assert (status, headers[b"etag"]) == (200, b'"7"')
    status, headers, body = await client.get(authorization="Bearer sdxd_unknown")
    assert (status, msgspec.json.decode(body)["code"]) == (503, "database_unavailable")
    assert headers[b"sdx-poll-interval"] == b"42"
    assert 42 <= int(headers[b"retry-after"]) <= 84
    tally = client.app.tally
    assert (tally.unchanged, tally.changed, tally.refused, tally.unavailable) == (0, 1, 0, 1)


async def test_what_is_too_old_is_looked_at_again_or_not_answered(
    fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    client.app.serve(fleet)
    real, age_s = fleet._look, 0.0
    monkeypatch.setattr(fleet, "now_s", lambda: elapsed_s() + age_s)
    age_s = fleet.settings.stale_s + 1
    assert (await client.get(authorization=f"Bearer {TOKEN}"))[0] == 200

    async def away() -> tuple[int, int]:
        raise OSError("the database is away")

    monkeypatch.setattr(fleet, "_look", away)
    assert (await client.get(authorization=f"Bearer {TOKEN}"))[0] == 200
    seen = set(fleet.sightings.seen)
    fleet.sightings.seen.clear()
    age_s *= 2
    status, headers, body = await client.get(authorization=f"Bearer {TOKEN}", if_none_match='"7"')
    assert (status, msgspec.json.decode(body)["code"]) == (503, "fleet_state_stale")
    assert headers[b"sdx-poll-interval"] == b"42"
    assert 42 <= int(headers[b"retry-after"]) <= 84
    assert (seen, fleet.sightings.seen) == ({1}, set()), "nobody is seen that was not answered"
    monkeypatch.setattr(fleet, "_look", real)
    age_s *= 2
    assert (await client.get(authorization=f"Bearer {TOKEN}"))[0] == 200


async def test_a_loop_that_is_late_sends_polls_away_spread_over_an_interval(fleet: FleetState) -> None:
    client = Client()
    client.app.serve(fleet)
    client.app.lag.late = True
    waits = set()
    for _ in range(50):
        status, headers, body = await client.get(authorization=f"Bearer {TOKEN}", if_none_match='"7"')
        assert (status, msgspec.json.decode(body)["code"]) == (503, "overloaded")
        assert headers[b"sdx-poll-interval"] == b"42"
        waits.add(int(headers[b"retry-after"]))
    assert min(waits) >= 42
    assert max(waits) <= 84
    assert len(waits) > 5
    assert client.app.tally.shed == 50
    client.app.lag.late = False
    assert (await client.get(authorization=f"Bearer {TOKEN}"))[0] == 200


async def test_a_known_device_costs_no_look_at_the_database(fleet: FleetState, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.app.serve(fleet)

    def read() -> None:
        raise AssertionError("a poll reads nothing but memory")

    monkeypatch.setattr(fleet._database, "watching", read)
    monkeypatch.setattr(fleet._database, "unit_of_work", read)
    fleet.memory.apply([(1, bytes(10), token_key(TOKEN.encode()), NO_KEY, 7, 0)])
    status, headers, body = await client.get(authorization=f"Bearer {TOKEN}", if_none_match='"7"')
    assert (status, headers[b"etag"], body) == (304, b'"7"', b"")


async def test_a_poll_is_seen_and_a_refused_one_is_not(fleet: FleetState) -> None:
    client = Client()
    client.app.serve(fleet)
    await client.get(authorization="Bearer sdxd_unknown")
    assert fleet.sightings.seen == set()
    await client.get(authorization=f"Bearer {TOKEN}")
    assert fleet.sightings.seen == {1}


async def test_only_this_path_is_taken_and_only_once_the_hub_runs(fleet: FleetState) -> None:
    client = Client()
    await client.get()
    client.app.serve(fleet)
    await client.get()
    await client.get("/device/v1/poll/")
    await client.get("/device/v1/polls")
    assert client.passed_on == [PATH, "/device/v1/poll/", "/device/v1/polls"]
