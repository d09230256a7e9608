"""Rows for every table, by the step that brings the table or changes what its rows look like.

They are what a hub in use has: a later step must cope with them, on its way up and down.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, insert
from sqlalchemy.engine import Connection

from sdx_hub import migrations

_TIME = datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC)
_SHA = [f"{number:064x}" for number in range(20)]
_TEXT = "a line\nand é\u2028\U0001f6f0 '\"\\"


def _device(number: int, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"d-{number}",
        "number": number,
        "serial": "S1",
        "device_key": _SHA[number],
        "hardware": "rpi4",
        "state": state,
        "token_sha256": _SHA[number],
        "next_token_sha256": None,
        "rotated_at": None,
        "rotation_wanted": False,
        "report_counter": 2**53 - 1,
        "desired_version": 2,
        "has_assignment": state == "accepted",
        "has_inventory": True,
        "change_seq": number,
        "created_at": _TIME,
        "accepted_at": _TIME,
        "revoked_at": None,
        "agent_version": "0.1.0",
        **more,
    }


def _action(version: int, state: str) -> dict[str, Any]:
    return {
        "id": f"d-1.{version}",
        "device_id": "d-1",
        "desired_version": version,
        "releases": '{"nav":"nav@1.0.0"}',
        "state": state,
        "code": "",
        "detail": _TEXT,
        "created_at": _TIME,
        "finished_at": None if state == "open" else _TIME,
    }


def _release(version: int, state: str) -> dict[str, Any]:
    return {
        "id": f"nav@{version}.0.0",
        "product": "nav",
        "version": f"{version}.0.0",
        "team_role": "team-nav",
        "release_counter": version,
        "revert_counter": max(version - 1, 1),
        "must_pass": version == 2,
        "manifest": b"{}",
        "state": state,
        "created_by": "paul",
        "created_at": _TIME,
        "published_at": None if state == "waiting" else _TIME,
        "yanked_at": _TIME if state == "yanked" else None,
        "yank_reason": _TEXT if state == "yanked" else "",
        "threshold": 2,
        "signed_by": '["paul","anna"]',
    }


ROWS: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]] = {
    "0001": {
        "audit_entry": [
            {
                "seq": seq,
                "time": _TIME,
                "actor": "adam",
                "action": "thing.do",
                "subject": _TEXT,
                "detail": "{}",
                "prev_hash": _SHA[seq - 1],
                "hash": _SHA[seq],
            }
            for seq in (1, 2)
        ],
        "counter": [{"name": "audit", "value": 2}, {"name": "trust", "value": 2**63 - 1}],
        "device": [
            _device(1, "accepted", next_token_sha256=_SHA[9], rotation_wanted=True, rotated_at=_TIME),
            _device(2, "revoked", revoked_at=_TIME),
            _device(3, "pending", serial="S3", accepted_at=None),
        ],
        "device_seen": [{"number": 1, "last_seen_s": 1_772_366_400}],
        "enrol_token": [
            {
                "id": "t",
                "secret_sha256": _SHA[1],
                "serial": None,
                "expires_at": _TIME,
                "used_by_key": _SHA[1],
                "used_at": _TIME,
                "created_by": "olga",
                "created_at": _TIME,
            }
        ],
        "idempotent_request": [
            {"id": "a", "request_sha256": _SHA[1], "answer": bytes(range(256)), "created_at": _TIME},
            {"id": "b", "request_sha256": _SHA[2], "answer": None, "created_at": _TIME},
        ],
        "metadata_file": [
            {
                "repository": "image",
                "role": "root",
                "version": version,
                "raw": b'{"signed":{}}',
                "expires_at": _TIME,
                "created_at": _TIME,
            }
            for version in (1, 2)
        ],
        "online_key": [
            {"repository": "image", "role": "timestamp", "keyid": _SHA[1], "uri": "file2:x.key", "key": "{}"}
        ],
        "person_token": [
            {
                "id": "p",
                "name": "adam",
                "role": "admin",
                "token_sha256": _SHA[1],
                "created_at": _TIME,
                "expires_at": _TIME,
                "revoked_at": None,
            }
        ],
        "preauthorised_key": [{"device_key": _SHA[5], "serial": None, "created_by": "olga", "created_at": _TIME}],
        "product": [{"name": "nav", "team_role": "team-nav"}],
        "saved_filter": [{"name": "old", "query": "tag = 'old'", "author": "olga", "saved_at": _TIME}],
        "upload": [
            {
                "id": "u",
                "sha256": _SHA[1],
                "length": 2**33,
                "decoded_length": 2**34,
                "encoding": "zstd",
                "offset": 2**32,
                "state": "open",
                "created_by": "paul",
                "created_at": _TIME,
            }
        ],
        "action": [_action(1, "rolled_back"), _action(2, "open")],
        "device_attribute": [{"device_id": "d-1", "name": "base", "value": _TEXT}],
        "device_event": [
            {"device_id": "d-1", "time": _TIME, "kind": kind, "detail": '{"a":1}'} for kind in ("enrolled", "result")
        ],
        "device_inventory": [{"device_id": "d-1", "payload": "e30=", "signature": "c2ln", "received_at": _TIME}],
        "device_report": [
            {"device_id": "d-1", "counter": 2**53 - 1, "sha256": _SHA[1], "kind": "result", "received_at": _TIME}
        ],
        "device_tag": [{"device_id": "d-1", "tag": "old"}, {"device_id": "d-3", "tag": "old"}],
        "director_document": [
            {
                "device_id": "d-1",
                "version": 1,
                "desired_version": 2,
                "targets": b"{}",
                "snapshot": b"{}",
                "timestamp": b"{}",
                "signed_by": _SHA[1],
                "signed_at": _TIME,
            }
        ],
        "installed_component": [
            {
                "device_id": "d-1",
                "name": "app",
                "type": "file",
                "product": "nav",
                "version": "1.0.0",
                "release_counter": 1,
                "sha256": _SHA[1],
            }
        ],
        "upload_piece": [{"upload_id": "u", "offset": 0, "name": "uploads/u/0"}],
        "release": [_release(1, "yanked"), _release(2, "published"), _release(3, "waiting")],
        "assignment": [{"device_id": "d-1", "product": "nav", "release_id": "nav@2.0.0", "assigned_at": _TIME}],
        "proposal": [
            {"release_id": "nav@3.0.0", "role": "team-nav", "base_version": 2, "raw": b"{}", "updated_at": _TIME}
        ],
    },
    "0002": {
        "device_pin": [{"number": 1, "reason": _TEXT, "pinned_by": "olga", "pinned_at": _TIME}],
        "device_usage": [{"number": 1, "flights": 3, "running_s": 2**40, "reported_at": _TIME}],
        "hub_event": [{"time": _TIME, "type": "rollout.halted", "subject": "ro-1", "data": '{"a":1}'}],
        "webhook": [
            {
                "id": "wh-1",
                "url": "https://a.example/x",
                "types": "[]",
                "secret": "c2VjcmV0",
                "sent_through": 0,
                "created_by": "adam",
                "created_at": _TIME,
                "failing_since": _TIME,
                "disabled_at": None,
                "disabled_code": "",
            }
        ],
        "webhook_delivery": [
            {
                "webhook_id": "wh-1",
                "event_id": 1,
                "state": "due",
                "attempts": 2,
                "next_at": _TIME,
                "status": 503,
                "error": _TEXT,
            }
        ],
        "rollout": [
            {
                "number": 1,
                "release_id": "nav@2.0.0",
                "product": "nav",
                "state": "halted",
                "code": "gate_halted",
                "reason": _TEXT,
                "spec": "{}",
                "seed": 2**40,
                "priority": 50,
                "urgent": False,
                "wave": 1,
                "left_out": "{}",
                "signatures": "{}",
                "accepted": "{}",
                "snapshot": 2**60,
                "prepared_through": 1,
                "outcomes_through": 1,
                "joined_through": 2,
                "created_by": "olga",
                "created_at": _TIME,
                "approved_by": "",
                "started_at": _TIME,
                "ended_at": None,
            }
        ],
        "rollout_wave": [
            {
                "rollout": 1,
                "wave": 1,
                "label": "tag = alpha",
                "size": 1,
                "opened_at": _TIME,
                "closed_at": None,
                "last_ended_at": None,
                "flights": 0,
                "running_s": 0,
            }
        ],
        "rollout_stratum": [{"rollout": 1, "stratum": 1, "name": _TEXT}],
        "rollout_device": [
            {
                "rollout": 1,
                "number": 1,
                "wave": 1,
                "position": 1,
                "stratum": 1,
                "site": _TEXT,
                "is_control": False,
                "state": "offered",
                "code": "",
                "offer_version": 2,
                "back_version": None,
                "offered": "nav@2.0.0",
                "previous": None,
                "check_at_s": 1_772_366_400,
                "attempt": 1,
                "flights": 0,
                "running_s": 0,
            }
        ],
        "rollout_tally": [{"rollout": 1, "wave": 1, "stratum": 1, "state": "offered", "devices": 1}],
        "rollout_outcome": [
            {
                "rollout": 1,
                "number": 1,
                "wave": 1,
                "stratum": 1,
                "was": "queued",
                "state": "offered",
                "code": "",
                "detail": _TEXT,
                "version": 2,
                "time": _TIME,
            }
        ],
        "rollout_decision": [
            {
                "rollout": 1,
                "time": _TIME,
                "actor": "hub",
                "rule": "open_wave",
                "sentence": _TEXT,
                "facts": "{}",
                "decision": "{}",
                "outcomes_through": 1,
            }
        ],
    },
}


STEPS = [step.revision for step in ScriptDirectory.from_config(migrations.config()).walk_revisions()][::-1]


def upgrade(connection: Connection, version: str) -> None:
    command.upgrade(migrations.config(connection), version)


def in_use(connection: Connection, version: str) -> None:
    """Make a database at a version that has gone all the way there with rows in it."""
    for step in STEPS[: STEPS.index(version) + 1]:
        upgrade(connection, step)
        _add_rows(connection, step)


def _add_rows(connection: Connection, version: str) -> None:
    """Add the rows of a step to a database that is at it; the tables are as the database says, not as the program."""
    for name, rows in ROWS.get(version, {}).items():
        table = Table(name, MetaData(), autoload_with=connection)
        for row in rows:
            connection.execute(insert(table), row)
