"""`sdx keys`: keys of people, ceremonies, and changing who may sign."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from firmware_schemas.ids import check_name
from sdx_hub.cli import keys_changes
from sdx_hub.cli.console import facts
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.trust import ceremony as ceremonies
from sdx_hub.trust import keys as key_files
from sdx_hub.trust import signers
from sdx_hub.trust.ceremony import CeremonyPlan, CeremonyResult, Quorum

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def keys() -> None:
    """Keys of people, ceremonies and rotations."""


for _each in (keys_changes.sign, keys_changes.list_, keys_changes.rotate, keys_changes.push):
    keys.add_command(_each)


@keys.command()
@click.argument("file", type=_FILE)
@click.option("--name", "owner", default="", help="Who holds the key; else the name of the file.")
@command(secrets=True)
def new(session: Session, file: Path, owner: str) -> None:
    """Make a key: the encrypted private part into FILE, the public part beside it."""
    owner = check_name(owner or file.stem, "key owner")
    for each in (file, key_files.public_path(file)):
        if each.exists():
            raise key_files.exists_already(each)
    passphrase = session.secrets.new(f"new passphrase of {file.name}")
    public = key_files.create_pair(file, owner, passphrase)
    _show_key(session, public, key_files.public_path(file), {"private": str(file)})


@keys.command("import")
@click.argument("uri")
@click.option("--name", "owner", required=True, help="Who holds the key.")
@click.option("-o", "--output", type=_FILE, required=True, help="Public key file to write.")
@command(secrets=True)
def import_(session: Session, uri: str, owner: str, output: Path) -> None:
    """Read the public part of a hardware key (hsm:KEYID?label=LABEL; PYKCS11LIB names the PKCS#11 module)."""
    if output.exists():
        raise key_files.exists_already(output)
    full_uri, public = signers.import_hsm(uri, check_name(owner, "key owner"), session.secrets)
    key_files.write_public(public, output)
    _show_key(session, public, output, {"uri": full_uri})


def _show_key(session: Session, public: key_files.PublicKey, path: Path, more: dict[str, str]) -> None:
    document = {"owner": public.owner, "keyid": public.keyid, "public": str(path)} | more
    session.console.result(document, facts(list(document.items())))


@keys.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--root", default="3/5", show_default=True, help="Quorum T/N of the image root.")
@click.option("--targets", default="2/3", show_default=True, help="Quorum of the image targets.")
@click.option("--director", default="3/5", show_default=True, help="Quorum of the director root.")
@click.option("--fleet-config", default="2/3", show_default=True, help="Quorum of fleet configuration.")
@click.option("--team", "teams", multiple=True, metavar="NAME[=T/N]", help="A team; 2/3 people. Default: main.")
@click.option("--root-key", type=_FILE, multiple=True, help="A holder's own public key, instead of a generated one.")
@click.option("--targets-key", type=_FILE, multiple=True, help="As --root-key, for the image targets.")
@click.option("--director-key", type=_FILE, multiple=True, help="As --root-key, for the director root.")
@click.option("--fleet-config-key", type=_FILE, multiple=True, help="As --root-key, for fleet configuration.")
@click.option("--team-key", multiple=True, metavar="TEAM=FILE", help="As --root-key, for a team.")
@command(changes=True, secrets=True)
def ceremony(
    session: Session,
    /,
    *,
    folder: Path,
    root: str,
    targets: str,
    director: str,
    fleet_config: str,
    teams: tuple[str, ...],
    team_key: tuple[str, ...],
    **brought: tuple[Path, ...],
) -> None:
    """Make the first roots, delegations and keys of a hub in a new FOLDER."""
    plan = CeremonyPlan(
        teams=dict(_team(text) for text in teams or ("main",)),
        root=ceremonies.parse_quorum(root),
        targets=ceremonies.parse_quorum(targets),
        director=ceremonies.parse_quorum(director),
        fleet_config=ceremonies.parse_quorum(fleet_config),
        brought=_brought(brought, team_key),
    )
    ceremonies.check_plan(plan)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is not empty, and keys are never overwritten: choose another.", "key_exists")
    planned = {role: str(quorum) for role, quorum in plan.quorums().items()}
    if session.dry_run:
        session.console.result({"dry_run": True, "roles": planned}, facts(list(planned.items())))
        return
    generates = any(quorum.size > len(plan.brought.get(role, ())) for role, quorum in plan.quorums().items())
    passphrase = session.secrets.new("passphrase for the generated keys") if generates else ""
    result = ceremonies.hold(plan, folder, passphrase, session.now())
    _show_ceremony(session, result, planned)


def _show_ceremony(session: Session, result: CeremonyResult, planned: dict[str, str]) -> None:
    console = session.console
    if result.one_person:
        console.warn(
            "ONE PERSON on ONE MACHINE made enough keys to sign alone for: "
            f"{', '.join(result.one_person)}. That is for trying out. For a real fleet every holder makes a key with "
            "`sdx keys new` and brings the .pub file (--root-key, --targets-key, --director-key, --team-key). Hand the "
            "generated keys out now, and delete them here."
        )
    for name, count in result.missing.items():
        console.warn(f"{name} needs {count} more signatures: sdx keys sign {result.folder / name} --signer KEY")
    if any(quorum.startswith("1/") for quorum in planned.values()):
        console.warn("A role has the threshold 1: a single stolen key is enough to sign for it.")
    document = {
        "folder": str(result.folder),
        "roles": planned,
        "owners": result.owners,
        "one_person": bool(result.one_person),
        "missing": result.missing,
        "image_root_sha256": result.image_root_sha256,
        "director_root_sha256": result.director_root_sha256,
    }
    console.result(
        document,
        facts(
            [
                *((role, f"{planned[role]}  {', '.join(owners)}") for role, owners in result.owners.items()),
                ("image root", result.image_root_sha256),
                ("director root", result.director_root_sha256),
                ("next", f"sdx hub init --data DATA --ceremony {result.folder}"),
            ]
        ),
    )


def _team(text: str) -> tuple[str, Quorum]:
    name, equals, quorum = text.partition("=")
    return check_name(name, "team"), ceremonies.parse_quorum(quorum) if equals else Quorum(2, 3)


def _brought(files: dict[str, Any], team_keys: tuple[str, ...]) -> dict[str, list[key_files.PublicKey]]:
    brought: dict[str, list[key_files.PublicKey]] = defaultdict(list)
    for option, paths in files.items():
        for path in paths:
            brought[option.removesuffix("_key").replace("_", "-")].append(key_files.read_public(path))
    for text in team_keys:
        team, equals, path = text.partition("=")
        if not equals:
            raise BadInput(f"{text!r}: write --team-key TEAM=FILE.pub.", "ceremony_keys")
        brought[ceremonies.TEAM_PREFIX + team].append(key_files.read_public(Path(path)))
    return brought
