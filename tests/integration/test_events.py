"""The stream of a real hub: resumed exactly after a kill, told of what another replica does, and bounded."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import FAST, Fleet, start_fleet
from tests.support.hub import HubProcess
from tests.support.postgres import Databases
from tests.support.receiver import Receiver, verify

WITHIN_S = 60
PATH = "/api/v1/events"


class Listener:
    """A client of a stream, as a browser is one: it remembers the last id, and comes again when the stream ends.

    Attributes:
        events: What it was told, in order.
        last: The id that it remembers.
        began: How often a stream began.
    """

    def __init__(self, fleet: Fleet, url: str = "", query: str = "") -> None:
        self._fleet, self.url, self._query = fleet, url or fleet.url, query
        self.events: list[dict[str, Any]] = []
        self.last = ""
        self.began = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        until(lambda: self.last)

    def stop(self) -> None:
        self._stopped.set()

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                self._once()
            except httpx.TransportError:
                time.sleep(0.1)

    def _once(self) -> None:
        headers = {"last-event-id": self.last} if self.last else {}
        with (
            self._fleet.client() as client,
            client.stream("GET", f"{self.url}{PATH}{self._query}", headers=headers) as stream,
        ):
            assert stream.status_code == 200
            self.began += 1
            fields: dict[str, str] = {}
            for line in stream.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                self.last = fields.get("id", self.last)
                if "data" in fields:
                    told = json.loads(fields["data"])
                    assert (told["type"], str(told["id"])) == (fields["event"], fields.get("id", "0"))
                    self.events.append(told)
                fields = {}
                if self._stopped.is_set():
                    return


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def webhook(fleet: Fleet, receiver: Receiver) -> tuple[str, str]:
    with fleet.client() as client:
        made = client.post("/api/v1/webhooks", json={"url": receiver.url, "types": ["webhook.*"]})
        made.raise_for_status()
        return made.json()["webhook"]["id"], made.json()["secret"]


def happen(fleet: Fleet, identity: str, url: str = "") -> int:
    """Have an event happen at a replica; return its id."""
    with fleet.client() as client:
        asked = client.post(f"{url or fleet.url}/api/v1/webhooks/{identity}/test")
        asked.raise_for_status()
        return int(asked.json()["event"])


def test_a_stream_goes_on_after_the_hub_was_killed_and_misses_nothing(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet, receiving() as receiver:
        identity, _ = webhook(fleet, receiver)
        happen(fleet, identity)
        listener = Listener(fleet)
        assert listener.last == "1", "it begins with what happens from now on"
        expected = [happen(fleet, identity) for _ in range(3)]
        until(lambda: len(listener.events) == 3)
        for _ in range(2):
            fleet.hub.kill()
            fleet.restart_hub()
            # Some happen before the listener is back, some afterwards.
            expected += [happen(fleet, identity) for _ in range(20)]
        until(lambda: len(listener.events) == len(expected))
        assert [told["id"] for told in listener.events] == expected
        assert listener.began == 3
        assert fleet.hub.stop() == 0, "an open stream does not keep it from ending"
        fleet.restart_hub()
        expected.append(happen(fleet, identity))
        until(lambda: len(listener.events) == len(expected))
        assert [told["id"] for told in listener.events] == expected
        listener.stop()
        with fleet.client() as client:
            whole = client.get(f"{PATH}?follow=false", headers={"last-event-id": "0"}).text
            part = client.get(f"{PATH}?follow=false&type=rollout.*", headers={"last-event-id": "0"}).text
        assert [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")] == [0, 1, *expected]
        assert "data:" not in part


def test_two_replicas_tell_each_other_and_each_message_goes_out_once(databases: Databases, tmp_path: Path) -> None:
    url = databases.new()
    with start_fleet(tmp_path / "first", SDX_DATABASE_URL=url) as fleet, receiving() as receiver:
        shared = {"SDX_KEYS_DIR": str(fleet.hub.data / "online"), "SDX_BLOB_URL": str(fleet.hub.data / "blobs")}
        (tmp_path / "second").mkdir()
        second = HubProcess(tmp_path / "second" / "hub", FAST | {"SDX_DATABASE_URL": url} | shared)
        second.start()
        try:
            identity, secret = webhook(fleet, receiver)
            first_listener, second_listener = Listener(fleet), Listener(fleet, second.url, f"?subject={identity}")
            expected = [happen(fleet, identity, replica) for _ in range(10) for replica in (fleet.url, second.url)]
            for listener in (first_listener, second_listener):
                until(lambda listener=listener: len(listener.events) == len(expected))
                assert [told["id"] for told in listener.events] == expected
            # The listener of the second replica moves over to the first one, and goes on where it was.
            second_listener.url = fleet.url
            second.kill()
            expected += [happen(fleet, identity) for _ in range(5)]
            until(lambda: len(second_listener.events) == len(expected))
            assert [told["id"] for told in second_listener.events] == expected
            # What the dead replica had claimed is sent when its claim is over: in a minute, by the other one.
            until_all = time.monotonic() + 100
            while len({got.message for got in receiver.got}) < len(expected) and time.monotonic() < until_all:
                time.sleep(0.1)
            messages = [got.message for got in receiver.got]
            assert len(set(messages)) == len(expected)
            assert len(messages) <= len(expected) + 1, "one that the dead replica had sent and not noted"
            for got in receiver.got:
                verify(secret, got.headers, got.body)
            for listener in (first_listener, second_listener):
                listener.stop()
        finally:
            second.close()
    databases.drop(url)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Fleet]:
    with start_fleet(tmp_path / "fleet", SDX_MAX_EVENT_STREAMS="2", SDX_MAX_IN_FLIGHT="1") as fleet:
        yield fleet


def test_one_stream_too_many_is_refused_and_streams_keep_nobody_out(small: Fleet) -> None:
    with small.client() as client, client.stream("GET", PATH) as first, client.stream("GET", PATH) as second:
        assert (first.status_code, second.status_code) == (200, 200)
        refused = client.get(PATH)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
        assert refused.headers["retry-after"]
        for _ in range(5):
            assert client.get("/api/v1/whoami").status_code == 200
    with small.client() as client:
        until(lambda: client.get(f"{PATH}?follow=false").status_code == 200)


def test_who_may_listen(small: Fleet) -> None:
    assert httpx.get(f"{small.url}{PATH}").status_code == 401
    with small.client(small.token("vera", "viewer")) as client:
        answer = client.get(f"{PATH}?follow=false")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert client.get("/api/v1/webhooks").status_code == 403
        for query, headers in (("?type=*", {}), ("", {"last-event-id": "-1"}), ("", {"last-event-id": "x"})):
            assert client.get(f"{PATH}{query}", headers=headers).status_code == 400


def test_a_rollout_is_told_of_as_it_goes_on(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet", SDX_ROLLOUT_TICK_MS="100") as fleet, receiving() as receiver:
        release = fleet.publish_next()
        for number in range(3):
            fleet.enrol_key(Ed25519PrivateKey.generate(), f"told-{number}")
        with fleet.client() as client:
            order = {"url": receiver.url, "types": ["rollout.*"]}
            secret = client.post("/api/v1/webhooks", json=order).json()["secret"]
            listener = Listener(fleet, query="?live=true&type=rollout.*")
            made = client.post("/api/v1/rollouts", json={"release": release, "query": "serial ~ told-*"})
            made.raise_for_status()
            rollout = made.json()["id"]
            until(lambda: [told for told in listener.events if told["data"].get("devices", {}).get("offered")])
            client.post(f"/api/v1/rollouts/{rollout}/cancel", json={"reason": "enough"}).raise_for_status()
            until(lambda: [told for told in listener.events if told["type"] == "rollout.cancelled"])
            listener.stop()
        stored = [told for told in listener.events if told["id"]]
        assert {"rollout.created", "rollout.wave_opened", "rollout.cancelled"} <= {told["type"] for told in stored}
        for told in stored:
            assert told["subject"] == told["data"]["rollout"] == rollout
            assert told["data"].keys() >= {"release", "state", "wave", "sentence"}
        got = receiver.until(len(stored))
        for each in got:
            verify(secret, each.headers, each.body)
        assert sorted(each.event["type"] for each in got) == sorted(told["type"] for told in stored)
        assert {told["type"] for told in listener.events if not told["id"]} == {"rollout.progress"}
