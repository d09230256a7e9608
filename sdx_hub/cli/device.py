"""`sdx device`: the craft of a fleet, by id or serial."""

from itertools import islice
from typing import Any

import click
import msgspec

from sdx_hub.cli.console import facts, table
from sdx_hub.cli.device_pin import pin, unpin
from sdx_hub.cli.device_select import assign, pointing_into, preview
from sdx_hub.cli.failures import NothingToDo, UsageFault
from sdx_hub.cli.session import Session, command
from sdx_hub.domain import why as reasons
from sdx_hub.domain.rollout.standing import DeviceRollouts
from sdx_hub.publishing.hub_client import HubClient, segment

_TIMELINE_FOR_WHY = 50


@click.group()
def device() -> None:
    """Devices: enrol, accept, tag, assign, look at."""


device.add_command(assign)
device.add_command(preview)
device.add_command(pin)
device.add_command(unpin)


@device.command("list")
@click.option("--state", type=click.Choice(["pending", "accepted", "revoked"]), help="Only in this state.")
@click.option("--tag", default="", help="Only with this tag.")
@click.option("--product", default="", help="Only where this product runs.")
@click.option("--version", default="", help="Only where this version (of --product) runs.")
@click.option("--query", default="", metavar="QUERY", help="Only those that match; see `sdx device preview`.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="How many to show.")
@command()
def list_(  # noqa: PLR0917 - one for each option
    session: Session, state: str | None, tag: str, product: str, version: str, query: str, limit: int
) -> None:
    """List devices, for instance: sdx device list --query 'tag = alpha and seen > 2d'."""
    with session.client() as hub, pointing_into(query):
        pages = hub.pages("/devices", state=state, tag=tag, product=product, version=version, query=query)
        found = list(islice(pages, limit))
    session.console.result(
        found,
        lambda: table(
            ("serial", "id", "state", "hardware", "runs", "assigned", "last action", "last seen", "tags"),
            [
                (
                    item["serial"],
                    item["id"],
                    item["state"],
                    item["hardware"],
                    _runs(item),
                    ", ".join(sorted((item.get("assignments") or {}).values())),
                    (item.get("action") or {}).get("state", ""),
                    str(item.get("last_seen_at") or "")[:19],
                    ", ".join(item.get("tags") or ()),
                )
                for item in found
            ],
        ),
    )


@device.command()
@click.argument("name", metavar="D")
@command()
def show(session: Session, name: str) -> None:
    """Show one device: what it runs, what it should run, and how its last update ended."""
    with session.client() as hub:
        shown = _show(hub, name)
    session.console.result(shown, lambda: _device_text(shown))


@device.command()
@click.argument("name", metavar="D")
@command()
def why(session: Session, name: str) -> None:
    """Say why a device is or is not updating, and what would change it."""
    with session.client() as hub:
        shown = _show(hub, name)
        timeline = list(islice(hub.pages(f"/devices/{segment(name)}/timeline"), _TIMELINE_FOR_WHY))
        places = hub.get(f"/devices/{segment(name)}/rollouts")
    answer = reasons.explain(shown, timeline, session.now(), msgspec.convert(places, DeviceRollouts))
    document = {
        "device": shown["id"],
        "serial": shown["serial"],
        "state": shown["state"],
        "assignments": shown.get("assignments") or {},
        "action": shown.get("action"),
        "last_seen_at": shown.get("last_seen_at"),
        "pin": places["pin"],
        "rollouts": places["rollouts"],
        "left_out": places["left_out"],
        **msgspec.to_builtins(answer),
    }

    def text() -> str:
        lines = [f"{shown['serial']}: {answer.verdict.replace('_', ' ')}", *(f"  {each}" for each in answer.reasons)]
        if answer.changes:
            lines += ["What would change it:", *(f"  {each}" for each in answer.changes)]
        return "\n".join(lines)

    session.console.result(document, text)


@device.command()
@click.option("--serial", default="", help="Bind the token to this serial number.")
@click.option("--life", "life_s", type=click.IntRange(60), metavar="SECONDS", help="How long it can be used.")
@command(changes=True)
def token(session: Session, serial: str, life_s: int | None) -> None:
    """Make a single-use enrolment string; it carries the digests of both roots to the device."""
    body = {name: value for name, value in (("serial", serial), ("life_s", life_s)) if value}
    if session.dry_run:
        session.console.result({"dry_run": True, **body}, "Would make an enrolment string.")
        return
    with session.client() as hub:
        made = hub.send("POST", "/enrol-tokens", body)
    session.console.say("Whoever has this string can enrol one device. Hand it over on a safe way; it is shown once.")
    session.console.result(made, str(made["enrol_string"]))


@device.command("allow-key")
@click.argument("device_key", metavar="KEY")
@click.option("--serial", default="", help="Only together with this serial number.")
@command(changes=True)
def allow_key(session: Session, device_key: str, serial: str) -> None:
    """Accept a device by its public key (64 hexadecimal digits) without a token, for instance from the factory."""
    body = {"device_key": device_key} | ({"serial": serial} if serial else {})
    if session.dry_run:
        session.console.result({"dry_run": True, **body}, f"Would allow the device key {device_key[:16]}....")
        return
    with session.client() as hub:
        answer = hub.send("POST", "/device-keys", body)
    session.console.result(answer or body, f"A device with the key {device_key[:16]}... is accepted when it enrols.")


@device.command()
@click.argument("names", nargs=-1, required=True, metavar="D...")
@command(changes=True)
def accept(session: Session, names: tuple[str, ...]) -> None:
    """Accept devices that wait, after comparing their keys."""
    _change_state(session, names, "accept", "accepted")


@device.command()
@click.argument("names", nargs=-1, required=True, metavar="D...")
@command(changes=True)
def revoke(session: Session, names: tuple[str, ...]) -> None:
    """Shut devices out at their next poll. They can only come back with a new key."""
    _change_state(session, names, "revoke", "revoked")


@device.command("rotate-token")
@click.argument("names", nargs=-1, required=True, metavar="D...")
@command(changes=True)
def rotate_token(session: Session, names: tuple[str, ...]) -> None:
    """Have devices make new poll tokens, for instance when one may have leaked; the old ones end at the first use."""
    with session.client() as hub:
        shown = [_show(hub, name) for name in names]
        documents = [{"id": each["id"], "serial": each["serial"], "rotation_wanted": True} for each in shown]
        if session.dry_run:
            session.console.result(
                [each | {"dry_run": True} for each in documents], f"Would ask {len(shown)} devices for new tokens."
            )
            return
        for each in shown:
            hub.send("POST", f"/devices/{segment(each['id'])}/rotate-token")
    session.console.result(
        documents, "\n".join(f"{each['serial']} is asked for a new token at its next poll." for each in documents)
    )


@device.command()
@click.argument("name", metavar="D")
@click.argument("tag")
@command(changes=True)
def tag(session: Session, name: str, tag: str) -> None:
    """Give a device a tag."""
    _tag(session, name, tag, "PUT")


@device.command()
@click.argument("name", metavar="D")
@click.argument("tag")
@command(changes=True)
def untag(session: Session, name: str, tag: str) -> None:
    """Take a tag from a device."""
    _tag(session, name, tag, "DELETE")


@device.command("set")
@click.argument("name", metavar="D")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
@command(changes=True)
def set_(session: Session, name: str, pairs: tuple[str, ...]) -> None:
    """Set attributes of a device; an empty value takes one away."""
    with session.client() as hub:
        shown = _show(hub, name)
        path = f"/devices/{segment(name)}/attributes"
        seen = hub.request("GET", f"/api/v1{path}")
        attributes = dict(seen.json())
        for text in pairs:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise UsageFault(f"{text!r}: write KEY=VALUE.", "usage")
            attributes[key] = value
        attributes = {key: value for key, value in attributes.items() if value}
        if attributes == seen.json():
            raise NothingToDo(f"{shown['serial']} has these attributes already.")
        document = {"device": shown["id"], "serial": shown["serial"], "attributes": attributes}
        if session.dry_run:
            session.console.result(document | {"dry_run": True}, facts(sorted(attributes.items())))
            return
        # Only what was seen is replaced: somebody else may set another one at the same time.
        hub.send("PUT", path, attributes, headers={"If-Match": seen.headers["etag"]})
    session.console.result(document, facts(sorted(attributes.items())))


@device.command()
@click.argument("name", metavar="D")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Newest events to show.")
@command()
def timeline(session: Session, name: str, limit: int) -> None:
    """Show what happened to a device, the newest first."""
    with session.client() as hub:
        events = list(islice(hub.pages(f"/devices/{segment(name)}/timeline"), limit))
    session.console.result(
        events,
        lambda: table(
            ("time", "what", "details"),
            [(str(event["time"])[:19], event["kind"], _flat(event.get("detail"))) for event in events],
        ),
    )


@device.command()
@click.argument("name", metavar="D")
@command()
def inventory(session: Session, name: str) -> None:
    """Show the last inventory exactly as the device signed it (base64 of the bytes, and of the signature)."""
    with session.client() as hub:
        signed = hub.get(f"/devices/{segment(name)}/inventory")
    session.console.result(signed, lambda: facts([(each, signed[each]) for each in signed]))


def _show(hub: HubClient, name: str) -> dict[str, Any]:
    shown: dict[str, Any] = hub.get(f"/devices/{segment(name)}")
    return shown


def _change_state(session: Session, names: tuple[str, ...], verb: str, state: str) -> None:
    with session.client() as hub:
        shown = [_show(hub, name) for name in names]
        waiting = [each for each in shown if each["state"] != state]
        if not waiting:
            raise NothingToDo(f"{', '.join(names)}: {state} already.")
        keys = [(each["serial"], f"{each['id']}  {each['hardware']}  key {each['device_key']}") for each in waiting]
        session.console.say(facts(keys))
        documents = [{"id": each["id"], "serial": each["serial"], "state": state} for each in waiting]
        if session.dry_run:
            session.console.result(
                [each | {"dry_run": True} for each in documents], f"Would {verb} {len(waiting)} devices."
            )
            return
        session.console.confirm(
            f"{verb.capitalize()} {', '.join(each['serial'] for each in waiting)}?", yes=session.yes
        )
        for each in waiting:
            hub.send("POST", f"/devices/{segment(each['id'])}/{verb}")
    session.console.result(documents, "\n".join(f"{each['serial']} is {state}." for each in documents))


def _tag(session: Session, name: str, tag: str, method: str) -> None:
    with session.client() as hub:
        shown = _show(hub, name)
        tags = set(shown.get("tags") or ())
        if (tag in tags) == (method == "PUT"):
            raise NothingToDo(f"{shown['serial']} {'has' if tag in tags else 'does not have'} the tag {tag}.")
        tags ^= {tag}
        document = {"id": shown["id"], "serial": shown["serial"], "tags": sorted(tags)}
        text = f"{shown['serial']}: {', '.join(sorted(tags)) or 'no tags'}"
        if session.dry_run:
            session.console.result(document | {"dry_run": True}, f"Would be {text}")
            return
        hub.send(method, f"/devices/{segment(shown['id'])}/tags/{segment(tag)}")
    session.console.result(document, text)


def _device_text(shown: dict[str, Any]) -> str:
    action, used = shown.get("action") or {}, shown.get("usage") or {}
    said = " ".join(str(action[name]) for name in ("code", "detail") if action.get(name))
    pairs: list[tuple[str, object]] = [
        ("serial", shown["serial"]),
        ("id", shown["id"]),
        ("state", shown["state"]),
        ("hardware", shown["hardware"]),
        ("agent", shown.get("agent_version") or ""),
        ("tags", ", ".join(shown.get("tags") or ())),
        *((f"attribute {key}", value) for key, value in sorted((shown.get("attributes") or {}).items())),
        ("assigned", ", ".join(sorted((shown.get("assignments") or {}).values()))),
        ("last action", f"{action['state']} {said}".strip() if action else ""),
        ("use", f"{used['flights']} flights, {used['running_s'] / 3600:.1f} hours" if used else ""),
        ("last seen", shown.get("last_seen_at") or "never"),
    ]
    parts = table(
        ("component", "type", "product", "version", "sha256"),
        [
            (part["name"], part["type"], part["product"], part["version"], part["sha256"][:12])
            for part in shown.get("components") or ()
        ],
    )
    return f"{facts([pair for pair in pairs if pair[1] != ''])}\n\n{parts}"


def _runs(item: dict[str, Any]) -> str:
    return ", ".join(sorted({f"{part['product']}@{part['version']}" for part in item.get("components") or ()}))


def _flat(detail: Any) -> str:
    if not isinstance(detail, dict):
        return str(detail or "")
    return "  ".join(f"{name}={value}" for name, value in detail.items() if value not in ("", None, {}, []))
