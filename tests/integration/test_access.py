"""Who gets in, who may do what, and how every refusal reads."""

import httpx
import pytest

from sdx_hub.domain.access import PERMISSIONS, Permission, Role
from tests.support.fleet import Fleet

PROBLEM = "application/problem+json"
NEEDS: list[tuple[str, str, object, Permission]] = [
    ("GET", "/releases", None, Permission.READ),
    ("GET", "/devices", None, Permission.READ),
    ("POST", "/devices/preview", {"query": "tag = a"}, Permission.READ),
    ("GET", "/filters", None, Permission.READ),
    ("PUT", "/filters/a", {"query": "tag = a"}, Permission.OPERATE_DEVICES),
    ("DELETE", "/filters/nobody", None, Permission.OPERATE_DEVICES),
    ("GET", "/trust", None, Permission.READ),
    ("POST", "/enrol-tokens", {}, Permission.OPERATE_DEVICES),
    ("POST", "/device-keys", {"device_key": "ab" * 32}, Permission.OPERATE_DEVICES),
    ("POST", "/devices/nobody/accept", None, Permission.OPERATE_DEVICES),
    ("POST", "/devices/nobody/revoke", None, Permission.OPERATE_DEVICES),
    ("PUT", "/devices/nobody/tags/x", None, Permission.OPERATE_DEVICES),
    ("DELETE", "/devices/nobody/tags/x", None, Permission.OPERATE_DEVICES),
    ("PUT", "/devices/nobody/attributes", {}, Permission.OPERATE_DEVICES),
    ("POST", "/assignments", {"release": "a@1.0.0", "devices": []}, Permission.OPERATE_DEVICES),
    ("GET", "/rollouts", None, Permission.READ),
    ("GET", "/rollouts/ro-9", None, Permission.READ),
    ("GET", "/rollouts/ro-9/devices", None, Permission.READ),
    ("GET", "/rollouts/ro-9/outcomes", None, Permission.READ),
    ("GET", "/rollouts/ro-9/decisions", None, Permission.READ),
    ("GET", "/rollouts/ro-9/why", None, Permission.READ),
    ("GET", "/devices/nobody/rollouts", None, Permission.READ),
    ("POST", "/rollouts/plan", {"release": "a@1.0.0"}, Permission.READ),
    ("POST", "/rollouts", {"release": "a@1.0.0"}, Permission.OPERATE_DEVICES),
    ("POST", "/rollouts/ro-9/approve", {}, Permission.APPROVE),
    *(
        ("POST", f"/rollouts/ro-9/{command}", {}, Permission.OPERATE_DEVICES)
        for command in ("pause", "halt", "revert", "cancel", "advance", "retry")
    ),
    ("POST", "/rollouts/ro-9/skip", {"devices": ["d"], "reason": "x"}, Permission.OPERATE_DEVICES),
    ("PUT", "/devices/nobody/pin", {"reason": "x"}, Permission.OPERATE_DEVICES),
    ("DELETE", "/devices/nobody/pin", None, Permission.OPERATE_DEVICES),
    (
        "POST",
        "/uploads",
        {"sha256": "cd" * 32, "length": 1, "encoding": "identity", "decoded_length": 1},
        Permission.PUBLISH,
    ),
    ("PUT", "/releases/a@1.0.0", {"manifest": "", "role": "team-nav", "metadata": ""}, Permission.PUBLISH),
    ("POST", "/releases/a@1.0.0/yank", {"reason": "x"}, Permission.APPROVE),
    ("POST", "/trust/image", {"metadata": ["e30="]}, Permission.APPROVE),
    ("POST", "/trust/director", {"metadata": ["e30="]}, Permission.APPROVE),
    ("GET", "/tokens", None, Permission.ADMINISTER),
    ("POST", "/tokens", {"name": "x", "role": "viewer"}, Permission.ADMINISTER),
    ("POST", "/tokens/none/revoke", None, Permission.ADMINISTER),
    ("GET", "/audit", None, Permission.ADMINISTER),
]


@pytest.fixture(scope="module")
def tokens(fleet: Fleet) -> dict[Role, str]:
    return {role: fleet.token(f"a-{role.value}", role.value) for role in Role}


def send(fleet: Fleet, token: str, method: str, path: str, body: object = None) -> httpx.Response:
    with httpx.Client(base_url=fleet.url, timeout=30) as client:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return client.request(method, f"/api/v1{path}", json=body, headers=headers)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "path", "body", "needs"), NEEDS, ids=[f"{m} {p}" for m, p, _, _ in NEEDS])
def test_a_role_reaches_what_it_may_and_nothing_else(
    fleet: Fleet, tokens: dict[Role, str], role: Role, method: str, path: str, body: object, needs: Permission
) -> None:
    answer = send(fleet, tokens[role], method, path, body)
    if needs in PERMISSIONS[role]:
        assert answer.status_code not in {401, 403, 405, 500}, answer.text
    else:
        assert answer.status_code == 403, answer.text
        assert answer.json()["code"] == "not_allowed"


@pytest.mark.parametrize(("method", "path", "body", "needs"), NEEDS, ids=[f"{m} {p}" for m, p, _, _ in NEEDS])
def test_nothing_is_done_without_a_token(fleet: Fleet, method: str, path: str, body: object, needs: Permission) -> None:
    answer = send(fleet, "", method, path, body)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "token", ["sdx_unknown_secret", "sdxd_unknown", "nonsense", "sdx_", "x" * 5000, "sdx_%00", "sdx_é"]
)
def test_a_wrong_token_is_nobody(fleet: Fleet, token: str) -> None:
    headers = [(b"authorization", b"Bearer " + token.encode())]
    answer = httpx.get(f"{fleet.url}/api/v1/whoami", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_unknown"), answer.text


def test_a_devices_token_is_no_persons(fleet: Fleet) -> None:
    answer = send(fleet, fleet.device_token, "GET", "/releases")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_unknown")


def test_a_persons_token_is_no_devices(fleet: Fleet) -> None:
    bearer = {"authorization": f"Bearer {fleet.admin_token}"}
    for path in ("/device/v1/poll", "/tuf/director/d-0/metadata/timestamp.json"):
        answer = httpx.get(f"{fleet.url}{path}", headers=bearer)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_unknown"), path


def test_a_revoked_token_is_dead_at_once(fleet: Fleet) -> None:
    with fleet.client() as admin:
        made = admin.post("/api/v1/tokens", json={"name": "short", "role": "viewer", "life_s": 60}).json()
        assert send(fleet, made["token"], "GET", "/whoami").json()["role"] == "viewer"
        assert admin.post(f"/api/v1/tokens/{made['id']}/revoke").status_code == 204
    answer = send(fleet, made["token"], "GET", "/whoami")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


def test_nobody_is_asked_for_a_body_before_they_are_known(fleet: Fleet) -> None:
    """Garbage from a stranger is answered by 401, not by what is wrong with it."""
    answer = httpx.post(
        f"{fleet.url}/api/v1/tokens", content=b"{not json", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/api/v1/nothing", b"", 404, "not_found"),
        ("GET", "/elsewhere", b"", 404, "not_found"),
        ("DELETE", "/api/v1/whoami", b"", 405, "method_not_allowed"),
        ("POST", "/api/v1/tokens", b"{not json", 400, "bad_input"),
        ("POST", "/api/v1/tokens", b'{"name":"x"}', 400, "bad_input"),
        ("POST", "/api/v1/tokens", b'{"name":"x","role":"king"}', 400, "bad_input"),
        ("POST", "/api/v1/tokens", b'{"name":"x","role":"viewer","more":1}', 400, "bad_input"),
        ("POST", "/api/v1/tokens", b"[]", 400, "bad_input"),
        ("GET", "/api/v1/releases/none@1.0.0", b"", 404, "release_not_found"),
        ("GET", "/api/v1/devices/none", b"", 404, "device_unknown"),
        ("GET", "/api/v1/releases?limit=0", b"", 400, "bad_input"),
        ("GET", "/api/v1/releases?limit=100000", b"", 400, "bad_input"),
        ("GET", "/api/v1/releases?cursor=%21", b"", 400, "invalid_cursor"),
        ("GET", "/api/v1/releases?state=lost", b"", 400, "invalid_state"),
        ("GET", "/blobs/zz", b"", 404, "blob_not_found"),
        ("GET", f"/blobs/{'0' * 64}", b"", 404, "blob_not_found"),
        ("GET", "/blobs/..%2f..%2fhub.db", b"", 404, "not_found"),
        ("GET", "/tuf/image/metadata/9.root.json", b"", 404, "metadata_not_found"),
        ("GET", "/tuf/image/metadata/..%2fx", b"", 404, "not_found"),
        ("GET", "/tuf/image/targets/nav/a/1/b", b"", 404, "target_not_found"),
        ("GET", "/api/v1/trust/elsewhere/root", b"", 400, "bad_input"),
        ("GET", "/api/v1/trust/director/targets", b"", 404, "metadata_not_found"),
        ("POST", "/api/v1/trust/image", b'{"metadata":["%%"]}', 400, "not_base64"),
        ("POST", "/device/v1/enrol", b'{"payload":"","signature":""}', 400, "schema_error"),
    ],
)
def test_every_error_is_a_problem(fleet: Fleet, method: str, path: str, content: bytes, status: int, code: str) -> None:
    headers = {"authorization": f"Bearer {fleet.admin_token}", "content-type": "application/json"}
    answer = httpx.request(method, f"{fleet.url}{path}", content=content, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert problem["status"] == status
    assert problem["type"] == f"urn:sdx:problem:{code}"
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert answer.headers["sdx-request-id"]


def test_a_body_that_is_too_large_is_refused_unread(fleet: Fleet) -> None:
    body = b'{"name":"' + b"x" * (2 * 1024 * 1024) + b'","role":"viewer"}'
    with fleet.client() as client:
        answer = client.post("/api/v1/tokens", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_no_token_is_in_the_log(fleet: Fleet) -> None:
    """Neither the admin's, nor a device's, nor a new one, in whatever way a request was wrong."""
    made = fleet.token("logged", "viewer")
    secret = fleet.enrol_string("logged-1")
    with fleet.client() as client:
        client.get(f"/api/v1/releases?cursor={made}")
        client.get(f"/api/v1/devices/{made}")
        client.get(f"/nowhere/{made}")
        client.post("/api/v1/tokens", json={"name": made, "role": "king"})
    log = fleet.hub.text()
    assert "path=/api/v1/tokens" in log
    for token in (fleet.admin_token, fleet.device_token, made, secret):
        assert token not in log
        assert token.partition(".")[0][-12:] not in log
