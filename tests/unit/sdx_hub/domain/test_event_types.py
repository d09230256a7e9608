import pytest

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.event_types import MAX_PATTERNS, check_patterns, matches


@pytest.mark.parametrize(
    ("patterns", "kind", "wanted"),
    [
        ((), "rollout.halted", True),
        (("rollout.halted",), "rollout.halted", True),
        (("rollout.halted",), "rollout.halted_twice", False),
        (("rollout.*",), "rollout.halted", True),
        (("rollout.*",), "rollout.wave.opened", True),
        (("rollout.*",), "rollouts.halted", False),
        (("rollout.*",), "rollout", False),
        (("webhook.*", "rollout.halted"), "rollout.halted", True),
        (("webhook.*", "rollout.halted"), "rollout.paused", False),
    ],
)
def test_what_a_pattern_wants(patterns: tuple[str, ...], kind: str, wanted: bool) -> None:
    assert matches(patterns, kind) is wanted


@pytest.mark.parametrize(
    "pattern", ["", "*", ".*", "rollout.", "rollout*", "Rollout.*", "a..b", "a.*.b", "a b", "é", "x" * 65]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadInput) as refusal:
        check_patterns(["rollout.*", pattern])
    assert refusal.value.code == "invalid_event_type"


def test_patterns_are_sorted_each_once_and_not_too_many() -> None:
    assert check_patterns(["webhook.*", "rollout.*", "webhook.*"]) == ("rollout.*", "webhook.*")
    with pytest.raises(BadInput):
        check_patterns([f"a.b{number}" for number in range(MAX_PATTERNS + 1)])
