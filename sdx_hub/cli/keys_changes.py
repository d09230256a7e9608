"""`sdx keys sign | list | rotate | push`: changing who may sign, file by file, each person on their own machine."""

import asyncio
import base64
import os
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import click
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root

from sdx_hub.cli.console import table
from sdx_hub.cli.failures import UsageFault
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import ConflictError, NotFound, TrustError
from sdx_hub.publishing import trust_change, trust_files
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.image_view import ImageView
from sdx_hub.publishing.trust_change import DIRECTOR, IMAGE, Current, NewFile
from sdx_hub.publishing.trust_files import Present, TrustFile
from sdx_hub.trust import keys as key_files
from sdx_hub.trust import rotation, signers
from sdx_hub.trust.keys import PublicKey, owner_of
from sdx_hub.trust.rotation import KeyChange, SignatureState

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--signer", required=True, metavar="URI", help="A key file, hsm:KEYID?label=LABEL, or a key service.")
@click.option("--public-key", type=_FILE, help="The signer's .pub file, where it is not beside the key.")
@command(changes=True, secrets=True)
def sign(session: Session, file: Path, signer: str, public_key: Path | None) -> None:
    """Sign metadata of a ceremony or a rotation, after showing what is signed."""
    explained = trust_files.explain(file, _present(session), session.now())
    candidates = explained.allowed_keys()
    key = signers.public_key(signer, session.secrets, public=public_key, candidates=candidates.values())
    if key.keyid not in candidates:
        owners = ", ".join(sorted(owner_of(each) for each in candidates.values()))
        raise TrustError(
            f"This key may not sign {explained.name} version {explained.metadata.signed.version}; those of {owners} "
            "may. Take another key, or check that this is the right file.",
            "key_not_in_role",
        )
    owner = owner_of(candidates[key.keyid])
    valid = trust_files.valid_signatures(explained)
    if key.keyid in valid:
        raise ConflictError(f"{owner} has signed {file} already.", "already_signed")
    if dropped := explained.metadata.signatures.keys() - valid.keys():
        session.console.warn(f"{len(dropped)} signatures in {file} do not count, and are left out.")
    session.console.say(_description(explained))
    if explained.before is not None and not explained.verified:
        session.console.warn(
            "Nothing pins the director's root on this machine, so all its keys are listed above, not only what "
            "differs: check every one of them."
        )
    if session.dry_run:
        session.console.result(_document(explained) | {"dry_run": True}, "Nothing was signed (--dry-run).")
        return
    session.console.confirm(f"Sign {explained.name} as {owner}?", yes=session.yes)
    opened = signers.open_signer(signer, session.secrets, public=public_key, candidates=candidates.values())
    metadata: Metadata[Any] = Metadata(explained.metadata.signed, valid)
    try:
        metadata.sign(opened, append=True)
    except UnsignedMetadataError as error:
        raise TrustError(f"The signer did not sign: {error.__cause__ or error}.", "signer_failed") from error
    after = TrustFile(
        file, explained.repository, explained.role, metadata, explained.judges, explained.before, explained.verified
    )
    if key.keyid not in trust_files.valid_signatures(after):
        raise TrustError("The signature is not valid: the signer is another key than it says.", "signature_invalid")
    trust_files.write(after, metadata)
    following = "complete" if after.complete else "hand it on to the next person"
    session.console.result(_document(after), f"{_states_text(after.states())}\n{file}: {following}")


@click.command("list")
@command()
def list_(session: Session) -> None:
    """List every role of both repositories: who signs, how many must, until when, and what is due."""
    with session.client() as hub:
        roles = list(hub.pages("/trust"))
    for each in roles:
        if each.get("alarm"):
            session.console.warn(
                f"{each['repository']}/{each['role']} expires on {str(each['expires_at'])[:16]}: more than half of its "
                "life is over. Make its next version: sdx keys rotate."
            )
    session.console.result(
        roles,
        lambda: table(
            ("role", "version", "signatures", "keys", "expires", "alarm"),
            [
                (
                    f"{each['repository']}/{each['role']}",
                    each["version"],
                    f"{each['threshold']} of {len(each['keys'])}",
                    ", ".join(str(key.get("owner") or key["keyid"][:12]) for key in each["keys"]),
                    str(each["expires_at"])[:10],
                    "DUE" if each.get("alarm") else "",
                )
                for each in roles
            ],
        ),
    )


@click.command()
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@click.option("--add", "added", type=_FILE, multiple=True, metavar="FILE.pub", help="A key that may sign from then on.")
@click.option("--drop", multiple=True, metavar="OWNER", help="An owner or key id that may not sign any more.")
@click.option("--threshold", type=click.IntRange(1), help="How many must sign from then on.")
@click.option("--online", is_flag=True, help="Keys of the hub itself: make new ones in --data, replace the old ones.")
@click.option("--data", type=_FOLDER, help="The hub's data folder, for --online.")
@click.option("-o", "--output", type=_FOLDER, default=Path(), help="Folder for the new files; else this one.")
@command(changes=True)
def rotate(
    session: Session,
    /,
    *,
    roles: tuple[str, ...],
    added: tuple[Path, ...],
    drop: tuple[str, ...],
    threshold: int | None,
    online: bool,
    data: Path | None,
    output: Path,
) -> None:
    """Write the next, unsigned metadata: with other keys for ROLE, or (without options) with a new expiry.

    ROLE is root, targets, snapshot, timestamp, team-NAME or fleet-config; director, or director/targets and so on, for
    the director. With --online it may be several of one repository, for one new root. The files are then signed with
    `sdx keys sign`, and brought to the hub with `sdx keys push`.
    """
    change = KeyChange(tuple(key_files.read_public(path) for path in added), drop, threshold)
    if online != (data is not None) or (online and change):
        raise UsageFault(
            "--online and --data DIR belong together, without other changes: the keys are made in the hub's folder.",
            "usage",
        )
    parsed = list(dict.fromkeys(trust_change.parse_role(role) for role in roles))
    repository, name = parsed[0]
    if len(parsed) > 1 and (not online or any(each[0] != repository for each in parsed)):
        raise UsageFault("Several roles at once are for --online and one repository only.", "usage")
    with session.client(anonymous=True) as hub:
        image = session.image(hub) if repository == IMAGE else None
        root = image.root if image else _director_root(hub)
        if data is not None:
            made = _new_online_keys(session, data, repository, [role for _, role in parsed])
            files = trust_change.online_files(repository, root, made, session.now())
        elif image:
            files = trust_change.image_files(_current(image, name), name, change, session.now())
        else:
            files = trust_change.director_files(root, name, change, session.now())
    _write(session, files, output)


def _write(session: Session, files: list[NewFile], output: Path) -> None:
    documents = [_new_document(file, output / file.name) for file in files]
    for file in files:
        if (output / file.name).exists():
            raise key_files.exists_already(output / file.name)
    if not session.dry_run:
        for file in files:
            key_files.write_new(output / file.name, file.metadata.to_bytes(), 0o644)
    written = "\n".join(
        f"{each['file']}: {each['role']} version {each['version']} ({each['why']})" for each in documents
    )
    names = " ".join(str(each["file"]) for each in documents)
    verb = "Would write" if session.dry_run else "Wrote"
    session.console.result(
        {"files": documents, "dry_run": session.dry_run},
        f"{verb}:\n{written}\nNext: each person signs each file (sdx keys sign FILE --signer KEY), then: sdx keys push "
        f"{names}",
    )


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@command(changes=True)
def push(session: Session, files: tuple[Path, ...]) -> None:
    """Bring signed metadata to the hub, which verifies it as every device will; what belongs together in one go."""
    present = _present(session)
    by_repository: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        signed = trust_files.read(path).signed
        is_root = isinstance(signed, Root)
        by_repository[trust_files.root_repository(signed, path, present) if is_root else IMAGE].append(path)
    if session.dry_run:
        explained = [trust_files.explain(path, present, session.now()) for path in files]
        session.console.result(
            {"dry_run": True, "files": [_document(each) for each in explained]},
            "\n\n".join(_description(each) for each in explained),
        )
        return
    session.console.confirm(f"Bring {', '.join(map(str, files))} to {session.profile.hub}?", yes=session.yes)
    accepted: list[str] = []
    with session.client() as hub:
        for repository, paths in sorted(by_repository.items()):
            body = {"metadata": [base64.b64encode(path.read_bytes()).decode() for path in paths]}
            accepted += hub.send("POST", f"/trust/{repository}", body)["accepted"]
    session.console.result({"accepted": accepted}, f"The hub has: {', '.join(accepted)}.")


def _present(session: Session) -> Present:
    """Today's metadata, fetched when it is first needed: a ceremony needs no hub."""

    @cache
    def image() -> ImageView:
        return session.image(session.client(anonymous=True))

    @cache
    def director() -> Root:
        with session.client(anonymous=True) as hub:
            return _director_root(hub)

    return Present(lambda: image().root, lambda: image().targets, lambda role: image().team(role).current, director)


def _director_root(hub: HubClient) -> Root:
    metadata = rotation.parse(hub.raw(f"/api/v1/trust/{DIRECTOR}/root"), "The director's root")
    if not isinstance(metadata.signed, Root):
        raise TrustError("The hub gives something else for the director's root.", "answer_invalid")
    if not rotation.signature_state("", metadata.signed, "root", metadata).met:
        raise TrustError("The director's root is not signed by its own keys.", "metadata_invalid")
    return metadata.signed


def _current(image: ImageView, role: str) -> Current:
    teams = {}
    if rotation.is_delegated(role):
        try:
            teams[role] = image.signed_team(role)
        except NotFound as error:
            if error.code != "role_unknown":
                raise
    return Current(image.root, image.signed_targets(), teams)


def _new_online_keys(session: Session, data: Path, repository: str, roles: list[str]) -> dict[str, PublicKey]:
    """New keys in the hub's own folder; in a dry run, keys that nobody keeps."""
    if session.dry_run:
        session.console.say(f"Would make new keys for {', '.join(roles)} of {repository} in {data}.")
        return {role: key_files.generate("hub")[1] for role in roles}
    made = {role: asyncio.run(_make_online_key(data, repository, role)) for role in roles}
    session.console.say(f"Made new keys for {', '.join(roles)} of {repository}; they sign once the root is pushed.")
    return made


async def _make_online_key(data: Path, repository: str, role: str) -> PublicKey:
    from sdx_hub.persistence.database import Database
    from sdx_hub.services.repositories.hub_init import add_online_key
    from sdx_hub.settings import load_settings

    settings = load_settings(data, os.environ)
    database = await Database.open(settings.database)
    try:
        return await add_online_key(database, settings.online_dir, repository, role)
    finally:
        await database.close()


def _new_document(file: NewFile, path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "repository": file.repository,
        "role": f"{file.repository}/{file.role}",
        "version": file.metadata.signed.version,
        "expires_at": file.metadata.signed.expires.isoformat(),
        "why": file.why,
    }


def _document(file: TrustFile) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "role": file.name,
        "version": file.metadata.signed.version,
        "expires_at": file.metadata.signed.expires.isoformat(),
        "changes": file.description(),
        "signatures": [
            {
                "by": state.by,
                "threshold": state.threshold,
                "signed_by": list(state.signed),
                "missing": list(state.missing),
                "met": state.met,
            }
            for state in file.states()
        ],
        "complete": file.complete,
    }


def _description(file: TrustFile) -> str:
    lines = [f"{file.path}: {file.name}, version {file.metadata.signed.version}"]
    lines += [f"  {line}" for line in file.description()]
    return "\n".join([*lines, _states_text(file.states())])


def _states_text(states: list[SignatureState]) -> str:
    return "\n".join(
        f"  {len(state.signed)} of {state.threshold} signatures by the keys of {state.by}"
        f" (signed: {', '.join(state.signed) or 'nobody'}; could sign: {', '.join(state.missing) or 'nobody'})"
        for state in states
    )
