"""What `sdx-agent status` says: read from the state folder, without disturbing whoever works in it."""

from typing import Any

import msgspec

from device_agent import AGENT_VERSION
from device_agent.core import journal as journals
from device_agent.core.states import action_of, tag_of
from device_agent.ports.clock import SystemClock
from device_agent.ports.home import Home
from device_agent.ports.identity import read_identity, read_settings
from device_agent.ports.notes import read_poll, read_worker
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import DiskStorage, read_optional
from device_agent.ports.usage import Usage, UsageUnreadable


def describe(home: Home) -> dict[str, Any]:
    """The device as it is now.

    Raises:
        SettingsError: The folder is not an enrolled device's, or damaged.
    """
    settings, identity = read_settings(home), read_identity(home)
    journal = journals.decode(read_optional(home.journal) or b"{}")
    polled, worked = read_poll(home.poll), read_worker(home.worker)
    error = worked.error or polled.error
    return {
        "device_id": identity.device_id,
        "state": tag_of(type(journal.state)),
        "action": action_of(journal.state),
        "components": [msgspec.to_builtins(entry.component) for entry in journal.installed],
        "floors": dict(journal.floors),
        "last_result": msgspec.to_builtins(journal.last),
        "last_error": msgspec.to_builtins(error),
        "gate": {"kind": settings.gate.kind, "closed": worked.gate},
        "outbox": len(Outbox(home.outbox, DiskStorage()).counters()),
        "bad": [msgspec.to_builtins(entry) for entry in journal.bad],
        "usage": _usage(Usage(home, settings.usage, DiskStorage(), SystemClock())),
        "hub": settings.hub,
        "agent_version": AGENT_VERSION,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    try:
        totals = usage.totals()
    except UsageUnreadable as error:
        return {"flights": None, "running_s": None, "error": {"code": error.code, "detail": str(error)}}
    return {"flights": totals.flights, "running_s": totals.running_s, "error": None}


def sentences(found: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"{found['device_id']} at {found['hub']}, agent {found['agent_version']}"]
    lines.append(f"State: {found['state']}" + (f", action {found['action']}" if found["action"] else ""))
    lines += [
        f"Runs: {part['name']} of {part['product']}@{part['version']} ({part['sha256'][:12]})"
        for part in found["components"]
    ] or ["Runs: nothing installed by this agent"]
    if last := found["last_result"]:
        reason = f" ({last['code']}): {last['detail']}" if last["code"] else ""
        lines.append(f"Last result: {last['result']} of {last['action']}{reason}")
    if error := found["last_error"]:
        lines.append(f"Last problem: {error['detail']} ({error['code']})")
    if found["gate"]["kind"] == "none":
        lines.append("Gate: none is configured; updates are installed at any time")
    elif found["gate"]["closed"]:
        lines.append(f"Gate: closed, {found['gate']['closed']}")
    used = found["usage"]
    if used["error"]:
        lines.append(f"Use: {used['error']['detail']}")
    else:
        lines.append(f"Use: {used['flights']} flights, {used['running_s'] / 3600:.1f} hours")
    if found["outbox"]:
        lines.append(f"{found['outbox']} reports wait for the hub")
    lines += [f"Rolled back before: {', '.join(bad['components'])} ({bad['digests'][0][:12]})" for bad in found["bad"]]
    return lines
