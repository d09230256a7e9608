"""A real hub and a real receiver: what happens is told, signed, again after a failure, and the secret shown once."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.support.fleet import Fleet
from tests.support.receiver import Receiver, verify

WITHIN_S = 60


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def deliveries(client: httpx.Client, webhook: str) -> list[Any]:
    return client.get(f"/api/v1/webhooks/{webhook}/deliveries").json()["items"]


def let_minutes_pass(fleet: Fleet) -> None:
    """What is due in five minutes is due now."""
    with closing(sqlite3.connect(fleet.hub.data / "hub.db", timeout=30)) as database:
        database.execute("UPDATE webhook_delivery SET next_at = '2026-01-01 00:00:00' WHERE state = 'due'")
        database.commit()


def test_a_receiver_that_fails_twice_gets_the_same_message_a_third_time(fleet: Fleet, receiver: Receiver) -> None:
    receiver.answers = [500, 500]
    with fleet.client() as client:
        made = client.post("/api/v1/webhooks", json={"url": receiver.url, "types": ["webhook.*"]})
        assert made.status_code == 201, made.text
        webhook, secret = made.json()["webhook"]["id"], made.json()["secret"]
        asked = client.post(f"/api/v1/webhooks/{webhook}/test")
        assert asked.status_code == 202
        first, second = receiver.until(2)
        for got in (first, second):
            verify(secret, got.headers, got.body)
            assert got.event.keys() == {"type", "timestamp", "data"}
            assert got.event["type"] == "webhook.test"
            assert got.event["data"] == {"webhook": webhook, "by": "admin"}
            assert got.headers["content-type"] == "application/json"
        assert first.message == second.message
        assert int(second.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"]) + 5
        with pytest.raises(AssertionError):
            verify(secret, first.headers, first.body.replace(b"admin", b"adam"))
        delivery = until(lambda: [each for each in deliveries(client, webhook) if each["attempts"] == 2])[0]
        assert (delivery["state"], delivery["status"]) == ("due", 500)
        assert client.get(f"/api/v1/webhooks/{webhook}").json()["state"] == "failing"
        let_minutes_pass(fleet)
        third = receiver.until(3)[2]
        verify(secret, third.headers, third.body)
        assert (third.message, third.body) == (first.message, first.body)
        until(lambda: [each["state"] for each in deliveries(client, webhook)] == ["done"])
        assert client.get(f"/api/v1/webhooks/{webhook}").json()["state"] == "enabled"
        shown = client.get("/api/v1/webhooks").text + client.get("/api/v1/audit").text + fleet.hub.text()
        assert secret.removeprefix("whsec_") not in shown
        assert client.delete(f"/api/v1/webhooks/{webhook}").status_code == 204
        assert client.get(f"/api/v1/webhooks/{webhook}").status_code == 404


def test_an_address_that_a_cloud_uses_is_tried_and_not_connected_to(fleet: Fleet) -> None:
    with fleet.client() as client:
        made = client.post("/api/v1/webhooks", json={"url": "https://169.254.169.254/latest/meta-data"}).json()
        webhook = made["webhook"]["id"]
        client.post(f"/api/v1/webhooks/{webhook}/test").raise_for_status()
        delivery = until(lambda: [each for each in deliveries(client, webhook) if each["attempts"] == 1])[0]
        assert delivery["error"].startswith("The hub does not send to 169.254.169.254")
        client.delete(f"/api/v1/webhooks/{webhook}").raise_for_status()


def test_a_retried_order_makes_one_webhook(fleet: Fleet) -> None:
    with fleet.client() as client:
        order, key = {"url": "https://receiver.example/x", "types": []}, {"idempotency-key": "one-webhook"}
        first, second = (client.post("/api/v1/webhooks", json=order, headers=key) for _ in range(2))
        assert first.json() == second.json()
        listed = client.get("/api/v1/webhooks").json()["items"]
        assert [each["id"] for each in listed] == [first.json()["webhook"]["id"]]
        client.delete(f"/api/v1/webhooks/{listed[0]['id']}").raise_for_status()
