"""The director's files: for the one device that they are about, with caching that cannot freeze a craft."""

import json

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sdx_hub.services.devices.enrolment import device_id_of
from tests.support.fleet import Fleet


def enrolled(fleet: Fleet, serial: str) -> tuple[str, dict[str, str]]:
    key = Ed25519PrivateKey.generate()
    token = fleet.enrol_key(key, serial)
    return device_id_of(key.public_key().public_bytes_raw().hex()), {"authorization": f"Bearer {token}"}


def test_a_device_reads_its_own_and_no_others(fleet: Fleet) -> None:
    mine, my_token = enrolled(fleet, "director-1")
    other, _ = enrolled(fleet, "director-2")
    answer = httpx.get(f"{fleet.url}/tuf/director/{mine}/metadata/timestamp.json", headers=my_token)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    version = json.loads(answer.content)["signed"]["version"]
    for name in (f"{version}.snapshot.json", f"{version}.targets.json", "1.root.json"):
        file = httpx.get(f"{fleet.url}/tuf/director/{mine}/metadata/{name}", headers=my_token)
        assert file.status_code == 200, name
        assert "immutable" in file.headers["cache-control"]
        assert "private" in file.headers["cache-control"]
    for device in (other, "d-00000000000000000000", mine.upper()):
        refused = httpx.get(f"{fleet.url}/tuf/director/{device}/metadata/timestamp.json", headers=my_token)
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_device")


@pytest.mark.parametrize("name", ["99.targets.json", "targets.json", "0.targets.json", "x", "2.root.json"])
def test_a_file_that_is_not_there(fleet: Fleet, name: str) -> None:
    mine, token = enrolled(fleet, f"director-{name.replace('.', '-')}")
    answer = httpx.get(f"{fleet.url}/tuf/director/{mine}/metadata/{name}", headers=token)
    assert (answer.status_code, answer.json()["code"]) == (404, "metadata_not_found")


def test_the_image_repository_is_cached_by_version_only(fleet: Fleet) -> None:
    base = f"{fleet.url}/tuf/image/metadata"
    assert httpx.get(f"{base}/timestamp.json").headers["cache-control"] == "no-cache"
    assert "immutable" in httpx.get(f"{base}/1.root.json").headers["cache-control"]
    assert httpx.get(f"{base}/targets.json").status_code == 404
    assert "immutable" not in httpx.get(f"{base}/2.root.json").headers.get("cache-control", "")
