"""A rollout's rows as they lie in PostgreSQL, and what must hold of them whatever befell the hubs.

Everything is counted again from `rollout_outcome`, the log: nothing here asks the hub.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import asyncpg
from msgspec import Struct

from sdx_hub.domain.rollout.states import IN_FLIGHT

_Row = Any
_QUERIES = {
    "members": "SELECT m.*, d.id AS device FROM rollout_device m JOIN device d USING (number) WHERE m.rollout = $1",
    "outcomes": "SELECT * FROM rollout_outcome WHERE rollout = $1 ORDER BY id",
    "waves": "SELECT * FROM rollout_wave WHERE rollout = $1 ORDER BY wave",
    "tallies": "SELECT * FROM rollout_tally WHERE rollout = $1",
    "decisions": "SELECT * FROM rollout_decision WHERE rollout = $1 ORDER BY id",
    "rollout": "SELECT * FROM rollout WHERE number = $1",
}


class RolloutLog(Struct, frozen=True):
    """All rows of one rollout."""

    rollout: list[_Row]
    members: list[_Row]
    outcomes: list[_Row]
    waves: list[_Row]
    tallies: list[_Row]
    decisions: list[_Row]
    actions: dict[str, list[str]]
    """Actions with the release, by device id, out of the table of actions."""

    def check(self) -> None:
        """All that must hold of a rollout in any state.

        Raises:
            AssertionError: Something does not.
        """
        self._outcomes_follow_each_other()
        self._members_are_their_latest_outcome()
        self._tallies_are_the_sum_of_the_outcomes()
        self._decisions_count_what_was_there()
        self._no_wave_opened_early()

    def offers(self) -> dict[str, int]:
        """How often each device was offered something, by device id."""
        names = {member["number"]: member["device"] for member in self.members}
        counted = Counter(
            names[each["number"]] for each in self.outcomes if each["state"] == "offered" and each["was"] == "queued"
        )
        return {member["device"]: counted[member["device"]] for member in self.members}

    def recount(self, through: int) -> Counter[tuple[int, int, str]]:
        """Members by wave, stratum and state after the outcome with this id."""
        joined = {each["number"] for each in self.outcomes if each["was"] == ""}
        found = Counter(
            (member["wave"], member["stratum"], "queued") for member in self.members if member["number"] not in joined
        )
        for each in self.outcomes:
            if each["id"] <= through:
                if each["was"]:
                    found[each["wave"], each["stratum"], each["was"]] -= 1
                found[each["wave"], each["stratum"], each["state"]] += 1
        return +found

    def _outcomes_follow_each_other(self) -> None:
        state = dict.fromkeys((member["number"] for member in self.members), "queued")
        for each in self.outcomes:
            if each["was"]:
                assert each["was"] == state[each["number"]], dict(each)
            state[each["number"]] = each["state"]

    def _members_are_their_latest_outcome(self) -> None:
        latest = {each["number"]: each for each in self.outcomes}
        for member in self.members:
            if (last := latest.get(member["number"])) is None:
                assert member["state"] == "queued", dict(member)
            else:
                assert (member["state"], member["code"]) == (last["state"], last["code"]), (dict(member), dict(last))

    def _tallies_are_the_sum_of_the_outcomes(self) -> None:
        through = self.rollout[0]["outcomes_through"]
        stored = {(row["wave"], row["stratum"], row["state"]): row["devices"] for row in self.tallies if row["devices"]}
        assert stored == dict(self.recount(through)), through
        sizes = Counter(member["wave"] for member in self.members)
        assert {wave["wave"]: wave["size"] for wave in self.waves} == dict(sizes)

    def _decisions_count_what_was_there(self) -> None:
        for decision in self.decisions:
            facts = json.loads(decision["facts"])
            if not facts["waves"]:
                continue  # It was ordered, and has no members yet.
            counted = {(row["wave"], row["stratum"], row["state"]): row["devices"] for row in facts["tallies"]}
            assert counted == dict(self.recount(decision["outcomes_through"])), decision["sentence"]

    def _no_wave_opened_early(self) -> None:
        """Nothing of a wave is offered before everything of the wave before has ended, in the log's own order."""
        by_wave = defaultdict(list)
        for each in self.outcomes:
            by_wave[each["wave"]].append(each)
        for before, wave in pairwise(self.waves):
            offered = [each["id"] for each in by_wave[wave["wave"]] if each["state"] == "offered"]
            if not offered:
                continue
            first = min(offered)
            assert before["closed_at"] is not None, f"wave {wave['wave']} has offers, and the one before is open"
            assert wave["opened_at"] >= before["closed_at"]
            left = {
                state: count
                for (number, _, state), count in self.recount(first - 1).items()
                if number == before["wave"] and state in ("queued", *IN_FLIGHT)
            }
            assert not left, (
                f"wave {wave['wave']} was offered the release while {left} of the wave before had not ended"
            )


def read(database_url: str, number: int) -> RolloutLog:
    """Read rollout `ro-NUMBER` in one snapshot."""
    return asyncio.run(_read(database_url.replace("+asyncpg", ""), number))


async def _read(dsn: str, number: int) -> RolloutLog:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = {name: await connection.fetch(query, number) for name, query in _QUERIES.items()}
            release = rows["rollout"][0]["release_id"]
            pattern = f'%"{release}"%'
            found = await connection.fetch("SELECT id, device_id FROM action WHERE releases LIKE $1", pattern)
    finally:
        await connection.close()
    return RolloutLog(**rows, actions=_grouped((row["device_id"], row["id"]) for row in found))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for device, action in pairs:
        found[device].append(action)
    return dict(found)
