"""One hub for all power-cut tests of a process."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.lab import BAD, GOOD, PRODUCT, UPDATES, Lab, payloads, version_of
from tests.support.fleet import start_fleet
from tests.support.publisher import Payload

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("power-cut")
    # Thousands of fsyncs: on a file system in memory they cost nothing, and the model does the losing anyway.
    crafts = MEMORY / f"sdx-power-cut-{os.getpid()}" if os.access(MEMORY, os.W_OK) else folder / "crafts"
    crafts.mkdir()
    try:
        with start_fleet(folder / "fleet") as fleet, fleet.client() as client:
            for number in range(UPDATES + 2):
                for kind in (GOOD, BAD) if number > 1 else (GOOD,):
                    version = version_of(kind, number)
                    server, params = payloads(version)
                    parts = [Payload("server", server, ("./check",)), Payload("params", params)]
                    fleet.publisher.publish(PRODUCT, version, parts)
            yield Lab(fleet, client, crafts)
    finally:
        shutil.rmtree(crafts)
