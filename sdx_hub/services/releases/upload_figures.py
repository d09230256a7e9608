"""How much is on its way in: for metrics."""

from msgspec import Struct
from sqlalchemy import func, select
from sqlmodel import col

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Upload


class UploadFigures(Struct, frozen=True):
    """Open uploads, and their bytes that have arrived."""

    open: int
    bytes: int


async def upload_figures(database: Database) -> UploadFigures:
    """Count them, over all replicas."""
    query = select(func.count(), func.coalesce(func.sum(col(Upload.offset)), 0)).where(col(Upload.state) == "open")
    async with database.reading() as session:
        count, arrived = (await session.execute(query)).one()
    return UploadFigures(count, int(arrived))
