"""The first use of an announced token ends the one before: here at once, in other replicas once it is written."""

from collections.abc import Mapping

from sqlalchemy import update
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER


async def write_first_uses(database: Database, clock: Clock, rotated: Mapping[int, bytes]) -> None:
    """Make tokens the ones that count, where they are still the announced ones: another replica may have been first.

    Args:
        database: With the tables.
        clock: When they were rotated.
        rotated: By number of the device: the token's SHA-256.
    """
    async with database.unit_of_work() as uow:
        for number, digest in rotated.items():
            token_sha256 = digest.hex()
            await uow.session.execute(
                update(Device)
                .where(col(Device.number) == number, col(Device.next_token_sha256) == token_sha256)
                .values(
                    token_sha256=token_sha256,
                    next_token_sha256=None,
                    rotated_at=clock.now(),
                    rotation_wanted=False,
                    change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER),
                )
            )
        await uow.commit()
