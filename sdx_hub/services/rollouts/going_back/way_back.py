"""What a device goes back to, as expressions: for statements that join `PREVIOUS` to members by `IS_PREVIOUS`."""

from typing import Any, Final

from sqlalchemy import and_
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import RolloutDevice

PREVIOUS: Final[Any] = aliased(Release)
IS_PREVIOUS: Final[Any] = and_(
    PREVIOUS.id == col(RolloutDevice.previous),
    PREVIOUS.id != col(RolloutDevice.offered),
    PREVIOUS.state == "published",
)
BACK: Final[Any] = PREVIOUS.id
"""NULL where nothing else was assigned, or where that is not published any more."""
