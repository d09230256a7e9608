"""Reports that wait: nothing is lost, nothing is sent twice as something else, and one bad one stops no other."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_agent.core.errors import TransportError
from device_agent.ports.home import Home
from device_agent.ports.hub import Answer
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import DiskStorage
from device_agent.ports.token import settle_token
from firmware_schemas.device_api import ReportReceipt
from firmware_schemas.limits import MAX_ENVELOPES_PER_REPORT


class Hub:
    """Takes every report but those that a test names."""

    def __init__(self, status: int = 200, bad: str = "") -> None:
        self.status, self.bad, self.batches = status, bad, list[list[str]]()

    def exchange(self, _method: str, _path: str, **more: Any) -> Answer:
        names = [envelope["payload"] for envelope in json.loads(more["body"])["envelopes"]]
        self.batches.append(names)
        if self.status != 200 or self.bad in names:
            return Answer(self.status if self.status != 200 else 422, {}, b'{"code":"invalid"}')
        return Answer(200, {}, json.dumps({"receipts": [{"counter": 0, "status": "accepted"} for _ in names]}).encode())

    def stream(self, *_arguments: Any, **_more: Any) -> Any:
        raise AssertionError

    def close(self) -> None:
        return


def filled(folder: Path, count: int) -> Outbox:
    outbox = Outbox(folder, DiskStorage())
    for _ in range(count):
        counter = outbox.next_counter()
        outbox.add(counter, json.dumps({"payload": f"r{counter}", "signature": ""}).encode())
    return outbox


def test_in_counter_order_and_not_in_name_order(tmp_path: Path) -> None:
    outbox, hub = filled(tmp_path / "outbox", 12), Hub()
    receipts = outbox.deliver(hub)
    assert hub.batches == [[f"r{number}" for number in range(1, 13)]]
    assert [receipt.counter for receipt in receipts] == list(range(1, 13))
    assert outbox.counters() == []


def test_in_batches_of_what_the_hub_takes(tmp_path: Path) -> None:
    outbox, hub = filled(tmp_path / "outbox", MAX_ENVELOPES_PER_REPORT + 3), Hub()
    outbox.deliver(hub)
    assert [len(batch) for batch in hub.batches] == [MAX_ENVELOPES_PER_REPORT, 3]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
def test_what_may_pass_later_is_kept(tmp_path: Path, status: int) -> None:
    outbox = filled(tmp_path / "outbox", 3)
    with pytest.raises(TransportError):
        outbox.deliver(Hub(status))
    assert outbox.counters() == [1, 2, 3]


def test_one_report_that_the_hub_cannot_take_is_given_up_alone(tmp_path: Path) -> None:
    outbox = filled(tmp_path / "outbox", 4)
    receipts = outbox.deliver(Hub(bad="r2"))
    assert [(receipt.counter, receipt.status) for receipt in receipts] == [
        (1, "accepted"),
        (2, "refused"),
        (3, "accepted"),
        (4, "accepted"),
    ]
    assert outbox.counters() == []


@pytest.mark.parametrize("body", [b"", b"{}", b'{"receipts":[]}', b'{"receipts":[{"counter":1,"status":"maybe"}]}'])
def test_receipts_that_cannot_be_read_are_no_acknowledgement(tmp_path: Path, body: bytes) -> None:
    outbox, hub = filled(tmp_path / "outbox", 1), Hub()
    hub.exchange = lambda *_a, **_m: Answer(200, {}, body)  # type: ignore[method-assign]
    with pytest.raises(TransportError):
        outbox.deliver(hub)
    assert outbox.counters() == [1]


def test_a_counter_is_never_used_twice(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox = filled(folder, 3)
    outbox.deliver(Hub())
    assert Outbox(folder, DiskStorage()).next_counter() == 4
    assert Outbox(folder, DiskStorage()).next_counter() == 5, "taken, although nothing was filed under 4"


def test_a_lost_counter_file_is_made_up_for_by_what_waits(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox = filled(folder, 3)
    (folder / "counter").unlink()
    assert outbox.next_counter() == 4


def test_patient_reports_wait_for_others_and_go_in_order(tmp_path: Path) -> None:
    outbox, hub = filled(tmp_path / "outbox", 1), Hub()
    outbox.deliver(hub)
    for name in ("r2", "r3"):
        outbox.add(outbox.next_counter(), json.dumps({"payload": name, "signature": ""}).encode(), patient=True)
    assert (outbox.counters(), outbox.counters(patient=False)) == ([2, 3], [])
    outbox.add(outbox.next_counter(), b'{"payload":"r4","signature":""}')
    assert outbox.counters(patient=False) == [4]
    outbox.deliver(hub)
    assert hub.batches == [["r1"], ["r2", "r3", "r4"]]
    assert outbox.counters() == []
    assert outbox.next_counter() == 5


def test_a_patient_report_that_is_unacceptable_is_given_up_too(tmp_path: Path) -> None:
    outbox = filled(tmp_path / "outbox", 1)
    outbox.add(outbox.next_counter(), b'{"payload":"r2","signature":""}', patient=True)
    receipts = outbox.deliver(Hub(bad="r2"))
    assert [receipt.status for receipt in receipts] == ["accepted", "refused"]
    assert outbox.counters() == []


def test_half_written_files_are_not_sent(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox, hub = filled(folder, 1), Hub()
    (folder / "9.json.next").write_bytes(b"{")
    outbox.deliver(hub)
    assert hub.batches == [["r1"]]


def announced(home: Home, raw: bytes) -> None:
    home.identity.mkdir(parents=True)
    home.token.write_text("old")
    home.next_token.write_bytes(raw)


def test_a_refused_token_is_forgotten(tmp_path: Path) -> None:
    home = Home(tmp_path)
    announced(home, b'{"counter":7,"token":"new"}')
    settle_token(home, DiskStorage(), [ReportReceipt(7, "refused", "token_taken")])
    assert home.token.read_text() == "old"
    assert not home.next_token.exists()


def test_an_acknowledged_token_is_taken_up_also_after_a_restart(tmp_path: Path) -> None:
    """The receipt came in an earlier process: that the report is gone says it."""
    home = Home(tmp_path)
    announced(home, b'{"counter":7,"token":"new"}')
    settle_token(home, DiskStorage(), [])
    assert home.token.read_text() == "new"


def test_a_token_whose_report_still_waits_is_not_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    announced(home, b'{"counter":1,"token":"new"}')
    filled(home.outbox, 1)
    settle_token(home, DiskStorage(), [])
    assert home.token.read_text() == "old"


def test_a_damaged_announcement_changes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    announced(home, b"{")
    settle_token(home, DiskStorage(), [])
    assert home.token.read_text() == "old"
