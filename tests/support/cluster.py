"""The cluster of processes with its ceremony, its people and craft, who know nothing but the proxy."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sdx_hub.demo.cluster.cluster import Cluster
from tests.support.fleet import TEAM, Fleet
from tests.support.people import hold_ceremony
from tests.support.publisher import Publisher


@dataclass(frozen=True)
class Front:
    """What stands where a single hub's process would."""

    url: str


@contextmanager
def start_cluster(folder: Path, **settings: str) -> Iterator[tuple[Cluster, Fleet]]:
    """A cluster that serves; everything that is started meanwhile trusts its authority.

    Args:
        folder: A new one.
        settings: More `SDX_*` settings of both replicas.
    """
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    cluster = Cluster(folder, settings)
    people = hold_ceremony(folder / "ceremony", datetime.now(UTC), TEAM)
    try:
        cluster.start_stores()
        made = cluster.initialise(folder / "ceremony")
        cluster.start_hubs()
        signers = [person.signer for person in people[f"team-{TEAM}"]]
        publisher = Publisher(cluster.url, made["admin_token"], signers, TEAM)
        digests = (made["image_root_sha256"], made["director_root_sha256"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(cluster.ca))
            yield cluster, Fleet(folder, Front(cluster.url), people, publisher, made["admin_token"], *digests)
    finally:
        cluster.close()
