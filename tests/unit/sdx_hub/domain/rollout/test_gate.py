"""The gate's reading: what counts, what is excused, what was accepted, and the sentence."""

import pytest

from sdx_hub.domain.rollout import gate
from sdx_hub.domain.rollout.evidence import Outcomes
from sdx_hub.domain.rollout.facts import Accepted, Control, Reading
from sdx_hub.domain.rollout.policy import Gate

BASE = 0.03
POLICY = Gate(base_rate=BASE)
NO_CONTROL, NOTHING_ACCEPTED = Control(), Accepted()
NAMES = {kind: f"rev-{kind}" for kind in range(5)}


def reading(
    *kinds: tuple[int, int], policy: Gate = POLICY, control: Control = NO_CONTROL, accepted: Accepted = NOTHING_ACCEPTED
) -> Reading:
    """Of so many that committed and that broke, by kind."""
    outcomes = {kind: Outcomes(committed=good, broken=bad) for kind, (good, bad) in enumerate(kinds)}
    return gate.read(outcomes, NAMES, policy, control, accepted=accepted)


def test_one_of_three_that_fails_pauses_where_it_is_the_only_one_of_its_kind() -> None:
    assert reading((2, 0), (0, 1)).e_value >= 5 > reading((2, 1)).e_value


def test_one_kind_of_device_that_fails_is_found_among_many_that_do_not() -> None:
    found = reading((0, 3), (50, 0), (50, 0), (50, 0), (50, 0))
    assert found.by_stratum[0] > 1000
    assert found.e_value >= 20 > reading((200, 3)).e_value
    assert "Most of it is rev-0: 3 of 3 failed" in found.sentence


def test_kinds_of_which_none_has_ended_have_their_part_of_the_stake() -> None:
    alone, beside = reading((0, 1)), reading((0, 1), (0, 0), (0, 0))
    assert beside.by_stratum == {0: alone.e_value, 1: 1.0, 2: 1.0}
    assert beside.e_value < alone.e_value


def test_what_goes_silent_by_itself_is_not_held_against_the_release() -> None:
    control = Control(devices=40, silent=12)
    alone, beside = reading((8, 3)), reading((8, 3), control=control)
    ignored = reading((8, 3), policy=Gate(base_rate=BASE, control=False), control=control)
    assert alone.allowed_rate == ignored.allowed_rate == BASE
    assert 0.18 < beside.allowed_rate - BASE < 0.20  # 12 of 40 are 30 %, and prove 18.5 %.
    assert alone.e_value == ignored.e_value >= 5 > beside.e_value


def test_one_silent_device_beside_proves_next_to_nothing() -> None:
    assert gate.allowed_rate(POLICY, Control(devices=20, silent=1)) < BASE + 0.003
    assert gate.allowed_rate(POLICY, Control(devices=3, silent=3)) < 0.5
    assert gate.allowed_rate(POLICY, Control(devices=10_000, silent=10_000)) < 1


def test_accepted_evidence_is_left_out() -> None:
    found = reading((30, 1), (4, 3), accepted=Accepted({0: 10, 1: 4}, {1: 3}))
    assert (found.good, found.bad) == (20, 1)
    assert found.sentence.startswith("1 of 21 failed since it was resumed: ")
    mixed = {0: Outcomes(committed=9, broken=2, stopped=1)}
    left = gate.read(mixed, NAMES, POLICY, Control(), accepted=Accepted({0: 9}, {0: 2}))
    assert (left.good, left.bad) == (0, 1)


def test_a_million_outcomes_are_read() -> None:
    assert reading((1_000_000, 0)).bound < 4e-6
    assert reading((900_000, 100_000)).sentence.startswith("100,000 of 1,000,000 failed: the true rate is at most 10 %")


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        (Outcomes(), "Nothing has ended yet."),
        (Outcomes(1), "1 clean install still allows a failure rate of 95 %."),
        (Outcomes(20, on_trial=3), "20 clean installs still allow a failure rate of 14 %."),
        (Outcomes(1000), "1,000 clean installs still allow a failure rate of 0.3 %."),
        (
            Outcomes(14, broken=3),
            "3 of 17 failed: the true rate is at most 40 %, and 3 % is allowed; e = 8.14, pause at 5, halt at 20.",
        ),
        (
            Outcomes(4, on_trial=10, broken=3),
            "3 of 7 failed, and 10 more on trial: the true rate is at most 77 %, and 3 % is allowed; e = 8.14, "
            "pause at 5, halt at 20.",
        ),
    ],
)
def test_the_sentence(outcomes: Outcomes, sentence: str) -> None:
    assert gate.read({0: outcomes}, NAMES, POLICY, Control()).sentence == sentence
