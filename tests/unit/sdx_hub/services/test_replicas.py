"""Two replicas asked for the same thing at the same moment: it is done once, and both tell of it rightly."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select
from sqlmodel import col

from firmware_schemas.device_api import Envelope, parse_enrol_string
from firmware_schemas.release import encode_manifest
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.access import Role
from sdx_hub.domain.errors import HubError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Upload
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.publishing import team_metadata
from sdx_hub.services.audit_log import verify_chain
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.devices.enrolment import EnrolmentService
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.idempotency import IdempotencyService
from sdx_hub.services.people import PeopleService
from sdx_hub.services.releases.releases import ReleaseService
from sdx_hub.services.releases.uploads import UploadService
from tests.support.people import sign
from tests.support.trust_hub import TrustHub, start_trust_hub
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR, PUBLISHER, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft, FixedRoots
from tests.unit.sdx_hub.services.releases.test_releases import CONTENT, ROLE, manifest

T = TypeVar("T")


@dataclass
class Replica:
    """The services of one replica, with a memory of their own."""

    database: Database
    clock: MovableClock
    folder: Path

    def __post_init__(self) -> None:
        self.fleet = FleetState(self.database, self.clock, PollSettings())
        self.enrolment = EnrolmentService(self.database, self.clock, FixedRoots(), self.fleet)
        self.idempotency = IdempotencyService(self.database, self.clock)
        self.people = PeopleService(self.database, self.clock)
        self.storage = Storage(str(self.folder / "blobs"), "", "", self.folder / "uploads")
        self.uploads = UploadService(self.database, self.clock, self.storage)

    def releases(self, trust: TrustHub) -> ReleaseService:
        assigning = AssigningService(self.database, self.clock, self.fleet)
        return ReleaseService(
            self.database,
            self.clock,
            trust.image,
            blobs=self.storage.blobs,
            uploads=self.uploads,
            assigning=assigning,
        )


Pair = tuple[Replica, Replica]


@pytest.fixture
async def replicas(database: Database, database_url: str, clock: MovableClock, tmp_path: Path) -> AsyncIterator[Pair]:
    second = await Database.open(database_url, clock)
    yield Replica(database, clock, tmp_path), Replica(second, clock, tmp_path)
    async with database.reading() as session:
        await verify_chain(session)
    await second.close()


async def at_once(replicas: Pair, act: Callable[[Replica], Awaitable[T]], times: int = 4) -> list[T | HubError]:
    """What each answered; an error that is none of ours is raised."""
    answers = await asyncio.gather(*(act(replica) for replica in replicas * times), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, HubError):
            raise answer
    return answers  # type: ignore[return-value]


def codes(answers: Sequence[object]) -> set[str]:
    return {answer.code for answer in answers if isinstance(answer, HubError)}


async def count(replica: Replica, table: Any, *conditions: Any) -> int:
    async with replica.database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0


async def secret(replica: Replica) -> str:
    made = await replica.enrolment.new_enrol_token(OPERATOR, None, timedelta(hours=1))
    return parse_enrol_string(made.enrol_string).secret


async def test_the_same_enrolment(replicas: Pair) -> None:
    """A craft whose answer was lost asks again, and the proxy gives it to the other replica."""
    sealed = Craft().enrolment(await secret(replicas[0]))
    answers = await at_once(replicas, lambda replica: replica.enrolment.enrol(sealed))
    assert len({repr(answer) for answer in answers}) == 1
    assert codes(answers) == set()
    assert await count(replicas[0], Device) == 1


async def test_one_token_for_many_craft(replicas: Pair) -> None:
    token = await secret(replicas[0])
    crafts = iter(Craft(f"S{number}") for number in range(8))
    answers = await at_once(replicas, lambda replica: replica.enrolment.enrol(next(crafts).enrolment(token)))
    assert sum(not isinstance(answer, HubError) for answer in answers) == 1
    assert codes(answers) == {"enrol_token_used"}
    assert await count(replicas[1], Device) == 1


async def test_one_serial_for_two_craft(replicas: Pair) -> None:
    tokens = [await secret(replicas[0]) for _ in range(8)]
    sealed: list[Envelope] = [Craft("S1").enrolment(token) for token in tokens]
    answers = await at_once(replicas, lambda replica: replica.enrolment.enrol(sealed.pop()))
    assert sum(not isinstance(answer, HubError) for answer in answers) == 1
    assert codes(answers) == {"serial_taken"}


async def test_the_same_open_upload(replicas: Pair) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    begun = await at_once(
        replicas, lambda replica: replica.uploads.begin(PUBLISHER, sha256, len(CONTENT), "identity", len(CONTENT))
    )
    assert codes(begun) == set()
    assert len({answer.id for answer in begun if not isinstance(answer, HubError)}) == 1
    assert await count(replicas[0], Upload) == 1


async def test_the_same_key_of_a_request(replicas: Pair) -> None:
    """Of requests that create something, one does it; the others are told to wait."""
    answers = await at_once(replicas, lambda replica: replica.idempotency.claim("token", "key", b"request"))
    assert sum(not isinstance(answer, HubError) for answer in answers) == 1
    assert codes(answers) == {"idempotency_in_progress"}


async def test_entries_of_two_replicas_make_one_chain(replicas: Pair) -> None:
    names = iter("abcdefgh")
    await at_once(
        replicas, lambda replica: replica.people.new_token(ADMIN, next(names), Role.VIEWER, timedelta(days=1))
    )
    async with replicas[0].database.reading() as session:
        assert await verify_chain(session) == 8


@pytest.fixture
async def trusts(replicas: Pair, clock: MovableClock, tmp_path: Path) -> tuple[TrustHub, TrustHub]:
    first = await start_trust_hub(replicas[0].database, clock, tmp_path, "nav")
    await replicas[0].uploads.keep(CONTENT)
    return first, await first.another_worker(replicas[1].database)


async def signed(trust: TrustHub, version: str) -> bytes:
    async with trust.database.reading() as session:
        view = await trust.image.team_view(session, ROLE)
    following = team_metadata.next_version(view, manifest(version), (), trust.clock.now())
    return sign(following, trust.people[ROLE][:2])


async def publish(replicas: Pair, trusts: tuple[TrustHub, TrustHub], files: dict[str, bytes]) -> list[Any]:
    """Each file to both replicas at once."""
    services = [replica.releases(trust) for replica, trust in zip(replicas, trusts, strict=True)]
    answers = await asyncio.gather(
        *(
            service.put(PUBLISHER, f"steady@{version}", encode_manifest(manifest(version)), ROLE, raw)
            for version, raw in files.items()
            for service in services
        ),
        return_exceptions=True,
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, HubError):
            raise answer
    return answers


async def test_the_same_release(replicas: Pair, trusts: tuple[TrustHub, TrustHub]) -> None:
    answers = await publish(replicas, trusts, {"1.0.0": await signed(trusts[0], "1.0.0")})
    assert [answer.state for answer in answers if not isinstance(answer, HubError)].count("published") >= 1
    assert codes(answers) <= {"already_published"}
    role = col(MetadataFile.role) == ROLE
    assert await count(replicas[0], MetadataFile, role) == 2, "the first version and the one that publishes"


async def test_two_releases_of_one_team(replicas: Pair, trusts: tuple[TrustHub, TrustHub]) -> None:
    """Both follow the same version of the team's metadata: one of them is published, the other must be rebased."""
    files = {version: await signed(trusts[0], version) for version in ("1.0.0", "2.0.0")}
    answers = await publish(replicas, trusts, files)
    states = {answer.id: answer.state for answer in answers if not isinstance(answer, HubError)}
    assert list(states.values()).count("published") == 1
    assert set((await trusts[1].targets(ROLE)).targets) == set((await trusts[0].targets(ROLE)).targets)
    assert await count(replicas[0], MetadataFile, col(MetadataFile.role) == ROLE) == 2
