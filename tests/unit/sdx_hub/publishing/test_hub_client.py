"""The hub as seen by people: every failure is one error with the hub's own code, and the token stays at home."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sdx_hub.domain import errors
from sdx_hub.domain.errors import HubError, TrustError, Unavailable
from sdx_hub.publishing import hub_client
from sdx_hub.publishing.hub_client import HubClient

TOKEN = "sdx_secret"


def client(handle: Callable[[httpx.Request], httpx.Response]) -> HubClient:
    return HubClient("https://hub.example", TOKEN, httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadInput),
        (401, errors.NotAuthenticated),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (409, errors.ConflictError),
        (412, errors.ConflictError),
        (413, errors.TooLarge),
        (422, errors.TrustError),
        (429, errors.Unavailable),
        (503, errors.Unavailable),
        (500, HubError),
    ],
)
def test_a_problem_keeps_its_code_sentence_and_members(status: int, kind: type[HubError]) -> None:
    body = {"type": "about:blank", "status": status, "detail": "Do this.", "code": "some_code", "offset": 7}
    with pytest.raises(HubError) as raised, client(lambda _: httpx.Response(status, json=body)) as hub:
        hub.get("/x")
    assert type(raised.value) is kind
    assert (raised.value.code, str(raised.value), raised.value.extra) == ("some_code", "Do this.", {"offset": 7})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"code": 5, "detail": []}', b'{"message": "clash"}'])
def test_a_problem_without_details_is_still_an_error_with_a_code(body: bytes) -> None:
    with pytest.raises(HubError) as raised, client(lambda _: httpx.Response(502, content=body)) as hub:
        hub.get("/x")
    assert raised.value.code == "http_502"
    assert "502" in str(raised.value)


def test_redirects_are_not_followed() -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": "https://evil.example/"})

    with pytest.raises(HubError), client(handle) as hub:
        hub.get("/x")
    assert asked == ["https://hub.example/api/v1/x"]


def test_pages_follow_the_link_and_never_to_another_host() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if "cursor" not in request.url.params:
            link = '</api/v1/devices?cursor=2&state=pending>; rel="next"'
            return httpx.Response(200, json={"items": [1, 2]}, headers={"Link": link})
        if request.url.params["cursor"] == "2":
            assert request.url.params["state"] == "pending"
            link = '<https://evil.example/api/v1/devices?cursor=3>; rel="next"'
            return httpx.Response(200, json={"items": [3]}, headers={"Link": link})
        raise AssertionError(f"went to {request.url}")

    found: list[Any] = []
    with pytest.raises(TrustError) as refused, client(handle) as hub:
        found.extend(hub.pages("/devices", state="pending", tag=""))
    assert refused.value.code == "redirect_refused"
    assert found == [1, 2, 3], "what came before stays"


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(TrustError) as refused, client(lambda _: httpx.Response(200, content=bytes(2000))) as hub:
        hub.raw("/x")
    assert refused.value.code == "answer_too_large"


def test_something_that_is_no_hub_is_said_so() -> None:
    with pytest.raises(TrustError) as refused, client(lambda _: httpx.Response(200, content=b"<html>")) as hub:
        hub.get("/x")
    assert refused.value.code == "answer_invalid"
    with pytest.raises(TrustError), client(lambda _: httpx.Response(200, json={"a": [], "b": []})) as hub:
        list(hub.pages("/x"))


def test_nobody_there() -> None:
    with pytest.raises(Unavailable) as raised, HubClient("http://127.0.0.1:1", TOKEN) as hub:
        hub.get("/x")
    assert raised.value.code == "hub_unreachable"
    assert TOKEN not in str(raised.value)


def test_the_token_is_in_no_repr() -> None:
    with client(lambda _: httpx.Response(200)) as hub:
        assert TOKEN not in repr(hub)
        assert "***" in repr(hub)


def test_streaming_refuses_with_the_hubs_code() -> None:
    problem = {"code": "blob_not_found", "detail": "Gone."}
    with pytest.raises(errors.NotFound) as raised, client(lambda _: httpx.Response(404, json=problem)) as hub:
        list(hub.stream("/blobs/x"))
    assert raised.value.code == "blob_not_found"
