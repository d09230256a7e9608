"""Figures of webhooks, for `/metrics`."""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import case, func, select
from sqlmodel import col

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.events import DUE_ROWS, Webhook, WebhookDelivery


class WebhookFigures(Struct, frozen=True):
    """Counts.

    Attributes:
        webhooks: By state: `enabled`, `failing`, `disabled`.
        due: Deliveries that are on their way.
        failed: Deliveries that were given up, within the last seven days.
        late_s: How long the one that is due longest could have been attempted, in seconds.
    """

    webhooks: dict[str, int]
    due: int
    failed: int
    late_s: float


async def webhook_figures(database: Database, now: datetime) -> WebhookFigures:
    """Count."""
    state = case(
        (col(Webhook.disabled_at).is_not(None), "disabled"),
        (col(Webhook.failing_since).is_not(None), "failing"),
        else_="enabled",
    )
    async with database.reading() as session:
        found = {name: int(count) for name, count in await session.execute(select(state, func.count()).group_by(state))}
        due, first = (
            await session.execute(select(func.count(), func.min(col(WebhookDelivery.next_at))).where(DUE_ROWS))
        ).one()
        failed = await session.scalar(
            select(func.count()).select_from(WebhookDelivery).where(col(WebhookDelivery.state) == "failed")
        )
    late_s = max(0.0, (now - first).total_seconds()) if first else 0.0
    states = dict.fromkeys(("enabled", "failing", "disabled"), 0)
    return WebhookFigures(states | found, int(due), int(failed or 0), late_s)
