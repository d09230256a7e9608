"""A real hub with more requests than it takes at once: some are sent away, none fails, and devices notice nothing."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import Fleet, start_fleet

CLIENTS = 16
EACH = 15


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), SDX_MAX_IN_FLIGHT="1") as running:
        yield running


def test_what_is_too_much_is_sent_away_and_the_rest_is_served(fleet: Fleet) -> None:
    person = {"authorization": f"Bearer {fleet.admin_token}"}
    device = {"authorization": f"Bearer {fleet.enrol_key(Ed25519PrivateKey.generate(), 'shed-1')}"}

    def ask(number: int) -> list[tuple[str, httpx.Response]]:
        with httpx.Client(base_url=fleet.url, timeout=60) as client:
            asked = []
            for _ in range(EACH):
                asked.append(("people", client.get("/api/v1/devices", headers=person)))
                asked.append(("poll", client.get("/device/v1/poll", headers=device)))
                asked.append(("ready", client.get("/readyz")))
            return asked

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [answer for found in pool.map(ask, range(CLIENTS)) for answer in found]
    seen = Counter((kind, answer.status_code) for kind, answer in answers)
    assert seen.keys() == {("people", 200), ("people", 503), ("poll", 200), ("ready", 200)}, seen
    for kind, answer in answers:
        if answer.status_code == 503:
            assert (kind, answer.json()["code"]) == ("people", "overloaded")
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["sdx-request-id"]
    with fleet.client() as client:
        assert client.get("/api/v1/devices").status_code == 200, "afterwards there is room again"
