"""The table of commands: what leads where, and that nothing else leads anywhere."""

import pytest

from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.rollout.commands import COMMANDS, TABLE, Command, after
from sdx_hub.domain.rollout.states import ENDED, ROLLOUT_STATES


@pytest.mark.parametrize("state", ROLLOUT_STATES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_every_state(command: Command, state: str) -> None:
    if command in TABLE[state]:
        assert after(command, state) == TABLE[state][command]
        assert after(command, state) in ROLLOUT_STATES
        return
    with pytest.raises(ConflictError) as refusal:
        after(command, state)
    assert refusal.value.code == "rollout_state"
    assert refusal.value.extra == {"state": state, "possible": sorted(TABLE[state])}
    assert str(refusal.value).endswith(".")


def test_the_table_knows_every_state() -> None:
    assert tuple(TABLE) == ROLLOUT_STATES


def test_what_has_ended_goes_back_or_stays_so() -> None:
    back = {"revert": "reverting"}
    assert {state: TABLE[state] for state in ENDED} == {"finished": back, "cancelled": back, "reverted": {}}


def test_nothing_but_a_resume_lets_a_stopped_rollout_offer_again() -> None:
    leads = {command for state in ("paused", "halted") for command, to in TABLE[state].items() if to == "running"}
    assert leads == {"resume"}


def test_whatever_offers_can_be_stopped() -> None:
    assert {"pause", "halt", "revert", "cancel"} <= set(TABLE["running"])


def test_the_refusal_says_what_is_possible() -> None:
    with pytest.raises(ConflictError, match=r"^A rollout that is halted cannot be paused\. Possible now: cancel, re"):
        after("pause", "halted")
