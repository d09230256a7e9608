"""What to think about before a rollout is started, in sentences."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from firmware_schemas.release import ReleaseManifest
from sdx_hub.domain.rollout.arranging import Chosen
from sdx_hub.domain.rollout.completing import Defaults
from sdx_hub.domain.rollout.kinds import MAX_STRATA, OTHERS
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.waves import parse_waves
from sdx_hub.services.rollouts.planning.preparing import controls_of

HIGH_BASE_RATE: Final = 0.1
_POLLS_UNTIL_MISSED: Final = 3


class Neighbours(Struct, frozen=True):
    """What else is there.

    Attributes:
        must_pass: Releases that older devices have to pass through, the smallest first.
        stranded: Devices that can get the release and run one that is older than it lets them go back to.
        rollouts: Ids of rollouts of the same product that go on.
    """

    must_pass: Sequence[str] = ()
    stranded: int = 0
    rollouts: Sequence[str] = ()


def warnings(
    order: Order, manifest: ReleaseManifest, chosen: Chosen, neighbours: Neighbours, defaults: Defaults
) -> list[str]:
    """The sentences, the gravest first."""
    return [
        *_of_members(chosen),
        *_of_release(manifest, neighbours),
        *_of_waves(order, chosen),
        *_of_policy(order, chosen, defaults),
    ]


def _of_members(chosen: Chosen) -> list[str]:
    said = []
    if not chosen.numbers:
        said.append("No device can get this release: see who is left out, and why.")
    if (nowhere := chosen.left_out.get("no_wave")) is not None:
        said.append(f"{_devices(nowhere.devices)} in no wave and will not get the release. End with the wave 100%.")
    first = chosen.waves[0].size
    if absent := sum(map(chosen.is_absent, range(first))):
        said.append(f"{absent} of the {first} devices of the first wave have not been heard of for a day.")
    return said


def _of_release(manifest: ReleaseManifest, neighbours: Neighbours) -> list[str]:
    said = []
    if manifest.floor == manifest.release_counter:
        said.append(
            "This release allows no way back: a device that has committed it refuses every older one, and a revert "
            "cannot reach it. A release that is built with --revert-to does allow it."
        )
    elif neighbours.stranded:
        said.append(
            f"{neighbours.stranded} of the devices run something older than this release lets them go back to (release "
            f"counter {manifest.floor}): a revert cannot bring those back."
        )
    if neighbours.must_pass:
        steps = ", ".join(neighbours.must_pass)
        said.append(f"Devices that run something older install {steps} first: that has to be passed through.")
    if neighbours.rollouts:
        others = ", ".join(neighbours.rollouts)
        said.append(f"Rollouts of the same product go on: {others}. A device gets one update at a time.")
    return said


def _of_waves(order: Order, chosen: Chosen) -> list[str]:
    said = []
    members, first = len(chosen.numbers), chosen.waves[0].size
    if members > 1 and len(chosen.waves) == 1:
        said.append("There is one wave only: every device has the release before anything is known of it.")
    elif first * 2 > members and len(chosen.waves) > 1:
        said.append(f"The first wave has {first} of the {members} devices: it is a large test.")
    used = {wave.label for wave in chosen.waves}
    empty = [wave.label for wave in parse_waves(order.waves) if wave.label not in used]
    if members and empty:
        said.append(f"No device is left for these waves: {', '.join(empty)}.")
    if OTHERS in chosen.strata:
        said.append(
            f"There are more than {MAX_STRATA} kinds of devices by {', '.join(order.stratify)}: the small ones are "
            "taken together."
        )
    return said


def _of_policy(order: Order, chosen: Chosen, defaults: Defaults) -> list[str]:
    said = []
    gate, soak = order.gate, order.soak
    if gate.base_rate > HIGH_BASE_RATE:
        said.append(f"The base rate is high: the gate is content while up to {gate.base_rate:.0%} of the devices fail.")
    if gate.control and chosen.numbers and not controls_of(chosen):
        said.append(
            "There are no devices left to compare with: those that go silent count against the release, also where the "
            "link of all of them is down."
        )
    if soak is not None and not (soak.seconds or soak.flights or soak.hours):
        said.append("There is no soak: a wave is not watched after its last device has committed.")
    if order.silent_after_s is not None and order.silent_after_s < _POLLS_UNTIL_MISSED * defaults.poll_s:
        said.append(
            f"A device is missed after {order.silent_after_s} s, and polls every {defaults.poll_s} s: one lost poll or "
            "two count as a failure."
        )
    if order.urgent and order.windows:
        said.append("It is urgent: the windows are ignored.")
    return said


def _devices(count: int) -> str:
    return "1 device is" if count == 1 else f"{count} devices are"
