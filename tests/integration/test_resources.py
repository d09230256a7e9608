"""Pages with `Link`, `Idempotency-Key`, `If-Match`, and the shape of what lists and shows answer."""

import threading
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlmodel import SQLModel

from sdx_hub.persistence.database import Database
from tests.support.fleet import Fleet, in_thread


def walk(client: httpx.Client, path: str) -> list[list[Any]]:
    """Every page, by the Link header alone."""
    pages, following = [], path
    while following:
        answer = client.get(following)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["items"])
        following = answer.links.get("next", {}).get("url", "")
    return pages


def test_devices_in_pages(fleet: Fleet) -> None:
    for number in range(7):
        fleet.enrol_key(Ed25519PrivateKey.generate(), f"page-{number}")
        with fleet.client() as client:
            client.put(f"/api/v1/devices/page-{number}/tags/paged").raise_for_status()
    with fleet.client() as client:
        pages = walk(client, "/api/v1/devices?tag=paged&limit=3")
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [device["serial"] for page in pages for device in page] == [f"page-{number}" for number in range(7)]
        assert walk(client, "/api/v1/devices?tag=nobody") == [[]]
        # The filter travels along in the link.
        link = client.get("/api/v1/devices?tag=paged&limit=3").headers["link"]
        assert "tag=paged" in link
        assert link.startswith("</api/v1/devices?")
        assert link.endswith('; rel="next"')


def test_the_audit_log_in_pages(fleet: Fleet) -> None:
    with fleet.client() as client:
        whole = client.get("/api/v1/audit?limit=500").json()["items"]
        assert [entry for page in walk(client, "/api/v1/audit?limit=4") for entry in page] == whole
        assert [entry["seq"] for entry in whole] == list(range(len(whole), 0, -1))


def test_a_device_shows_what_the_contract_says(fleet: Fleet) -> None:
    fleet.enrol_key(Ed25519PrivateKey.generate(), "shown")
    with fleet.client() as client:
        shown = client.get("/api/v1/devices/shown").json()
    assert shown.keys() >= {
        *("id", "serial", "hardware", "state", "device_key", "agent_version", "tags", "attributes", "components"),
        *("assignments", "action", "desired_version", "usage", "last_seen_at"),
        *("created_at", "accepted_at", "revoked_at"),
    }


def test_attributes_are_replaced_only_where_they_were_seen(fleet: Fleet) -> None:
    fleet.enrol_key(Ed25519PrivateKey.generate(), "attributed")
    path = "/api/v1/devices/attributed/attributes"
    with fleet.client() as client:
        seen = client.get(path)
        assert seen.json() == {}
        first = client.put(path, json={"site": "north"}, headers={"if-match": seen.headers["etag"]})
        assert first.status_code == 200
        assert first.json()["attributes"] == {"site": "north"}
        late = client.put(path, json={"site": "south"}, headers={"if-match": seen.headers["etag"]})
        assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
        assert late.json()["etag"] == first.headers["etag"] == client.get(path).headers["etag"]
        assert client.get(path).json() == {"site": "north"}
        assert client.put(path, json={"site": "east"}).status_code == 200


def test_a_retry_with_the_same_key_makes_nothing_twice(fleet: Fleet) -> None:
    body = {"name": "retried", "role": "viewer", "life_s": 60}
    with fleet.client() as client:
        first = client.post("/api/v1/tokens", json=body, headers={"idempotency-key": "k-1"})
        again = client.post("/api/v1/tokens", json=body, headers={"idempotency-key": "k-1"})
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert [token["name"] for token in client.get("/api/v1/tokens").json()["items"]].count("retried") == 1
        other = client.post("/api/v1/tokens", json=body, headers={"idempotency-key": "k-2"})
        assert other.json()["id"] != first.json()["id"]


def test_a_key_belongs_to_one_request(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.post("/api/v1/enrol-tokens", json={"serial": "one"}, headers={"idempotency-key": "k-3"})
        other = client.post("/api/v1/enrol-tokens", json={"serial": "two"}, headers={"idempotency-key": "k-3"})
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
        elsewhere = client.post("/api/v1/tokens", json={"serial": "one"}, headers={"idempotency-key": "k-3"})
        assert elsewhere.json()["code"] == "idempotency_key_reused"
    # Another person's keys are their own.
    with fleet.client(fleet.token("second", "operator")) as client:
        assert (
            client.post("/api/v1/enrol-tokens", json={"serial": "two"}, headers={"idempotency-key": "k-3"}).status_code
            == 201
        )


def test_a_refused_request_does_not_use_its_key_up(fleet: Fleet) -> None:
    with fleet.client() as client:
        wrong = client.post("/api/v1/tokens", json={"name": "x", "role": "king"}, headers={"idempotency-key": "k-4"})
        assert wrong.status_code == 400
        body = {"name": "x", "role": "viewer"}
        assert client.post("/api/v1/tokens", json=body, headers={"idempotency-key": "k-4"}).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_bounds(fleet: Fleet, key: str) -> None:
    with fleet.client() as client:
        answer = client.post("/api/v1/enrol-tokens", json={}, headers={"idempotency-key": key})
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_invalid")


def test_two_at_once_make_one(fleet: Fleet) -> None:
    answers: list[httpx.Response] = []

    def send() -> None:
        with fleet.client() as client:
            answers.append(
                client.post(
                    "/api/v1/tokens",
                    json={"name": "racing", "role": "viewer"},
                    headers={"idempotency-key": "k-race"},
                )
            )

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["token"] for answer in answers if answer.status_code == 201}) == 1
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_in_progress"}
    with fleet.client() as client:
        assert [token["name"] for token in client.get("/api/v1/tokens").json()["items"]].count("racing") == 1


def test_a_replay_needs_a_token_that_is_still_good(fleet: Fleet) -> None:
    with fleet.client() as admin:
        made = admin.post("/api/v1/tokens", json={"name": "gone", "role": "operator"}).json()
        with fleet.client(made["token"]) as client:
            headers = {"idempotency-key": "k-gone"}
            assert client.post("/api/v1/enrol-tokens", json={}, headers=headers).status_code == 201
            admin.post(f"/api/v1/tokens/{made['id']}/revoke")
            replayed = client.post("/api/v1/enrol-tokens", json={}, headers=headers)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "token_revoked")


def test_kept_answers_hold_no_secret_that_the_database_could_show(fleet: Fleet) -> None:
    with fleet.client() as client:
        body = {"name": "sealed", "role": "viewer"}
        token = client.post("/api/v1/tokens", json=body, headers={"idempotency-key": "k-seal"}).json()["token"]
        secret = client.post("/api/v1/enrol-tokens", json={}, headers={"idempotency-key": "k-seal-2"}).json()
    kept = in_thread(lambda: everything(fleet.settings.database))
    assert b"sealed" in kept
    for text in (token, secret["enrol_string"].split(".")[0], fleet.admin_token):
        assert text.encode() not in kept


async def everything(url: str) -> bytes:
    """Every value in the database."""
    database = await Database.open(url)
    async with database.reading() as session:
        tables = [await session.execute(select(table)) for table in SQLModel.metadata.sorted_tables]
    await database.close()
    values = (value for rows in tables for row in rows for value in row)
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
