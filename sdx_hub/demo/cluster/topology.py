"""What a cluster is made of, said once.

`sdx demo cluster` starts what this says; docker-compose.yml says it again in its own language, and a test holds the two
together. What differs is where things are: on one machine's loopback, or each in a container of its own.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

HUBS = ("hub-1", "hub-2")
BUCKET, REGION = "sdx", "us-east-1"
POLL_INTERVAL_S, POLL_JITTER_S = 60, 15
_SLACK_S = 30
"""A kept connection waits so much longer than from one poll to the next, at the proxy as at the hub."""
CONNECTIONS = 100_000
TEMPLATE = Path(__file__).parents[3] / "deploy" / "nginx" / "nginx.conf.template"
_VARIABLE = re.compile(r"\$\{(PROXY_[A-Z0-9_]+)\}")


class HubPlace(Struct, frozen=True):
    """Where one replica is.

    Attributes:
        listens: Host that it binds to.
        port: Of it.
        reached: Host under which the proxy reaches it.
        data: Its own folder: scratch, which may be lost.
    """

    listens: str
    port: int
    reached: str
    data: str

    @property
    def address(self) -> str:
        return f"{self.reached}:{self.port}"


class Places(Struct, frozen=True):
    """Where everything is.

    Attributes:
        hubs: One for each name in `HUBS`.
        secrets: Folder of files with one secret each.
        keys: Folder of the hub's own signing keys, the same for all replicas.
        store: Address of the S3 server.
        public_url: Address of the proxy, as devices and people know it.
        proxy_listens, proxy_status: What nginx's `listen` takes, for everybody and for health checks.
        proxy_tls: Folder of tls.crt and tls.key.
        proxy_run: Folder for what nginx writes while it runs.
        proxy_log: Its access log.
        connections: That one worker of the proxy can hold.
        poll_interval_s, poll_jitter_s: What devices are told.
    """

    hubs: Mapping[str, HubPlace]
    secrets: str
    keys: str
    store: str
    public_url: str
    proxy_listens: str
    proxy_status: str
    proxy_tls: str
    proxy_run: str
    proxy_log: str
    connections: int = CONNECTIONS
    poll_interval_s: int = POLL_INTERVAL_S
    poll_jitter_s: int = POLL_JITTER_S


def hub_command(place: HubPlace) -> list[str]:
    """How a replica is started."""
    listen = ["--host", place.listens, "--port", str(place.port)]
    return ["sdx", "hub", "serve", "--data", place.data, *listen]


def hub_settings(places: Places) -> dict[str, str]:
    """The environment of every replica, and of the commands that look after the hub."""
    return {
        "SDX_LOG_JSON": "true",
        "SDX_PUBLIC_URL": places.public_url,
        "SDX_DATABASE_URL_FILE": f"{places.secrets}/database_url",
        "SDX_BLOB_URL": f"s3://{BUCKET}?endpoint={places.store}&region={REGION}",
        "SDX_BLOB_KEY_ID_FILE": f"{places.secrets}/blob_key_id",
        "SDX_BLOB_SECRET_FILE": f"{places.secrets}/blob_secret",
        "SDX_KEYS_DIR": places.keys,
        "SDX_POLL_INTERVAL_S": str(places.poll_interval_s),
        "SDX_POLL_JITTER_S": str(places.poll_jitter_s),
    }


def proxy_variables(places: Places) -> dict[str, str]:
    """What the proxy's template asks for."""
    first, second = (places.hubs[name].address for name in HUBS)
    return {
        "PROXY_HUB_1": first,
        "PROXY_HUB_2": second,
        "PROXY_LISTEN": places.proxy_listens,
        "PROXY_STATUS": places.proxy_status,
        "PROXY_TLS": places.proxy_tls,
        "PROXY_RUN": places.proxy_run,
        "PROXY_ACCESS_LOG": places.proxy_log,
        "PROXY_CONNECTIONS": str(places.connections),
        "PROXY_KEEP_S": str(places.poll_interval_s + places.poll_jitter_s + _SLACK_S),
    }


def proxy_config(variables: Mapping[str, str], template: str) -> str:
    """Fill in the template as `envsubst` in the container does: our own names, and no variable of nginx.

    Raises:
        KeyError: The template asks for more.
    """
    return _VARIABLE.sub(lambda found: variables[found[1]], template)


IN_CONTAINERS = Places(
    # nginx looks names up once, when it starts: a replica that is made anew must come back at the same address.
    hubs={
        name: HubPlace(listens="0.0.0.0", port=8400, reached=f"10.84.0.{11 + number}", data="/data")  # noqa: S104
        for number, name in enumerate(HUBS)
    },
    secrets="/run/secrets",
    keys="/keys",
    store="http://store:8333",
    public_url="https://hub.example.org",
    proxy_listens="8443",
    proxy_status="127.0.0.1:8081",
    proxy_tls="/run/secrets",
    proxy_run="/tmp",  # noqa: S108 - a tmpfs of its container
    proxy_log="/dev/stdout",
)
"""As docker-compose.yml has it; the public address is the installation's own."""
