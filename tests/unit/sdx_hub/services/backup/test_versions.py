"""A backup of an older version of the schema is restored as it was, and then migrated like a database."""

from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import text

from sdx_hub import migrations
from sdx_hub.services.backup import write_backup
from tests.support.postgres import BACKENDS
from tests.unit.sdx_hub.services.backup.places import NOON, Places, fill, restore

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "PRESENT"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("counter", sa.Column("unit", sa.String(16), server_default="pieces", nullable=False))
    op.execute("UPDATE counter SET unit = 'entries' WHERE name = 'audit'")


def downgrade() -> None:
    op.drop_column("counter", "unit")
""".replace("PRESENT", migrations.HEAD)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_later_program_restores_it(
    new_place: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    before, after = await new_place("sqlite"), await new_place(backend)
    await fill(before)
    await write_backup(before, tmp_path / "file", NOON)

    steps = Path(migrations.__file__).parent / "versions"
    later = tmp_path / "later"
    later.mkdir()
    (later / "next.py").write_text(NEXT)
    config = migrations.config

    def with_a_later_step(connection: object = None) -> Config:
        made = config(connection)  # type: ignore[arg-type]
        made.set_main_option("path_separator", "newline")
        made.set_main_option("version_locations", f"{steps}\n{later}")
        return made

    monkeypatch.setattr(migrations, "config", with_a_later_step)
    monkeypatch.setattr(migrations, "HEAD", "next")
    # A start of the later program made its own tables there already.
    await migrations.upgrade(after.database)
    assert (await restore(tmp_path / "file", after)).schema != "next"
    assert await migrations.state(after.database) == ("current", "next")
    async with after.database.reading() as session:
        found = (await session.execute(text("SELECT name, unit FROM counter"))).all()
    assert {("audit", "entries"), ("largest", "pieces")} <= set(found)
