"""The hub's settings: one frozen struct, decoded once, from `DATA/hub.toml` and the `SDX_*` environment.

The environment wins over the file; `sdx hub serve` puts its flags above both. `SDX_NAME_FILE` names a file that holds
the value of `NAME`: how container engines and service managers hand over secrets. An unknown key is refused, because a
misspelt one would otherwise be a default that nobody chose.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct

from sdx_hub.domain.errors import BadInput

ENVIRONMENT_PREFIX = "SDX_"
FILE_SUFFIX = "_FILE"
CLIENT_VARIABLES = frozenset({"CONFIG", "HUB", "IMAGE_ROOT", "PROFILE", "TOKEN", "TOKEN_FILE", "TRACEBACK"})
"""`SDX_*` variables of the `sdx` command itself; the hub leaves them alone."""

Seconds = Annotated[int, Meta(ge=1, le=10 * 365 * 86400)]
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_DAY_S = 86400


class InvalidSettings(BadInput):
    default_code = "settings_invalid"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an operator can set.

    Attributes:
        data_dir: Folder of the database, the blobs, the uploads and the online keys.
        database_url: SQLAlchemy URL; empty means SQLite in `data_dir`. May hold a password, so it is never shown.
        blob_url: Where payloads are: empty for a folder in `data_dir`, a path, or
            `s3://BUCKET/PREFIX?endpoint=https://...&region=...`.
        blob_key_id, blob_secret: Credentials of the object store.
        keys_dir: Folder of the hub's own signing keys, which all replicas share; empty means `online` in `data_dir`.
        tls_cert, tls_key: PEM files, where the hub itself and no proxy in front of it ends TLS.
        public_url: How devices and people reach the hub, where that differs from host and port; https in production.
        poll_interval_s, poll_jitter_s: What devices are told; the jitter is added by them.
        timestamp_life_s, snapshot_life_s, director_life_s: How long metadata that the hub signs is valid.
        token_life_s: A device's poll token that is older is replaced.
        resign_check_s: How often the hub looks whether something must be signed again, or a token replaced.
        fleet_refresh_ms: How often a worker looks for changes that another worker made, when nothing told it of one.
        stale_s: A worker that could not look for so long answers no device any more: what it knows may be revoked.
        max_in_flight: Requests, polls apart, that a worker has under way before it sheds load with 503.
        max_event_streams: Streams of `/api/v1/events` that a worker has open at once; they do not count as under way.
        rollout_tick_ms: How often the hub looks after its rollouts.
        rollout_soak_s, rollout_silent_s: What a rollout that does not say so itself gets: how long a wave is watched
            after its last device ended, and after how long a device is missed.
        otlp_endpoint: Where traces go (OpenTelemetry over HTTP, the extra `otel`); empty means no traces.
        environment: `development` relaxes the checks below, and says so at every start.
    """

    data_dir: Path
    database_url: str = ""
    blob_url: str = ""
    blob_key_id: str = ""
    blob_secret: str = ""
    keys_dir: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8400
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    public_url: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    poll_interval_s: Seconds = 60
    poll_jitter_s: Annotated[int, Meta(ge=0, le=86400)] = 15
    timestamp_life_s: Seconds = _DAY_S
    snapshot_life_s: Seconds = 7 * _DAY_S
    director_life_s: Seconds = _DAY_S
    token_life_s: Seconds = 90 * _DAY_S
    resign_check_s: Seconds = 60
    fleet_refresh_ms: Annotated[int, Meta(ge=20, le=5000)] = 400
    stale_s: Annotated[int, Meta(ge=1, le=3600)] = 10
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 256
    max_event_streams: Annotated[int, Meta(ge=1, le=10_000)] = 100
    rollout_tick_ms: Annotated[int, Meta(ge=50, le=60_000)] = 1_000
    rollout_soak_s: Annotated[int, Meta(ge=0, le=366 * _DAY_S)] = 600
    rollout_silent_s: Annotated[int, Meta(ge=1, le=366 * _DAY_S)] = 3_600
    otlp_endpoint: str = ""
    environment: Literal["production", "development"] = "production"

    @property
    def database(self) -> str:
        """The database's URL; not for logs."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'hub.db'}"

    @property
    def blobs(self) -> str:
        """Where payloads are: a path or an `s3://` URL."""
        return self.blob_url or str(self.data_dir / "blobs")

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def online_dir(self) -> Path:
        return Path(self.keys_dir) if self.keys_dir else self.data_dir / "online"

    @property
    def tls(self) -> bool:
        return bool(self.tls_cert)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def __repr__(self) -> str:
        shown = {field: getattr(self, field) for field in self.__struct_fields__}
        shown["database_url"] = _without_password(self.database_url)
        shown["blob_secret"] = "***" if self.blob_secret else ""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def load_settings(data_dir: Path, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Decode the settings once.

    Args:
        data_dir: The data folder; `hub.toml` in it is optional.
        environ: Usually `os.environ`.
        flags: From the command line; None means not given.

    Raises:
        InvalidSettings: A key is unknown, a value is malformed, or it is unsafe in production.
    """
    values: dict[str, Any] = _from_file(data_dir / "hub.toml")
    for name, text in environ.items():
        key = name.removeprefix(ENVIRONMENT_PREFIX)
        if not name.startswith(ENVIRONMENT_PREFIX) or key in CLIENT_VARIABLES:
            continue
        if key.endswith(FILE_SUFFIX):
            values[key.removesuffix(FILE_SUFFIX).lower()] = _content(name, Path(text))
        else:
            values[key.lower()] = text
    values |= {name: value for name, value in flags.items() if value is not None}
    values["data_dir"] = data_dir.absolute()
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSettings(
            f"The settings are not valid: {error}. Look into hub.toml and the SDX_* variables."
        ) from None
    _refuse_unsafe(settings)
    return settings


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not valid TOML: {error}.") from error


def _content(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{variable} names {path}, which cannot be read: {error}.") from None


def _refuse_unsafe(settings: Settings) -> None:
    try:
        public = urlsplit(settings.public_url)
    except ValueError as error:
        raise InvalidSettings(f"public_url is no address: {error}.", "settings_invalid") from None
    if settings.public_url and (public.scheme not in {"http", "https"} or not public.hostname):
        raise InvalidSettings("public_url must look like https://hub.example.org.", "settings_invalid")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidSettings("tls_cert and tls_key belong together: name both or neither.", "settings_invalid")
    if settings.environment == "development":
        return
    if public.scheme == "http" and public.hostname not in _LOOPBACK:
        raise InvalidSettings(
            "public_url must be https in production: polls carry a bearer token. Put a TLS proxy in front, or set "
            'environment = "development".',
            "settings_unsafe",
        )
    if settings.host not in _LOOPBACK and not settings.public_url and not settings.tls:
        raise InvalidSettings(
            f"host = {settings.host!r} offers plain http to the network, and polls carry a token. Put a TLS proxy "
            'in front and name it in public_url, set tls_cert and tls_key, or set environment = "development".',
            "settings_unsafe",
        )
    if settings.log_level == "debug":
        raise InvalidSettings(
            'log_level "debug" is for environment = "development": it may show what devices send.', "settings_unsafe"
        )
    if settings.timestamp_life_s > settings.snapshot_life_s:
        raise InvalidSettings(
            "timestamp_life_s must not exceed snapshot_life_s: the timestamp is what bounds a freeze attack.",
            "settings_unsafe",
        )
    if settings.timestamp_life_s > 7 * _DAY_S or settings.director_life_s > 7 * _DAY_S:
        raise InvalidSettings(
            "timestamp_life_s and director_life_s may be 7 days at the most in production: so long can a stolen "
            "online key or a frozen mirror keep devices in the past.",
            "settings_unsafe",
        )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
