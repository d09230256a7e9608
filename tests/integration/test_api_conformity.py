"""The API is what its description says: schemathesis over every operation, with authentication, against a real hub.

It makes requests out of the description, right and wrong ones, and holds every answer against it. No answer may be a
500, have a status, a media type, headers or a body that the description does not know, take what the description
refuses, or come without the authentication that it asks for.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import Fleet, start_fleet
from tests.support.postgres import BACKENDS, Databases

TOOL = str(Path(sys.executable).parent / "schemathesis")
CONFIG = """
hooks = "tests.support.schemathesis_hooks"
continue-on-failure = true
suppress-health-check = ["filter_too_much"]
warnings.fail-on = ["missing_auth", "method_not_allowed"]

[auth.openapi.person]
bearer = "${ADMIN_TOKEN}"
[auth.openapi.device]
bearer = "${DEVICE_TOKEN}"

[checks]
# A cursor, a serial or signed metadata may look right and still be nobody's: no schema can say so.
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 415, 416, 422]
"""


@pytest.fixture(scope="module", params=BACKENDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """On both databases: they do not refuse the same numbers and texts."""
    settings = {}
    if request.param == "postgresql":
        server: Databases = request.getfixturevalue("databases")
        settings["SDX_DATABASE_URL"] = server.new()
    with start_fleet(tmp_path_factory.mktemp("hub"), **settings) as running:
        yield running


def something_of_everything(fleet: Fleet) -> dict[str, list[str]]:
    """Fill the hub; return the names of what is there, by the parameter that takes them."""
    release = fleet.publish_next()
    for number in range(3):
        fleet.enrol_key(Ed25519PrivateKey.generate(), f"spare-{number}")
    half = b"0123456789"
    order = {"sha256": hashlib.sha256(half + half).hexdigest(), "length": 20, "decoded_length": 20}
    with fleet.client() as client:
        upload = client.post("/api/v1/uploads", json=order).json()["id"]
        client.patch(f"/api/v1/uploads/{upload}", content=half, headers={"upload-offset": "0"}).raise_for_status()
        client.put("/api/v1/devices/spare-0/tags/north").raise_for_status()
        client.put("/api/v1/filters/north", json={"query": "tag = north"}).raise_for_status()
        # Nobody listens there: what is sent to it stays on this machine.
        hook = client.post("/api/v1/webhooks", json={"url": "https://127.0.0.1:1/x"}).json()["webhook"]["id"]
        shown = client.get(f"/api/v1/releases/{release}").json()
        rollout = client.post("/api/v1/rollouts", json={"release": release, "query": "serial ~ spare-*"}).json()["id"]
    digests = [component["sha256"] for component in shown["manifest"]["components"]]
    paths = [path.rpartition("/") for path in shown["targets"] if not path.endswith(".json")]
    return {
        "device": ["spare-0", "spare-1", "spare-2", "token-bearer"],
        "name_of_device": [id_of(fleet, "token-bearer")],
        "release": [release],
        "rollout": [rollout],
        "sha256": digests,
        "target": [f"{folder}/{sha256}.{name}" for sha256, (folder, _, name) in zip(digests, paths, strict=True)],
        "upload_id": [upload],
        "tag": ["north"],
        "token_id": [fleet.token("spare", "viewer").split("_")[1]],
        "role": ["root", "targets", "snapshot", "timestamp", "team-nav"],
        "name": ["timestamp.json", "1.root.json", "1.snapshot.json", "north"],
        "webhook": [hook],
        "type": ["rollout.*", "webhook.disabled"],
        "query": ["tag = north", "tag = north and seen < 7d"],
    }


def id_of(fleet: Fleet, serial: str) -> str:
    with fleet.client() as client:
        return str(client.get(f"/api/v1/devices/{serial}").json()["id"])


def explore(fleet: Fleet, folder: Path, *arguments: str) -> None:
    """Run the tool over everything; fail with what it found."""
    device_token = fleet.device_token
    known = something_of_everything(fleet)
    config = folder / "schemathesis.toml"
    bindings = [f"{name} = {{ dictionary = '{name}', probability = 0.5 }}" for name in known]
    dictionaries = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in known.items()]
    config.write_text("\n".join([CONFIG, "[parameters]", *bindings, *dictionaries]))
    keep = [fleet.admin_token.split("_")[1], "token-bearer", id_of(fleet, "token-bearer")]
    environment = {"ADMIN_TOKEN": fleet.admin_token, "DEVICE_TOKEN": device_token, "KEEP": " ".join(keep)}
    done = subprocess.run(
        [TOOL, "--config-file", str(config), "run", f"{fleet.url}/schema/openapi.json", *arguments],
        env=os.environ | environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    operations = sum(
        len(operations) for operations in httpx.get(f"{fleet.url}/schema/openapi.json").json()["paths"].values()
    )
    assert f"Tested: {operations}\n" in done.stdout, done.stdout
    with fleet.client() as client:
        assert client.get("/api/v1/whoami").status_code == 200, "what it tested as an admin, it tested as nobody"
    poll = httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {device_token}"})
    assert poll.status_code == 200, "what it tested as a device, it tested as nobody"
    assert "request_failed" not in fleet.hub.text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_api_is_what_its_description_says(fleet: Fleet, tmp_path: Path) -> None:
    explore(fleet, tmp_path, "--phases=examples,coverage,fuzzing", "--max-examples=3", "--generation-deterministic")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_api_is_what_its_description_says_at_length(fleet: Fleet, tmp_path: Path) -> None:
    explore(fleet, tmp_path, "--max-examples=100")
