"""The README's tour, its commands exactly as they stand, typed into a shell on a terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BIN = Path(sys.executable).parent
PASSPHRASE = "correct horse battery"
_FIRST_BLOCK_IS_SETUP = "make setup"


def tour() -> list[str]:
    """The commands of the tour, one a line."""
    text = README.read_text().split("<!-- tour:", 1)[1].split("## More", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Terminal:
    """bash on a pseudo-terminal; answers the prompts that a person would answer."""

    def __init__(self, folder: Path) -> None:
        self.token = ""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            environment = {
                "PATH": f"{BIN}:/usr/bin:/bin",
                "HOME": str(folder),
                "TERM": "dumb",
                "PS1": "",
                "LANG": "C.UTF-8",
            }
            os.execve("/bin/bash", ["bash", "--norc", "--noediting"], environment)  # noqa: S606 - that is the point

    def type(self, command: str, timeout_s: float = 60) -> tuple[int, str]:
        """Type a command; return its exit code and what the terminal showed."""
        # On one line: a prompt for a passphrase throws away what was typed ahead.
        glue = "" if command.endswith("&") else ";"
        os.write(self._terminal, f"{command}{glue} echo status-$?-end\n".encode())
        shown, answered, end = "", 0, time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not select.select([self._terminal], [], [], 0.2)[0]:
                continue
            shown += os.read(self._terminal, 65536).decode("utf-8", "replace")
            if token := re.search(r"sdx_[0-9a-f]{12}_[A-Za-z0-9_-]{20,}", shown):
                self.token = self.token or token[0]
            tail = shown[answered:]
            if re.search(r"(passphrase|confirmation)[^\n]*: ?$", tail, re.I):
                self._answer(PASSPHRASE)
                answered = len(shown)
            elif re.search(r"token[^\n]*: ?$", tail, re.I):
                self._answer(self.token)
                answered = len(shown)
            elif re.search(r"\[y/N\]: ?$", tail):
                self._answer("y")
                answered = len(shown)
            elif done := re.search(r"^status-(\d+)-end", shown, re.M):
                return int(done[1]), shown
        raise AssertionError(f"`{command}` did not end within {timeout_s} s: {shown}")

    def _answer(self, text: str) -> None:
        os.write(self._terminal, f"{text}\n".encode())

    def close(self) -> None:
        """Leave as the README says: stop the hub, and end the shell."""
        os.write(self._terminal, b"\x03\nkill %1; wait; exit\n")
        end = time.monotonic() + 20
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self._pid, signal.SIGKILL)
            if select.select([self._terminal], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.read(self._terminal, 65536)
        os.close(self._terminal)


@pytest.mark.slow
def test_the_tour_of_the_readme(tmp_path: Path) -> None:
    commands = tour()
    assert commands[0] == _FIRST_BLOCK_IS_SETUP
    assert any(command.startswith("sdx release publish") for command in commands)
    port = free_port()
    terminal = Terminal(tmp_path)
    shown = ""
    try:
        for command in commands[1:]:
            typed = command.replace("127.0.0.1:8400", f"127.0.0.1:{port}")
            if typed.startswith("sdx hub serve"):
                typed = f"SDX_PORT={port} {typed}"
            code, shown = terminal.type(typed)
            assert code == 0, (command, shown)
            if command.startswith("sdx hub serve"):
                wait_until_it_listens(port)
            if command.startswith("craft/slots/"):
                assert "\nhello\r\n" in shown
        assert "hello@1.0.0" in shown
        assert "success" in shown
        shown = terminal.type("kill %1; wait; echo gone")[1]
        assert "gone" in shown
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the hub must have ended"
    finally:
        terminal.close()


def wait_until_it_listens(port: int) -> None:
    """A person reads what the hub prints and goes on when it is ready; so does this."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the hub does not listen")
