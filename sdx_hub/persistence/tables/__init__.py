"""Every table, so that importing this package fills `SQLModel.metadata`."""

from sdx_hub.persistence.tables import (
    assignments,
    audit,
    devices,
    events,
    filters,
    idempotency,
    people,
    releases,
    rollouts,
    trust,
)

__all__ = [
    "assignments",
    "audit",
    "devices",
    "events",
    "filters",
    "idempotency",
    "people",
    "releases",
    "rollouts",
    "trust",
]
