"""A release by what a person types: a .sdx file, the id of one that a hub has, or the version to go back to."""

import re
from collections.abc import Mapping
from pathlib import Path

from firmware_schemas.ids import parse_release_id, release_id
from sdx_hub.cli.failures import UsageFault
from sdx_hub.cli.session import Session
from sdx_hub.domain.errors import NotFound
from sdx_hub.publishing import bundle as bundles
from sdx_hub.publishing import listing, payload, verifying
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.hub_releases import HubReleases
from sdx_hub.publishing.listing import Listed
from sdx_hub.publishing.team_metadata import counter_of
from sdx_hub.publishing.verifying import VerifiedBundle

_ID = re.compile(r"^[^/@\s]+@[^/@\s]+$")


def is_release_id(text: str) -> bool:
    """Whether `text` is PRODUCT@VERSION; an existing file of that name is a file.

    Raises:
        InvalidName: It looks like one, and cannot be.
        UsageFault: It is neither an id nor an existing file (code `release_unknown`).
    """
    if Path(text).exists():
        return False
    if not _ID.match(text) or text.endswith(".sdx"):
        raise UsageFault(
            f"{text!r} is neither a file here nor PRODUCT@VERSION. See: sdx release list.", "release_unknown"
        )
    parse_release_id(text)
    return True


def counter_of_published(session: Session, product: str, text: str) -> int:
    """The release counter of a release of `product` that its team has published, from the verified image repository.

    Args:
        session: With a hub and a pinned root.
        product: The product that is being built.
        text: PRODUCT@VERSION, or just VERSION.

    Raises:
        UsageFault: It names another product (code `revert_form`).
        NotFound: It is not published (code `release_not_published`).
        InvalidName: It cannot be a release.
    """
    named, version = parse_release_id(text if "@" in text else f"{product}@{text}")
    if named != product:
        raise UsageFault(f"--revert-to {text!r}: a device goes back to a release of {product} itself.", "revert_form")
    identity = release_id(product, version)
    with session.client() as hub:
        shown = HubReleases(hub).show(identity)
        # The hub says where to look; what is found there, the team has signed.
        view = session.image(hub).team(str(shown.get("role")))
    counter = counter_of(view, product, version) if shown.get("state") == "published" else None
    if counter is None:
        raise NotFound(
            f"{identity} is not published, so no device can go back to it. See: sdx release list --product {product}.",
            "release_not_published",
        )
    return counter


def open_verified(session: Session, path: Path) -> VerifiedBundle:
    """Open a .sdx file and check its whole content, with a progress bar.

    Raises:
        BundleRefused: It is not what it claims to be.
    """
    bundle = bundles.read(path)
    with session.console.progress("verifying", verifying.unpacked_bytes(bundle)) as progress:
        return verifying.verify(bundle, progress)


def files_of(bundle: Bundle, sha256: str, length: int) -> Mapping[str, Listed]:
    """The files of a `directory` component, by path."""
    with bundle.content(bundle.payloads[sha256]) as compressed:
        chunks = payload.unpack(compressed, sha256, length)
        return {listed.entry.path: listed for listed in listing.read(chunks)}
