"""Names, kinds and structs of the form that `sdx_hub.services.backup` describes."""

import re
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from sqlalchemy import BigInteger, Boolean, LargeBinary, Table, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

from sdx_hub.adapters.blobs import Encoding, named_by
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.errors import TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.types import UtcDateTime

FORM = 1
HEADER = "backup.json"
INDEX = "index.json"
SETTINGS = "hub.toml"
KEYS = "online/"
PAYLOADS = "blobs/"
BLOCK_BYTES = tarfile.BLOCKSIZE
PIECE_BYTES = 256 * 1024
"""What one reading of a file, and one entry of rows before it is compressed, holds in memory."""
PRIVATE = 0o600

Kind = Literal["text", "integer", "boolean", "time", "bytes"]
Progress = Callable[[int], None]
"""Called with the bytes that were written or read since the last time."""

_KINDS: dict[type, Kind] = {str: "text", int: "integer", bool: "boolean", datetime: "time", bytes: "bytes"}
VALUES: dict[Kind, Any] = {
    "text": str,
    "integer": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "boolean": bool,
    "time": Annotated[datetime, Meta(tz=True)],
    "bytes": bytes,
}
COLUMNS: dict[Kind, TypeEngine[Any]] = {
    "text": Text(),
    "integer": BigInteger(),
    "boolean": Boolean(),
    "time": UtcDateTime(),
    "bytes": LargeBinary(),
}
_ROWS = re.compile(r"tables/([a-z_]{1,63})/[0-9]{8}\.jsonl\.zst")
_KEY = re.compile(r"online/[^./\\\0][^/\\\0]*")


class Place(Struct, frozen=True):
    """Everything that a hub's state is in.

    Attributes:
        data: Folder of `hub.toml`.
        online: Folder of the hub's own keys.
    """

    data: Path
    online: Path
    database: Database
    storage: Storage


class Summary(Struct, frozen=True):
    """What a backup holds.

    Attributes:
        time: When the rows were read.
        bytes: Of the file.
        left_out: Entries that are missing: the rows name them, or they are rotten payloads. Then it is not whole.
        settings: Where a restore has put the settings; empty where the backup has none.
    """

    file: str
    time: datetime
    schema: str
    rows: int
    payloads: int
    bytes: int
    left_out: tuple[str, ...] = ()
    settings: str = ""


class TableForm(Struct, frozen=True):
    """A table: its columns in the order of a row's values, each with its kind."""

    name: str
    columns: tuple[tuple[str, Kind], ...]

    @property
    def row(self) -> Any:
        """The type of one row."""
        return GenericAlias(tuple, tuple(VALUES[kind] | None for _, kind in self.columns))


class Header(Struct, frozen=True):
    """The first entry."""

    form: int
    schema: str
    time: datetime
    tables: tuple[TableForm, ...]


class Form(Struct, frozen=True):
    """What of a header is there in every form, newer ones included."""

    form: int


class Entry(Struct, frozen=True):
    sha256: str
    size: int


class Index(Struct, frozen=True):
    """The last entry: all others by name, and the number of rows of each table."""

    entries: dict[str, Entry]
    rows: dict[str, int]


def form_of(table: Table) -> TableForm:
    """How the rows of a table are written.

    Raises:
        RuntimeError: A column is of a type that the form has no kind for: give it one, and count `FORM` up.
    """
    return TableForm(str(table.name), tuple((str(column.name), _kind(column.type)) for column in table.columns))


def _kind(type_: TypeEngine[Any]) -> Kind:
    plain = type_.impl_instance if isinstance(type_, TypeDecorator) else type_
    kind = _KINDS.get(plain.python_type)
    if kind is None:
        raise RuntimeError(f"A backup has no kind for columns of type {type_!r}.")
    return kind


def entry_header(name: str, size: int) -> bytes:
    """The block in front of an entry.

    GNU's form, because it writes sizes over 8 GiB into the same single block.

    Raises:
        ValueError: The name or the size does not fit into that.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, PRIVATE
    block = info.tobuf(tarfile.GNU_FORMAT)
    if len(block) != BLOCK_BYTES:
        raise ValueError(f"The name {name!r} is too long for a backup.")
    return block


def padding(size: int) -> int:
    """Zero bytes between the content of an entry and the next block."""
    return -size % BLOCK_BYTES


def rows_name(table: str, number: int) -> str:
    return f"tables/{table}/{number:08}.jsonl.zst"


def table_of(name: str) -> str | None:
    """The table whose rows an entry holds; None where it holds something else."""
    match = _ROWS.fullmatch(name)
    return match[1] if match else None


def payload_of(name: str) -> tuple[str, Encoding] | None:
    """Digest and encoding of the payload in an entry; None where it holds something else."""
    return named_by(name.removeprefix(PAYLOADS)) if name.startswith(PAYLOADS) else None


def is_key(name: str) -> bool:
    """Whether an entry is a key; then it is a plain file name behind `online/`."""
    return _KEY.fullmatch(name) is not None


def damaged(why: str) -> TrustError:
    return TrustError(f"This is no whole backup: {why}. Nothing was restored; take another copy.", "backup_damaged")
