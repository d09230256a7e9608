"""Every table, and the triggers that keep the audit log and the timelines append-only.

A trigger does not stop somebody who owns the database; for them there is the chain of hashes. It stops mistakes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
OPEN = sa.text("state = 'open'")
NOT_REVOKED = sa.text("state != 'revoked'")
EVER_PUBLISHED = sa.text("state IN ('published', 'yanked')")
TABLES = (
    "audit_entry",
    "counter",
    "device",
    "device_seen",
    "enrol_token",
    "idempotent_request",
    "metadata_file",
    "online_key",
    "person_token",
    "preauthorised_key",
    "product",
    "saved_filter",
    "upload",
    "action",
    "device_attribute",
    "device_event",
    "device_inventory",
    "device_report",
    "device_tag",
    "director_document",
    "installed_component",
    "release",
    "upload_piece",
    "assignment",
    "proposal",
)
APPEND_ONLY = ("audit_entry", "device_event")


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("seq", BIG, autoincrement=False, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_entry")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_entry_hash")),
    )
    op.create_index("ix_audit_entry_subject", "audit_entry", ["subject"])

    op.create_table(
        "counter",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
    )
    op.create_table(
        "device",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("device_key", sa.String(64), nullable=False),
        sa.Column("hardware", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("next_token_sha256", sa.String(64), nullable=True),
        sa.Column("rotated_at", TIME, nullable=True),
        sa.Column("rotation_wanted", sa.Boolean(), nullable=False),
        sa.Column("report_counter", BIG, nullable=False),
        sa.Column("desired_version", BIG, nullable=False),
        sa.Column("has_assignment", sa.Boolean(), nullable=False),
        sa.Column("has_inventory", sa.Boolean(), nullable=False),
        sa.Column("change_seq", BIG, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("accepted_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("agent_version", sa.String(64), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'accepted', 'revoked')", name=op.f("ck_device_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
        sa.UniqueConstraint("device_key", name=op.f("uq_device_device_key")),
        sa.UniqueConstraint("next_token_sha256", name=op.f("uq_device_next_token_sha256")),
        sa.UniqueConstraint("number", name=op.f("uq_device_number")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_device_token_sha256")),
    )
    op.create_index("ix_device_change_seq", "device", ["change_seq"])
    op.create_index("ix_device_serial", "device", ["serial"])
    op.create_index("ix_device_state_hardware", "device", ["state", "hardware"])
    op.create_index(
        "uq_device_serial", "device", ["serial"], unique=True, sqlite_where=NOT_REVOKED, postgresql_where=NOT_REVOKED
    )

    op.create_table(
        "device_seen",
        sa.Column("number", BIG, autoincrement=False, nullable=False),
        sa.Column("last_seen_s", BIG, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_device_seen")),
    )
    op.create_table(
        "enrol_token",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("serial", sa.String(64), nullable=True),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_by_key", sa.String(64), nullable=True),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrol_token")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_enrol_token_secret_sha256")),
    )
    op.create_table(
        "idempotent_request",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotent_request")),
    )
    op.create_index("ix_idempotent_request_created_at", "idempotent_request", ["created_at"])

    op.create_table(
        "metadata_file",
        sa.Column("repository", sa.String(16), nullable=False),
        sa.Column("role", sa.String(80), nullable=False),
        sa.Column("version", BIG, autoincrement=False, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("repository", "role", "version", name=op.f("pk_metadata_file")),
    )
    op.create_table(
        "online_key",
        sa.Column("repository", sa.String(16), nullable=False),
        sa.Column("role", sa.String(80), nullable=False),
        sa.Column("keyid", sa.String(64), nullable=False),
        sa.Column("uri", sa.String(1024), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "role", "keyid", name=op.f("pk_online_key")),
    )
    op.create_table(
        "person_token",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'publisher', 'approver', 'admin')", name=op.f("ck_person_token_role")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_person_token_token_sha256")),
    )
    op.create_index("ix_person_token_name", "person_token", ["name"])

    op.create_table(
        "preauthorised_key",
        sa.Column("device_key", sa.String(64), nullable=False),
        sa.Column("serial", sa.String(64), nullable=True),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_key", name=op.f("pk_preauthorised_key")),
    )
    op.create_table(
        "product",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("team_role", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_product")),
        sa.UniqueConstraint("name", "team_role", name="uq_product_name_team_role"),
    )
    op.create_table(
        "saved_filter",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("saved_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_saved_filter")),
    )
    op.create_table(
        "upload",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("length", BIG, nullable=False),
        sa.Column("decoded_length", BIG, nullable=False),
        sa.Column("encoding", sa.String(16), nullable=False),
        sa.Column("offset", BIG, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.CheckConstraint("state IN ('open', 'complete', 'failed')", name=op.f("ck_upload_state")),
        sa.CheckConstraint('"offset" >= 0 AND "offset" <= length', name=op.f("ck_upload_offset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload")),
    )
    op.create_index(
        "uq_upload_open", "upload", ["created_by", "sha256"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN
    )

    op.create_table(
        "action",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("desired_version", BIG, nullable=False),
        sa.Column("releases", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'success', 'failed', 'rolled_back', 'refused', 'cancelled', 'superseded')",
            name=op.f("ck_action_state"),
        ),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_action_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_action")),
    )
    op.create_index("ix_action_device_id_desired_version", "action", ["device_id", "desired_version"])
    op.create_index("uq_action_open", "action", ["device_id"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN)

    op.create_table(
        "device_attribute",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_device_attribute_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "name", name=op.f("pk_device_attribute")),
    )
    op.create_index("ix_device_attribute_name_value", "device_attribute", ["name", "value"])

    op.create_table(
        "device_event",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_device_event_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_event")),
    )
    op.create_index("ix_device_event_device_id", "device_event", ["device_id"])

    op.create_table(
        "device_inventory",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("signature", sa.String(96), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_device_inventory_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_inventory")),
    )
    op.create_table(
        "device_report",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("counter", BIG, autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_device_report_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "counter", name=op.f("pk_device_report")),
    )
    op.create_table(
        "device_tag",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("tag", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_device_tag_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "tag", name=op.f("pk_device_tag")),
    )
    op.create_index("ix_device_tag_tag", "device_tag", ["tag"])

    op.create_table(
        "director_document",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("version", BIG, autoincrement=False, nullable=False),
        sa.Column("desired_version", BIG, nullable=False),
        sa.Column("targets", sa.LargeBinary(), nullable=False),
        sa.Column("snapshot", sa.LargeBinary(), nullable=False),
        sa.Column("timestamp", sa.LargeBinary(), nullable=False),
        sa.Column("signed_by", sa.String(256), nullable=False),
        sa.Column("signed_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_director_document_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "version", name=op.f("pk_director_document")),
    )
    op.create_index("ix_director_document_signed_at", "director_document", ["signed_at"])

    op.create_table(
        "installed_component",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("release_counter", BIG, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_installed_component_device_id_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device_id", "name", name=op.f("pk_installed_component")),
    )
    op.create_index("ix_installed_component_product_version", "installed_component", ["product", "version"])

    op.create_table(
        "upload_piece",
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.Column("offset", BIG, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["upload.id"], name=op.f("fk_upload_piece_upload_id_upload"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "offset", name=op.f("pk_upload_piece")),
    )

    op.create_table(
        "release",
        sa.Column("id", sa.String(129), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("team_role", sa.String(80), nullable=False),
        sa.Column("release_counter", BIG, nullable=False),
        sa.Column("revert_counter", BIG, nullable=False),
        sa.Column("must_pass", sa.Boolean(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("published_at", TIME, nullable=True),
        sa.Column("yanked_at", TIME, nullable=True),
        sa.Column("yank_reason", sa.String(8192), nullable=False),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("signed_by", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'outdated', 'published', 'yanked')", name=op.f("ck_release_state")),
        sa.ForeignKeyConstraint(
            ["product", "team_role"],
            ["product.name", "product.team_role"],
            name=op.f("fk_release_product_team_role_product"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release")),
        sa.UniqueConstraint("product", "version", name="uq_release_product_version"),
    )
    op.create_index("ix_release_team_role_state", "release", ["team_role", "state"])
    op.create_index(
        "uq_release_counter_published",
        "release",
        ["product", "release_counter"],
        unique=True,
        sqlite_where=EVER_PUBLISHED,
        postgresql_where=EVER_PUBLISHED,
    )

    op.create_table(
        "assignment",
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("release_id", sa.String(129), nullable=False),
        sa.Column("assigned_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_assignment_device_id_device"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name=op.f("fk_assignment_release_id_release")),
        sa.PrimaryKeyConstraint("device_id", "product", name=op.f("pk_assignment")),
    )
    op.create_index("ix_assignment_release_id", "assignment", ["release_id"])

    op.create_table(
        "proposal",
        sa.Column("release_id", sa.String(129), nullable=False),
        sa.Column("role", sa.String(80), nullable=False),
        sa.Column("base_version", BIG, nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["release.id"], name=op.f("fk_proposal_release_id_release"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("release_id", name=op.f("pk_proposal")),
    )

    for table in APPEND_ONLY:
        _make_append_only(table)


def downgrade() -> None:
    # The triggers go with their tables.
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


def _make_append_only(table: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    if table == APPEND_ONLY[0]:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', "
            "MESSAGE = TG_TABLE_NAME || ' is append-only'; END $$"
        )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
