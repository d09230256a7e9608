"""The second half of a token rotation: use the new poll token once the hub has acknowledged its announcement."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from device_agent.ports.home import Home
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import Storage, read_optional, replace_file
from firmware_schemas.device_api import ReportReceipt


class AnnouncedToken(Struct, frozen=True):
    """identity/token.announced: becomes the token when the report under `counter` is acknowledged."""

    counter: int
    token: str


def settle_token(home: Home, storage: Storage, receipts: Sequence[ReportReceipt]) -> None:
    """Take up an acknowledged token; forget one that the hub refused.

    Args:
        home: The state folder.
        storage: Every change goes through it.
        receipts: Of the delivery that has just ended.
    """
    raw = read_optional(home.next_token, 4096)
    if raw is None:
        return
    try:
        announced = msgspec.json.decode(raw, type=AnnouncedToken)
    except msgspec.DecodeError:
        storage.unlink(home.next_token)
        return
    refused = any(receipt.counter == announced.counter and receipt.status == "refused" for receipt in receipts)
    if announced.counter in Outbox(home.outbox, storage).counters():
        return
    if not refused:
        replace_file(storage, home.token, announced.token.encode())
    storage.unlink(home.next_token)
    storage.sync_folder(home.identity)
