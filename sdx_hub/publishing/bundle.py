"""The .sdx file: one release on its way from the person who built it to the hub.

An uncompressed tar in a narrow form, so that reading it needs no trust at all: only regular files, only the names
below, every header exactly the bytes that we would write ourselves. A hostile file cannot make the reader allocate,
climb or follow anything.

    documents/SHA256        SBOM and attestations, as they are
    payloads/SHA256.zst     one for each distinct payload; the digest is of the uncompressed canonical bytes
    release.json            the manifest, canonical JSON
    signed/ROLE.json        last, and only after signing: the team's next metadata with the signatures so far
"""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from firmware_schemas.errors import SchemaError
from firmware_schemas.ids import ReleaseId, release_id
from firmware_schemas.limits import MAX_COMPONENTS, MAX_MANIFEST_BYTES, MAX_PAYLOAD_BYTES, MAX_TARGETS_BYTES
from firmware_schemas.release import ReleaseManifest, decode_manifest, encode_manifest
from sdx_hub.publishing.archive import BLOCK, Entry, header
from sdx_hub.publishing.errors import BundleRefused
from sdx_hub.publishing.payload import replacing

MANIFEST = "release.json"
MAX_ENTRIES = 4 * MAX_COMPONENTS + 2
_NAME = re.compile(
    r"release\.json|payloads/(?P<payload>[0-9a-f]{64})\.zst|documents/(?P<document>[0-9a-f]{64})"
    r"|signed/(?P<role>[a-z0-9][a-z0-9._-]{0,79})\.json"
)


class Part(Struct, frozen=True):
    """Where an entry's content lies in the file, in bytes."""

    offset: int
    size: int


class Signed(Struct, frozen=True):
    """The team's next metadata as the file carries it: unverified."""

    role: str
    raw: bytes


class Bundle(Struct, frozen=True):
    """An opened .sdx file whose structure was checked; its content was not yet (see `verify`).

    Attributes:
        payloads, documents: By the digest that the manifest names.
    """

    path: Path
    manifest: ReleaseManifest
    manifest_raw: bytes
    payloads: Mapping[str, Part]
    documents: Mapping[str, Part]
    signed: Signed | None = None

    @property
    def id(self) -> ReleaseId:
        return release_id(self.manifest.product, self.manifest.version)

    @contextmanager
    def content(self, part: Part) -> Iterator[BinaryIO]:
        with self.path.open("rb") as file:
            yield _Window(file, part)  # type: ignore[misc]


def write(target: Path, manifest: ReleaseManifest, payloads: Mapping[str, Path], documents: Mapping[str, Path]) -> None:
    """Write a new, unsigned .sdx file: the same content gives the same bytes.

    Args:
        target: Replaced if it exists.
        manifest: What the release is.
        payloads: Digest to compressed file.
        documents: Digest to file.
    """
    parts: dict[str, Path | bytes] = {MANIFEST: encode_manifest(manifest)}
    parts |= {f"payloads/{sha256}.zst": path for sha256, path in payloads.items()}
    parts |= {f"documents/{sha256}": path for sha256, path in documents.items()}
    with replacing(target) as file:
        for name in sorted(parts):
            content = parts[name]
            if isinstance(content, bytes):
                _add(file, name, content)
            else:
                size = content.stat().st_size
                _start(file, name, size)
                with content.open("rb") as part:
                    shutil.copyfileobj(part, file, 1024 * 1024)
                _pad(file, size)
        file.write(bytes(2 * BLOCK))


def write_signed(bundle: Bundle, role: str, raw: bytes | None) -> Bundle:
    """Replace the signed part of the file by temporary file and rename; None takes it out."""
    with bundle.path.open("rb") as old, replacing(bundle.path) as new:
        left = _end_of_content(bundle)
        while left:
            chunk = old.read(min(left, 1024 * 1024))
            if not chunk:
                raise BundleRefused(f"{bundle.path} was cut off while it was read.")
            new.write(chunk)
            left -= len(chunk)
        if raw is not None:
            _add(new, f"signed/{role}.json", raw)
        new.write(bytes(2 * BLOCK))
    return read(bundle.path)


def read(path: Path) -> Bundle:
    """Open a .sdx file and check its structure: names, sizes, and that everything in the manifest is there.

    Raises:
        BundleRefused: `bundle_invalid` (not such a file), `bundle_bad_entry` (a name or an entry that does not belong
            there, climbing ones included), `metadata_too_large`, `bundle_too_large`, `bundle_incomplete`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            parts = dict(_entries(file, size))
            raw = _content(file, parts.pop(MANIFEST, None))
            roles = [name for name in parts if name.startswith("signed/")]
            signed = [
                Signed(name.removeprefix("signed/").removesuffix(".json"), _content(file, parts.pop(name)))
                for name in roles
            ]
    except OSError as error:
        raise BundleRefused(f"Cannot read {path}: {error.strerror}.", "bundle_invalid") from error
    if not raw:
        raise BundleRefused(f"{path} has no release.json: it is not a .sdx file.", "bundle_invalid")
    try:
        manifest = decode_manifest(raw)
    except SchemaError as error:
        raise BundleRefused(f"The manifest in {path} is refused: {error}", error.code) from error
    if encode_manifest(manifest) != raw:
        raise BundleRefused(f"The manifest in {path} is not in canonical form. Build it anew.", "bundle_invalid")
    if len(signed) > 1:
        raise BundleRefused(f"{path} is signed for {len(signed)} roles; a release belongs to one.", "bundle_bad_entry")
    bundle = Bundle(
        path,
        manifest,
        raw,
        {name[9:73]: part for name, part in parts.items() if name.startswith("payloads/")},
        {name[10:]: part for name, part in parts.items() if name.startswith("documents/")},
        signed[0] if signed else None,
    )
    _check_complete(bundle)
    return bundle


def manifest_digest(bundle: Bundle) -> str:
    return hashlib.sha256(bundle.manifest_raw).hexdigest()


def _check_complete(bundle: Bundle) -> None:
    wanted = {component.sha256 for component in bundle.manifest.components}
    documents = {document.sha256 for document in bundle.manifest.documents}
    absent = (wanted - bundle.payloads.keys()) | (documents - bundle.documents.keys())
    surplus = (bundle.payloads.keys() - wanted) | (bundle.documents.keys() - documents)
    if absent or surplus:
        raise BundleRefused(
            f"{bundle.path} is not whole: {len(absent)} parts of the manifest are missing and {len(surplus)} parts are "
            "not in the manifest. Build it anew.",
            "bundle_incomplete",
        )


def _entries(file: BinaryIO, size: int) -> Iterator[tuple[str, Part]]:
    last, count, offset = "", 0, 0
    while True:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise BundleRefused("The file is cut off, or is not a .sdx file.", "bundle_invalid")
        if not any(block):
            if file.read(BLOCK + 1) != bytes(BLOCK):
                raise BundleRefused("The .sdx file does not end as it should.", "bundle_invalid")
            return
        name, length = _header(block)
        offset += BLOCK
        if name <= last:
            raise BundleRefused(f"The entry {name!r} of the .sdx file is there twice or too late.", "bundle_bad_entry")
        last, count = name, count + 1
        if count > MAX_ENTRIES:
            raise BundleRefused(f"The .sdx file has more than {MAX_ENTRIES} entries.", "bundle_too_large")
        _check_size(name, length)
        padded = -(-length // BLOCK) * BLOCK
        if offset + padded > size:
            raise BundleRefused("The file is cut off, or is not a .sdx file.", "bundle_invalid")
        yield name, Part(offset, length)
        file.seek(offset + length)
        if any(file.read(padded - length)):
            raise BundleRefused(f"The padding after {name!r} is not zero.", "bundle_bad_entry")
        offset += padded


def _header(block: bytes) -> tuple[str, int]:
    if block[257:263] != b"ustar\0":
        raise BundleRefused("This is not a .sdx file.", "bundle_invalid")
    name = block[:100].split(b"\0", 1)[0].decode("utf-8", "replace")
    kind, digits = block[156:157], block[124:135]
    if kind != b"0":
        raise BundleRefused(
            f"The .sdx file holds {name[:100]!r} of the type {kind!r}: extended names, links and special entries do "
            "not belong there.",
            "bundle_bad_entry",
        )
    if not _NAME.fullmatch(name):
        raise BundleRefused(
            f"The .sdx file holds {name[:100]!r}, which does not belong there. Nothing was unpacked.",
            "bundle_bad_entry",
        )
    if not re.fullmatch(rb"[0-7]{11}", digits):
        raise BundleRefused(f"The entry {name!r} has no readable size.", "bundle_bad_entry")
    length = int(digits, 8)
    if block != header(Entry(name, "file", size=length)):
        raise BundleRefused(f"The entry {name!r} is not written as `sdx release build` writes it.", "bundle_bad_entry")
    return name, length


def _check_size(name: str, length: int) -> None:
    if name == MANIFEST:
        limit, code = MAX_MANIFEST_BYTES, "metadata_too_large"
    elif name.startswith("signed/"):
        limit, code = MAX_TARGETS_BYTES, "metadata_too_large"
    else:
        limit, code = MAX_PAYLOAD_BYTES, "bundle_too_large"
    if length > limit:
        raise BundleRefused(f"{name} in the .sdx file has {length} bytes; {limit} are allowed.", code)


def _content(file: BinaryIO, part: Part | None) -> bytes:
    if part is None:
        return b""
    file.seek(part.offset)
    return file.read(part.size)


def _end_of_content(bundle: Bundle) -> int:
    parts = [*bundle.payloads.values(), *bundle.documents.values()]
    end = max(part.offset + -(-part.size // BLOCK) * BLOCK for part in parts)
    # release.json sorts after documents/ and payloads/.
    return end + BLOCK + -(-len(bundle.manifest_raw) // BLOCK) * BLOCK


def _add(file: BinaryIO, name: str, content: bytes) -> None:
    _start(file, name, len(content))
    file.write(content)
    _pad(file, len(content))


def _start(file: BinaryIO, name: str, size: int) -> None:
    block = header(Entry(name, "file", size=size))
    if len(block) != BLOCK:
        raise BundleRefused(f"{name} has {size} compressed bytes: more than a .sdx file can hold.", "bundle_too_large")
    file.write(block)


def _pad(file: BinaryIO, size: int) -> None:
    file.write(bytes(-size % BLOCK))


class _Window:
    """One entry's content as a readable file that begins and ends with the entry."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._part = part
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def seek(self, offset: int) -> None:
        self._file.seek(self._part.offset + offset)
        self._left = max(0, self._part.size - offset)
