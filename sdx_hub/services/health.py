"""Whether the hub can do its work, and what will stop it one day unless somebody signs."""

from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from sqlalchemy import text

from sdx_hub.persistence.database import Database
from sdx_hub.services.repositories.trust_alarms import Expiry

_log = structlog.get_logger(__name__)


class Alarm(Struct, frozen=True):
    """Signed metadata that is past half of its life, or has expired."""

    repository: str
    role: str
    version: int
    expires_at: datetime
    expired: bool


class Ready(Struct, frozen=True):
    """Answer of `/readyz`: the hub serves; what the alarms name wants new signatures soon."""

    status: str
    alarms: list[Alarm]


class HealthService:
    """What `/readyz` and the log say.

    Args:
        database: Must answer.
        expiries: Of every role, as this worker knows them.
    """

    def __init__(self, database: Database, expiries: Callable[[], Sequence[Expiry]]) -> None:
        self._database = database
        self._expiries = expiries
        self._warned: set[tuple[str, str, int, bool]] = set()

    async def ready(self) -> Ready:
        """Answer a question for readiness.

        Raises:
            Unavailable: The database does not answer (code `database_unavailable`).
        """
        async with self._database.reading() as session:
            await session.execute(text("SELECT 1"))
        return Ready("ready", self.alarms())

    def alarms(self) -> list[Alarm]:
        """The roles that want new signatures."""
        return [
            Alarm(each.repository, each.role, each.version, each.expires_at, each.expired)
            for each in self._expiries()
            if each.half_life_passed or each.expired
        ]

    async def warn(self) -> None:
        """Log each alarm once when it comes up, and once more when the metadata has expired."""
        for alarm in self.alarms():
            known = (alarm.repository, alarm.role, alarm.version, alarm.expired)
            if known in self._warned:
                continue
            self._warned.add(known)
            log = _log.error if alarm.expired else _log.warning
            log(
                "metadata_expired" if alarm.expired else "metadata_past_half_life",
                repository=alarm.repository,
                role=alarm.role,
                version=alarm.version,
                expires_at=alarm.expires_at.isoformat(),
            )
