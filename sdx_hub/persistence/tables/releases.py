"""Products, releases, the proposals that still wait for a signature, and uploads that are under way."""

from datetime import datetime

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime

_EVER_PUBLISHED = text("state IN ('published', 'yanked')")
_OPEN = text("state = 'open'")


class Product(SQLModel, table=True):
    """A product belongs to one team for good: the team's name is part of every target path of it."""

    __tablename__ = "product"
    __table_args__ = (UniqueConstraint("name", "team_role", name="uq_product_name_team_role"),)

    name: str = Field(primary_key=True, max_length=64)
    team_role: str = Field(max_length=80)


class Release(SQLModel, table=True):
    """A release, from its first signature on.

    Attributes:
        state: `waiting` (signatures are missing), `outdated` (another release of the team came first: rebase it),
            `published`, `yanked`.
        revert_counter: The smallest release counter that a device may go back to after this release; the release's own
            where the manifest says nothing.
        must_pass: A device that runs an older release installs this one before any newer one.
        manifest: Canonical JSON; it never changes.
        threshold, signed_by: Of the signatures that published it (`signed_by`: JSON list of owners); while it waits,
            its proposal says who has signed.
    """

    __tablename__ = "release"
    __table_args__ = (
        UniqueConstraint("product", "version", name="uq_release_product_version"),
        ForeignKeyConstraint(["product", "team_role"], ["product.name", "product.team_role"]),
        CheckConstraint("state IN ('waiting', 'outdated', 'published', 'yanked')", name="state"),
        # Two proposals may wait with the same counter; only one of them can ever be published.
        Index(
            "uq_release_counter_published",
            "product",
            "release_counter",
            unique=True,
            sqlite_where=_EVER_PUBLISHED,
            postgresql_where=_EVER_PUBLISHED,
        ),
        Index("ix_release_team_role_state", "team_role", "state"),
    )

    id: str = Field(primary_key=True, max_length=129)
    product: str = Field(max_length=64)
    version: str = Field(max_length=64)
    team_role: str = Field(max_length=80)
    release_counter: int = Field(sa_column=Column(BigInt, nullable=False))
    revert_counter: int = Field(sa_column=Column(BigInt, nullable=False))
    must_pass: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    manifest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    state: str = Field(max_length=16)
    created_by: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    published_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    yanked_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    yank_reason: str = Field(default="", max_length=8192)
    threshold: int = 0
    signed_by: str = Field(default="[]", sa_column=Column(Text, nullable=False))


class Proposal(SQLModel, table=True):
    """The team's metadata that would publish a release, with the signatures that it has so far.

    Attributes:
        base_version: The version of the team's metadata that it follows.
        raw: Metadata with valid signatures only.
    """

    __tablename__ = "proposal"
    __table_args__ = (ForeignKeyConstraint(["release_id"], ["release.id"], ondelete="CASCADE"),)

    release_id: str = Field(primary_key=True, max_length=129)
    role: str = Field(max_length=80)
    base_version: int = Field(sa_column=Column(BigInt, nullable=False))
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Upload(SQLModel, table=True):
    """A payload on its way in.

    Attributes:
        sha256: Of the decoded, canonical payload.
        length: Encoded bytes to come.
        decoded_length: Bytes of the payload: the cap while decompressing.
        offset: Bytes that are stored for sure: the end of its last piece.
        state: `open`, `complete`, or `failed` (the content was refused).
    """

    __tablename__ = "upload"
    __table_args__ = (
        CheckConstraint('"offset" >= 0 AND "offset" <= length', name="offset"),
        CheckConstraint("state IN ('open', 'complete', 'failed')", name="state"),
        # The same person asking again continues the same upload.
        Index("uq_upload_open", "created_by", "sha256", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: str = Field(primary_key=True, max_length=64)
    sha256: str = Field(max_length=64)
    length: int = Field(sa_column=Column(BigInt, nullable=False))
    decoded_length: int = Field(sa_column=Column(BigInt, nullable=False))
    encoding: str = Field(max_length=16)
    offset: int = Field(sa_column=Column(BigInt, nullable=False))
    state: str = Field(max_length=16)
    created_by: str = Field(max_length=64)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class UploadPiece(SQLModel, table=True):
    """A part of an open upload that is stored for good.

    Attributes:
        offset: Byte of the upload that it begins at; it ends where the next one begins.
        name: In the store of pieces.
    """

    __tablename__ = "upload_piece"
    __table_args__ = (ForeignKeyConstraint(["upload_id"], ["upload.id"], ondelete="CASCADE"),)

    upload_id: str = Field(primary_key=True, max_length=64)
    offset: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False, nullable=False))
    name: str = Field(max_length=128)
