"""Queries, previews, saved filters and orders for many, through real HTTP."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import Fleet

DEVICES = 5


@pytest.fixture(scope="module")
def release(fleet: Fleet) -> str:
    for number in range(DEVICES):
        fleet.enrol_key(Ed25519PrivateKey.generate(), f"chosen-{number}")
        with fleet.client() as client:
            tag = "even" if number % 2 == 0 else "odd"
            client.put(f"/api/v1/devices/chosen-{number}/tags/{tag}").raise_for_status()
    return fleet.publish_next()


@pytest.fixture
def client(fleet: Fleet, release: str) -> Iterator[httpx.Client]:
    with fleet.client(fleet.token("olga", "operator")) as client:
        yield client


def serials(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [device["serial"] for device in answer.json()["items"]]


def test_a_preview_says_who_matches(client: httpx.Client) -> None:
    answer = client.post("/api/v1/devices/preview", json={"query": 'tag in ("even") AND serial ~ chosen-*'})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["query"], shown["count"]) == ('tag = even and serial ~ "chosen-*"', 3)
    assert shown["by_state"] == {"accepted": 3}
    assert sum(shown["by_hardware"].values()) == 3
    assert {device["serial"] for device in shown["sample"]} == {"chosen-0", "chosen-2", "chosen-4"}


def test_a_list_by_query_in_pages(client: httpx.Client) -> None:
    first = client.get("/api/v1/devices", params={"query": 'serial ~ "chosen-*" and tag != odd', "limit": 2})
    assert serials(first) == ["chosen-0", "chosen-2"]
    link = first.links["next"]["url"]
    assert parse_qs(urlsplit(link).query)["query"] == ['serial ~ "chosen-*" and tag != odd']
    last = client.get(link)
    assert serials(last) == ["chosen-4"]
    assert "next" not in last.links


@pytest.mark.parametrize(
    ("query", "position"), [("tga = even", 0), ("tag = even and", 14), ("tag = 'even'", 6), ("seen < soon", 7), ("", 0)]
)
def test_a_bad_query_is_a_problem_with_its_place(client: httpx.Client, query: str, position: int) -> None:
    answer = client.post("/api/v1/devices/preview", json={"query": query})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (answer.json()["code"], answer.json()["position"]) == ("query_invalid", position)
    if query:
        assert client.get("/api/v1/devices", params={"query": query}).json()["position"] == position


def test_filters_are_saved_used_replaced_and_deleted(client: httpx.Client) -> None:
    path = "/api/v1/filters/evens"
    made = client.put(path, json={"query": "tag=even"})
    assert (made.status_code, made.json()["query"], made.json()["author"]) == (200, "tag = even", "olga")
    assert client.get(path).headers["etag"] == made.headers["etag"]
    assert len(serials(client.get("/api/v1/devices", params={"query": "filter(evens)"}))) == 3
    changed = client.put(
        path, json={"query": "tag = even and state = accepted"}, headers={"if-match": made.headers["etag"]}
    )
    assert changed.status_code == 200
    for late in (
        client.put(path, json={"query": "tag = odd"}, headers={"if-match": made.headers["etag"]}),
        client.delete(path, headers={"if-match": made.headers["etag"]}),
        client.put("/api/v1/filters/none", json={"query": "tag = odd"}, headers={"if-match": made.headers["etag"]}),
    ):
        assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    client.put("/api/v1/filters/users", json={"query": "not filter(evens)"}).raise_for_status()
    assert [each["name"] for each in client.get("/api/v1/filters").json()["items"]] == ["evens", "users"]
    used = client.delete(path)
    assert (used.status_code, used.json()["code"], used.json()["used_by"]) == (409, "filter_in_use", ["users"])
    circular = client.put(path, json={"query": "filter(users)"})
    assert (circular.status_code, circular.json()["code"]) == (400, "filter_circular")
    assert client.delete("/api/v1/filters/users").status_code == 204
    assert client.delete(path, headers={"if-match": changed.headers["etag"]}).status_code == 204
    assert client.get(path).status_code == 404


def test_an_order_by_query(client: httpx.Client, release: str) -> None:
    done = client.post("/api/v1/assignments", json={"release": release, "query": 'tag = odd and serial ~ "chosen-*"'})
    assert done.status_code == 200, done.text
    assert done.json()["counts"] == {"assigned": 2, "unchanged": 0, "refused": {}}
    assert len(done.json()["assigned"]) == 2
    assert serials(client.get("/api/v1/devices", params={"query": f"assigned = {release}"})) == ["chosen-1", "chosen-3"]
    again = client.post("/api/v1/assignments", json={"release": release, "query": 'serial ~ "chosen-*" and tag = odd'})
    assert again.json()["counts"] == {"assigned": 0, "unchanged": 2, "refused": {}}
    for body in ({"query": "tag = odd", "tag": "odd"}, {"query": "tag = odd", "devices": ["chosen-1"]}, {}):
        refused = client.post("/api/v1/assignments", json={"release": release, **body})
        assert (refused.status_code, refused.json()["code"]) == (400, "devices_or_tag")


def test_a_viewer_looks_and_changes_nothing(fleet: Fleet, release: str) -> None:
    with fleet.client(fleet.token("vera", "viewer")) as viewer:
        assert viewer.post("/api/v1/devices/preview", json={"query": "tag = even"}).json()["count"] == 3
        assert viewer.get("/api/v1/filters").status_code == 200
        for answer in (
            viewer.put("/api/v1/filters/x", json={"query": "tag = even"}),
            viewer.delete("/api/v1/filters/x"),
            viewer.post("/api/v1/assignments", json={"release": release, "query": "tag = even"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert httpx.post(f"{fleet.url}/api/v1/devices/preview", json={"query": "tag = even"}).status_code == 401
