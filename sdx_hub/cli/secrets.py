"""Where secrets come from: a terminal without echo, or a file descriptor. Never argv, never the environment."""

import os
import sys

import click

from sdx_hub.cli.failures import UsageFault

MAX_SECRET_BYTES = 4096


def read_descriptor(descriptor: int, what: str) -> str:
    """The first line that a file descriptor gives.

    Raises:
        UsageFault: It is not open, or gives nothing (code `passphrase_missing`).
    """
    collected = b""
    try:
        while b"\n" not in collected and len(collected) <= MAX_SECRET_BYTES:
            piece = os.read(descriptor, MAX_SECRET_BYTES)
            if not piece:
                break
            collected += piece
        text = collected.split(b"\n", 1)[0].decode().rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(
            f"Cannot read the {what} from the file descriptor {descriptor}: {error}. In a shell: --passphrase-fd 3 "
            "3<FILE.",
            "passphrase_missing",
        ) from error
    if not text:
        raise UsageFault(f"The file descriptor {descriptor} gave no {what}.", "passphrase_missing")
    return text


class SecretSource:
    """Asks for a passphrase or PIN, once for each name; a file descriptor gives the same one to all.

    Args:
        descriptor: Of --passphrase-fd, or None to ask on the terminal.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._from_descriptor = ""
        self._asked: dict[str, str] = {}

    def __repr__(self) -> str:
        return "SecretSource(***)"

    def __call__(self, name: str) -> str:
        """The secret of that name: a securesystemslib secrets handler.

        Raises:
            UsageFault: There is no descriptor and no terminal (code `passphrase_missing`).
        """
        if self._descriptor is not None:
            self._from_descriptor = self._from_descriptor or read_descriptor(self._descriptor, name)
            return self._from_descriptor
        if name not in self._asked:
            self._asked[name] = _ask(name, twice=False)
        return self._asked[name]

    def new(self, name: str) -> str:
        """A secret for something new: asked for twice.

        Raises:
            UsageFault: There is no descriptor and no terminal (code `passphrase_missing`).
        """
        if self._descriptor is not None:
            return self(name)
        self._asked[name] = _ask(name, twice=True)
        return self._asked[name]


def _ask(name: str, *, twice: bool) -> str:
    if not sys.stdin.isatty():
        raise UsageFault(
            f"The {name} is needed, and nobody is here to type it: hand it over with --passphrase-fd N.",
            "passphrase_missing",
        )
    text: str = click.prompt(name[:1].upper() + name[1:], hide_input=True, confirmation_prompt=twice, err=True)
    return text
