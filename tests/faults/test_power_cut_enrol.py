"""The power is cut while a craft is enrolled and gets its first software.

An enrolment that did not end is simply repeated with the same string, although the hub may have spent its token. One
that ended is never lost: whatever happens later, the craft is not enrolled again.
"""

import shutil
from collections.abc import Callable, Sequence
from itertools import count

import httpx
import pytest

from device_agent.enrolment import enrol
from device_agent.ports.clock import SystemClock
from device_agent.ports.home import Home
from device_agent.ports.hub import Hub
from firmware_schemas.device_api import parse_enrol_string
from tests.faults.lab import GOOD, PRODUCT, Lab, timeline, version_of, whole
from tests.faults.medium import FragileStorage, Loss
from tests.faults.power_cut import Boot, Cut, Point, PointedLink, boot
from tests.support.craft import HARDWARE, Craft

Say = Callable[[str], None]

REDUCED_STEP = 23
ENROLLED = "the enrolment ended"
FIRST = version_of(GOOD, 0)
_numbers = count(1)


def one_cut(lab: Lab, cut: Cut) -> Boot:
    """Enrol and install with a cut; then go on as a person would."""
    place = lab.folder / f"enrol-{next(_numbers)}"
    craft = Craft(place / "state", f"cut-{place.name}")
    craft.state.mkdir(parents=True)
    told = lab.fleet.enrol_string(craft.serial)

    def begin(storage: FragileStorage, point: Point) -> None:
        clock = SystemClock()
        hub = PointedLink(Hub(lab.fleet.url, lambda: "", clock, silence_s=20), point)
        parsed = parse_enrol_string(told)
        home = Home(craft.state)
        enrol(home, lab.fleet.url, parsed, craft.serial, HARDWARE, storage=storage, clock=clock, hub=hub)
        point(ENROLLED)
        body = {"release": f"{PRODUCT}@{FIRST}", "devices": [craft.serial]}
        bearer = {"authorization": f"Bearer {lab.fleet.admin_token}"}
        httpx.post(f"{lab.fleet.url}/api/v1/assignments", json=body, headers=bearer, timeout=30).raise_for_status()

    booted = boot(craft.state, cut, begin)
    when = f"{cut}, {booted.where}"
    # At the very point itself the caller has not heard of it yet.
    ended = ENROLLED in booted.passed[:-1]
    assert not ended or craft.device_id, f"{when}: the enrolment is lost"
    boot(craft.state, Cut(0), None if ended else begin)

    device = lab.client.get(f"/api/v1/devices/{craft.serial}").raise_for_status().json()
    assert device["state"] == "accepted", f"{when}: {device}"
    assert device["id"] == craft.device_id, when
    assert craft.running() == whole(FIRST)["server"] | whole(FIRST)["params"], f"{when}: {craft.running()}"
    results = [event["kind"] for event in timeline(lab.client, craft.serial) if event["kind"].endswith("result")]
    assert results == ["result"], f"{when}: the hub got {results}"
    assert {part["version"] for part in device["components"]} == {FIRST}, f"{when}: {device['components']}"
    shutil.rmtree(place)
    return booted


def sweep(lab: Lab, step: int, losses: Sequence[Loss]) -> str:
    points = one_cut(lab, Cut(0)).passed
    chosen = range(1, len(points) + 1, step)
    cuts = [Cut(at, losses[number % len(losses)]) for number, at in enumerate(chosen)]
    reached = [one_cut(lab, cut).was_cut for cut in cuts]
    assert sum(reached) >= 0.99 * len(cuts)
    kinds = losses[0] if len(losses) == 1 else f"{len(losses)} kinds of loss in turn"
    return f"enrolment and first release: {len(cuts)} cuts at {len(points)} points ({kinds}); each ended whole"


@pytest.mark.slow
def test_power_cut_during_enrolment_reduced(lab: Lab, say: Say) -> None:
    say(sweep(lab, REDUCED_STEP, list(Loss)))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loss", Loss)
def test_power_cut_during_enrolment_full(lab: Lab, loss: Loss, say: Say) -> None:
    say(sweep(lab, 1, [loss]))
