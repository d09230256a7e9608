"""`sdx rollout` and `sdx device pin | why`, against the real hub and devices that really poll."""

import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.support.fleet import Fleet, start_fleet
from tests.support.machine import Machine
from tests.support.simulated import SimulatedFleet
from tests.support.simulated_device import SUCCESS, Device, Fate, Offer
from tests.support.waiting import until

DEVICES = 4
QUICK = ("--soak", "0s", "--silent-after", "10h", "--yes")


class Fates:
    """What becomes of releases, by their id; the rest goes well."""

    def __init__(self) -> None:
        self.bad: set[str] = set()

    def __call__(self, _device: Device, offer: Offer) -> Fate:
        return Fate("rolled_back", "trial_starts_used_up") if self.bad & set(offer.releases) else SUCCESS


@pytest.fixture(scope="module")
def fates() -> Fates:
    return Fates()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, fates: Fates) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet"), SDX_ROLLOUT_TICK_MS="100") as fleet:
        crafts = SimulatedFleet([fleet.url], DEVICES, fate=fates, step_s=0.02, poll_s=0.3)
        crafts.enrol(fleet.url, fleet.admin_token)
        with crafts.at_work():
            yield fleet


@pytest.fixture(scope="module")
def operator(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    token = fleet.token("olga", "operator")
    return Machine(tmp_path_factory.mktemp("olga"), {"SDX_HUB": fleet.url, "SDX_TOKEN": token})


def text(operator: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    """What a person reads, without --json."""
    command, where = operator.command(*words)
    return subprocess.run(
        [word for word in command if word != "--json"],
        **where,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_from_the_plan_to_the_proof(fleet: Fleet, operator: Machine) -> None:
    release = fleet.publish_next()
    plan = operator.sdx("rollout", "plan", release, "--waves", "1,50%,100%")
    assert [wave["devices"] for wave in plan["waves"]] == [1, 1, 2]
    dry = operator.sdx("rollout", "start", release, "--waves", "1,100%", "--dry-run")
    assert (dry["dry_run"], dry["members"]) == (True, DEVICES)
    assert operator.sdx("rollout", "list") == []
    unasked = operator.run("rollout", "start", release, "--waves", "1,100%")
    assert (unasked.code, unasked.error) == (2, "confirmation_missing")
    assert "Start this rollout to 4 devices?" in unasked.stderr
    assert "in total" in unasked.stderr, "the plan is shown before the question"

    done = operator.run("rollout", "start", release, "--waves", "1,100%", *QUICK, "--watch", "--timeout", "5m")
    assert done.code == 0, done
    assert (done.json["state"], done.json["members"]) == ("finished", {"committed": DEVICES})
    assert "wave 2 of 2" in done.stderr  # The first one may be over between two looks.
    assert len(done.stderr.splitlines()) >= 3
    identity = done.json["id"]
    assert operator.run("rollout", "watch", identity).code == 0
    assert [each["id"] for each in operator.sdx("rollout", "list", "--state", "finished")] == [identity]
    members = operator.sdx("rollout", "devices", identity, "--state", "committed")
    assert {each["state"] for each in members} == {"committed"}
    assert operator.sdx("rollout", "devices", identity, "--state", "failed") == []
    assert "4 committed" in text(operator, "rollout", "show", identity).stdout

    proof = operator.sdx("rollout", "evidence", identity)
    assert proof["replayed"] == proof["same"] >= 3
    assert len(proof["outcomes"]) >= DEVICES * 2
    assert proof["chained"] is None, "an operator does not read the audit log"
    admin = Machine(operator.folder / "admin", {"SDX_HUB": fleet.url, "SDX_TOKEN": fleet.admin_token})
    assert admin.sdx("rollout", "evidence", identity)["chained"] == len(proof["decisions"])
    read = text(operator, "rollout", "evidence", identity)
    assert f"replayed: {proof['same']} of {proof['replayed']} the same" in read.stdout
    assert "open_wave" in read.stdout
    assert "All waves are closed" in read.stdout

    assert operator.sdx("rollout", "why", identity)["verdict"] == "finished"
    assert operator.sdx("rollout", "why", identity, "--wave", "1")["verdict"] == "closed"
    why = operator.sdx("device", "why", "sim-0001")
    assert (why["verdict"], why["rollouts"][0]["member"]["state"]) == ("up_to_date", "committed")


def test_one_that_stops_itself_ends_with_six(fleet: Fleet, operator: Machine, fates: Fates) -> None:
    release = fleet.publish_next()
    fates.bad.add(release)
    stopped = operator.run("rollout", "start", release, "--waves", "1,100%", *QUICK, "--watch", "--timeout", "5m")
    assert (stopped.code, stopped.error) == (6, "rollout_halted")
    found = stopped.json["error"]["extra"]
    assert (found["state"], found["last"]["code"]) == ("paused", "critical_outcome")
    assert "trial_starts_used_up" in stopped.stderr
    assert f"sdx rollout revert {found['rollout']}" in stopped.stderr
    identity = found["rollout"]
    failed = next(each for each in devices(fleet, identity) if each["state"] == "rolled_back")
    why = text(operator, "device", "why", failed["serial"]).stdout
    assert f"It installed {release} of {identity}, was not healthy with it, and went back." in why
    waiting = next(each for each in devices(fleet, identity) if each["state"] == "queued")
    answer = operator.sdx("device", "why", waiting["serial"])
    assert answer["verdict"] == "waiting"
    assert f"{identity} will offer {waiting['serial']} {release} in wave 2 of 2." in answer["reasons"]
    assert any("is paused in wave 1 of 2" in reason for reason in answer["reasons"])

    assert operator.run("rollout", "revert", identity).error == "confirmation_missing"
    back = operator.run("rollout", "revert", identity, "--reason", "bad", "--yes", "--watch", "--timeout", "5m")
    assert (back.code, back.json["state"]) == (0, "reverted")
    assert operator.run("rollout", "watch", identity).code == 6
    assert operator.sdx("rollout", "evidence", identity)["same"] >= 2


def devices(fleet: Fleet, identity: str) -> list[dict[str, Any]]:
    with fleet.client() as client:
        found: list[dict[str, Any]] = client.get(f"/api/v1/rollouts/{identity}/devices").json()["items"]
        return found


def test_commands(fleet: Fleet, operator: Machine) -> None:
    release = fleet.publish_next()
    started = operator.sdx("rollout", "start", release, "--waves", "1,100%", "--soak", "1h", "--yes")
    identity = started["id"]
    until(lambda: operator.sdx("rollout", "show", identity)["waits_for"] == "soak_time", every_s=0.2)
    assert operator.sdx("rollout", "pause", identity, "--dry-run")["dry_run"] is True
    assert operator.sdx("rollout", "pause", identity, "--reason", "rain")["state"] == "paused"
    watched = operator.run("rollout", "watch", identity, "--timeout", "2s")
    assert (watched.code, watched.error) == (1, "watch_timeout"), "what a person paused is watched on"
    assert operator.run("rollout", "resume", identity).error == "confirmation_missing"
    assert operator.sdx("rollout", "resume", identity, "--yes")["state"] == "running"
    queued = next(each["serial"] for each in devices(fleet, identity) if each["state"] == "queued")
    operator.sdx("rollout", "skip", identity, queued, "--reason", "it flies", "--yes")
    assert "It was left out of" in text(operator, "rollout", "why", identity, "--device", queued).stdout
    operator.sdx("rollout", "retry", identity, queued)
    assert operator.run("rollout", "advance", identity, "--reason", "enough", "--yes").code == 0
    until(lambda: operator.sdx("rollout", "show", identity)["members"] == {"committed": DEVICES}, every_s=0.2)
    assert operator.sdx("rollout", "halt", identity)["state"] == "halted"
    assert operator.run("rollout", "watch", identity).code == 6
    assert operator.sdx("rollout", "cancel", identity, "--yes")["state"] == "cancelled"
    assert operator.run("rollout", "pause", identity).error == "rollout_state"
    assert operator.run("rollout", "approve", identity, "--yes").code == 4
    for words in (["show", "ro-999"], ["watch", "ro-999"], ["evidence", "ro-999"], ["why", "ro-999"]):
        assert operator.run("rollout", *words).error == "rollout_unknown"


def test_a_pin(operator: Machine) -> None:
    assert operator.run("device", "pin", "sim-0003").code == 2
    assert operator.sdx("device", "pin", "sim-0003", "--reason", "museum", "--dry-run")["dry_run"] is True
    assert operator.sdx("device", "pin", "sim-0003", "--reason", "museum")["pin"]["pinned_by"] == "olga"
    assert operator.run("device", "pin", "sim-0003", "--reason", "museum").code == 3
    assert operator.sdx("device", "why", "sim-0003")["verdict"] == "pinned"
    assert "olga pinned it on" in text(operator, "device", "why", "sim-0003").stdout
    assert operator.sdx("device", "unpin", "sim-0003")["pin"] is None
    assert operator.run("device", "unpin", "sim-0003").code == 3


def test_a_mistake_in_the_query_is_pointed_at(fleet: Fleet, operator: Machine) -> None:
    release = fleet.publish_next()
    for words in (["plan", release], ["start", release, "--yes"]):
        refused = text(operator, "rollout", *words, "--query", "tag = a and hardwear = rpi4")
        assert refused.returncode == 2
        lines = refused.stderr.splitlines()
        place = next(number for number, line in enumerate(lines) if line == "tag = a and hardwear = rpi4")
        assert lines[place + 1].index("^") == lines[place].index("hardwear")
    nobody = operator.run("rollout", "start", release, "--query", "tag = nobody")
    assert (nobody.code, nobody.error) == (3, "nothing_to_do")


def test_watching_goes_on_through_a_restart_of_the_hub(fleet: Fleet, operator: Machine) -> None:
    release = fleet.publish_next()
    identity = operator.sdx("rollout", "start", release, "--waves", "1,100%", "--soak", "1h", "--yes")["id"]
    until(lambda: operator.sdx("rollout", "show", identity)["waits_for"] == "soak_time", every_s=0.2)
    command, where = operator.command("rollout", "watch", identity, "--timeout", "5m")
    with subprocess.Popen(command, **where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stdout is not None
        assert identity in watching.stderr.readline()
        fleet.hub.kill()
        assert "It is asked again." in watching.stderr.readline()
        fleet.restart_hub()
        assert operator.run("rollout", "advance", identity, "--yes").code == 0
        said = threading.Thread(target=watching.stderr.read)
        said.start()
        until(lambda: operator.sdx("rollout", "show", identity)["members"] == {"committed": DEVICES}, every_s=0.2)
        operator.sdx("rollout", "advance", identity, "--yes")
        document = json.loads(watching.stdout.read())
        said.join()
    assert (watching.returncode, document["state"]) == (0, "finished")


def test_a_log_that_was_changed_is_found(fleet: Fleet, operator: Machine) -> None:
    release = fleet.publish_next()
    done = operator.run("rollout", "start", release, "--waves", "1,100%", *QUICK, "--watch", "--timeout", "5m")
    assert done.code == 0, done
    identity = done.json["id"]
    number = int(identity.removeprefix("ro-"))
    admin = Machine(operator.folder / "auditor", {"SDX_HUB": fleet.url, "SDX_TOKEN": fleet.admin_token})

    def found(machine: Machine) -> str:
        outcome = machine.run("rollout", "evidence", identity)
        assert (outcome.code, outcome.error) == (5, "evidence_differs"), outcome
        return outcome.stderr

    with changed(fleet, number, "outcome"):
        assert "the outcomes give" in found(operator)
    with changed(fleet, number, "decision"):
        assert "these facts give finish" in found(operator)
    # Whoever changes the facts so that they agree is found by the audit chain alone.
    with changed(fleet, number, "facts"):
        assert operator.run("rollout", "evidence", identity).code == 0
        assert "what the audit chain holds is something else" in found(admin)
    assert admin.run("rollout", "evidence", identity).code == 0


CHANGES = {
    "outcome": (
        "UPDATE rollout_outcome SET state = 'failed' WHERE rollout = ? AND state = 'committed'",
        "UPDATE rollout_outcome SET state = 'committed' WHERE rollout = ? AND state = 'failed'",
    ),
    "decision": (
        "UPDATE rollout_decision SET decision = replace(decision, 'all_done', 'all_back') WHERE rollout = ?",
        "UPDATE rollout_decision SET decision = replace(decision, 'all_back', 'all_done') WHERE rollout = ?",
    ),
    "facts": (
        'UPDATE rollout_decision SET facts = replace(facts, \'"notes":""\', \'"notes":"x"\') WHERE rollout = ?',
        'UPDATE rollout_decision SET facts = replace(facts, \'"notes":"x"\', \'"notes":""\') WHERE rollout = ?',
    ),
}
"""What somebody with the database in hand may do, and undo."""


@contextmanager
def changed(fleet: Fleet, rollout: int, what: str) -> Iterator[None]:
    """The log as somebody changed it, who took away what keeps it from being changed; afterwards it is as it was."""
    change, back = CHANGES[what]
    with closing(sqlite3.connect(fleet.hub.data / "hub.db", timeout=30, isolation_level=None)) as database:
        guards = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(change, (rollout,)).rowcount
        try:
            yield
        finally:
            database.execute(back, (rollout,))
            for _, sql in guards:
                database.execute(sql)
