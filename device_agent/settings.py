"""agent.toml, decoded once: one struct, unknown keys refused."""

import tomllib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from device_agent.core.errors import SettingsError
from firmware_schemas.device_api import Serial
from firmware_schemas.ids import NameField

Seconds = Annotated[float, Meta(gt=0, le=30 * 86400)]
Argv = Annotated[tuple[str, ...], Meta(min_length=1, max_length=32)]


class Command(Struct, frozen=True, forbid_unknown_fields=True):
    """A command of the device, with an absolute path."""

    argv: Argv
    timeout_s: Seconds = 30.0


class GateSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The flight gate: `none` is always open, `file` reads `path`, `command` runs `argv`."""

    kind: Literal["none", "file", "command"] = "none"
    path: str = ""
    argv: tuple[str, ...] = ()
    timeout_s: Seconds = 10.0
    retry_s: Seconds = 30.0


class TrialSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How a new version proves itself.

    Attributes:
        starts: Starts of the agent that a trial survives.
        grace_s: A failing health check is repeated for so long after the switch before it counts.
        interval_s: Between two rounds of checks.
        overrun_s: Beyond the release's trial time, before the trial counts as failed.
        longest_s: Bound of what a release may ask for.
    """

    starts: Annotated[int, Meta(ge=1, le=100)] = 3
    grace_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    interval_s: Seconds = 10.0
    overrun_s: Seconds = 600.0
    longest_s: Annotated[int, Meta(ge=0, le=7 * 86400)] = 7 * 86400


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of what the link may cost.

    Attributes:
        min_rate_bytes_s: A payload slower than this over `rate_window_s` is given up.
        payload_deadline_s: Total time for one payload, resumptions not counted.
        metadata_deadline_s: Total time for one metadata file.
        attempts: Tries for a payload that is too slow before the action is refused.
        bytes_per_day: Payload and metadata bytes in 24 hours; 0 is unlimited.
        storage_reserve_bytes: Kept free on the file system of the state folder.
    """

    min_rate_bytes_s: Annotated[int, Meta(ge=1)] = 256
    rate_window_s: Seconds = 30.0
    payload_deadline_s: Seconds = 6 * 3600.0
    metadata_deadline_s: Seconds = 120.0
    socket_timeout_s: Seconds = 20.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    bytes_per_day: Annotated[int, Meta(ge=0)] = 0
    storage_reserve_bytes: Annotated[int, Meta(ge=0)] = 16 * 1024**2


class UsageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How much the craft is used, for the hub: what came after an update is what it is watched by.

    Attributes:
        file: JSON `{"flights": N, "running_s": N}` of totals that the flight stack keeps; empty: how long the craft was
            on, and no flights.
        interval_s: At most one report in so much time that the craft was on.
    """

    file: str = ""
    interval_s: Seconds = 3600.0


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All of agent.toml. `sdx-agent enrol` writes the first three."""

    hub: str
    serial: Serial
    hardware: NameField
    gate: GateSettings = GateSettings()
    activate: Command | None = None
    health: tuple[Command, ...] = ()
    trial: TrialSettings = TrialSettings()
    limits: Limits = Limits()
    usage: UsageSettings = UsageSettings()


def decode_settings(raw: bytes) -> Settings:
    """Decode agent.toml.

    Raises:
        SettingsError: It is not TOML, has an unknown key, or a value out of bounds; the message names it.
    """
    try:
        settings = msgspec.convert(tomllib.loads(raw.decode("utf-8")), Settings)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"agent.toml cannot be used: {error}.") from error
    if not settings.hub.startswith(("http://", "https://")):
        raise SettingsError("agent.toml: `hub` must be a URL that starts with https:// (or http:// for a test hub).")
    gate = settings.gate
    if (gate.kind == "file" and not gate.path.startswith("/")) or (gate.kind == "command" and not gate.argv):
        raise SettingsError(f"agent.toml: the gate of kind {gate.kind!r} needs an absolute `path`, or an `argv`.")
    if settings.usage.file and not settings.usage.file.startswith("/"):
        raise SettingsError("agent.toml: the `file` of [usage] must be an absolute path.")
    commands = [command.argv for command in (*settings.health, settings.activate) if command is not None]
    if gate.kind == "command":
        commands.append(gate.argv)
    for argv in commands:
        if not argv[0].startswith("/"):
            raise SettingsError(f"agent.toml: the program {argv[0]!r} must be an absolute path.")
    return settings
