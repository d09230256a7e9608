"""Everything that a worker works with, put together once."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from device_agent.core.errors import SettingsError
from device_agent.handlers.registry import handlers
from device_agent.handlers.slot_set import CURRENT
from device_agent.handlers.slots import Handler
from device_agent.ports.budget import ByteBudget
from device_agent.ports.clock import Clock
from device_agent.ports.commands import Commands
from device_agent.ports.gate import CommandGate, FileGate, Gate, NoGate
from device_agent.ports.health import Health
from device_agent.ports.home import Home
from device_agent.ports.hub import Hub, Link
from device_agent.ports.identity import read_identity, read_settings
from device_agent.ports.signing import Signer
from device_agent.ports.storage import Storage
from device_agent.ports.usage import Usage
from device_agent.settings import GateSettings, Settings
from device_agent.worker.reporting import Reporter

Uniform = Callable[[float, float], float]


class Workplace(Struct, frozen=True):
    """The parts, ready for use."""

    home: Home
    settings: Settings
    device_id: str
    storage: Storage
    clock: Clock
    commands: Commands
    hub: Link
    budget: ByteBudget
    handlers: Mapping[str, Handler]
    reporter: Reporter
    gate: Gate
    health: Health
    usage: Usage
    uniform: Uniform


def furnish(
    home: Home,
    *,
    storage: Storage,
    clock: Clock,
    commands: Commands,
    hub: Link | None = None,
    uniform: Uniform = random.uniform,
) -> Workplace:
    """Read settings and identity, and make the parts.

    Args:
        home: An enrolled device's state folder.
        storage: Every durable operation; the disk, or a test's.
        clock: The system's, or a test's.
        commands: Runs health checks, activation and the gate's command.
        hub: Instead of the one in agent.toml.
        uniform: For jitter.

    Raises:
        SettingsError: The folder is not usable; the message says what to do.
    """
    settings = read_settings(home)
    identity = read_identity(home)
    limits = settings.limits
    budget = ByteBudget(home.budget, limits.bytes_per_day, storage, clock)
    return Workplace(
        home=home,
        settings=settings,
        device_id=identity.device_id,
        storage=storage,
        clock=clock,
        commands=commands,
        hub=hub
        or Hub(
            settings.hub,
            lambda: read_identity(home).token,
            clock,
            silence_s=limits.socket_timeout_s,
            charge=budget.charge,
        ),
        budget=budget,
        handlers=handlers(home.slots, storage),
        reporter=Reporter(home, storage, Signer(_key(home), identity.device_id, clock), clock),
        gate=_gate(settings.gate, commands),
        health=Health(commands, settings.health, lambda component: _current(home, component)),
        usage=Usage(home, settings.usage, storage, clock),
        uniform=uniform,
    )


def _gate(settings: GateSettings, commands: Commands) -> Gate:
    match settings.kind:
        case "file":
            return FileGate(Path(settings.path))
        case "command":
            return CommandGate(commands, settings.argv, settings.timeout_s)
        case "none":
            return NoGate()


def _current(home: Home, component: str) -> Path:
    return home.slots / component / CURRENT


def _key(home: Home) -> bytes:
    try:
        return home.key.read_bytes()
    except OSError as error:
        raise SettingsError(
            "identity/device.key cannot be read: enrol this device anew.", "identity_damaged"
        ) from error
