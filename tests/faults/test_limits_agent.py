"""The agent reads no metadata without a bound, of no role of either repository. See test_limits_hub.py."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, start_fleet
from tests.support.mitm import Answer, Mitm, Request
from tests.support.publisher import Payload

MB = 1000 * 1000


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("limits")) as running:
        running.publisher.publish("small", "1.0.0", [Payload("app", b"small")])
        yield running


FIRST_SEEN = [
    r"/tuf/director/[^/]+/metadata/2\.root\.json",
    r"/tuf/director/[^/]+/metadata/timestamp\.json",
    r"/tuf/director/[^/]+/metadata/\d+\.snapshot\.json",
    r"/tuf/director/[^/]+/metadata/\d+\.targets\.json",
    r"/tuf/image/metadata/2\.root\.json",
    r"/tuf/image/metadata/timestamp\.json",
    r"/tuf/image/metadata/\d+\.snapshot\.json",
    r"/tuf/image/metadata/\d+\.targets\.json",
    r"/tuf/image/metadata/\d+\.team-nav\.json",
]


def large(pattern: str) -> Callable[[Request], Answer | None]:
    def rule(request: Request) -> Answer | None:
        if not re.fullmatch(pattern, request.path):
            return None
        return 200, {"content-type": "application/json"}, (b"A" * MB for _ in range(100))

    return rule


@pytest.mark.parametrize("pattern", FIRST_SEEN)
def test_agent_reads_no_metadata_of_100_mb(fleet: Fleet, tmp_path: Path, pattern: str) -> None:
    with Mitm(fleet.url) as mitm:
        craft = fleet.new_craft(tmp_path / "craft", mitm.url)
        fleet.publisher.assign("small@1.0.0", craft.device_id)
        mitm.lie(large(pattern))
        outcome = craft.run_once()
        status = craft.status()
        assert "metadata_too_large" in f"{status['last_result']} {status['last_error']}", (outcome, status)
        assert not craft.running()
        mitm.rules.clear()
        fleet.publisher.assign("small@1.0.0", craft.device_id)
        assert craft.run_once().code == 0
        assert list(craft.running()) == ["app/app"]
