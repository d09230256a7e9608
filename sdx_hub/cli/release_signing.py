"""`sdx release sign` and `sdx release publish`."""

from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from securesystemslib.signer import Key
from tuf.api.metadata import Targets

from firmware_schemas.ids import release_id
from firmware_schemas.release import ReleaseManifest, encode_manifest
from sdx_hub.cli.console import facts
from sdx_hub.cli.release_reference import is_release_id, open_verified
from sdx_hub.cli.release_texts import missing_text, proposal_document, step_text
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.publishing import bundle as bundles
from sdx_hub.publishing import sending, signing, team_metadata
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.hub_releases import WAITING, HubReleases, manifest_of
from sdx_hub.publishing.image_view import ImageView
from sdx_hub.publishing.signing import Step
from sdx_hub.publishing.team_metadata import Proposal, TeamView
from sdx_hub.publishing.upload import upload_bytes
from sdx_hub.publishing.verifying import VerifiedBundle
from sdx_hub.trust import signers
from sdx_hub.trust.keys import owner_of

_PUBLIC = click.Path(path_type=Path, dir_okay=False)


class _Work(Struct, frozen=True):
    """What is to be signed, wherever it came from.

    Attributes:
        bundle: None where only the hub has it.
        shown: The release as the hub shows it, unverified; None where it does not know it.
    """

    manifest: ReleaseManifest
    bundle: Bundle | None
    shown: dict[str, Any] | None

    @property
    def id(self) -> str:
        return release_id(self.manifest.product, self.manifest.version)

    @property
    def role(self) -> str:
        if self.bundle and self.bundle.signed:
            return self.bundle.signed.role
        return str((self.shown or {}).get("role") or "")


@click.command()
@click.argument("release", metavar="FILE|PRODUCT@VERSION")
@click.option("--signer", required=True, metavar="URI", help="A key file, hsm:KEYID?label=LABEL, or a key service.")
@click.option("--public-key", type=_PUBLIC, help="The signer's .pub file, where it is not beside the key.")
@click.option("--role", default="", metavar="team-NAME", help="Where the key may sign for several roles.")
@command(changes=True, secrets=True)
def sign(session: Session, release: str, signer: str, public_key: Path | None, role: str) -> None:
    """Sign a release, after verifying it and the hub's metadata from the pinned root, and showing what is signed.

    With PRODUCT@VERSION it signs what waits on the hub, and brings the signature there.
    """
    with session.client() as hub:
        releases = HubReleases(hub)
        work = _work(session, releases, release)
        image = session.image(hub)
        key = signers.public_key(signer, session.secrets, public=public_key, candidates=_keys(image.targets))
        chosen = team_metadata.role_of_key(image.targets, key.keyid, role, work.role)
        view = _team(session, image, chosen)
        yanked, now = releases.yanked(), session.now()
        carried = work.bundle.signed if work.bundle else None
        step = signing.prepare(
            view,
            work.manifest,
            carried=carried.raw if carried and carried.role == chosen else None,
            waiting=releases.proposal(work.id) if (work.shown or {}).get("state") in WAITING else None,
            yanked=yanked,
            now=now,
        )
        for note in step.notes:
            session.console.say(note)
        known = team_metadata.key_of(image.targets, key.keyid) or key
        if key.keyid in step.proposal.metadata.signatures:
            _keep(session, work, step.proposal, changed=step.changed)
            raise ConflictError(f"{owner_of(known)} has signed {work.id} already.", "already_signed")
        session.console.say(step_text(work.manifest, step))
        if session.dry_run:
            document = _document(work, step, step.proposal)
            session.console.result(document | {"dry_run": True}, "Nothing was signed (--dry-run).")
            return
        session.console.confirm(f"Sign {work.id} as {owner_of(known)}?", yes=session.yes)
        opened = signers.open_signer(signer, session.secrets, public=public_key, candidates=_keys(image.targets))
        proposal = signing.sign(view, step, work.manifest, opened, yanked=yanked, now=now)
        document = _document(work, step, proposal)
        if work.bundle:
            bundles.write_signed(work.bundle, proposal.role, signing.encode(proposal.metadata))
        else:
            raw = signing.encode(proposal.metadata)
            shown = releases.put(work.id, encode_manifest(work.manifest), proposal.role, raw)
            document |= {"state": shown["state"]}
    session.console.result(document, lambda: _signed_text(work, proposal, document))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@command(changes=True)
def publish(session: Session, file: Path) -> None:
    """Bring a signed release to the hub. It can be interrupted and run again.

    Below the threshold the release waits on the hub, and the answer says whose signature is missing.
    """
    with session.client() as hub:
        releases = HubReleases(hub)
        verified = open_verified(session, file)
        bundle = verified.bundle
        shown = releases.find(bundle.id)
        if shown and shown["state"] == "yanked":
            raise ConflictError(
                f"{bundle.id} was yanked ({shown.get('yank_reason')}): give the release another version.",
                "release_yanked",
            )
        waiting = releases.proposal(bundle.id) if shown and shown["state"] in WAITING else None
        image = session.image(hub)
        role = bundle.signed.role if bundle.signed else str((shown or {}).get("role") or "")
        if not role:
            raise sending.unsigned(bundle)
        view = _team(session, image, role)
        if signing.is_published(view, bundle.manifest):
            document = {"release": bundle.id, "state": "published", "uploaded": [], "already": True}
            session.console.result(document, f"{bundle.id} is published already.")
            return
        now = session.now()
        step = sending.proposal_of(view, bundle, waiting=waiting, yanked=releases.yanked(), now=now)
        for note in step.notes:
            session.console.say(note)
        if session.dry_run:
            document = {"release": bundle.id, "dry_run": True} | proposal_document(step.proposal)
            document["state"] = "published" if step.proposal.complete else "waiting"
            session.console.result(document, f"Would be {document['state']}.\n\n{step_text(bundle.manifest, step)}")
            return
        _keep(session, _Work(bundle.manifest, bundle, shown), step.proposal, changed=step.changed)
        sent = _send(session, hub, verified, step.proposal)
    document = {"release": bundle.id, "uploaded": list(sent.uploaded), "already": False} | _progress(sent.shown)
    session.console.result(document, lambda: _published_text(bundle, document))


def _send(session: Session, hub: HubClient, verified: VerifiedBundle, proposal: Proposal) -> sending.Sent:
    with session.console.progress("uploading", upload_bytes(verified.bundle)) as progress:
        try:
            return sending.send(hub, verified, proposal, progress)
        except KeyboardInterrupt:
            session.console.say("Interrupted; the same command goes on where this one stopped.")
            raise


def _work(session: Session, releases: HubReleases, text: str) -> _Work:
    if not is_release_id(text):
        bundle = open_verified(session, Path(text)).bundle
        return _Work(bundle.manifest, bundle, releases.find(bundle.id))
    shown = releases.show(text)
    if shown["state"] == "published":
        raise ConflictError(f"{text} is published already.", "already_published")
    if shown["state"] not in WAITING:
        raise ConflictError(f"{text} is {shown['state']}: it cannot be signed.", "release_not_waiting")
    session.console.say("Signing what waits on the hub. Its payloads stay there: the digests below are what is signed.")
    return _Work(manifest_of(shown), None, shown)


def _keep(session: Session, work: _Work, proposal: Proposal, *, changed: bool) -> None:
    """Write into the file what has become of its signatures, so that it can go on to the next person."""
    if work.bundle and changed and not session.dry_run:
        bundles.write_signed(work.bundle, proposal.role, signing.encode(proposal.metadata))


def _team(session: Session, image: ImageView, role: str) -> TeamView:
    said = len(image.warnings)
    try:
        view = image.team(role)
    except NotFound as error:
        raise NotFound(f"{error} It is signed for a team that this hub does not have.", error.code) from error
    for warning in image.warnings[said:]:
        session.console.warn(warning)
    return view


def _keys(targets: Targets) -> list[Key]:
    return list(targets.delegations.keys.values()) if targets.delegations else []


def _document(work: _Work, step: Step, proposal: Proposal) -> dict[str, Any]:
    return {
        "release": work.id,
        "file": str(work.bundle.path) if work.bundle else None,
        "rebased_from": step.rebased_from,
        "dropped": list(step.dropped),
    } | proposal_document(proposal)


def _progress(shown: dict[str, Any]) -> dict[str, Any]:
    signed, missing = list(shown.get("signed_by") or ()), list(shown.get("missing") or ())
    waiting = shown["state"] in WAITING
    needed = max(0, int(shown.get("threshold") or 0) - len(signed)) if waiting else 0
    return {
        "state": shown["state"],
        "role": shown.get("role"),
        "threshold": shown.get("threshold"),
        "signed_by": signed,
        "missing": missing,
        "still_needed": needed,
    }


def _signed_text(work: _Work, proposal: Proposal, document: dict[str, Any]) -> str:
    lines = [("signed by", ", ".join(proposal.signed_by))]
    if document.get("state") == "published":
        return facts([*lines, ("state", "published")])
    lines.append(("missing", missing_text(proposal.still_needed, proposal.missing)))
    if work.bundle and proposal.complete:
        lines.append(("next", f"sdx release publish {work.bundle.path}"))
    elif work.bundle:
        lines.append(("next", f"hand on {work.bundle.path}, or: sdx release publish {work.bundle.path}"))
    return facts(lines)


def _published_text(bundle: Bundle, document: dict[str, Any]) -> str:
    if document["state"] == "published":
        return f"{bundle.id} is published, signed by {', '.join(document['signed_by'])}."
    return (
        f"{bundle.id} is on the hub and waits for signatures; signed by {', '.join(document['signed_by'])}; missing "
        f"{missing_text(document['still_needed'], document['missing'])}.\n"
        f"The next person runs: sdx release sign {bundle.id} --signer KEY"
    )
