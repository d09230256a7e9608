"""Rollouts with their members, outcomes and decisions; pins and usage of devices; events and webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
DUE = sa.text("state = 'due'")
QUEUED = sa.text("state = 'queued'")
IN_FLIGHT = sa.text("state IN ('offered', 'downloading', 'verified', 'waiting', 'installing', 'trial')")
BAD = sa.text("state IN ('rolled_back', 'failed', 'refused', 'silent', 'lost')")
CONTROL = sa.text("is_control")
TOUCHED = sa.text("offer_version IS NOT NULL")
WATCHED = sa.text("check_at_s IS NOT NULL")
OPEN = sa.text(
    "state IN ('offered', 'downloading', 'verified', 'waiting', 'installing', 'trial', 'off_duty', 'silent')"
)
AWAY = sa.text("offer_version IS NOT NULL AND NOT state IN ('reverting', 'reverted', 'revert_failed')")
TABLES = (
    "hub_event",
    "webhook",
    "device_pin",
    "device_usage",
    "webhook_delivery",
    "rollout",
    "rollout_decision",
    "rollout_outcome",
    "rollout_stratum",
    "rollout_tally",
    "rollout_wave",
    "rollout_device",
)
APPEND_ONLY = ("hub_event", "rollout_decision", "rollout_outcome")


def upgrade() -> None:
    op.create_table(
        "hub_event",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hub_event")),
    )
    op.create_index("ix_hub_event_subject_id", "hub_event", ["subject", "id"])
    op.create_table(
        "webhook",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("types", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(128), nullable=False),
        sa.Column("sent_through", BIG, nullable=False),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.Column("disabled_code", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook")),
    )
    op.create_table(
        "device_pin",
        sa.Column("number", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("pinned_by", sa.String(80), nullable=False),
        sa.Column("pinned_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["device.number"], name=op.f("fk_device_pin_number_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_device_pin")),
    )
    op.create_table(
        "device_usage",
        sa.Column("number", BIG, nullable=False),
        sa.Column("flights", BIG, nullable=False),
        sa.Column("running_s", BIG, nullable=False),
        sa.Column("reported_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["device.number"], name=op.f("fk_device_usage_number_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_device_usage")),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("webhook_id", sa.String(32), nullable=False),
        sa.Column("event_id", BIG, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", BIG, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("status", BIG, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('due', 'done', 'failed')", name=op.f("ck_webhook_delivery_state")),
        sa.ForeignKeyConstraint(["event_id"], ["hub_event.id"], name=op.f("fk_webhook_delivery_event_id_hub_event")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhook.id"], name=op.f("fk_webhook_delivery_webhook_id_webhook"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("webhook_id", "event_id", name=op.f("pk_webhook_delivery")),
    )
    op.create_index("ix_webhook_delivery_due", "webhook_delivery", ["next_at"], sqlite_where=DUE, postgresql_where=DUE)
    op.create_table(
        "rollout",
        sa.Column("number", BIG, autoincrement=False, nullable=False),
        sa.Column("release_id", sa.String(129), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("seed", BIG, nullable=False),
        sa.Column("priority", BIG, nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("wave", BIG, nullable=False),
        sa.Column("left_out", sa.Text(), nullable=False),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("accepted", sa.Text(), nullable=False),
        sa.Column("snapshot", BIG, nullable=False),
        sa.Column("prepared_through", BIG, nullable=False),
        sa.Column("outcomes_through", BIG, nullable=False),
        sa.Column("joined_through", BIG, nullable=False),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("approved_by", sa.String(80), nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('approval', 'preparing', 'running', 'paused', 'halted', 'reverting', 'reverted', "
            "'finished', 'cancelled')",
            name=op.f("ck_rollout_state"),
        ),
        sa.ForeignKeyConstraint(["release_id"], ["release.id"], name=op.f("fk_rollout_release_id_release")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_rollout")),
    )
    op.create_index(op.f("ix_rollout_release_id"), "rollout", ["release_id"])
    op.create_index("ix_rollout_state", "rollout", ["state"])
    op.create_table(
        "rollout_decision",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("rollout", BIG, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("outcomes_through", BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.number"], name=op.f("fk_rollout_decision_rollout_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_decision")),
    )
    op.create_index("ix_rollout_decision_rollout_id", "rollout_decision", ["rollout", "id"])
    op.create_table(
        "rollout_outcome",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("rollout", BIG, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("wave", BIG, nullable=False),
        sa.Column("stratum", BIG, nullable=False),
        sa.Column("was", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("version", BIG, nullable=True),
        sa.Column("time", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.number"], name=op.f("fk_rollout_outcome_rollout_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_outcome")),
    )
    op.create_index("ix_rollout_outcome_rollout_id", "rollout_outcome", ["rollout", "id"])
    op.create_index("ix_rollout_outcome_rollout_number", "rollout_outcome", ["rollout", "number"])
    op.create_table(
        "rollout_stratum",
        sa.Column("rollout", BIG, nullable=False),
        sa.Column("stratum", BIG, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.number"], name=op.f("fk_rollout_stratum_rollout_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "stratum", name=op.f("pk_rollout_stratum")),
    )
    op.create_table(
        "rollout_tally",
        sa.Column("rollout", BIG, nullable=False),
        sa.Column("wave", BIG, autoincrement=False, nullable=False),
        sa.Column("stratum", BIG, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("devices", BIG, nullable=False),
        sa.CheckConstraint("devices >= 0", name=op.f("ck_rollout_tally_devices")),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.number"], name=op.f("fk_rollout_tally_rollout_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "wave", "stratum", "state", name=op.f("pk_rollout_tally")),
    )
    op.create_table(
        "rollout_wave",
        sa.Column("rollout", BIG, nullable=False),
        sa.Column("wave", BIG, autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("opened_at", TIME, nullable=True),
        sa.Column("closed_at", TIME, nullable=True),
        sa.Column("last_ended_at", TIME, nullable=True),
        sa.Column("flights", BIG, nullable=False),
        sa.Column("running_s", BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.number"], name=op.f("fk_rollout_wave_rollout_rollout"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout", "wave", name=op.f("pk_rollout_wave")),
    )
    op.create_table(
        "rollout_device",
        sa.Column("rollout", BIG, autoincrement=False, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("wave", BIG, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("stratum", BIG, nullable=False),
        sa.Column("site", sa.String(512), nullable=False),
        sa.Column("is_control", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("offer_version", BIG, nullable=True),
        sa.Column("back_version", BIG, nullable=True),
        sa.Column("offered", sa.String(129), nullable=True),
        sa.Column("previous", sa.String(129), nullable=True),
        sa.Column("check_at_s", BIG, nullable=True),
        sa.Column("attempt", BIG, nullable=False),
        sa.Column("flights", BIG, nullable=False),
        sa.Column("running_s", BIG, nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'offered', 'downloading', 'verified', 'waiting', 'installing', 'trial', "
            "'committed', 'rolled_back', 'failed', 'refused', 'silent', 'lost', 'off_duty', 'superseded', "
            "'withdrawn', 'pinned', 'skipped', 'reverting', 'reverted', 'revert_failed')",
            name=op.f("ck_rollout_device_state"),
        ),
        sa.ForeignKeyConstraint(
            ["number"], ["device.number"], name=op.f("fk_rollout_device_number_device"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rollout", "wave"],
            ["rollout_wave.rollout", "rollout_wave.wave"],
            name=op.f("fk_rollout_device_rollout_wave_rollout_wave"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("rollout", "number", name=op.f("pk_rollout_device")),
    )
    op.create_index(
        "ix_rollout_device_bad", "rollout_device", ["rollout", "code"], sqlite_where=BAD, postgresql_where=BAD
    )
    op.create_index(
        "ix_rollout_device_control",
        "rollout_device",
        ["rollout", "wave"],
        sqlite_where=CONTROL,
        postgresql_where=CONTROL,
    )
    op.create_index(
        "ix_rollout_device_queued",
        "rollout_device",
        ["rollout", "wave", "position"],
        sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )
    op.create_index(
        "ix_rollout_device_site",
        "rollout_device",
        ["rollout", "site"],
        sqlite_where=IN_FLIGHT,
        postgresql_where=IN_FLIGHT,
    )
    op.create_index(
        "ix_rollout_device_touched", "rollout_device", ["number"], sqlite_where=TOUCHED, postgresql_where=TOUCHED
    )
    op.create_index(
        "ix_rollout_device_watched",
        "rollout_device",
        ["rollout", "check_at_s"],
        sqlite_where=WATCHED,
        postgresql_where=WATCHED,
    )
    op.create_index(
        "ix_rollout_device_open", "rollout_device", ["rollout", "number"], sqlite_where=OPEN, postgresql_where=OPEN
    )
    op.create_index(
        "ix_rollout_device_away", "rollout_device", ["rollout", "number"], sqlite_where=AWAY, postgresql_where=AWAY
    )
    op.create_index(
        "uq_rollout_device_in_flight",
        "rollout_device",
        ["number"],
        unique=True,
        sqlite_where=IN_FLIGHT,
        postgresql_where=IN_FLIGHT,
    )

    for table in APPEND_ONLY:
        _make_append_only(table)


def downgrade() -> None:
    # The triggers go with their tables.
    for table in reversed(TABLES):
        op.drop_table(table)


def _make_append_only(table: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
