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

HEAD = "0002"
"""The newest step; a test holds it equal to what the step files say."""

State = Literal["new", "older", "current", "newer"]


async def state(database: Database) -> tuple[State, str]:
    """How the database stands to this program, and the version that it is at (empty where it is new)."""
    async with database.writer.connect() as connection:
        version = await connection.run_sync(version_of)
    if not version:
        return "new", ""
    if version == HEAD:
        return "current", version
    return ("older" if version in known() else "newer"), version


async def upgrade(database: Database) -> str:
    """Bring the database to `HEAD`, in one transaction; one that is there already is left alone.

    Replicas that start at the same moment take turns: the first one does it, the others find it done.

    Returns:
        The version that it was at before; empty for a new one.

    Raises:
        ConflictError: A newer program made this database (code `database_newer`).
    """
    how, before = await state(database)
    if how == "newer":
        raise _newer(before)
    if how != "current":
        async with database.schema_change() as connection:
            await connection.run_sync(_upgrade)
    return before


async def require_current(database: Database) -> None:
    """Return if the database is at this program's version; nothing is changed.

    Raises:
        ConflictError: It is at another one (code `database_older` or `database_newer`).
    """
    how, version = await state(database)
    if how == "newer":
        raise _newer(version)
    if how != "current":
        raise ConflictError(
            f"The database is at version {version or '(none)'}, and this program is for {HEAD}. Run `sdx hub migrate` "
            "first, or do this with the program that the hub runs.",
            "database_older",
        )


def known() -> set[str]:
    """Every version that this program can bring a database to and from."""
    from alembic.script import ScriptDirectory

    return {step.revision for step in ScriptDirectory.from_config(config()).walk_revisions()}


def rebuild(connection: Connection, version: str) -> None:
    """Make the tables of a version anew; those that are there are dropped."""
    from alembic import command

    if version_of(connection):
        command.downgrade(config(connection), "base")
    command.upgrade(config(connection), version)


def finish(connection: Connection) -> None:
    """Go on to `HEAD` from wherever the database is."""
    from alembic import command

    command.upgrade(config(connection), "head")


def config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration; there is no alembic.ini, because nothing in it would be for people to change."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    made.attributes["connection"] = connection
    return made


def version_of(connection: Connection) -> str:
    """The version that a database is at; empty where it is new."""
    # Asked first, and not tried: on PostgreSQL a statement that fails ends the transaction.
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "")


def _newer(version: str) -> ConflictError:
    return ConflictError(
        f"The database is at version {version}, which this program does not know: a newer sdx made it. Install that "
        "one, or restore a backup.",
        "database_newer",
    )


def _upgrade(connection: Connection) -> None:
    # Two workers or commands may have looked at the same moment; the one that waited for the lock finds it done.
    if version_of(connection) != HEAD:
        finish(connection)
