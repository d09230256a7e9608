"""A PostgreSQL that starts, keeps what it was told, and ends with whoever started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers.postgres import PostgresServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres", {"fsync": "off", "max_connections": "13"})
    server.start()
    yield server
    server.stop("immediate")


async def ask(server: PostgresServer, statement: str, password: str = "") -> object:
    url = server.url.replace("+asyncpg", "")
    connection = await asyncpg.connect(url, password=password) if password else await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_keeps_its_data_over_a_restart_and_a_kill(server: PostgresServer) -> None:
    assert await ask(server, "SHOW max_connections") == "13"
    assert await ask(server, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    await ask(server, "CREATE TABLE kept (number integer)")
    await ask(server, "INSERT INTO kept VALUES (1)")
    url = server.url
    server.restart()
    await ask(server, "INSERT INTO kept VALUES (2)")
    before = psutil.Process(server.pid)
    family = [before, *before.children(recursive=True)]
    server.kill()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
    server.start()
    assert await ask(server, "SELECT count(*) FROM kept") == 2
    assert server.url == url


def command_line(process: psutil.Process) -> str:
    """Empty where it has just ended: a server forks a process for each connection."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


async def test_it_asks_for_the_password_and_never_shows_it(server: PostgresServer) -> None:
    password = (server.folder / "password").read_text()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(server, "SELECT 1", "wrong")
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    lines = [shown for each in processes if (shown := command_line(each))]
    assert len(lines) > 1
    assert not any(password in shown for shown in lines)
    assert password not in repr(server)
    assert (server.folder / "password").stat().st_mode & 0o077 == 0


def test_it_outlives_the_thread_that_started_it(server: PostgresServer) -> None:
    for act in (server.stop, server.start):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(server.pid).wait(0.2)


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sdx_hub.demo.servers.postgres import PostgresServer\n"
        "server = PostgresServer(Path(sys.argv[1])); server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "postgres")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        family = [server, *server.children(recursive=True)]
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family):
        assert time.monotonic() < until, "it outlived its parent"
        time.sleep(0.02)


def test_one_that_cannot_start_says_why(server: PostgresServer, tmp_path: Path) -> None:
    second = PostgresServer(tmp_path / "second", port=server.port)
    with pytest.raises(DemoError, match="Address already in use"):
        second.start()
    wrong = PostgresServer(tmp_path / "wrong", {"no_such_parameter": "1"})
    with pytest.raises(DemoError, match="no_such_parameter"):
        wrong.start()
