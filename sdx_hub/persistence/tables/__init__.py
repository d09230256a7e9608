"""Every table, so that importing this package fills `SQLModel.metadata`."""

from sdx_hub.persistence.tables import assignments, audit, devices, filters, idempotency, people, releases, trust

__all__ = ["assignments", "audit", "devices", "filters", "idempotency", "people", "releases", "trust"]
