"""Signed metadata of both repositories, the hub's online keys, and what the director has signed for each device."""

from datetime import datetime

from sqlalchemy import Column, ForeignKeyConstraint, Index, LargeBinary, Text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime


class MetadataFile(SQLModel, table=True):
    """One version of one role of a repository, exactly as it is served.

    The primary key is what makes signing safe with several workers: a version is made once, and whoever comes second
    reads the winner's.

    Attributes:
        repository: `image` or `director`.
        raw: The bytes whose digests other metadata and other people's records name: never re-encoded.
    """

    __tablename__ = "metadata_file"

    repository: str = Field(primary_key=True, max_length=16)
    role: str = Field(primary_key=True, max_length=80)
    version: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class OnlineKey(SQLModel, table=True):
    """A key that the hub signs with by itself; its private part is in a file or a hardware module, never in here.

    Attributes:
        uri: Signer URI; a file's path is relative to the folder of online keys.
        key: The public key as JSON, as TUF metadata holds it.
    """

    __tablename__ = "online_key"

    repository: str = Field(primary_key=True, max_length=16)
    role: str = Field(primary_key=True, max_length=80)
    keyid: str = Field(primary_key=True, max_length=64)
    uri: str = Field(max_length=1024)
    key: str = Field(sa_column=Column(Text, nullable=False))


class DirectorDocument(SQLModel, table=True):
    """What the director signed for one device: one number for its targets, its snapshot and its timestamp.

    Attributes:
        desired_version: The device's desired state that the targets say.
        signed_by: The key ids that signed, so that a replaced online key makes the document stale.
    """

    __tablename__ = "director_document"
    __table_args__ = (
        ForeignKeyConstraint(["device_id"], ["device.id"], ondelete="CASCADE"),
        Index("ix_director_document_signed_at", "signed_at"),
    )

    device_id: str = Field(primary_key=True, max_length=64)
    version: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    desired_version: int = Field(sa_column=Column(BigInt, nullable=False))
    targets: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    snapshot: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    timestamp: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    signed_by: str = Field(max_length=256)
    signed_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
