"""Whether the content of a .sdx file is what its manifest says: every byte is read once, nothing is written.

`bundle.read` has checked the structure. What is checked here, in this order:

1. Each payload is one zstd frame that unpacks to the length and digest of the manifest, never to more.
2. The payload of a `directory` component is an archive in canonical form: what a device would accept.
3. Each document has the length and digest of the manifest.
"""

import hashlib

from msgspec import Struct

from firmware_schemas.release import Component
from sdx_hub.publishing import listing, payload
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.errors import BundleRefused


class VerifiedBundle(Struct, frozen=True):
    """A .sdx file whose whole content was checked. Only `verify` makes one."""

    bundle: Bundle


def verify(bundle: Bundle, progress: payload.Progress = payload.no_progress) -> VerifiedBundle:
    """Check every payload and document of an opened file.

    Args:
        bundle: From `bundle.read`.
        progress: Told about the unpacked bytes that were checked.

    Raises:
        BundleRefused: `payload_digest_mismatch`, `decompression_bomb`, `bundle_invalid`, `archive_not_canonical`, or
            a code of the archive's rules.
    """
    parts: dict[tuple[str, bool], Component] = {}
    for component in bundle.manifest.components:
        parts.setdefault((component.sha256, component.type == "directory"), component)
    for (sha256, is_archive), component in sorted(parts.items()):
        with bundle.content(bundle.payloads[sha256]) as compressed:
            chunks = payload.unpack(compressed, sha256, component.length, progress)
            try:
                for _ in listing.read(chunks) if is_archive else chunks:
                    pass
            except BundleRefused:
                # Tampered bytes are no archive either; that they are not the signed ones is what a person must hear.
                for _ in chunks:
                    pass
                raise
    for document in bundle.manifest.documents:
        digest = hashlib.sha256()
        with bundle.content(bundle.documents[document.sha256]) as file:
            while chunk := file.read(payload.CHUNK_BYTES):
                digest.update(chunk)
        if bundle.documents[document.sha256].size != document.length or digest.hexdigest() != document.sha256:
            raise BundleRefused(
                f"The document {document.name} is not what the manifest names. Do not publish this file; build or "
                "fetch it again.",
                "payload_digest_mismatch",
            )
    return VerifiedBundle(bundle)


def unpacked_bytes(bundle: Bundle) -> int:
    """How many bytes `verify` will report."""
    parts = {(part.sha256, part.type == "directory"): part.length for part in bundle.manifest.components}
    return sum(parts.values())
