"""Events are written in the transaction that makes them true; who wants to hear of them reads them afterwards."""

from datetime import datetime
from typing import Any

import msgspec

from sdx_hub.persistence.tables.events import HubEvent
from sdx_hub.persistence.unit_of_work import EVENTS_CHANNEL, UnitOfWork


def emit(uow: UnitOfWork, time: datetime, kind: str, subject: str, **data: Any) -> None:
    """Add an event to the outbox.

    Args:
        uow: The transaction that makes it so.
        time: UTC.
        kind: Dotted, for instance `rollout.halted`.
        subject: Id of the thing.
        data: JSON-ready, for receivers outside of the hub: no secrets.
    """
    uow.session.add(HubEvent(time=time, type=kind, subject=subject, data=msgspec.json.encode(data).decode()))
    uow.tell(EVENTS_CHANNEL)
