"""Reading what `enrol` left: settings and identity. The private key is not among it; only a worker reads that."""

from typing import NamedTuple

from device_agent.core.errors import SettingsError
from device_agent.ports.home import Home
from device_agent.ports.storage import read_optional
from device_agent.settings import Settings, decode_settings


class Identity(NamedTuple):
    device_id: str
    token: str

    def __repr__(self) -> str:
        return f"Identity(device_id={self.device_id!r}, token=***)"


def read_settings(home: Home) -> Settings:
    """agent.toml.

    Raises:
        SettingsError: It is missing (`not_enrolled`) or unusable.
    """
    raw = _read(home, "settings")
    return decode_settings(raw)


def read_identity(home: Home) -> Identity:
    """Device id and poll token.

    Raises:
        SettingsError: They are missing (code `not_enrolled`).
    """
    return Identity(_read(home, "device_id").decode().strip(), _read(home, "token").decode().strip())


def _read(home: Home, name: str) -> bytes:
    path = getattr(home, name)
    raw = read_optional(path, 1 << 20)
    if not raw:
        raise SettingsError(f"{path} is missing: run `sdx-agent enrol --state {home.root}` first.", "not_enrolled")
    return raw
