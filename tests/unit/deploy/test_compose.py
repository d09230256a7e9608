"""docker-compose.yml says the same as `make cluster` does, and is as confined as it claims."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sdx_hub.demo.cluster.topology import HUBS, IN_CONTAINERS
from sdx_hub.settings import load_settings
from tests.unit.deploy import compose
from tests.unit.deploy.compose import CHECKS, Document

CHECK_JSONSCHEMA = str(Path(sys.executable).parent / "check-jsonschema")


@pytest.fixture(scope="module")
def document() -> Document:
    return compose.load()


def test_it_follows_the_compose_schema() -> None:
    command = [CHECK_JSONSCHEMA, "--builtin-schema", "vendor.compose-spec", str(compose.FILE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CHECKS)
def test_it_is_as_it_must_be(document: Document, name: str) -> None:
    CHECKS[name](document)


def test_the_hub_accepts_its_settings(document: Document, tmp_path: Path) -> None:
    environ = compose.environment(document["services"][HUBS[0]]) | {"SDX_PUBLIC_URL": "https://hub.example.org"}
    for variable, value in environ.items():
        if variable.endswith("_FILE"):
            secret = tmp_path / Path(value).name
            secret.write_text(f"the {secret.name}\n")
            environ[variable] = str(secret)
    place = IN_CONTAINERS.hubs[HUBS[0]]
    settings = load_settings(Path(place.data), environ, host=place.listens, port=place.port)
    assert settings.database == "the database_url"
    assert (settings.blob_key_id, settings.blob_secret) == ("the blob_key_id", "the blob_secret")
    assert settings.blobs.startswith("s3://sdx?endpoint=http://store:8333")
    assert settings.online_dir == Path("/keys")


def test_the_proxy_waits_longer_than_a_device(document: Document) -> None:
    hub, proxy = (compose.environment(document["services"][name]) for name in (HUBS[0], "proxy"))
    pause_s = int(hub["SDX_POLL_INTERVAL_S"]) + int(hub["SDX_POLL_JITTER_S"])
    assert int(proxy["PROXY_KEEP_S"]) > pause_s


def test_prometheus_asks_every_replica() -> None:
    config = yaml.safe_load((compose.ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    asked = [one for job in config["scrape_configs"] for one in job["static_configs"]]
    found = {one["labels"]["replica"]: one["targets"] for one in asked}
    assert found == {name: [place.address] for name, place in IN_CONTAINERS.hubs.items()}


def _another_port(document: Document) -> None:
    document["services"]["hub-2"]["command"][-1] = "8401"


def _another_bucket(document: Document) -> None:
    document["services"]["hub-1"]["environment"]["SDX_BLOB_URL"] = "s3://other?endpoint=http://store:8333"


def _a_setting_too_many(document: Document) -> None:
    document["services"]["hub-1"]["environment"]["SDX_STALE_S"] = "60"


def _a_setting_for_one_alone(document: Document) -> None:
    hub = document["services"]["hub-2"]
    hub["environment"] = {**hub["environment"], "SDX_POLL_INTERVAL_S": "30"}


def _an_address_that_the_proxy_does_not_know(document: Document) -> None:
    document["services"]["hub-2"]["networks"]["inside"]["ipv4_address"] = "10.84.0.13"


def _a_replica_that_the_proxy_forgot(document: Document) -> None:
    document["services"]["proxy"]["environment"]["PROXY_HUB_2"] = "10.84.0.11:8400"


def _a_password_in_the_file(document: Document) -> None:
    document["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] = "postgres"


def _a_database_address_in_the_file(document: Document) -> None:
    document["services"]["hub-1"]["environment"]["SDX_DATABASE_URL"] = "postgresql+asyncpg://sdx:sdx@postgres/sdx"


def _a_secret_that_is_not_handed_over(document: Document) -> None:
    document["services"]["hub-1"]["secrets"] = ["blob_key_id", "blob_secret"]


def _root(document: Document) -> None:
    document["services"]["prometheus"]["user"] = "0:0"


def _a_root_that_can_be_written(document: Document) -> None:
    document["services"]["proxy"]["read_only"] = False


def _no_limit(document: Document) -> None:
    del document["services"]["grafana"]["deploy"]["resources"]["limits"]["memory"]


def _whatever_is_newest(document: Document) -> None:
    document["services"]["grafana"]["image"] = "docker.io/grafana/grafana:latest"


def _another_database(document: Document) -> None:
    document["services"]["postgres"]["image"] = "docker.io/library/postgres:16.1"


def _a_store_that_tells(document: Document) -> None:
    document["services"]["store"]["command"].remove("-master.telemetry=false")


def _a_database_without_passwords(document: Document) -> None:
    document["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"] = "--auth=trust --encoding=UTF8 --locale=C"


def _no_health(document: Document) -> None:
    del document["services"]["store"]["healthcheck"]


def _a_hub_before_its_database(document: Document) -> None:
    document["services"]["hub-1"]["depends_on"] = {"store": {"condition": "service_healthy"}}


def _an_open_database(document: Document) -> None:
    document["services"]["postgres"]["ports"] = ["5432:5432"]


def _a_store_that_devices_reach(document: Document) -> None:
    document["services"]["store"]["networks"] = ["stores", "outside"]


DRIFTS = [each for name, each in list(globals().items()) if name.startswith("_") and hasattr(each, "__code__")]


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda drift: drift.__name__.strip("_"))
def test_a_drift_is_seen(document: Document, drift: Callable[[Document], None]) -> None:
    changed = copy.deepcopy(document)
    drift(changed)
    assert changed != document
    seen = []
    for name, check in CHECKS.items():
        try:
            check(changed)
        except (AssertionError, KeyError):
            seen.append(name)
    assert seen, "nobody would notice"
