"""What members go back to, where the device was in a rollout before."""

from sdx_hub.persistence.database import Database
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

FIRST, SECOND, THIRD = "nav@1.0.0", "nav@2.0.0", "nav@3.0.0"


async def test_each_member_goes_back_to_what_is_good_on_this_very_device(
    database: Database, clock: MovableClock
) -> None:
    hub = Rolling(database, clock)
    for release in (FIRST, SECOND, THIRD):
        await hub.release(release)
    await hub.craft("good", "bad", "fresh", assigned=FIRST)
    await hub.begin(1, SECOND, query="serial in (good, bad)", gate=NEVER, quorum=0.0)
    await hub.ends("good")
    await hub.ends("bad", "rolled_back", "health_failed")
    await hub.tick()
    await hub.begin(2, THIRD, gate=NEVER)
    assert {serial: (await hub.row(2, serial)).previous for serial in ("good", "bad", "fresh")} == {
        "good": SECOND,
        "bad": FIRST,
        "fresh": FIRST,
    }
