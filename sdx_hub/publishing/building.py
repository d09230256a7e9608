"""From sources to a .sdx file: packs every payload, writes the manifest, and puts both into the file."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from firmware_schemas.errors import InvalidManifest
from firmware_schemas.ids import check_name, check_version, counter_of_version
from firmware_schemas.limits import MAX_TEXT_CHARS
from firmware_schemas.release import (
    ANY_HARDWARE,
    Component,
    Constraint,
    Document,
    HealthCheck,
    ReleaseManifest,
    decode_manifest,
    encode_manifest,
)
from sdx_hub.domain.errors import BadInput
from sdx_hub.publishing import bundle, payload
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.errors import BuildRefused

_RELATION = re.compile(r"^([a-z0-9][a-z0-9._-]*)(>=|<=|==|=|>|<)(.+)$")
MAX_COUNTER = 2**53 - 1


class ComponentSource(Struct, frozen=True):
    """One component to build: `NAME=TYPE:SRC`."""

    name: str
    type: str
    path: Path
    file_name: str = ""
    hardware: tuple[str, ...] = ()
    health: HealthCheck | None = None


class ReleaseRequest(Struct, frozen=True):
    """What to build.

    Attributes:
        counter: None takes it from the version (`counter_of_version`).
        sbom: File that becomes a document and is named as the SBOM.
        documents: Further files: attestations, layouts.
        trial_s: How long the craft watches the new version.
        revert_counter: How far back a craft may go after this release; None: no way back.
        must_pass: A craft that runs an older release installs this one before any newer one.
    """

    product: str
    version: str
    components: tuple[ComponentSource, ...]
    hardware: tuple[str, ...] = (ANY_HARDWARE,)
    requires: tuple[Constraint, ...] = ()
    conflicts: tuple[Constraint, ...] = ()
    fixes: tuple[str, ...] = ()
    notes: str = ""
    sbom: Path | None = None
    documents: tuple[Path, ...] = ()
    trial_s: int = 0
    counter: int | None = None
    revert_counter: int | None = None
    must_pass: bool = False


def parse_component(text: str) -> ComponentSource:
    """Parse `NAME=TYPE:SRC`.

    Raises:
        BadInput: It has another form (code `component_form`).
        InvalidName: The name or the type.
    """
    name, equals, rest = text.partition("=")
    kind, colon, source = rest.partition(":")
    if not (equals and colon and source):
        raise BadInput(
            f"{text!r} is no component: write NAME=TYPE:SRC, for instance server=directory:./build.", "component_form"
        )
    return ComponentSource(check_name(name, "component"), check_name(kind, "component type"), Path(source))


def component_of_source(path: Path) -> ComponentSource:
    """The component that a bare SRC means: a folder is a `directory`, a file is a `file`, named as it is called.

    Raises:
        InvalidName: The name of the file cannot name a component: give it one with --component.
    """
    resolved = path.resolve()
    return ComponentSource(check_name(resolved.name, "component"), "directory" if resolved.is_dir() else "file", path)


def parse_constraint(text: str) -> Constraint:
    """Parse `PRODUCT>=VERSION` (also `<=`, `<`, `>`, `=`); VERSION is a version or a plain release counter.

    Raises:
        BadInput: It has another form, or nothing can match it (code `constraint_form`).
    """
    match = _RELATION.match(text.replace(" ", ""))
    counter = _counter(match[3]) if match else None
    if match is None or counter is None:
        raise BadInput(
            f"{text!r} is no constraint: write PRODUCT>=VERSION with a version like 1.4.0, or with a release counter.",
            "constraint_form",
        )
    low, high = {
        ">=": (counter, MAX_COUNTER),
        ">": (counter + 1, MAX_COUNTER),
        "<=": (0, counter),
        "<": (0, counter - 1),
    }.get(match[2], (counter, counter))
    if low > high:
        raise BadInput(f"Nothing can match {text!r}.", "constraint_form")
    return Constraint(check_name(match[1], "product"), low, high)


def _counter(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 16:
        return int(text)
    return counter_of_version(text)


def build(request: ReleaseRequest, target: Path, progress: payload.Progress = payload.no_progress) -> Bundle:
    """Build a release. The file appears whole or not at all, and the same sources give the same bytes.

    Args:
        request: What to build.
        target: The .sdx file; replaced if it exists.
        progress: Told about the bytes that were packed.

    Raises:
        BuildRefused: A source cannot be released (codes in `publishing.errors`).
        BadInput: `counter_missing`, `release_empty`, `text_too_long`.
        InvalidName, InvalidManifest: A name, or the manifest as a whole.
    """
    check_name(request.product, "product")
    check_version(request.version)
    counter = request.counter if request.counter is not None else counter_of_version(request.version)
    if counter is None:
        raise BadInput(
            f"The version {request.version!r} implies no release counter: write it as MAJOR.MINOR.PATCH, or give the "
            "counter with --counter N. It must grow with every release.",
            "counter_missing",
        )
    if not request.components:
        raise BadInput("A release needs something in it: name a SRC or a --component.", "release_empty")
    if len(request.notes) > MAX_TEXT_CHARS:
        raise BadInput(f"The notes have more than {MAX_TEXT_CHARS} characters.", "text_too_long")
    if not target.parent.is_dir():
        raise BadInput(f"There is no folder {target.parent}: make it first.", "folder_missing")
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        return _build(request, counter, target, scratch, progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(request: ReleaseRequest, counter: int, target: Path, scratch: Path, progress: payload.Progress) -> Bundle:
    packed: dict[str, Path] = {}
    components = []
    for part in request.components:
        done = payload.pack(payload.source(part.type, part.path), scratch, progress)
        packed[done.sha256] = done.path
        components.append(
            Component(part.name, part.type, done.sha256, done.length, part.hardware, part.file_name, part.health)
        )
    paths = ([request.sbom] if request.sbom else []) + list(request.documents)
    documents, files = _documents(paths, scratch)
    manifest = ReleaseManifest(
        product=request.product,
        version=request.version,
        release_counter=counter,
        components=tuple(sorted(components, key=lambda component: component.name)),
        hardware=tuple(sorted(set(request.hardware))),
        requires=_sorted(request.requires),
        conflicts=_sorted(request.conflicts),
        fixes=tuple(sorted(set(request.fixes))),
        notes=request.notes,
        sbom=request.sbom.name if request.sbom else "",
        documents=documents,
        trial_s=request.trial_s,
        revert_counter=request.revert_counter,
        must_pass=request.must_pass,
    )
    decode_manifest(encode_manifest(manifest))
    bundle.write(target, manifest, packed, files)
    return bundle.read(target)


def _sorted(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    return tuple(sorted(constraints, key=msgspec.structs.astuple))


def _documents(paths: Sequence[Path], scratch: Path) -> tuple[tuple[Document, ...], dict[str, Path]]:
    documents: list[Document] = []
    files: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise BuildRefused(f"There is no file {path}.", "source_missing")
        copy = scratch / f"document-{len(documents)}"
        digest = hashlib.sha256()
        with path.open("rb") as source, copy.open("wb") as sink:
            while chunk := source.read(payload.CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
        documents.append(Document(check_name(path.name, "document"), digest.hexdigest(), copy.stat().st_size))
        files[digest.hexdigest()] = copy
    names = [document.name for document in documents]
    if len(set(names)) != len(names):
        raise InvalidManifest(f"Two documents have one name: {sorted(names)}. Rename one.")
    return tuple(sorted(documents, key=lambda document: document.name)), files
