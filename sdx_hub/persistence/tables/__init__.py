"""Every table, so that importing this package fills `SQLModel.metadata`."""

from sdx_hub.persistence.tables import assignments, audit, devices, people, releases, trust

__all__ = ["assignments", "audit", "devices", "people", "releases", "trust"]
