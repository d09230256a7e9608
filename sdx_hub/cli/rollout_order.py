"""The options of `sdx rollout plan` and `start`, and the order that they make."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from firmware_schemas.ids import parse_release_id
from sdx_hub.cli.durations import DURATION, PERCENTAGE
from sdx_hub.domain.rollout.waves import split_waves

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--query", metavar="QUERY", help="Whom it is for; see `sdx device preview`. Default: whom it fits."),
    click.option(
        "--waves",
        multiple=True,
        metavar="WAVES",
        help="How many devices have been offered it by the end of each wave, in total: 1,10%,50%,100%. A query makes a "
        "wave of its devices: 'tag = canary',10%,100%. May be repeated.",
    ),
    click.option("--base-rate", type=PERCENTAGE, metavar="3%", help="The failure rate that is nobody's concern."),
    click.option("--pause-at", type=float, metavar="E", help="Pause at this e-value; 5 pauses 1 good release in 5."),
    click.option("--halt-at", type=float, metavar="E", help="Halt at this e-value; 20 halts 1 good release in 20."),
    click.option("--no-control", is_flag=True, help="Do not compare silence with devices that were offered nothing."),
    click.option("--critical", multiple=True, metavar="CODE", help="Codes that pause at the first one. Replaces all."),
    click.option("--soak", type=DURATION, metavar="2h", help="How long a wave is watched after its last device ended."),
    click.option("--soak-flights", type=click.IntRange(0), metavar="N", help="Flights of a wave with the release."),
    click.option("--soak-hours", type=click.FloatRange(0), metavar="H", help="Running hours of a wave with it."),
    click.option("--quorum", type=PERCENTAGE, metavar="50%", help="So many of a wave must have committed."),
    click.option("--silent-after", type=DURATION, metavar="1h", help="A device not heard for so long is missed."),
    click.option(
        "--window",
        "windows",
        multiple=True,
        metavar="WINDOW",
        help="When offers are made: 'Mon-Fri 22:00-04:00 Asia/Tokyo'. May be repeated.",
    ),
    click.option("--max-in-flight", type=click.IntRange(1), metavar="N", help="Devices that are under way at once."),
    click.option("--site-limit", type=click.IntRange(1), metavar="N", help="The same, for each site."),
    click.option("--site-attribute", metavar="NAME", help="The attribute that names the site; default: site."),
    click.option(
        "--stratify", multiple=True, metavar="WHAT", help="What waves are balanced by: hardware, attribute.NAME."
    ),
    click.option("--priority", type=click.IntRange(0, 100), help="Of two rollouts the larger one has a device first."),
    click.option(
        "--urgent", metavar="REASON", help="Before all others, outside windows, in place of offers that are open."
    ),
    click.option("--join", is_flag=True, help="Devices that match later join the last wave."),
    click.option(
        "--downgrade", metavar="REASON", help="Also for devices that run a newer release, where it allows it."
    ),
    click.option("--second-person", is_flag=True, help="Wait for the approval of somebody else in any case."),
    click.option("--notes", metavar="TEXT", help="For whoever looks at it later."),
)


def order_options(function: F) -> F:
    """Add the options that `order_of` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def order_of(release: str, given: dict[str, Any]) -> dict[str, Any]:
    """The order, with nothing in it that was not said: the hub fills the defaults in.

    Args:
        release: `PRODUCT@VERSION`.
        given: The options' values by their names.

    Raises:
        InvalidName: It is no release.
        BadInput: A wave is empty (code `waves_invalid`).
    """
    parse_release_id(release)
    order: dict[str, Any] = {"release": release}
    order |= _said(given, "query", "quorum", "windows", "priority", "urgent", "join", "downgrade", "second_person")
    order |= _said(given, "notes", "stratify", silent_after="silent_after_s")
    if given["waves"]:
        order["waves"] = [wave for text in given["waves"] for wave in split_waves(text)]
    gate = _said(given, "base_rate", "pause_at", "halt_at", "critical")
    if given["no_control"]:
        gate["control"] = False
    soak = _said(given, soak="seconds", soak_flights="flights", soak_hours="hours")
    limits = _said(given, max_in_flight="in_flight", site_limit="site_in_flight", site_attribute="site_attribute")
    return order | {name: part for name, part in (("gate", gate), ("soak", soak), ("limits", limits)) if part}


def _said(given: dict[str, Any], *names: str, **renamed: str) -> dict[str, Any]:
    """What was given, under the names of an order."""
    wanted = {name: name for name in names} | renamed
    found = {there: given[here] for here, there in wanted.items()}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if _is_said(value)
    }


def _is_said(value: Any) -> bool:
    return value is not None and value is not False and (not isinstance(value, Sequence) or len(value) > 0)
