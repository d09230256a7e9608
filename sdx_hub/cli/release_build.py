"""`sdx release build`: command line words to a request to build."""

import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from firmware_schemas.release import ANY_HARDWARE, HealthCheck
from sdx_hub.cli.failures import UsageFault
from sdx_hub.cli.release_reference import counter_of_published
from sdx_hub.cli.release_texts import bundle_document, manifest_text
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import HubError
from sdx_hub.publishing import building, bundle
from sdx_hub.publishing.building import ComponentSource, ReleaseRequest

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("sources", nargs=-1, metavar="[SRC]...", type=click.Path(path_type=Path))
@click.option("--product", required=True, help="The product that the release is of.")
@click.option("--version", required=True, help="For instance 1.4.0.")
@click.option("--component", "components", multiple=True, metavar="NAME=TYPE:SRC", help="As server=directory:./build.")
@click.option("--hardware", multiple=True, metavar="[NAME=]HW", help="Boards it is for, or a component of it is for.")
@click.option("--health", multiple=True, metavar="NAME=ARGV", help="Command in the component that proves it healthy.")
@click.option("--file-name", multiple=True, metavar="NAME=F", help="Name of a `file` component on the craft.")
@click.option("--requires", multiple=True, metavar="P>=V", help="A product that must be there.")
@click.option("--conflicts", multiple=True, metavar="P<V", help="A product that must not be there.")
@click.option("--fixes", multiple=True, metavar="FB", help="A report or issue that this answers.")
@click.option("--notes", default="", help="Text for people.")
@click.option("--notes-file", type=_FILE, help="As --notes, from a file.")
@click.option("--sbom", type=_FILE, help="A bill of materials, CycloneDX or SPDX.")
@click.option("--document", "documents", multiple=True, type=_FILE, help="An attestation, a layout.")
@click.option("--trial", type=click.IntRange(0, 7 * 86400), default=0, metavar="SECONDS", help="Watched so long.")
@click.option("--counter", type=click.IntRange(0), help="Release counter; else from a version like 1.4.0.")
@click.option("--revert-to", metavar="[P@]VERSION", help="A published release that a device may go back to after this.")
@click.option("--revert-counter", type=click.IntRange(0), help="As --revert-to, by the release counter.")
@click.option("--must-pass", is_flag=True, help="Devices on an older release install this one before any newer one.")
@click.option("-o", "--output", type=_FILE, help="File to write; else PRODUCT-VERSION.sdx here.")
@command(changes=True)
def build(
    session: Session,
    /,
    *,
    product: str,
    version: str,
    sources: tuple[Path, ...],
    components: tuple[str, ...],
    output: Path | None,
    **words: Any,
) -> None:
    """Build a release file. The same sources give the same bytes, whatever their order, times, owners and umask."""
    request = _request(product, version, sources, components, words)
    request = msgspec.structs.replace(request, revert_counter=_revert_counter(session, product, words))
    if not words["hardware"]:
        session.console.warn("No --hardware was named: this release fits every board. To mean it: --hardware any.")
    target = output or Path(f"{product}-{version}.sdx")
    _keep_signatures(session, target)
    total = sum(_bytes_below(part.path) for part in request.components)
    with session.console.progress("packing", total) as progress:
        if session.dry_run:
            with tempfile.TemporaryDirectory(prefix="sdx-build-") as scratch:
                built = building.build(request, Path(scratch) / target.name, progress)
                document = bundle_document(built) | {"file": str(target), "dry_run": True}
        else:
            built = building.build(request, target, progress)
            document = bundle_document(built)
    following = "" if session.dry_run else f"\n\nNext: sdx release sign {target} --signer KEY"
    session.console.result(document, lambda: manifest_text(built.manifest) + following)


def _request(
    product: str, version: str, sources: tuple[Path, ...], components: tuple[str, ...], words: dict[str, Any]
) -> ReleaseRequest:
    parts = [building.component_of_source(path) for path in sources]
    parts += [building.parse_component(text) for text in components]
    names = {part.name for part in parts}
    health = {
        name: HealthCheck(tuple(_split(text, name)))
        for name, text in _once(_by_component(words["health"], "health", names), "health").items()
    }
    file_names = _once(_by_component(words["file_name"], "file-name", names), "file-name")
    general: list[str] = []
    special: dict[str, list[str]] = {}
    for text in words["hardware"]:
        if "=" in text:
            name, board = next(iter(_by_component((text,), "hardware", names)))
            special.setdefault(name, []).append(board)
        else:
            general.append(text)
    return ReleaseRequest(
        product=product,
        version=version,
        components=tuple(_with(part, health, file_names, special) for part in parts),
        hardware=tuple(general) or (ANY_HARDWARE,),
        requires=tuple(building.parse_constraint(text) for text in words["requires"]),
        conflicts=tuple(building.parse_constraint(text) for text in words["conflicts"]),
        fixes=words["fixes"],
        notes=_notes(words["notes"], words["notes_file"]),
        sbom=words["sbom"],
        documents=words["documents"],
        trial_s=words["trial"],
        counter=words["counter"],
        must_pass=words["must_pass"],
    )


def _revert_counter(session: Session, product: str, words: dict[str, Any]) -> int | None:
    named, counter = words["revert_to"], words["revert_counter"]
    if named is not None and counter is not None:
        raise UsageFault("Give either --revert-to or --revert-counter.", "usage")
    if named is None:
        return None if counter is None else int(counter)
    return counter_of_published(session, product, named)


def _with(
    part: ComponentSource, health: dict[str, HealthCheck], file_names: dict[str, str], boards: dict[str, list[str]]
) -> ComponentSource:
    return msgspec.structs.replace(
        part,
        health=health.get(part.name),
        file_name=file_names.get(part.name, ""),
        hardware=tuple(sorted(set(boards.get(part.name, ())))),
    )


def _by_component(texts: Iterable[str], option: str, names: set[str]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageFault(f"--{option} {text!r}: write NAME=VALUE with the name of a component.", "component_form")
        if name not in names:
            raise UsageFault(
                f"--{option} {text!r}: there is no component {name!r}; there are {', '.join(sorted(names)) or 'none'}.",
                "component_form",
            )
        found.append((name, value))
    return found


def _once(pairs: list[tuple[str, str]], option: str) -> dict[str, str]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UsageFault(f"--{option} was given twice for one component.", "component_form")
    return found


def _split(text: str, name: str) -> list[str]:
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise UsageFault(f"--health {name}={text}: {error}.", "component_form") from error
    if not argv:
        raise UsageFault(f"--health {name}= names no command.", "component_form")
    return argv


def _notes(notes: str, file: Path | None) -> str:
    if notes and file:
        raise UsageFault("Give either --notes or --notes-file.", "usage")
    if file is None:
        return notes
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageFault(f"Cannot read the notes from {file}: {error}.", "source_missing") from error


def _keep_signatures(session: Session, target: Path) -> None:
    """Ask before a file is replaced that somebody has signed."""
    if session.dry_run or not target.exists():
        return
    try:
        old = bundle.read(target)
    except HubError:
        session.console.confirm(f"{target} exists and is no release file. Replace it?", yes=session.yes)
        return
    if old.signed:
        session.console.confirm(f"{target} holds signatures for {old.id}; they would be lost.", yes=session.yes)


def _bytes_below(path: Path) -> int:
    if path.is_dir():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return path.stat().st_size if path.is_file() else 0
