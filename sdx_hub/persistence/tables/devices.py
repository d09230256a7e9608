"""Devices, how they enrol, and what they said."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime

_DEVICE_ID_CHARS = 64
_NOT_REVOKED = text("state != 'revoked'")


class EnrolToken(SQLModel, table=True):
    """A single-use secret that accepts a device, bound to a serial where one is given."""

    __tablename__ = "enrol_token"

    id: str = Field(primary_key=True, max_length=16)
    secret_sha256: str = Field(max_length=64, unique=True)
    serial: str | None = Field(default=None, max_length=64)
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    used_by_key: str | None = Field(default=None, max_length=64)
    used_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    created_by: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class PreauthorisedKey(SQLModel, table=True):
    """A device key that is accepted without a token, for instance read out at the factory."""

    __tablename__ = "preauthorised_key"

    device_key: str = Field(primary_key=True, max_length=64)
    serial: str | None = Field(default=None, max_length=64)
    created_by: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Device(SQLModel, table=True):
    """A craft.

    Attributes:
        id: `d-` and the first 20 hexadecimal digits of the SHA-256 of its raw public key.
        number: 1, 2, 3, ...: where it stands in the poll's memory.
        serial: Unique among devices that are not revoked: a repaired craft enrols again with a new key.
        device_key: Its raw Ed25519 public key in hexadecimal.
        token_sha256: SHA-256 of the poll token's text.
        next_token_sha256: The one that the device announced and has not used yet.
        rotated_at: When the present poll token was first used; None for the one that it enrolled with.
        rotation_wanted: The poll asks the device for a new token until that one is used.
        report_counter: The largest counter of a signed report that was accepted.
        desired_version: Counts its desired states; the poll's ETag.
        has_assignment: Something is assigned; then the current action is `ID.DESIRED_VERSION`.
        has_inventory: Its first inventory has come; until then the poll asks for one.
        change_seq: Grows with every change that the poll must know (see `Counter`).
    """

    __tablename__ = "device"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'accepted', 'revoked')", name="state"),
        Index("uq_device_serial", "serial", unique=True, sqlite_where=_NOT_REVOKED, postgresql_where=_NOT_REVOKED),
        # Counts by state and hardware come out of the index alone.
        Index("ix_device_state_hardware", "state", "hardware"),
    )

    id: str = Field(primary_key=True, max_length=_DEVICE_ID_CHARS)
    number: int = Field(sa_column=Column(BigInt, nullable=False, unique=True))
    serial: str = Field(max_length=64, index=True)
    device_key: str = Field(max_length=64, unique=True)
    hardware: str = Field(max_length=64)
    state: str = Field(max_length=16)
    token_sha256: str = Field(max_length=64, unique=True)
    next_token_sha256: str | None = Field(default=None, max_length=64, unique=True)
    rotated_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    rotation_wanted: bool = Field(default=False)
    report_counter: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    desired_version: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    has_assignment: bool = Field(default=False)
    has_inventory: bool = Field(default=False)
    change_seq: int = Field(sa_column=Column(BigInt, nullable=False, index=True))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    accepted_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    agent_version: str = Field(default="", max_length=64)


def _device_key(*, primary_key: bool = False, index: bool = False) -> Column[str]:
    return Column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=primary_key, index=index, nullable=False)


class DeviceTag(SQLModel, table=True):
    """A tag of a device."""

    __tablename__ = "device_tag"

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    tag: str = Field(primary_key=True, max_length=64, index=True)


class DeviceAttribute(SQLModel, table=True):
    """What people say of a device in their own words, for instance its site."""

    __tablename__ = "device_attribute"
    __table_args__ = (Index("ix_device_attribute_name_value", "name", "value"),)

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    name: str = Field(primary_key=True, max_length=64)
    value: str = Field(max_length=512)


class DeviceSeen(SQLModel, table=True):
    """When a device last polled: written once a second in bulk, and the only thing that a crash may lose."""

    __tablename__ = "device_seen"

    number: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    last_seen_s: int = Field(sa_column=Column(BigInt, nullable=False))


class InstalledComponent(SQLModel, table=True):
    """What runs on a device, out of its last signed inventory, for queries."""

    __tablename__ = "installed_component"
    __table_args__ = (Index("ix_installed_component_product_version", "product", "version"),)

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    name: str = Field(primary_key=True, max_length=64)
    type: str = Field(max_length=64)
    product: str = Field(max_length=64)
    version: str = Field(max_length=64)
    release_counter: int = Field(sa_column=Column(BigInt, nullable=False))
    sha256: str = Field(max_length=64)


class DeviceInventory(SQLModel, table=True):
    """A device's last inventory as it signed it: base64 of the exact bytes and of the signature."""

    __tablename__ = "device_inventory"

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    payload: str = Field(sa_column=Column(Text, nullable=False))
    signature: str = Field(max_length=96)
    received_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class DeviceEvent(SQLModel, table=True):
    """One line of a device's timeline; append-only.

    Attributes:
        detail: JSON object.
    """

    __tablename__ = "device_event"

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True, autoincrement=True))
    device_id: str = Field(sa_column=_device_key(index=True))
    time: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    kind: str = Field(max_length=32)
    detail: str = Field(sa_column=Column(Text, nullable=False))


class DeviceReport(SQLModel, table=True):
    """Each signed report that was accepted, so that the same one again is known as a duplicate."""

    __tablename__ = "device_report"

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    counter: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    sha256: str = Field(max_length=64)
    kind: str = Field(max_length=16)
    received_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
