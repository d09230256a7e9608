"""Signed reports that wait for the hub's acknowledgement: one file each, named by the report's counter.

A worker adds, whoever delivers removes. The counter is made durable before it is used, so that no two different reports
ever carry the same one; a power cut in between only leaves a gap.

Some reports are patient: they are sent with the next one that is not, or after the next poll, whose connection is open
anyway. Progress that nobody acts on must not cost a thin link a connection of its own.
"""

import re
from pathlib import Path

import msgspec

from device_agent.core.backoff import is_final
from device_agent.core.errors import TransportError
from device_agent.ports.hub import Link, failure
from device_agent.ports.storage import Storage, lasting_folder, read_optional, replace_file
from firmware_schemas.device_api import ReportAnswer, ReportReceipt
from firmware_schemas.limits import MAX_ENVELOPES_PER_REPORT, MAX_REPORT_BODY_BYTES

REPORTS_PATH = "/device/v1/reports"
_KEPT_STATUS = frozenset({401, 403, 404})
"""Final for the request, but about the device or the way to the hub, not about what the report says: it is kept."""
_NAME = re.compile(r"^(\d{1,16})(\.patient)?\.json$")
_COUNTER = "counter"
_MAX_ANSWER_BYTES = 256 * 1024
_DEADLINE_S = 60.0


class Outbox:
    """STATE/outbox.

    Args:
        folder: Made when first needed.
        storage: Every change goes through it.
    """

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder, self._storage = folder, storage

    def counters(self, *, patient: bool = True) -> list[int]:
        """What waits, in the order of delivery; without `patient`, only what is not to wait for anything else."""
        return [counter for counter, path in self._waiting().items() if patient or path == self._path(counter)]

    def next_counter(self) -> int:
        """A counter that was never used.

        Raises:
            OSError: It could not be made durable.
        """
        lasting_folder(self._storage, self._folder)
        stored = read_optional(self._folder / _COUNTER, 64) or b"0"
        # The files are looked at too: they outlive a lost counter.
        counter = max([int(stored) if stored.isdigit() else 0, *self.counters()]) + 1
        replace_file(self._storage, self._folder / _COUNTER, str(counter).encode())
        return counter

    def add(self, counter: int, envelope: bytes, *, patient: bool = False) -> None:
        """File a signed report, durably; the same one again changes nothing."""
        lasting_folder(self._storage, self._folder)
        replace_file(self._storage, self._path(counter, patient=patient), envelope)

    def deliver(self, hub: Link) -> tuple[ReportReceipt, ...]:
        """Send everything that waits, in counter order, and forget what the hub acknowledged or refused for good.

        Returns:
            The receipts, in order.

        Raises:
            TransportError: The hub did not take them now; they stay.
        """
        receipts: list[ReportReceipt] = []
        together = MAX_ENVELOPES_PER_REPORT
        while waiting := self._waiting():
            batch = self._batch(waiting, together)
            try:
                receipts += self._send(hub, batch)
                # By position: a report that the hub cannot even read has no counter to answer with.
                for counter in batch:
                    self._storage.unlink(waiting[counter])
            except TransportError as error:
                if not is_final(error.status) or error.status in _KEPT_STATUS:
                    raise
                # One of them is unacceptable: find it by sending each alone, and give only that one up.
                together = 1
                if len(batch) == 1:
                    counter = next(iter(batch))
                    self._storage.unlink(waiting[counter])
                    receipts.append(ReportReceipt(counter, "refused", error.code, str(error)))
        return tuple(receipts)

    def _waiting(self) -> dict[int, Path]:
        """Counter to file, in the order of delivery."""
        paths = list(self._folder.iterdir()) if self._folder.is_dir() else []
        found = {int(match[1]): path for path in paths if (match := _NAME.match(path.name))}
        return dict(sorted(found.items()))

    def _batch(self, waiting: dict[int, Path], most: int) -> dict[int, bytes]:
        batch: dict[int, bytes] = {}
        size = 32
        for counter in list(waiting)[:most]:
            envelope = read_optional(waiting[counter])
            size += len(envelope or b"") + 1
            if batch and size > MAX_REPORT_BODY_BYTES:
                break
            batch[counter] = envelope or b"{}"
        return batch

    def _send(self, hub: Link, batch: dict[int, bytes]) -> list[ReportReceipt]:
        body = b'{"envelopes":[' + b",".join(batch.values()) + b"]}"
        answer = hub.exchange("POST", REPORTS_PATH, body=body, longest_bytes=_MAX_ANSWER_BYTES, deadline_s=_DEADLINE_S)
        if answer.status != 200:
            raise failure(answer, "our reports")
        try:
            receipts = msgspec.json.decode(answer.body, type=ReportAnswer).receipts
        except msgspec.DecodeError as error:
            raise TransportError(f"The hub's receipts cannot be read: {error}.", "answer_malformed") from error
        if len(receipts) != len(batch):
            raise TransportError(f"The hub answered {len(receipts)} of {len(batch)} reports.", "answer_malformed")
        return [
            ReportReceipt(counter, receipt.status, receipt.code, receipt.detail)
            for counter, receipt in zip(batch, receipts, strict=True)
        ]

    def _path(self, counter: int, *, patient: bool = False) -> Path:
        return self._folder / f"{counter}{'.patient' if patient else ''}.json"
