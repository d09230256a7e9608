"""The database's schema as steps from one version to the next.

`sdx hub serve` and `sdx hub migrate` bring a database to `HEAD`. Alembic is only imported when there is something to
do: it would cost every start a quarter of a second.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0001"
"""The newest step; a test holds it equal to what the step files say."""

State = Literal["new", "older", "current", "newer"]


async def state(database: Database) -> tuple[State, str]:
    """How the database stands to this program, and the version that it is at (empty where it is new)."""
    async with database.writer.connect() as connection:
        version = await connection.run_sync(_version)
    if not version:
        return "new", ""
    if version == HEAD:
        return "current", version
    return ("older" if version in _known() else "newer"), version


async def upgrade(database: Database) -> str:
    """Bring the database to `HEAD`, in one transaction; one that is there already is left alone.

    Returns:
        The version that it was at before; empty for a new one.

    Raises:
        ConflictError: A newer program made this database (code `database_newer`).
    """
    how, before = await state(database)
    if how == "newer":
        raise ConflictError(
            f"The database is at version {before}, which this program does not know: a newer sdx made it. Install that "
            "one, or restore a backup.",
            "database_newer",
        )
    if how != "current":
        async with database.writer.begin() as connection:
            await connection.run_sync(_upgrade)
    return before


def config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration; there is no alembic.ini, because nothing in it would be for people to change."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made


def _version(connection: Connection) -> str:
    # Asked first, and not tried: on PostgreSQL a statement that fails ends the transaction.
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "")


def _known() -> set[str]:
    from alembic.script import ScriptDirectory

    return {step.revision for step in ScriptDirectory.from_config(config()).walk_revisions()}


def _upgrade(connection: Connection) -> None:
    from alembic import command

    # Two workers or commands may have looked at the same moment; the one that waited for the lock finds it done.
    if _version(connection) != HEAD:
        command.upgrade(config(connection), "head")
