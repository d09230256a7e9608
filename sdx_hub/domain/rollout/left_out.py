"""Why a device is in no wave of a rollout, and what would change it. Pure: a code in, sentences out."""

from collections.abc import Mapping
from typing import Final

from sdx_hub.domain.answers import Answer
from sdx_hub.domain.rollout.standing import Outsider

NO_MATCH: Final = "no_match"
CODES: Final[Mapping[str, tuple[str, str]]] = {
    NO_MATCH: ("{serial} does not match the query of {id}.", "Its tags and attributes: sdx device show {serial}"),
    "device_pending": ("{serial} is not accepted yet.", "Compare its key, then: sdx device accept {serial}"),
    "device_revoked": ("{serial} was revoked.", "A repaired device enrols again, with a new key."),
    "wrong_hardware": ("The release is not for its hardware.", "A release that lists this hardware."),
    "has_it": ("The release is assigned to it already, and did not fail.", ""),
    "newer_runs": (
        "It runs a newer release of the product.",
        "Where that is meant, a rollout of its own: sdx rollout start R --downgrade REASON",
    ),
    "downgrade_not_allowed": (
        "It runs a newer release, whose signed manifest allows no way back to this one.",
        "Publish a release with a larger counter: it is the only way on.",
    ),
    "requires_missing": (
        "It would not have what the release requires of another product.",
        "Bring the other product to it first: sdx release show R names it.",
    ),
    "conflicts_with": (
        "It has a release of another product that does not go with this one.",
        "Bring it another release of that product first.",
    ),
    "pinned": ("It is pinned to what it runs.", "sdx device unpin {serial}"),
    "no_wave": (
        "It matches, and no wave has a place for it.",
        "A rollout of its own, whose waves end with 100%.",
    ),
}
"""By code of `services.rollouts.eligibility`: a sentence, and what helps."""


def of_left_out(found: Outsider, serial: str) -> Answer:
    """Say why a device is no member.

    Args:
        found: The rollout and the code.
        serial: The device's.

    Returns:
        The verdict is `left_out`, or `planned` for one that will join.
    """
    rollout = found.rollout
    if found.code in CODES:
        words = {"id": rollout, "serial": serial}
        because, change = (each.format_map(words) for each in CODES[found.code])
        return Answer("left_out", (f"{serial} is no member of {rollout}.", because), (change,) if change else ())
    if found.join:
        return Answer("planned", (f"{serial} matches, and joins the last wave of {rollout}.",), ("Wait a moment.",))
    return Answer(
        "left_out",
        (
            f"{serial} is no member of {rollout}.",
            "It matches now, and did not when the list of devices was written; who matches later stays out.",
        ),
        ("A rollout that says --join takes such devices in: sdx rollout start R --join",),
    )
