"""What Alembic runs: on the connection that `sdx_hub.migrations` opened, inside its transaction."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.engine import make_url
from sqlmodel import AutoString, SQLModel

from sdx_hub.persistence import tables
from sdx_hub.persistence.types import UtcDateTime


def render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write new steps without names of this program: they must still run when those have changed."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String({item.length})"
    return False


def run() -> None:
    connection = context.config.attributes.get("connection")
    metadata = SQLModel.metadata
    if not set(metadata.tables) or not tables.__all__:
        raise RuntimeError("The tables were not imported.")
    if connection is not None:
        context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, render_item=render)
        with context.begin_transaction():
            context.run_migrations()
        return
    # Without a connection the steps are written out as SQL, for a database administrator to read and run.
    dialect = make_url(context.config.get_main_option("sqlalchemy.url") or "postgresql://").get_backend_name()
    context.configure(
        dialect_name=dialect,
        target_metadata=metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


run()
