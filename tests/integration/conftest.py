"""One running hub for each module; everything goes through real HTTP."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, start_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub")) as running:
        yield running
