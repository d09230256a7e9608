"""Releases as the hub's API has them."""

import base64
import hashlib
import json
from typing import Any

from firmware_schemas.errors import SchemaError
from firmware_schemas.release import ReleaseManifest, decode_manifest
from sdx_hub.domain.errors import NotFound, TrustError
from sdx_hub.publishing import payload
from sdx_hub.publishing.hub_client import HubClient, segment

WAITING = frozenset({"waiting", "outdated"})


class HubReleases:
    """The releases of one hub. What comes from here is not verified.

    Args:
        hub: A connection with a person's token.
    """

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    def find(self, release: str) -> dict[str, Any] | None:
        """What the hub shows of a release, or None where it does not know it."""
        try:
            found: dict[str, Any] = self.show(release)
        except NotFound:
            return None
        return found

    def show(self, release: str) -> dict[str, Any]:
        """What the hub shows of a release.

        Raises:
            NotFound: There is no such release.
        """
        shown = self._hub.get(f"/releases/{segment(release)}")
        if not isinstance(shown, dict) or shown.get("id") != release:
            raise TrustError("The hub answers with another release than was asked for.", "answer_invalid")
        return shown

    def proposal(self, release: str) -> bytes | None:
        """The metadata that waits for signatures, or None."""
        try:
            return self._hub.raw(f"/api/v1/releases/{segment(release)}/proposal")
        except NotFound:
            return None

    def yanked(self) -> frozenset[str]:
        return frozenset(str(item["id"]) for item in self._hub.pages("/releases", state="yanked"))

    def put(self, release: str, manifest_raw: bytes, role: str, metadata: bytes) -> dict[str, Any]:
        """Propose a release, or add signatures to it."""
        body = {
            "manifest": base64.b64encode(manifest_raw).decode(),
            "role": role,
            "metadata": base64.b64encode(metadata).decode(),
        }
        answer: dict[str, Any] = self._hub.send("PUT", f"/releases/{segment(release)}", body)
        return answer

    def check_blob(self, sha256: str, length: int, progress: payload.Progress = payload.no_progress) -> None:
        """Download a payload and compare it with its digest; nothing is kept.

        Raises:
            TrustError: It is something else (code `payload_digest_mismatch`).
        """
        digest, total = hashlib.sha256(), 0
        for chunk in self._hub.stream(f"/blobs/{sha256}"):
            total += len(chunk)
            if total > length:
                break
            digest.update(chunk)
            progress(len(chunk))
        if total != length or digest.hexdigest() != sha256:
            raise TrustError(
                f"The hub gives something else for the payload {sha256[:12]}... than was signed. Devices will refuse "
                "it; tell the hub's operator.",
                "payload_digest_mismatch",
            )


def manifest_of(shown: dict[str, Any]) -> ReleaseManifest:
    """The manifest that the hub shows.

    Raises:
        TrustError: It is none, or another release's (code `answer_invalid`).
    """
    raw = json.dumps(shown.get("manifest"), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    try:
        manifest = decode_manifest(raw)
    except SchemaError as error:
        raise TrustError(f"The manifest that the hub shows is refused: {error}", "answer_invalid") from error
    if (manifest.product, manifest.version) != (shown.get("product"), shown.get("version")):
        raise TrustError("The hub shows the manifest of another release.", "answer_invalid")
    return manifest
