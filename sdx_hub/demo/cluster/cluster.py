"""PostgreSQL, an S3 server, two hubs and a proxy, as processes of this machine, in one folder."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sdx_hub.demo.cluster.certificates import CA_FILE, make_certificates
from sdx_hub.demo.cluster.proxy import Proxy, connections
from sdx_hub.demo.cluster.replica import Replica
from sdx_hub.demo.cluster.topology import HUBS, HubPlace, Places, hub_settings
from sdx_hub.demo.servers.ports import free_ports
from sdx_hub.demo.servers.postgres import PostgresServer
from sdx_hub.demo.servers.seaweed import SeaweedServer
from sdx_hub.demo.tools import Tools


class Cluster:
    """All of it; every process ends with the thread that started it.

    Args:
        folder: Everything is in here.
        settings: More `SDX_*` settings for every replica.
        poll_interval_s, poll_jitter_s: What devices are told.
        store_options: More flags of the S3 server.

    Attributes:
        database, store, hubs, proxy: The processes; the last two are there after `start_hubs`.
        places: Where everything is, after `start_stores`.
    """

    places: Places
    hubs: dict[str, Replica]
    proxy: Proxy

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        poll_interval_s: int = 1,
        poll_jitter_s: int = 0,
        store_options: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder.absolute()
        self._settings = dict(settings or {})
        self._poll = (poll_interval_s, poll_jitter_s)
        self._at_end = ExitStack()
        # Loopback has no wire that could lose what was synced: the same options as for real, fsync included.
        self.database = PostgresServer(self.folder / "postgres")
        self.store = SeaweedServer(self.folder / "store", options=store_options)

    @property
    def url(self) -> str:
        return self.places.public_url

    @property
    def ca(self) -> Path:
        """The authority that clients must trust: `SSL_CERT_FILE`."""
        return self.folder / "tls" / CA_FILE

    @property
    def settings(self) -> dict[str, str]:
        """The environment of every replica, and of commands like `sdx hub doctor`."""
        return hub_settings(self.places) | self._settings

    @property
    def keeper(self) -> Tools:
        """`sdx` for whoever looks after the hub: with the replicas' settings."""
        return Tools(self.folder / "keeper.toml", "", self.folder, self.settings)

    def start_stores(self) -> None:
        """Start what is stateful, and decide where everything is.

        Raises:
            DemoError: One of them does not start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._at_end.callback(self.database.stop)
        self.database.start()
        self._at_end.callback(self.store.stop)
        self.store.start()
        self._write_secrets()
        self.places = self._find_places()

    def initialise(self, ceremony: Path) -> dict[str, Any]:
        """`sdx hub init`; returns what it says: the digests of the roots, and the first admin's token."""
        scratch = self.places.hubs[HUBS[0]].data
        made: dict[str, Any] = self.keeper.sdx("hub", "init", "--data", scratch, "--ceremony", str(ceremony.absolute()))
        return made

    def start_hubs(self) -> None:
        """Start both replicas at once, and the proxy in front of them.

        Raises:
            DemoError: One does not start, or nginx is missing.
        """
        make_certificates(self.folder / "tls")
        self.proxy = Proxy(self.places, self.folder)
        self.hubs = {
            name: Replica(place, self.settings, self.folder / f"{name}.log") for name, place in self.places.hubs.items()
        }
        self._at_end.callback(self._stop_hubs)
        for hub in self.hubs.values():
            hub.launch()
        for hub in self.hubs.values():
            hub.wait_until_ready()
        self._at_end.callback(self.proxy.stop)
        self.proxy.start()

    def doctor(self) -> list[dict[str, Any]]:
        """What `sdx hub doctor` found; an exit code other than 0 raises."""
        findings: list[dict[str, Any]] = self.keeper.sdx("hub", "doctor", "--data", self.places.hubs[HUBS[0]].data)[
            "findings"
        ]
        return findings

    def close(self) -> None:
        """Stop everything, the proxy first."""
        self._at_end.close()

    def _stop_hubs(self) -> None:
        for hub in self.hubs.values():
            hub.ask_to_end()
        for hub in self.hubs.values():
            hub.wait()

    def _write_secrets(self) -> None:
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        secrets = {
            "database_url": self.database.url,
            "blob_key_id": self.store.key_id,
            "blob_secret": self.store.secret,
        }
        for name, value in secrets.items():
            file = folder / name
            file.touch(0o600)
            file.write_text(value)

    def _find_places(self) -> Places:
        *hub_ports, listens, status = free_ports(len(HUBS) + 2)
        interval_s, jitter_s = self._poll
        return Places(
            hubs={
                name: HubPlace("127.0.0.1", port, "127.0.0.1", str(self.folder / name))
                for name, port in zip(HUBS, hub_ports, strict=True)
            },
            secrets=str(self.folder / "secrets"),
            keys=str(self.folder / "keys"),
            store=self.store.endpoint,
            public_url=f"https://localhost:{listens}",
            proxy_listens=f"127.0.0.1:{listens}",
            proxy_status=f"127.0.0.1:{status}",
            proxy_tls=str(self.folder / "tls"),
            proxy_run=str(self.folder / "nginx"),
            proxy_log=str(self.folder / "access.log"),
            connections=connections(),
            poll_interval_s=interval_s,
            poll_jitter_s=jitter_s,
        )
