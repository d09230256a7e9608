"""What people read of rollouts, what they order, how they watch, and how they count again."""

import io
import json
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import httpx
import msgspec
import pytest
from click.testing import CliRunner

from sdx_hub.cli.console import Console
from sdx_hub.cli.durations import DURATION, PERCENTAGE
from sdx_hub.cli.failures import HALTED, exit_code_of
from sdx_hub.cli.rollout_order import order_of, order_options
from sdx_hub.cli.rollout_plan_text import plan_text
from sdx_hub.cli.rollout_polling import Watching
from sdx_hub.cli.rollout_replay import replay
from sdx_hub.cli.rollout_texts import bar_of, change_line, counted, frame, list_text, show_text
from sdx_hub.cli.rollout_watch import follow, follow_back
from sdx_hub.domain.errors import BadInput, ConflictError, HubError, NotFound
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Facts, Reading, Tally, WaveFacts
from sdx_hub.domain.rollout.policy import Approval, Limits, Order, Soak
from sdx_hub.domain.rollout.standing import WaveStanding
from sdx_hub.domain.rollout.states import MEMBER_STATES
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.services.rollouts.planning.plans import LeftOut, Plan, PlannedApproval, PlannedDevice, PlannedWave
from sdx_hub.services.rollouts.showing.views import RolloutDetail, Stratum

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = Order(release="nav@1.4.0", soak=Soak(600), silent_after_s=3_600, query="tag = spring")
READING = Reading(7, 1, 0.03, 1.84, {0: 1.84}, 0.471, "1 of 8 failed: the true rate is at most 47 %.")


def detail(state: str = "running", **fields: Any) -> dict[str, Any]:
    """A rollout as the hub answers."""
    base: dict[str, Any] = {
        "id": "ro-3",
        "release": "nav@1.4.0",
        "product": "nav",
        "wave": 2,
        "wave_count": 2,
        "members": {"committed": 7, "silent": 1, "queued": 2},
        "waits_for": "soak_time",
        "sentence": "Wave 2 soaks for another 5 min.",
        "created_by": "olga",
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": None,
        "waves": (
            WaveStanding(wave=1, label="1", size=1, members={"committed": 1}, opened_at=NOW, closed_at=NOW),
            WaveStanding(wave=2, label="100%", size=9, members={"committed": 6, "silent": 1}, opened_at=NOW, flights=4),
        ),
        "strata": (Stratum(0, "rpi4", {1: 1, 2: 9}),),
        "gate": READING,
        "spec": ORDER,
        "approval": Approval("signatures", "ab" * 32, ("ann", "bob")),
        "left_out": {"pinned": 2},
        "outcomes_through": 40,
    }
    document: dict[str, Any] = json.loads(msgspec.json.encode(RolloutDetail(state=state, **(base | fields))))
    return document


def test_one_rollout_in_words() -> None:
    text = show_text(detail("paused", code="gate_paused", reason="Look at the failures."))
    for words in (
        "paused (gate_paused)",
        "Look at the failures.",
        "tag = spring",
        "7 committed, 1 silent, 2 queued",
        "ann, bob, who signed the release",
        "e = 1.84 (pause at 5, halt at 20)",
        "at most 47.1 %, allowed are 3.0 %",
        "2 pinned",
        "4 flights",
    ):
        assert words in text
    assert "nobody yet" in show_text(detail(approval=Approval("second_person", "ab" * 32, ("ann",))))
    assert "every device that it fits" in show_text(detail(gate=None, approval=None, spec=Order(release="nav@1.4.0")))


def test_a_list_of_them() -> None:
    text = list_text([detail(), detail("finished", id="ro-2")])
    assert "ro-3" in text
    assert "2/2" in text
    assert "finished" in text


def test_every_state_of_a_member_has_its_place() -> None:
    members = dict.fromkeys(MEMBER_STATES, 1)
    assert counted(members).startswith("1 committed, 1 rolled back")
    assert counted({}) == "no devices"
    assert sum(len(piece) for piece, _ in bar_of(members, len(members))) == 24


@pytest.mark.parametrize(
    "members", [{}, {"committed": 10_000, "silent": 1}, {"queued": 3}, dict.fromkeys(MEMBER_STATES, 1)]
)
def test_a_bar_is_as_wide_as_it_is_and_shows_everyone(members: dict[str, int]) -> None:
    pieces = bar_of(members, sum(members.values()))
    assert sum(len(piece) for piece, _ in pieces) == (24 if members else 0)
    assert ("silent" in members) == any(colour == "red" for _, colour in pieces)


def test_a_frame_for_a_terminal() -> None:
    from rich.console import Console as RichConsole

    console = RichConsole(width=80, record=True, file=io.StringIO())
    long = WaveStanding(
        wave=1, label="attribute.site = north and tag = canary", size=9, members={"committed": 8, "lost": 1}
    )
    console.print(frame(detail(waves=(long, WaveStanding(wave=2, label="100%", size=1, opened_at=NOW)))))
    text = console.export_text(styles=True)
    for words in ("wave 1", "attribute.site ", "wave 2", "open", "e = 1.84", "soaks for another 5 min"):
        assert words in text
    assert "\x1b[31m██" in text, "the failed one is seen"


def test_a_line_changes_with_what_happens_and_not_with_time() -> None:
    line = change_line(detail())
    assert line == change_line(detail(sentence="Wave 2 soaks for another 4 min."))
    assert "wave 2 of 2, waits for soak time: 7 committed" in line
    assert line != change_line(detail(members={"committed": 8}))
    assert "no wave open" in change_line(detail("preparing", wave=0, gate=None, waits_for=""))


def plan(**fields: Any) -> dict[str, Any]:
    device = PlannedDevice("d-1", "craft-1", "rpi4")
    wave = PlannedWave(
        wave=1, label="1", devices=1, total=1, strata={"rpi4 / north": 1}, first=[device], transported_bytes=2048,
        sites=[], starts_at=NOW, ends_at=NOW,
    )  # fmt: skip
    base: dict[str, Any] = {
        "order": ORDER,
        "query": "tag = spring",
        "members": 9,
        "matching": 11,
        "waves": [wave],
        "left_out": [LeftOut("pinned", 2, "They are pinned.", [device])],
        "transported_bytes": 20_480,
        "starts_at": NOW,
        "ends_at": NOW + timedelta(hours=2),
        "assumptions": ["A device takes 3 min."],
        "approval": PlannedApproval(["ann"], True, "Somebody else than you has to approve it."),
        "warnings": ["This release allows no way back."],
    }
    document: dict[str, Any] = json.loads(msgspec.json.encode(Plan(**(base | fields))))
    return document


def test_a_plan_in_words() -> None:
    text = plan_text(plan())
    for words in (
        "9 of 11 that match",
        "20.0 KiB at the most",
        "2026-03-01T12:00 to 2026-03-01T14:00 UTC",
        "pauses at e = 5, halts at e = 20, against a failure rate of 2 %",
        "lost_contact",
        "600 s after a wave's last device; 50 % of it must have committed",
        "Somebody else than you has to approve it.",
        "1 rpi4 / north",
        "They are pinned.",
        "craft-1, ...",
        "WARNING: This release allows no way back.",
        "Assumed: A device takes 3 min.",
    ):
        assert words in text
    order = msgspec.structs.replace(ORDER, limits=Limits(in_flight=5, site_in_flight=2), urgent="FB-12")
    text = plan_text(plan(order=order, ends_at=None, left_out=[], query=""))
    assert "5 at once, 2 at each site" in text
    assert "more than a year from now" in text
    assert "every accepted device that it fits" in text


def ordered(*words: str) -> dict[str, Any]:
    """The order that the options make; it is one that the hub takes."""
    found: dict[str, Any] = {}

    @click.command()
    @order_options
    def take(**given: Any) -> None:
        found.update(order_of("nav@1.4.0", given))

    outcome = CliRunner().invoke(take, list(words), standalone_mode=False)
    if outcome.exception is not None:
        raise outcome.exception
    msgspec.convert(found, Order)
    return found


def test_an_order_says_nothing_that_was_not_said() -> None:
    assert ordered() == {"release": "nav@1.4.0"}


def test_an_order_with_everything() -> None:
    words = (
        "--query tag=a --base-rate 3% --pause-at 5 --halt-at 20 --no-control --critical health_failed --soak 2h "
        "--soak-flights 20 --soak-hours 1.5 --quorum 80% --silent-after 15m --window 22:00-04:00 --max-in-flight 9 "
        "--site-limit 2 --site-attribute base --stratify hardware --priority 0 --urgent now --join "
        "--downgrade because --second-person --notes hm"
    )
    waves = ["--waves", "1,tag in (a, b),25%", "--waves", "100%"]
    assert ordered(*shlex.split(words), *waves) == {
        "release": "nav@1.4.0",
        "query": "tag=a",
        "waves": ["1", "tag in (a, b)", "25%", "100%"],
        "gate": {
            "base_rate": 0.03,
            "pause_at": 5.0,
            "halt_at": 20.0,
            "control": False,
            "critical": ["health_failed"],
        },
        "soak": {"seconds": 7_200, "flights": 20, "hours": 1.5},
        "limits": {"in_flight": 9, "site_in_flight": 2, "site_attribute": "base"},
        "stratify": ["hardware"],
        "quorum": 0.8,
        "silent_after_s": 900,
        "windows": ["22:00-04:00"],
        "priority": 0,
        "urgent": "now",
        "join": True,
        "downgrade": "because",
        "second_person": True,
        "notes": "hm",
    }


def test_nothing_at_all_is_said_too() -> None:
    assert ordered("--soak", "0s", "--quorum", "0%") == {
        "release": "nav@1.4.0",
        "soak": {"seconds": 0},
        "quorum": 0.0,
    }


def test_what_no_order_is_made_of() -> None:
    with pytest.raises(BadInput):
        ordered("--waves", "1,,100%")
    for words in (["--soak", "2 hours"], ["--quorum", "150%"], ["--base-rate", "few"], ["--priority", "101"]):
        with pytest.raises(click.BadParameter):
            ordered(*words)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800), ("1w", 604_800)]
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), ("0.5", 0.5), ("12.5 %", 0.125), ("100%", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert PERCENTAGE.convert(text, None, None) == share


Answer = Callable[[httpx.Request], httpx.Response]


class Script:
    """A hub that answers one after the other, and remembers what it was asked."""

    def __init__(self, *answers: dict[str, Any] | int | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.slept: list[float] = []
        self.time = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(200, json=answer, headers={"etag": f'"{len(self.asked)}"'})

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def console() -> Console:
    return Console(True)


def watching(script: Script, console: Console, timeout_s: float = 0) -> Iterator[dict[str, Any]]:
    hub = HubClient("http://hub", "sdx_x", httpx.MockTransport(script))
    return iter(Watching(hub, "ro-3", console, timeout_s, sleep=script.sleep, clock=lambda: script.time))


def test_it_is_asked_for_what_is_new(console: Console) -> None:
    script = Script(detail(), 304, detail("finished"))
    shown = watching(script, console)
    assert [next(shown)["state"], next(shown)["state"]] == ["running", "finished"]
    assert [request.headers.get("if-none-match") for request in script.asked] == [None, '"1"', '"1"']
    assert script.slept == [1.0, 1.0]


def test_a_hub_that_is_away_is_asked_again(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    away = httpx.ConnectError("refused")
    script = Script(detail(), away, away, 502, 503, 503, 503, detail("finished"))
    shown = watching(script, console)
    next(shown)
    assert next(shown)["state"] == "finished"
    assert script.slept == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert capsys.readouterr().err.count("asked again") == 1


def test_what_does_not_pass_ends_it(console: Console) -> None:
    with pytest.raises(NotFound):
        next(watching(Script(404), console))
    with pytest.raises(HubError):
        next(watching(Script(401), console))


def test_the_time_is_up(console: Console) -> None:
    script = Script(detail(), *[304] * 10)
    shown = watching(script, console, timeout_s=5)
    next(shown)
    with pytest.raises(ConflictError) as raised:
        next(shown)
    assert raised.value.code == "watch_timeout"
    assert script.time <= 5


def followed(
    monkeypatch: pytest.MonkeyPatch, follow: Callable[..., dict[str, Any]], *answers: dict[str, Any]
) -> dict[str, Any]:
    monkeypatch.setattr("sdx_hub.cli.rollout_polling.EVERY_S", 0)
    hub = HubClient("http://hub", "sdx_x", httpx.MockTransport(Script(*answers)))
    return follow(hub, "ro-3", Console(True), 0)


def test_watching_ends_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand = detail("paused", code="paused_by_person")
    ends = followed(monkeypatch, follow, detail(), detail(), by_hand, detail("finished", members={"committed": 10}))
    assert ends["state"] == "finished"
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 3


@pytest.mark.parametrize(
    ("state", "code", "advice"),
    [
        ("paused", "gate_paused", "sdx rollout resume ro-3"),
        ("paused", "critical_outcome", "sdx rollout resume ro-3"),
        ("halted", "gate_halted", "sdx rollout revert ro-3"),
        ("halted", "", "sdx rollout revert ro-3"),
        ("reverting", "", "is not heard any more"),
        ("reverted", "", "sdx rollout start R"),
        ("cancelled", "", "sdx rollout start nav@1.4.0"),
    ],
)
def test_watching_ends_with_six_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, state: str, code: str, advice: str
) -> None:
    with pytest.raises(ConflictError) as raised:
        followed(monkeypatch, follow, detail(), detail(state, code=code, reason="1 of 8 failed. Stopped."))
    assert exit_code_of(raised.value) == HALTED
    assert "1 of 8 failed. Stopped." in str(raised.value)
    assert advice in str(raised.value)
    assert (raised.value.extra["rollout"], raised.value.extra["state"]) == ("ro-3", state)


def test_waiting_until_all_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    back = detail("reverted", members={"reverted": 8, "queued": 2})
    assert followed(monkeypatch, follow_back, detail("reverting"), back)["state"] == "reverted"
    some = detail("reverted", members={"reverted": 7, "revert_failed": 1})
    failed = {"items": [{"device": "d-7", "serial": "craft-7", "code": "revert_not_allowed"}]}
    with pytest.raises(ConflictError) as raised:
        followed(monkeypatch, follow_back, detail("reverting"), some, failed)
    assert exit_code_of(raised.value) == 1
    assert "craft-7 (revert_not_allowed)" in str(raised.value)
    assert raised.value.extra["devices"] == ["d-7"]


def test_a_terminal_gets_a_frame(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    hub = HubClient("http://hub", "sdx_x", httpx.MockTransport(Script(detail("finished"))))
    follow(hub, "ro-3", Console(False), 0)
    said = capsys.readouterr()
    assert said.out == ""
    assert "wave 1" in said.err
    assert "█" in said.err


def facts(through: int, *tallies: tuple[int, int, str, int], **fields: Any) -> Facts:
    base: dict[str, Any] = {
        "now": NOW,
        "order": ORDER,
        "state": "running",
        "wave": 1,
        "release_state": "published",
        "waves": (WaveFacts(1, "1", 1, opened_at=NOW), WaveFacts(2, "100%", 3)),
        "strata": {0: "rpi4", 1: "rpi5"},
        "tallies": tuple(Tally(*each) for each in tallies),
        "outcomes_through": through,
    }
    return Facts(**(base | fields))


def decision_line(number: int, made_of: Facts, actor: str = "hub") -> dict[str, Any]:
    decided = decide(made_of)
    line = {"id": number, "actor": actor, "rule": decided.rule, "facts": made_of, "decision": decided}
    document: dict[str, Any] = json.loads(msgspec.json.encode(line))
    return document


def outcome(number: int, was: str, state: str, wave: int = 1, stratum: int = 0) -> dict[str, Any]:
    return {"id": number, "was": was, "state": state, "wave": wave, "stratum": stratum}


OUTCOMES = [
    outcome(5, "queued", "offered"),
    outcome(9, "offered", "committed"),
    outcome(11, "", "queued", wave=2, stratum=1),
    outcome(12, "queued", "offered", wave=2, stratum=1),
    outcome(50, "queued", "offered", wave=2),
]
SHOWN = {
    "outcomes_through": 40,
    "strata": [{"stratum": 0, "members": {"1": 1, "2": 2}}, {"stratum": 1, "members": {"2": 1}}],
}
LOG = [
    decision_line(1, facts(0, (1, 0, "queued", 1), (2, 0, "queued", 2), wave=0)),
    decision_line(2, facts(9, (1, 0, "committed", 1), (2, 0, "queued", 2))),
    decision_line(3, facts(12, (1, 0, "committed", 1), (2, 0, "queued", 2), (2, 1, "offered", 1)), actor="olga"),
]


def test_the_log_gives_the_same_decisions_and_counts() -> None:
    replayed = list(replay(LOG, OUTCOMES, SHOWN))
    assert [(each.decided, each.counted, each.differs) for each in replayed] == [
        (True, True, ""),
        (True, True, ""),
        (None, True, ""),
    ]


def test_before_there_are_members_nothing_is_counted() -> None:
    made_of = facts(0, state="preparing", wave=0, waves=(), strata={})
    assert [each.counted for each in replay([decision_line(1, made_of)], [], SHOWN)] == [None]


def test_a_decision_that_was_changed_is_found() -> None:
    changed = json.loads(json.dumps(LOG))
    changed[1]["decision"]["sentence"] = "All is well."
    found = list(replay(changed, OUTCOMES, SHOWN))
    assert [each.decided for each in found] == [True, False, None]
    assert found[1].differs.startswith("these facts give")


def test_an_outcome_that_was_changed_is_found() -> None:
    for changed in ([*OUTCOMES[:1], outcome(9, "offered", "failed"), *OUTCOMES[2:]], OUTCOMES[1:]):
        found = list(replay(LOG, changed, SHOWN))
        assert [each.counted for each in found] == [True, False, False]
        assert "in wave 1, stratum 0" in found[1].differs
