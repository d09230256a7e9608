"""`sdx release`: look at releases, compare, verify and yank them; building, signing and publishing are beside this."""

from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from firmware_schemas.ids import parse_release_id, release_id
from firmware_schemas.release import Component, ReleaseManifest, encode_manifest
from sdx_hub.cli.console import table
from sdx_hub.cli.release_build import build
from sdx_hub.cli.release_reference import files_of, is_release_id, open_verified
from sdx_hub.cli.release_signing import publish, sign
from sdx_hub.cli.release_texts import (
    bundle_document,
    changes_text,
    manifest_text,
    proposal_document,
    shown_text,
    step_text,
)
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import ConflictError, TrustError
from sdx_hub.publishing import bundle as bundles
from sdx_hub.publishing import diff as diffs
from sdx_hub.publishing import signing
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.hub_client import segment
from sdx_hub.publishing.hub_releases import HubReleases, manifest_of


@click.group()
def release() -> None:
    """Build, sign, verify and publish releases."""


release.add_command(build)
release.add_command(sign)
release.add_command(publish)


@release.command("list")
@click.option("--product", default="", help="Only this product's.")
@click.option("--state", type=click.Choice(["waiting", "outdated", "published", "yanked"]), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Newest to show.")
@command()
def list_(session: Session, product: str, state: str | None, limit: int) -> None:
    """List the releases of the hub, the newest first."""
    with session.client() as hub:
        found = list(islice(hub.pages("/releases", product=product, state=state), limit))
    session.console.result(
        found,
        lambda: table(
            ("release", "counter", "state", "signed by", "missing", "fixes", "published"),
            [
                (
                    item["id"],
                    item["release_counter"],
                    item["state"],
                    ", ".join(item.get("signed_by") or ()),
                    ", ".join(item.get("missing") or ()) if item["state"] in {"waiting", "outdated"} else "",
                    ", ".join(item.get("fixes") or ()),
                    str(item.get("published_at") or "")[:16],
                )
                for item in found
            ],
        ),
    )


@release.command()
@click.argument("release", metavar="FILE|PRODUCT@VERSION")
@command()
def show(session: Session, release: str) -> None:
    """Show what a release is, and how far its signatures are."""
    if is_release_id(release):
        with session.client() as hub:
            shown = HubReleases(hub).show(release)
        manifest = manifest_of(shown)
        session.console.result(shown, lambda: f"{manifest_text(manifest)}\n\n{shown_text(shown)}")
        return
    bundle = bundles.read(Path(release))
    note = f"signed for {bundle.signed.role}" if bundle.signed else "not signed yet"
    session.console.result(
        bundle_document(bundle),
        lambda: f"{manifest_text(bundle.manifest)}\n\n{note}; `sdx release verify` checks content and signatures.",
    )


@release.command()
@click.argument("release", metavar="FILE|PRODUCT@VERSION")
@command()
def verify(session: Session, release: str) -> None:
    """Check a release: every payload against its digest, and the signatures from the pinned root.

    A file is checked here; a release of the hub is downloaded, compared and thrown away. Where no hub is known, only
    the content of a file can be checked, and the answer says so.
    """
    if is_release_id(release):
        document, text = _verify_on_hub(session, release)
    else:
        document, text = _verify_file(session, Path(release))
    session.console.result(document, text)


def _verify_file(session: Session, path: Path) -> tuple[dict[str, Any], str]:
    bundle = open_verified(session, path).bundle
    document = bundle_document(bundle) | {"content": "verified", "signatures": None, "state": "unknown"}
    whole = f"{manifest_text(bundle.manifest)}\n\nThe content is what the manifest says."
    if not session.profile.hub:
        session.console.warn("No hub is known (sdx login), so the signatures were not checked.")
        return document, whole
    if bundle.signed is None:
        return document | {"state": "unsigned"}, f"{whole} Nobody has signed it yet."
    with session.client() as hub:
        view = session.image(hub).team(bundle.signed.role)
        if signing.is_published(view, bundle.manifest):
            return document | {"state": "published"}, f"{whole} It is published by {view.role}."
        step = signing.prepare(
            view,
            bundle.manifest,
            carried=bundle.signed.raw,
            waiting=None,
            yanked=HubReleases(hub).yanked(),
            now=session.now(),
        )
    for note in step.notes:
        session.console.say(note)
    state = "outdated" if step.rebased_from is not None else "signed" if step.proposal.complete else "waiting"
    document |= {"state": state, "signatures": proposal_document(step.proposal)}
    return document, f"{step_text(bundle.manifest, step)}\n\nThe content is what the manifest says."


def _verify_on_hub(session: Session, text: str) -> tuple[dict[str, Any], str]:
    with session.client() as hub:
        releases = HubReleases(hub)
        shown = releases.show(text)
        manifest = manifest_of(shown)
        view = session.image(hub).team(str(shown.get("role")))
        signatures = None
        if shown["state"] in {"published", "yanked"}:
            if shown["state"] == "published" and not signing.is_published(view, manifest):
                raise TrustError(
                    f"The hub says that {text} is published, but {view.role} has not signed that. Do not use it; tell "
                    "the hub's operator.",
                    "targets_changed",
                )
        else:
            step = signing.prepare(
                view,
                manifest,
                carried=releases.proposal(text),
                waiting=None,
                yanked=releases.yanked(),
                now=session.now(),
            )
            signatures = proposal_document(step.proposal)
        wanted = {part.sha256: part.length for part in manifest.components}
        wanted |= {document.sha256: document.length for document in manifest.documents}
        with session.console.progress("downloading", sum(wanted.values())) as progress:
            for sha256, length in sorted(wanted.items()):
                releases.check_blob(sha256, length, progress)
    document = {
        "release": text,
        "content": "verified",
        "state": shown["state"],
        "role": view.role,
        "signatures": signatures,
        "manifest": msgspec.to_builtins(manifest),
    }
    said = "signed by its team's threshold" if shown["state"] == "published" else str(shown["state"])
    return document, f"{manifest_text(manifest)}\n\n{text} is {said}; the hub's payloads are what the manifest says."


class _Side(Struct, frozen=True):
    """One side of a comparison."""

    manifest: ReleaseManifest
    bundle: Bundle | None

    def files(self, part: Component) -> Any:
        return files_of(self.bundle, part.sha256, part.length) if self.bundle else None


@release.command()
@click.argument("old", metavar="FILE|PRODUCT@VERSION")
@click.argument("new", metavar="FILE|PRODUCT@VERSION")
@command()
def diff(session: Session, old: str, new: str) -> None:
    """Show what differs between two releases, each a file or one of the hub; for two files, inside folders too."""
    before, after = _side(session, old), _side(session, new)
    inside = before.bundle is not None and after.bundle is not None
    changes = diffs.compare(
        before.manifest, after.manifest, before.files if inside else None, after.files if inside else None
    )
    document = {
        "old": release_id(before.manifest.product, before.manifest.version),
        "new": release_id(after.manifest.product, after.manifest.version),
        "same": encode_manifest(before.manifest) == encode_manifest(after.manifest),
        "changes": [msgspec.to_builtins(change) for change in changes],
    }
    session.console.result(document, lambda: changes_text(changes))


def _side(session: Session, text: str) -> _Side:
    if not is_release_id(text):
        bundle = open_verified(session, Path(text)).bundle
        return _Side(bundle.manifest, bundle)
    with session.client() as hub:
        return _Side(manifest_of(HubReleases(hub).show(text)), None)


@release.command()
@click.argument("release", metavar="PRODUCT@VERSION")
@click.option("--reason", required=True, help="Why, for the audit log and for everybody who asks.")
@command(changes=True)
def yank(session: Session, release: str, reason: str) -> None:
    """Take a release back: no device gets it any more. What a device has installed stays there."""
    parse_release_id(release)
    with session.client() as hub:
        shown = HubReleases(hub).show(release)
        if shown["state"] == "yanked":
            raise ConflictError(f"{release} was yanked already: {shown.get('yank_reason')}", "already_yanked")
        if session.dry_run:
            document = {"release": release, "state": shown["state"], "dry_run": True}
            session.console.result(document, f"Would yank {release}, which is {shown['state']}.")
            return
        session.console.confirm(f"Yank {release}? Devices that were to get it will not.", yes=session.yes)
        answer = hub.send("POST", f"/releases/{segment(release)}/yank", {"reason": reason})
    document = {"release": release, "state": "yanked", "reason": reason} | (answer or {})
    session.console.result(
        document, f"{release} is yanked; its targets leave the team's metadata with the next release."
    )
