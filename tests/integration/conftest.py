"""One running hub for each module; everything goes through real HTTP."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, start_fleet
from tests.support.postgres import BACKENDS, Databases

ON_BOTH_DATABASES = frozenset(
    {"test_poll", "test_resources", "test_rollouts_api", "test_token_rotation", "test_tuf_clients"}
)
"""Where answers come out of rows. What is refused before the database is asked (who may do what, and which paths there
are) is the same on both, and its tests are the longest lists."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fleet" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in ON_BOTH_DATABASES:
        metafunc.parametrize("fleet", BACKENDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {}
    if getattr(request, "param", "sqlite") == "postgresql":
        databases: Databases = request.getfixturevalue("databases")
        settings["SDX_DATABASE_URL"] = databases.new()
    with start_fleet(tmp_path_factory.mktemp("hub"), **settings) as running:
        yield running
