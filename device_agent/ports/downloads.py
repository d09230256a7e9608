"""Payloads: fetched in pieces that survive a power cut, believed only after they were hashed whole (step 6).

    downloads/SHA256.identity.part, SHA256.zstd.part    bytes as they came, in the encoding that the hub chose
    downloads/SHA256.identity, SHA256.zstd              the same, complete

A download is resumed with Range and If-Range; all bytes, the resumed ones too, are hashed again when they are read. The
compressed form is never written out: reading decompresses, with a bound on bytes and on the window.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from device_agent.core.backoff import delay_s, is_final
from device_agent.core.errors import InstallError, TransportError, TrustError
from device_agent.ports.clock import Clock
from device_agent.ports.hub import READ_BYTES, Link, Stream, TooSlow, failure
from device_agent.ports.storage import Storage, lasting_folder
from device_agent.settings import Limits

ENCODINGS = ("zstd", "identity")
MAX_WINDOW_BYTES = 8 * 1024**2
"""Memory that a zstd frame may ask for; the publisher's tools use 4 MiB."""
_WRITE_BYTES = 1 << 20
_ACCEPT_ANY = "zstd, identity;q=0.5"


class Wire(NamedTuple):
    """The bytes of a payload in one encoding."""

    sha256: str
    length: int
    encoding: str

    @property
    def etag(self) -> str:
        return f'"{self.sha256}+zstd"' if self.encoding == "zstd" else f'"{self.sha256}"'

    @property
    def most_bytes(self) -> int:
        """What the encoding can need at the most (zstd: ZSTD_COMPRESSBOUND, generously)."""
        return self.length if self.encoding == "identity" else self.length + self.length // 128 + 128 * 1024


class Downloads:
    """The download folder.

    Args:
        folder: STATE/downloads.
        storage: Every change goes through it.
        hub: Where blobs come from.
        clock: For rates, and to wait between tries.
        limits: Rates, deadlines and tries.
        uniform: For jitter.
        heed: Called now and then while bytes arrive; it raises when the download is no longer wanted.
    """

    def __init__(
        self,
        folder: Path,
        storage: Storage,
        hub: Link,
        *,
        clock: Clock,
        limits: Limits,
        uniform: Callable[[float, float], float],
        heed: Callable[[], None],
    ) -> None:
        self._folder, self._storage, self._hub, self._clock = folder, storage, hub, clock
        self._limits, self._uniform, self._heed = limits, uniform, heed

    def fetch(self, sha256: str, length: int) -> None:
        """Have a payload completely, and verified by its digest.

        Raises:
            TrustError: payload_digest_mismatch, payload_too_large, decompression_bomb, payload_too_slow.
            InstallError: The hub says for good that it does not have it (code `payload_missing`).
            TransportError: The link failed; what has come is kept and resumed.
        """
        if self._complete(sha256) is None or not self._is_genuine(sha256, length):
            resumed = self._transfer_patiently(sha256, length)
            if not self._is_genuine(sha256, length):
                if not resumed:
                    raise _mismatch(sha256)
                # The older part may be what is wrong: a torn write, or somebody else's bytes. Once more, from zero.
                self._transfer_patiently(sha256, length)
                if not self._is_genuine(sha256, length):
                    raise _mismatch(sha256)

    def chunks(self, sha256: str, length: int) -> Iterator[bytes]:
        """Read a complete payload, uncompressed, in chunks of at most 1 MiB.

        Raises:
            TrustError: payload_digest_mismatch or decompression_bomb, at the latest after the last chunk.
        """
        found = self._complete(sha256)
        if found is None:
            raise TrustError("A payload is not in the download folder any more.", "payload_digest_mismatch")
        path, encoding = found
        digest = hashlib.sha256()
        size = 0
        for chunk in _decoded(path, encoding):
            size += len(chunk)
            if size > length:
                code = "decompression_bomb" if encoding == "zstd" else "payload_too_large"
                raise TrustError(f"Payload {sha256[:12]}... has more than the signed {length} bytes.", code)
            digest.update(chunk)
            yield chunk
        if size != length or digest.hexdigest() != sha256:
            raise _mismatch(sha256)

    def read(self, sha256: str, length: int) -> bytes:
        """Fetch a small payload and return it.

        Raises:
            TrustError, TransportError: See `fetch`.
        """
        self.fetch(sha256, length)
        return b"".join(self.chunks(sha256, length))

    def keep_only(self, digests: frozenset[str]) -> None:
        """Remove everything else."""
        for entry in sorted(self._folder.iterdir()) if self._folder.is_dir() else []:
            if entry.name.partition(".")[0] not in digests:
                self._storage.unlink(entry)

    # -- one transfer ------------------------------------------------------------------------------------------------

    def _transfer_patiently(self, sha256: str, length: int) -> bool:
        """Transfer, trying again when it is too slow; return whether older bytes were made use of."""
        resumed = False
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return self._transfer(sha256, length) or resumed
            except TooSlow as error:
                if attempt == self._limits.attempts:
                    raise TrustError(f"{error} That was the last of {attempt} tries.", "payload_too_slow") from error
                resumed = True
                self._heed()
                self._clock.sleep(delay_s(attempt, self._uniform, base_s=1.0))
        raise RuntimeError("There is at least one attempt.")

    def _transfer(self, sha256: str, length: int) -> bool:
        lasting_folder(self._storage, self._folder)
        part = self._part(sha256, length)
        offset = self._path(part, ".part").stat().st_size if part else 0
        headers = {"accept-encoding": _ACCEPT_ANY}
        if part is not None:
            headers = {"accept-encoding": part.encoding, "range": f"bytes={offset}-", "if-range": part.etag}
        with self._hub.stream(
            "GET", f"/blobs/{sha256}", headers=headers, deadline_s=self._limits.payload_deadline_s
        ) as stream:
            if stream.status == 416 and part is not None:
                # A power cut between the last byte and the new name: nothing is missing. The digest will tell.
                if stream.headers.get("content-range") != f"bytes */{offset}":
                    self._discard(sha256)
                    raise TransportError(
                        "The hub has fewer bytes than were resumed from: starting over.", "resume_failed"
                    )
                wire = part
            else:
                wire, offset = self._agreed(stream, part, sha256, length, offset)
                self._receive(stream, wire, offset)
        path = self._path(wire, ".part")
        if not path.exists():
            self._storage.write_file(path, b"")
        self._storage.sync_file(path)
        self._storage.rename(path, self._path(wire))
        self._storage.sync_folder(self._folder)
        return offset > 0

    def _agreed(self, stream: Stream, part: Wire | None, sha256: str, length: int, offset: int) -> tuple[Wire, int]:
        """What comes, and from where; anything but what was asked for, or the whole, is refused."""
        if stream.status not in {200, 206}:
            raise _refusal(stream, sha256)
        encoding = stream.headers.get("content-encoding", "identity").lower()
        if encoding not in ENCODINGS:
            raise TransportError(f"The hub sent the encoding {encoding[:40]!r}.", "answer_malformed")
        wire = Wire(sha256, length, encoding)
        if stream.status == 206:
            if part != wire or not stream.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                self._discard(sha256)
                raise TransportError("The hub resumed something else: starting over.", "resume_failed")
        else:
            self._discard(sha256)
            offset = 0
        if offset + (stream.length or 0) > wire.most_bytes:
            raise _too_large(wire)
        return wire, offset

    def _receive(self, stream: Stream, wire: Wire, offset: int) -> None:
        """Append what arrives to the part, whatever ends it; bounded in bytes, and not slower than the least rate."""
        held = bytearray()
        # A part is only worth keeping if a later request can name the representation that it belongs to.
        resumable = stream.headers.get("etag") == wire.etag
        try:
            self._pour(stream, wire, held, offset)
        except Exception as error:
            if resumable and not isinstance(error, TrustError):
                self._append(wire, held)
            else:
                self._discard(wire.sha256)
            raise
        self._append(wire, held)

    def _pour(self, stream: Stream, wire: Wire, held: bytearray, total: int) -> None:
        limits, clock = self._limits, self._clock
        start_s, count = clock.monotonic_s(), 0
        for piece in stream.pieces:
            total += len(piece)
            count += len(piece)
            if total > wire.most_bytes:
                raise _too_large(wire)
            held += piece
            if len(held) >= _WRITE_BYTES:
                self._append(wire, held)
                self._heed()
            window_s = clock.monotonic_s() - start_s
            if window_s >= limits.rate_window_s:
                self._heed()
                if count < limits.min_rate_bytes_s * window_s:
                    raise TooSlow(
                        f"Payload {wire.sha256[:12]}... came at {count / window_s:.0f} bytes/s, "
                        f"{limits.min_rate_bytes_s} are the least."
                    )
                start_s, count = clock.monotonic_s(), 0

    def _append(self, wire: Wire, held: bytearray) -> None:
        if held:
            self._storage.append(self._path(wire, ".part"), bytes(held))
            held.clear()

    # -- the folder --------------------------------------------------------------------------------------------------

    def _path(self, wire: Wire, ending: str = "") -> Path:
        return self._folder / f"{wire.sha256}.{wire.encoding}{ending}"

    def _part(self, sha256: str, length: int) -> Wire | None:
        for encoding in ENCODINGS:
            wire = Wire(sha256, length, encoding)
            path = self._path(wire, ".part")
            if path.is_file() and 0 < path.stat().st_size <= wire.most_bytes:
                return wire
        return None

    def _complete(self, sha256: str) -> tuple[Path, str] | None:
        for encoding in ENCODINGS:
            path = self._path(Wire(sha256, 0, encoding))
            if path.is_file():
                return path, encoding
        return None

    def _is_genuine(self, sha256: str, length: int) -> bool:
        """Whether the complete file has the signed digest; if not, it is removed.

        Raises:
            TrustError: It unpacks to more than what was signed.
        """
        try:
            for _chunk in self.chunks(sha256, length):
                pass
        except TrustError as error:
            self._discard(sha256)
            if error.code != "payload_digest_mismatch":
                raise
            return False
        return True

    def _discard(self, sha256: str) -> None:
        for encoding in ENCODINGS:
            self._storage.unlink(self._path(Wire(sha256, 0, encoding)))
            self._storage.unlink(self._path(Wire(sha256, 0, encoding), ".part"))


def _decoded(path: Path, encoding: str) -> Iterator[bytes]:
    with path.open("rb") as file:
        if encoding == "identity":
            while chunk := file.read(_WRITE_BYTES):
                yield chunk
            return
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        # stream_reader, because its output is bounded by what is asked for; a decompressobj returns all of a bomb.
        reader = decompressor.stream_reader(file, read_size=READ_BYTES, read_across_frames=False, closefd=False)
        try:
            while chunk := reader.read(_WRITE_BYTES):
                yield chunk
        except zstandard.ZstdError as error:
            raise TrustError(f"The payload cannot be decompressed: {error}.", "payload_digest_mismatch") from error


def _refusal(stream: Stream, sha256: str) -> Exception:
    error = failure(stream, f"a request for payload {sha256[:12]}...")
    if is_final(error.status) and error.status not in {401, 403}:
        return InstallError(f"{error} Asking again cannot help.", "payload_missing")
    return error


def _mismatch(sha256: str) -> TrustError:
    return TrustError(
        f"The bytes that came for payload {sha256[:12]}... are not what was signed.", "payload_digest_mismatch"
    )


def _too_large(wire: Wire) -> TrustError:
    return TrustError(
        f"Payload {wire.sha256[:12]}... comes with more than the {wire.length} bytes that were signed.",
        "payload_too_large",
    )
