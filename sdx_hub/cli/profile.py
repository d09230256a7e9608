"""Which hub, as whom, and which root to trust: flag > SDX_* > ./sdx.toml > user config.

| what  | flag      | environment                      | ./sdx.toml          | user config                    |
|-------|-----------|----------------------------------|---------------------|--------------------------------|
| name  | --profile | SDX_PROFILE                      | profile             | `default`                      |
| hub   | --hub     | SDX_HUB                          | hub                 | [profiles.NAME] hub            |
| token |           | SDX_TOKEN, SDX_TOKEN_FILE        | never               | file beside it, mode 0600      |
| root  |           | SDX_IMAGE_ROOT (file or SHA-256) | image_root_sha256   | file beside it                 |

The user config is ~/.config/sdx/config.toml, or what SDX_CONFIG names (a .toml file or a folder). A stored token and a
stored root belong to the hub that they were stored for: an sdx.toml that came with somebody's repository and names
another hub gets neither, and one that names the same hub cannot replace the stored root.
"""

import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from firmware_schemas.ids import SHA256_PATTERN
from sdx_hub.cli.failures import UsageFault
from sdx_hub.domain.errors import NotFound, TrustError
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.payload import replacing

PROJECT_FILE = "sdx.toml"
_PROJECT_KEYS = frozenset({"profile", "hub", "image_root_sha256"})
_PROFILE_KEYS = frozenset({"hub", "token_file", "image_root", "image_root_sha256"})
_SHA256 = re.compile(SHA256_PATTERN)
MAX_ROOTS_TRIED = 256


class Profile(Struct, frozen=True):
    """The answer to "which hub, as whom, which root".

    Attributes:
        image_root: Root metadata to start from; None where nothing was pinned.
        image_root_sha256: A pin without the bytes: they are fetched and compared.
        cache: Folder for the verified metadata of this hub.
    """

    name: str
    hub: str
    token: str
    image_root: bytes | None
    image_root_sha256: str
    cache: Path

    def __repr__(self) -> str:
        return f"Profile(name={self.name!r}, hub={self.hub!r}, token=***)"


class UserConfig:
    """The user's own config file and the folder of what it names.

    Args:
        environment: `os.environ`, or another for tests.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        named = environment.get("SDX_CONFIG", "")
        home = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
        path = Path(named) if named else Path(home) / "sdx"
        self.file = path if path.suffix == ".toml" else path / "config.toml"
        # Several config files in one folder must not share tokens.
        self.folder = self.file.parent if self.file.name == "config.toml" else self.file.with_suffix(".d")

    def profiles(self) -> dict[str, dict[str, str]]:
        """Every stored profile.

        Raises:
            UsageFault: The file is not understood (code `config_invalid`).
        """
        document = _toml(self.file)
        profiles = document.pop("profiles", {})
        if document or not isinstance(profiles, dict):
            raise UsageFault(f"{self.file} has unknown parts: {sorted(document)}.", "config_invalid")
        for name, fields in profiles.items():
            if not isinstance(fields, dict) or not fields.keys() <= _PROFILE_KEYS:
                raise UsageFault(f"The profile {name} in {self.file} has unknown keys.", "config_invalid")
        return profiles

    def store(self, name: str, hub: str, token: str, image_root: bytes | None) -> None:
        """Store a profile: the token into a file of its own (0600), the pinned root beside it."""
        profiles = self.profiles()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fields = {"hub": hub, "token_file": f"{name}.token"}
        with replacing(self.folder / f"{name}.token", 0o600) as file:
            file.write(token.encode() + b"\n")
        if image_root is not None:
            fields |= {"image_root": f"{name}.root.json", "image_root_sha256": hashlib.sha256(image_root).hexdigest()}
            with replacing(self.folder / f"{name}.root.json") as file:
                file.write(image_root)
        profiles[name] = fields
        lines = []
        for each, values in sorted(profiles.items()):
            lines += [
                f"[profiles.{json.dumps(each)}]",
                *(f"{key} = {json.dumps(values[key])}" for key in sorted(values)),
            ]
            lines.append("")
        with replacing(self.file, 0o600) as file:
            file.write("\n".join(lines).encode())


def resolve(environment: Mapping[str, str], folder: Path, profile: str = "", hub: str = "") -> Profile:
    """Find out what applies.

    Args:
        environment: `os.environ`.
        folder: Where ./sdx.toml may lie.
        profile: The flag, empty where not given.
        hub: The flag, empty where not given.

    Raises:
        UsageFault: A file is not understood or has unknown keys (`config_invalid`), or a named profile or file does
            not exist (`profile_unknown`, `token_file_missing`, `image_root_invalid`).
    """
    project = _toml(folder / PROJECT_FILE)
    if not project.keys() <= _PROJECT_KEYS:
        raise UsageFault(
            f"{PROJECT_FILE} may only say {', '.join(sorted(_PROJECT_KEYS))}; it says {', '.join(sorted(project))}.",
            "config_invalid",
        )
    chosen = profile or environment.get("SDX_PROFILE", "") or project.get("profile", "")
    user = UserConfig(environment)
    stored = user.profiles().get(chosen or "default")
    if stored is None and (profile or environment.get("SDX_PROFILE")):
        raise UsageFault(
            f"There is no profile {chosen!r}: make it with `sdx login --profile {chosen}`.", "profile_unknown"
        )
    stored = stored or {}
    address = _address(hub or environment.get("SDX_HUB", "") or project.get("hub", "") or stored.get("hub", ""))
    own = bool(stored) and address == _address(stored.get("hub", ""))
    token = _token(environment) or (_stored(user, stored, "token_file").decode().strip() if own else "")
    root, digest = _root(environment, project, _stored(user, stored, "image_root") if own else b"")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Profile(chosen or "default", address, token, root, digest, user.folder / "seen" / key)


def pinned_root(profile: Profile, hub: HubClient) -> bytes:
    """The root to start from.

    Raises:
        UsageFault: Nothing was pinned (code `image_root_missing`).
        TrustError: The hub has no root with the pinned digest (code `image_root_unknown`).
    """
    if profile.image_root is not None:
        return profile.image_root
    if not profile.image_root_sha256:
        raise UsageFault(
            "No image root is pinned for this hub, so nothing from it can be trusted. Get the digest from the people "
            "who held the ceremony, then: sdx login --hub URL --image-root-sha256 HEX.",
            "image_root_missing",
        )
    return root_with_digest(hub, profile.image_root_sha256)


def root_with_digest(hub: HubClient, sha256: str) -> bytes:
    """Fetch the root that has this digest, the first one first.

    Raises:
        TrustError: There is none (code `image_root_unknown`).
    """
    for version in range(1, MAX_ROOTS_TRIED + 1):
        try:
            raw = hub.raw(f"/tuf/image/metadata/{version}.root.json")
        except NotFound:
            break
        if hashlib.sha256(raw).hexdigest() == sha256:
            return raw
    raise TrustError(
        f"The hub at {hub.url} has no image root with the digest {sha256[:12]}...: it is another hub than you were "
        "told, or somebody is in between. Nothing was stored.",
        "image_root_unknown",
    )


def _address(text: str) -> str:
    return text.rstrip("/")


def _token(environment: Mapping[str, str]) -> str:
    if environment.get("SDX_TOKEN"):
        return environment["SDX_TOKEN"].strip()
    named = environment.get("SDX_TOKEN_FILE", "")
    if not named:
        return ""
    return _secret_file(Path(named)).decode().strip()


def _stored(user: UserConfig, stored: dict[str, str], key: str) -> bytes:
    if key not in stored:
        return b""
    path = user.folder / stored[key]
    return _secret_file(path) if key == "token_file" else _read(path, "image_root_invalid")


def _secret_file(path: Path) -> bytes:
    content = _read(path, "token_file_missing")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path.stat().st_uid == os.getuid():
        raise UsageFault(f"Others can read the token in {path}: chmod 600 it, or log in again.", "token_file_open")
    return content


def _read(path: Path, code: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageFault(f"Cannot read {path}: {error.strerror}. Log in again with `sdx login`.", code) from error


def _root(environment: Mapping[str, str], project: dict[str, Any], stored: bytes) -> tuple[bytes | None, str]:
    named = environment.get("SDX_IMAGE_ROOT", "")
    if _SHA256.fullmatch(named):
        return None, named
    if named:
        return _read(Path(named), "image_root_invalid"), ""
    digest = str(project.get("image_root_sha256", ""))
    if digest and not _SHA256.fullmatch(digest):
        raise UsageFault(f"image_root_sha256 in {PROJECT_FILE} is no SHA-256.", "config_invalid")
    if stored:
        return stored, ""
    return None, digest


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageFault(f"Cannot read {path}: {error}.", "config_invalid") from error
