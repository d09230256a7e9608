"""The bench of gates: its rules say what they say, and what it simulates is what the engine decides."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from bench import gates
from bench.decided_fleet import drive
from bench.fleet_of_counts import Release, doubling, draw, kinds_of, wave_sizes
from bench.gate_rules import DEFAULT, PUBLISHED, Counts, Rule, ours
from bench.wave_times import openings
from sdx_hub.domain.rollout.evidence import Outcomes
from sdx_hub.domain.rollout.policy import Gate

RULES = {rule.name: rule for rule in PUBLISHED}


def counts(good: int, failed: int, silent: int = 0, *, step: int = 24, errors: int = 0, size: int = 100) -> Counts:
    kind = Outcomes(committed=good, broken=failed + silent)
    return Counts(step, (kind,), kind, silent, (errors,), (size,))


@pytest.mark.parametrize(
    ("rule", "seen", "verdict"),
    [
        ("hawkBit, 20%", counts(0, 20, errors=20), ""),  # More than 20 % of the whole group, not just as many.
        ("hawkBit, 20%", counts(0, 21, errors=21), "pause"),
        ("hawkBit, 50%", counts(0, 1, errors=1, size=1), "pause"),
        ("AWS, FAILED 100 and 20%", counts(79, 20), ""),  # 99 have completed.
        ("AWS, FAILED 100 and 20%", counts(80, 20), "halt"),
        ("AWS, FAILED 100 and 20%", counts(80, 19, 1), ""),
        ("AWS, FAILED 100 and 20%", counts(100, 0, 100), "halt"),
        ("AWS, ALL 10 and 10%", counts(9, 0, 1), "halt"),
        ("LVFS, 5 and 70%", counts(0, 4), ""),
        ("LVFS, 5 and 70%", counts(11, 5), "halt"),
        ("LVFS, 5 and 70%", counts(12, 5), ""),
        ("LVFS, 5 and 70%", counts(0, 50, step=25), ""),  # It looks once a day.
    ],
)
def test_published_rules(rule: str, seen: Counts, verdict: str) -> None:
    assert RULES[rule].judge(seen) == verdict


def test_our_rule_is_the_gate() -> None:
    rule = ours(0.03, 5, 20)
    assert rule.judge(counts(97, 3)) == ""
    assert rule.judge(counts(14, 3)) == "pause"
    assert rule.judge(counts(0, 2)) == "halt"


def test_waves_and_fleets() -> None:
    assert wave_sizes(20) == [1, 1, 8, 10]
    assert wave_sizes(50_000) == [1, 4_999, 20_000, 25_000]
    assert doubling(20) == [1, 1, 2, 4, 8, 4]
    for devices in (1, 2, 7, 20, 500):
        waves = draw(wave_sizes(devices), "bad", Random(1))
        assert [wave.size for wave in waves] == wave_sizes(devices)
        assert sum(taken.devices for wave in waves for taken in wave.taken) == devices


@pytest.mark.parametrize(("release", "rate"), [("good", 0.02), ("clustered", 0.02), ("bad", 0.15)])
def test_as_many_fail_as_the_model_says(release: Release, rate: float) -> None:
    devices, runs = 500, 200
    hurt = sum(
        taken.hurt
        for number in range(runs)
        for wave in draw(wave_sizes(devices), release, Random(number))
        for taken in wave.taken
    )
    assert abs(hurt / devices / runs - rate) < 0.15 * rate


@pytest.mark.parametrize("devices", [20, 60, 500])
@pytest.mark.parametrize("release", ["good", "bad"])
def test_the_engine_decides_the_same(devices: int, release: Release) -> None:
    """Counts that are known beforehand, and `decide` step by step, come to the same end; up to the last step or so."""
    same, runs = 0, 12
    for number in range(runs):
        waves = draw(wave_sizes(devices), release, Random(f"{devices} {release} {number}"))
        outcome = gates.Run(waves).under(DEFAULT)
        ended = drive(waves, Gate(control=False))
        same += {"": "finished", "pause": "paused", "halt": "halted"}[outcome.stopped] == ended.state
        opened = openings(waves, None)
        assert list(ended.opened) == opened[: len(ended.opened)]
    assert same == runs


def test_a_gate_that_sees_the_failures_hurts_fewer() -> None:
    never = Rule("never", lambda _: "")
    for number in range(20):
        run = gates.Run(draw(wave_sizes(500), "bad", Random(number)))
        assert run.under(DEFAULT).hurt < run.under(never).hurt / 3


def test_kinds_take_turns_in_a_wave() -> None:
    wave = draw(wave_sizes(500), "good", Random(1))[1]
    assert len(wave.members) == kinds_of(500)
    assert max(wave.members) - min(wave.members) <= 1


def test_the_bench_in_short() -> None:
    command = [sys.executable, "-m", "bench.gates", "--runs", "12", "--fleets", "20", "60", "--processes", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    assert set(found["fleets"]) == set(found["holds"]) == {"20", "60"}
    assert {rule.name for rule in gates.RULES} <= set(found["fleets"]["20"])
    text = "\n".join(lines)
    assert "20 devices: ours hurts" in text
    assert "driven through decide(): finished" in text
