"""From the journal to signed reports in the outbox."""

import hashlib
import secrets

import msgspec

from device_agent import AGENT_VERSION
from device_agent.core.journal import Journal, LastResult
from device_agent.core.states import Signed
from device_agent.ports.clock import Clock
from device_agent.ports.home import Home
from device_agent.ports.outbox import Outbox
from device_agent.ports.signing import Signer
from device_agent.ports.storage import Storage, replace_file
from device_agent.ports.token import AnnouncedToken
from device_agent.ports.usage import Usage
from firmware_schemas.device_api import (
    DEVICE_TOKEN_PREFIX,
    InventoryReport,
    ProgressReport,
    ReportBody,
    ResultReport,
    TokenReport,
    UsageReport,
)

MAX_DETAIL_CHARS = 1_000
_MOST_WAITING = 256
"""Progress is dropped while so many reports wait: a craft without a link must not fill its medium with news."""


class Reporter:
    """Signs and files.

    Args:
        home: For the outbox and the token.
        storage: Every change goes through it.
        signer: The device's.
        clock: For the identity of the boot.
    """

    def __init__(self, home: Home, storage: Storage, signer: Signer, clock: Clock) -> None:
        self._home, self._storage, self._signer, self._clock = home, storage, signer, clock
        self._outbox = Outbox(home.outbox, storage)

    def sign_result(self, journal: Journal, result: LastResult) -> Signed:
        """Sign the final result; it is filed once the journal holds it."""
        body = ResultReport(
            action=result.action,
            result=result.result,
            releases={record.product: record.version for record in journal.releases},
            code=result.code[:64],
            detail=result.detail[:MAX_DETAIL_CHARS],
        )
        counter = self._outbox.next_counter()
        return Signed(counter, self._signer.report(counter, body).decode())

    def file_result(self, counter: int, envelope: str) -> None:
        self._outbox.add(counter, envelope.encode())

    def inventory(self, journal: Journal) -> None:
        """What runs now."""
        components = tuple(entry.component for entry in journal.installed)
        self._file(InventoryReport(components, dict(journal.floors), AGENT_VERSION, self._clock.boot_id()))

    def progress(self, action: str, state: str, code: str = "", detail: str = "", *, patient: bool = False) -> None:
        """A milestone, for the timeline; dropped where too much waits already. See `Outbox` for `patient`."""
        if len(self._outbox.counters()) < _MOST_WAITING:
            self._file(ProgressReport(action, state, code[:64], detail[:MAX_DETAIL_CHARS]), patient=patient)

    def usage(self, usage: Usage, *, at_once: bool = False) -> None:
        """How much the craft was used, where the hub should hear of it; see `Usage.news`."""
        totals = usage.news(at_once=at_once)
        if totals is not None:
            usage.remember(totals, self._file(UsageReport(totals.flights, totals.running_s), patient=True))

    def rotate_token(self) -> None:
        """Make a new poll token and announce its hash; the old one is used until the hub has acknowledged it."""
        if self._home.next_token.exists():
            return
        token = DEVICE_TOKEN_PREFIX + secrets.token_urlsafe(32)
        counter = self._outbox.next_counter()
        digest = hashlib.sha256(token.encode()).hexdigest()
        # In this order: a token must never be announced on the disk alone, or it would count as acknowledged.
        self._outbox.add(counter, self._signer.report(counter, TokenReport(digest)))
        replace_file(self._storage, self._home.next_token, msgspec.json.encode(AnnouncedToken(counter, token)))

    def _file(self, body: ReportBody, *, patient: bool = False) -> int:
        counter = self._outbox.next_counter()
        self._outbox.add(counter, self._signer.report(counter, body), patient=patient)
        return counter
