"""`sdx device preview`, `list --query`, `assign --query` and `sdx filter`, against the real hub."""

import subprocess
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import Fleet, start_fleet
from tests.support.machine import Machine


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        for number in range(3):
            fleet.enrol_key(Ed25519PrivateKey.generate(), f"craft-{number}")
        fleet.publish_next()
        yield fleet


@pytest.fixture(scope="module")
def operator(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    token = fleet.token("olga", "operator")
    return Machine(tmp_path_factory.mktemp("olga"), {"SDX_HUB": fleet.url, "SDX_TOKEN": token})


def text(operator: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    """What a person reads, without --json."""
    command, where = operator.command(*words)
    return subprocess.run(
        [word for word in command if word != "--json"], **where, capture_output=True, text=True, check=False
    )


def test_from_a_question_to_an_order(operator: Machine) -> None:
    operator.sdx("device", "set", "craft-1", "site=north")
    shown = operator.sdx("device", "preview", "attribute.site=north or serial ~ craft-2", "--product", "mavsdk")
    assert (shown["query"], shown["count"], shown["by_version"]) == (
        'attribute.site = north or serial ~ "craft-2"',
        2,
        {},
    )
    listed = operator.sdx("device", "list", "--query", "attribute.site = north")
    assert [each["serial"] for each in listed] == ["craft-1"]

    dry = operator.sdx("device", "assign", "mavsdk@3.1.0", "--query", "attribute.site=north", "--dry-run")
    assert dry == {"release": "mavsdk@3.1.0", "dry_run": True, "query": "attribute.site = north"}
    unasked = operator.run("device", "assign", "mavsdk@3.1.0", "--query", "attribute.site = north")
    assert (unasked.code, unasked.error) == (2, "confirmation_missing")
    assert "the 1 devices with attribute.site = north" in unasked.stderr
    done = operator.sdx("device", "assign", "mavsdk@3.1.0", "--query", "attribute.site = north", "--yes")
    assert (done["assigned"], done["counts"]["assigned"]) == ([listed[0]["id"]], 1)
    assert operator.run("device", "assign", "mavsdk@3.1.0", "--query", "attribute.site = north", "--yes").code == 3
    nobody = operator.run("device", "assign", "mavsdk@3.1.0", "--query", "tag = nobody", "--yes")
    assert (nobody.code, nobody.error) == (3, "nothing_to_do")
    both = operator.run("device", "assign", "mavsdk@3.1.0", "craft-1", "--query", "tag = a", "--yes")
    assert (both.code, both.error) == (2, "devices_or_tag")


def test_filters(operator: Machine) -> None:
    assert operator.sdx("filter", "save", "north", "attribute.site=north")["query"] == "attribute.site = north"
    assert operator.run("filter", "save", "north", "attribute.site  =  north").code == 3
    assert operator.run("filter", "save", "north", "attribute.site = south").error == "confirmation_missing"
    assert operator.sdx("filter", "save", "north", "attribute.site = south", "--dry-run")["dry_run"] is True
    assert operator.sdx("filter", "show", "north")["query"] == "attribute.site = north"
    assert operator.sdx("device", "preview", "not filter(north)")["count"] == 2
    operator.sdx("filter", "save", "north", 'attribute.site ~ "no*"', "--yes")
    assert [(each["name"], each["author"]) for each in operator.sdx("filter", "list")] == [("north", "olga")]
    operator.sdx("filter", "save", "not-north", "not filter(north)")
    assert operator.run("filter", "save", "north", "not filter(not-north)", "--yes").error == "filter_circular"
    assert operator.run("filter", "delete", "north", "--yes").error == "filter_in_use"
    operator.sdx("filter", "delete", "not-north", "--yes")
    assert operator.run("filter", "delete", "north").error == "confirmation_missing"
    assert operator.sdx("filter", "delete", "north", "--yes")["name"] == "north"
    assert operator.run("filter", "show", "north").error == "filter_not_found"


def test_a_mistake_is_pointed_at(operator: Machine) -> None:
    wrong = "tag = spring and hardwear = rpi4"
    for words in (
        ["preview", wrong],
        ["list", "--query", wrong],
        ["assign", "mavsdk@3.1.0", "--query", wrong, "--yes"],
    ):
        refused = text(operator, "device", *words)
        assert refused.returncode == 2
        lines = refused.stderr.splitlines()
        place = next(number for number, line in enumerate(lines) if line == wrong)
        assert lines[place + 1].index("^") == wrong.index("hardwear")
        assert "Did you mean hardware?" in refused.stderr
    as_json = operator.run("device", "preview", wrong)
    assert (as_json.code, as_json.json["error"]["extra"]["position"]) == (2, wrong.index("hardwear"))


def test_people_read_text(operator: Machine) -> None:
    shown = text(operator, "device", "preview", 'serial ~ "craft-*"', "--product", "mavsdk")
    assert shown.returncode == 0
    assert "3 accepted" in shown.stdout
    assert "craft-0" in shown.stdout
    operator.sdx("filter", "save", "all", 'serial ~ "*"')
    for words in (["filter", "list"], ["filter", "show", "all"]):
        assert 'serial ~ "*"' in text(operator, *words).stdout
