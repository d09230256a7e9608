"""`sdx hub`: run and look after a hub, on the machine that it runs on."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from sdx_hub.cli.console import facts, size, table
from sdx_hub.cli.failures import FAILED, OK, NothingToDo
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.access import Principal, Role
from sdx_hub.settings import Settings, load_settings

DEFAULT_DATA = Path("sdx-data")
T = TypeVar("T")

_data = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DATA,
    show_default=True,
    help="The hub's data folder.",
)


@click.group()
def hub() -> None:
    """Run and look after a hub, on the machine that it runs on."""


@hub.command()
@_data
@click.option(
    "--ceremony",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder that `sdx keys ceremony` made.",
)
@click.option("--admin", default="admin", show_default=True, help="Whom the first token is for.")
@click.option("--admin-days", type=click.IntRange(1, 366), default=90, show_default=True, help="How long it lives.")
@command()
def init(session: Session, data_dir: Path, ceremony: Path, admin: str, admin_days: int) -> None:
    """Make a hub out of a ceremony: import its roots and online keys, make the first admin token."""
    from sdx_hub.cli import hub_work

    settings = settings_of(data_dir)
    made = asyncio.run(hub_work.initialise(settings, ceremony, admin, timedelta(days=admin_days)))
    session.console.warn(
        f"The online keys are in {settings.online_dir} now. Delete {ceremony / 'online'}, and hand out the keys of "
        f"people that are still in {ceremony / 'keys'}."
    )
    session.console.result(
        made,
        facts([*made.items(), ("next", f"sdx hub serve --data {data_dir}")]),
    )


@hub.command()
@_data
@click.option("--host", help="Address to listen on; else the settings, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 takes a free one; else the settings, 8400.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes; else the settings, 1.")
@command()
def serve(session: Session, data_dir: Path, host: str | None, port: int | None, workers: int | None) -> None:
    """Run the hub until it is told to stop (SIGTERM, Ctrl-C)."""
    from sdx_hub.cli import hub_work, serving, storage_check

    settings = settings_of(data_dir, host=host, port=port, workers=workers)
    if settings.environment == "development":
        session.console.warn('environment = "development": checks that protect a real fleet are off.')
    storage_check.refuse_unfit_storage(settings)
    asyncio.run(hub_work.prepare(settings))
    serving.serve(settings)


@hub.command()
@_data
@command()
def migrate(session: Session, data_dir: Path) -> None:
    """Bring the database to this program's version (`serve` does it by itself)."""
    from sdx_hub import migrations
    from sdx_hub.cli import hub_work

    before = asyncio.run(hub_work.migrate(settings_of(data_dir)))
    if before == migrations.HEAD:
        raise NothingToDo(f"The database is at version {before} already.")
    document = {"before": before, "after": migrations.HEAD}
    session.console.result(document, f"The database went from version {before or '(new)'} to {migrations.HEAD}.")


@hub.command()
@_data
@command()
def doctor(session: Session, data_dir: Path) -> int:
    """Look at everything that a hub must be able to rely on; exit code 0 only if all of it is well."""
    from sdx_hub.cli import hub_doctor

    findings = asyncio.run(hub_doctor.examine(settings_of(data_dir)))
    rows = [("ok" if each.ok else ("WARN" if each.warning else "FAIL"), each.check, each.detail) for each in findings]
    document = {"ok": all(each.ok or each.warning for each in findings), "findings": findings}
    session.console.result(_plain(document), lambda: table(("", "check", "detail"), rows))
    return hub_doctor.exit_code(findings)


@hub.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_data
@command()
def backup(session: Session, file: Path, data_dir: Path) -> int:
    """Copy the whole hub into FILE, while it runs, whatever it stores its data in.

    FILE holds the hub's own keys: keep it as safe as the hub. Uploads that are under way are not part of it.
    """
    from sdx_hub.cli import hub_work

    settings = settings_of(data_dir)
    with session.console.progress("backup", None) as progress:
        done = asyncio.run(hub_work.backup(settings, file.absolute(), session.now(), progress))
    for entry in done.left_out:
        session.console.warn(f"{entry} is not where the settings say, or has rotted: this backup is not whole.")
    session.console.result(
        _plain(done),
        f"{done.file}: {done.rows} rows, {done.payloads} payloads, {size(done.bytes)}. It can sign as this hub.",
    )
    return FAILED if done.left_out else OK


@hub.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_data
@command()
def restore(session: Session, file: Path, data_dir: Path) -> None:
    """Bring a backup to where the settings say: SQLite or PostgreSQL, a folder or S3, with no hub in it yet.

    Settings of the new place (SDX_DATABASE_URL, SDX_BLOB_URL, ...) come from the environment or from a hub.toml that
    is in the data folder already.
    """
    from sdx_hub.cli import hub_work

    settings = settings_of(data_dir)
    with session.console.progress("restore", 2 * file.stat().st_size) as progress:
        done = asyncio.run(hub_work.restore(settings, file, progress))
    if done.settings.endswith(".from-backup"):
        session.console.warn(f"The settings of the backup are in {done.settings}, without effect: merge them by hand.")
    session.console.result(
        _plain(done),
        f"{data_dir}: {done.rows} rows and {done.payloads} payloads of {done.time:%Y-%m-%d %H:%M:%S} UTC restored. "
        f"Look at it before it serves: sdx hub doctor --data {data_dir}.",
    )


@hub.group()
def token() -> None:
    """Tokens of people, without a token: for whoever has the data folder."""


@token.command("new")
@click.option("--name", required=True, help="Whose token it is.")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What it may do.")
@click.option("--days", type=click.IntRange(1, 366), default=90, show_default=True, help="How long it lives.")
@_data
@command()
def new_token(session: Session, name: str, role: str, days: int, data_dir: Path) -> None:
    """Make a token and show it, this once."""
    made = _with_people(data_dir, lambda people, who: people.new_token(who, name, Role(role), timedelta(days=days)))
    document = {"id": made.id, "token": made.token, "expires_at": made.expires_at.isoformat()}
    session.console.result(document, facts(list(document.items())))


@token.command("list")
@_data
@command()
def list_tokens(session: Session, data_dir: Path) -> None:
    """List tokens, without their secrets."""
    found = _with_people(data_dir, lambda people, who: people.list_tokens(who))
    names = ("id", "name", "role", "created_at", "expires_at", "revoked_at")
    rows = [[getattr(each, name) or "" for name in names] for each in found]
    session.console.result(_plain(found), lambda: table(names, rows))


@token.command("revoke")
@click.argument("identity", metavar="ID")
@_data
@command()
def revoke_token(session: Session, identity: str, data_dir: Path) -> None:
    """Revoke a token: it is dead at its next request."""
    _with_people(data_dir, lambda people, who: people.revoke(who, identity))
    session.console.result({"id": identity, "revoked": True}, f"{identity} is revoked.")


def settings_of(data_dir: Path, **flags: Any) -> Settings:
    """The settings, with logs going where they say, and away from the result on stdout."""
    from sdx_hub import logs

    settings = load_settings(data_dir, os.environ, **flags)
    logs.configure(settings.log_level, as_json=settings.log_json)
    return settings


def _plain(value: Any) -> Any:
    """Structs as what JSON can hold."""
    import msgspec

    return msgspec.to_builtins(value)


def _with_people(data_dir: Path, act: Callable[[Any, Principal], Coroutine[Any, Any, T]]) -> T:
    from sdx_hub.cli import hub_work

    return asyncio.run(hub_work.with_people(settings_of(data_dir), act))
