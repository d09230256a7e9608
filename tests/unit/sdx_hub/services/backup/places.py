"""A hub's place with rows of every kind of value in it, and the way of the command that restores."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sdx_hub import migrations
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.persistence.tables.audit import Counter
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.tables.idempotency import IdempotentRequest
from sdx_hub.services import backup
from sdx_hub.services.backup import Place, Summary

NOON = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
TEXT = "é\u2028\U0001f6f0'\"\\\n\t"
Places = Callable[[str], Awaitable[Place]]


async def fill(place: Place) -> None:
    """Rows with the extremes of every kind, two of which number themselves; an audit entry; a key."""
    await migrations.upgrade(place.database)
    async with place.database.unit_of_work() as uow:
        uow.session.add(Counter(name="largest", value=2**63 - 1))
        uow.session.add(Counter(name="smallest", value=-(2**63)))
        for name, answer in (("all", bytes(range(256))), ("empty", b""), ("none", None)):
            uow.session.add(
                IdempotentRequest(id=name, request_sha256="é\u2028\U0001f6f0'\"\\", answer=answer, created_at=NOON)
            )
        uow.session.add(device("d-1", rotation_wanted=True, rotated_at=NOON + timedelta(microseconds=999998)))
        uow.session.add(device("d-2"))
        await uow.session.flush()
        for number in range(3):
            uow.session.add(DeviceEvent(device_id="d-1", time=NOON, kind=f"kind-{number}", detail="{}"))
        await uow.audit("alice", "thing.do", "it", text="é")
        await uow.commit()
    place.online.mkdir()
    (place.online / "director-targets.key").write_bytes(b"private")


def device(name: str, **fields: object) -> Device:
    number = int(name.removeprefix("d-"))
    values = {
        "id": name,
        "number": number,
        "serial": name,
        "device_key": f"key of {name}",
        "hardware": "h",
        "state": "accepted",
        "token_sha256": f"token of {name}",
        "change_seq": number,
        "created_at": NOON,
    }
    return Device(**values | fields)


async def restore(file: Path, place: Place) -> Summary:
    """As the command does."""
    with backup.opened(file) as checked:
        backup.require_free(place.data, place.online, checked)
        return await backup.read_backup(checked, place, SystemClock())
