"""Resumable uploads: a lost connection costs at most the piece that was on its way."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO

from firmware_schemas.limits import UPLOAD_CHUNK_BYTES
from sdx_hub.domain.errors import ConflictError, TrustError, Unavailable
from sdx_hub.publishing.bundle import Bundle, manifest_digest
from sdx_hub.publishing.hub_client import HubClient

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.5

_Opener = Callable[[], AbstractContextManager[BinaryIO]]


def upload_bytes(bundle: Bundle) -> int:
    """How many bytes `Uploader.send` will report."""
    parts = [*bundle.payloads.values(), *bundle.documents.values()]
    return sum(part.size for part in parts) + len(bundle.manifest_raw)


class Uploader:
    """Brings payloads to the hub.

    Args:
        hub: Where to.
        progress: Told about the bytes that are done, those that the hub had already included.
        pause: Waits so many seconds between attempts.
    """

    def __init__(
        self, hub: HubClient, progress: Callable[[int], None], pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._hub = hub
        self._progress = progress
        self._pause = pause

    def send(self, bundle: Bundle) -> list[str]:
        """Upload every payload and document of a verified release, and its manifest.

        Returns:
            The digests that the hub did not have.

        Raises:
            Unavailable: The hub was away for too long; a later call goes on where this one stopped.
            HubError: The hub refuses something.
        """
        lengths = {component.sha256: component.length for component in bundle.manifest.components}
        parts = [(sha256, part, "zstd", lengths[sha256]) for sha256, part in sorted(bundle.payloads.items())]
        parts += [(sha256, part, "identity", part.size) for sha256, part in sorted(bundle.documents.items())]
        sent = []
        for sha256, part, encoding, decoded_length in parts:
            order = {"sha256": sha256, "length": part.size, "encoding": encoding, "decoded_length": decoded_length}
            if self._send_part(partial(bundle.content, part), part.size, order):
                sent.append(sha256)
        raw = bundle.manifest_raw
        order = {
            "sha256": manifest_digest(bundle),
            "length": len(raw),
            "encoding": "identity",
            "decoded_length": len(raw),
        }
        if self._send_part(lambda: nullcontext(BytesIO(raw)), len(raw), order):
            sent.append(manifest_digest(bundle))
        return sent

    def _send_part(self, opened: _Opener, size: int, order: dict[str, Any]) -> bool:
        reported = 0

        def report(done: int) -> None:
            nonlocal reported
            if done > reported:
                self._progress(done - reported)
                reported = done

        for attempt in range(_ATTEMPTS):
            try:
                begun = self._hub.send("POST", "/uploads", order)
                if not begun.get("exists"):
                    with opened() as content:
                        self._pieces(begun["id"], content, size, int(begun["offset"]), report)
                report(size)
                return not begun.get("exists")
            except Unavailable:
                if attempt == _ATTEMPTS - 1:
                    raise
                self._pause(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pieces(self, upload: str, content: BinaryIO, size: int, offset: int, report: Callable[[int], None]) -> None:
        corrections = 0
        while True:
            if not 0 <= offset <= size:
                raise TrustError(f"The hub asks for byte {offset} of {size}.", "answer_invalid")
            report(offset)
            content.seek(offset)
            piece = content.read(UPLOAD_CHUNK_BYTES)
            headers = {
                "Upload-Offset": str(offset),
                "Content-Type": "application/octet-stream",
                "Content-Length": str(len(piece)),
            }
            try:
                # As an iterator, which is empty once it was sent: httpx keeps a request in a cycle with its answer, and
                # bytes that were handed over whole would pile up until the garbage collector comes by.
                answer = self._hub.send("PATCH", f"/uploads/{upload}", content=iter((piece,)), headers=headers)
            except ConflictError as error:
                # Our last piece arrived although its answer did not: go on from where the hub is.
                corrections += 1
                if error.code != "offset_mismatch" or corrections > _ATTEMPTS:
                    raise
                offset = int(str(error.extra.get("offset", -1)))
                continue
            if answer.get("complete"):
                return
            if int(answer["offset"]) <= offset:
                raise TrustError("The hub does not take the upload any further.", "answer_invalid")
            offset = int(answer["offset"])
