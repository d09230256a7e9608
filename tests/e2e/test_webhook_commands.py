"""`sdx webhook` from the address to the delivery, against the real hub and a real receiver."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, start_fleet
from tests.support.machine import Machine
from tests.support.receiver import Receiver, verify


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def admin(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("adam"), {"SDX_HUB": fleet.url, "SDX_TOKEN": fleet.admin_token})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_from_an_address_to_a_delivery(admin: Machine, receiver: Receiver) -> None:
    dry = admin.sdx("webhook", "add", receiver.url, "--type", "rollout.*", "--dry-run")
    assert dry == {"url": receiver.url, "types": ["rollout.*"], "dry_run": True}
    assert admin.sdx("webhook", "list") == []
    made = admin.sdx("webhook", "add", receiver.url, "--type", "rollout.*", "--type", "webhook.disabled")
    identity, secret = made["webhook"]["id"], made["secret"]
    shown = admin.sdx("webhook", "show", identity)
    assert shown == made["webhook"]
    assert (shown["types"], shown["state"]) == (["rollout.*", "webhook.disabled"], "enabled")
    listed = admin.run("webhook", "list")
    assert listed.json == [shown]
    assert secret not in listed.stdout

    tested = admin.sdx("webhook", "test", identity)
    assert (tested["state"], tested["status"]) == ("done", 200)
    verify(secret, receiver.got[0].headers, receiver.got[0].body)
    receiver.status = 404
    failed = admin.run("webhook", "test", identity)
    assert (failed.code, failed.error) == (1, "webhook_test_failed")
    assert "The receiver answered with 404." in failed.stderr
    assert [each["state"] for each in admin.sdx("webhook", "deliveries", identity)] == ["due", "done"]
    assert admin.run("webhook", "enable", identity).code == 3

    receiver.status = 410
    assert admin.run("webhook", "test", identity).error == "webhook_test_failed"
    assert admin.sdx("webhook", "show", identity)["disabled_code"] == "gone"
    assert admin.run("webhook", "test", identity).error == "webhook_disabled"
    assert admin.sdx("webhook", "enable", identity, "--dry-run")["state"] == "disabled"
    assert admin.sdx("webhook", "enable", identity)["state"] == "enabled"

    unasked = admin.run("webhook", "delete", identity)
    assert (unasked.code, unasked.error) == (2, "confirmation_missing")
    admin.sdx("webhook", "delete", identity, "--yes")
    gone = admin.run("webhook", "show", identity)
    assert (gone.code, gone.error) == (1, "webhook_not_found")


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("add", "http://receiver.example/x"), 1, "invalid_webhook_url"),
        (("add", "https://receiver.example/x", "--type", "*"), 1, "invalid_event_type"),
    ],
)
def test_what_is_refused(admin: Machine, words: tuple[str, ...], code: int, error: str) -> None:
    refused = admin.run("webhook", *words)
    assert (refused.code, refused.error) == (code, error)


def test_webhooks_are_for_admins(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"SDX_HUB": fleet.url, "SDX_TOKEN": fleet.token("olga", "operator")}
    refused = Machine(tmp_path_factory.mktemp("olga"), settings).run("webhook", "list")
    assert (refused.code, refused.error) == (4, "not_allowed")
