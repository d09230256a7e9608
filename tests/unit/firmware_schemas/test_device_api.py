"""What devices and the hub say to each other: strict, bounded, and free of secrets where it is shown."""

import pytest

from firmware_schemas import canonical
from firmware_schemas.device_api import (
    Envelope,
    InventoryReport,
    Report,
    ReportBody,
    ResultReport,
    TokenReport,
    UsageReport,
    decode_enrolment,
    decode_report,
    envelope,
    parse_enrol_string,
)
from firmware_schemas.errors import SchemaError
from firmware_schemas.limits import MAX_ENVELOPE_BYTES


@pytest.mark.parametrize(
    "body",
    [
        InventoryReport((), {"mavsdk": 3}, "1", "boot"),
        ResultReport("d-1.2", "success", {"mavsdk": "1.0"}),
        TokenReport("a" * 64),
        UsageReport(0, 0),
        UsageReport(10**7, 10**10),
    ],
)
def test_each_kind_of_report_survives_its_own_bytes(body: ReportBody) -> None:
    report = Report("d-1", 7, 1_700_000_000, body)
    assert decode_report(canonical.encode(report)) == report


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b'{"device_id":"d","counter":0,"time_s":0,"body":{"kind":"token","token_sha256":"' + b"a" * 64 + b'"}}',
        b'{"device_id":"d","counter":1,"time_s":0,"body":{"kind":"launch"}}',
        b'{"device_id":"d","counter":1,"time_s":0,"body":{"kind":"usage","flights":-1,"running_s":0}}',
        b'{"device_id":"d","counter":1,"time_s":0,"body":{"kind":"usage","flights":0,"running_s":10000000001}}',
        b'{"device_id":"d","counter":1,"time_s":0,"body":{"kind":"usage","flights":0.5,"running_s":0}}',
        b"\xff\xfe",
        b"x" * (MAX_ENVELOPE_BYTES + 1),
    ],
)
def test_a_report_outside_the_contract_is_refused(raw: bytes) -> None:
    with pytest.raises(SchemaError):
        decode_report(raw)


def test_an_enrolment_cannot_pass_for_a_report_nor_the_other_way_round() -> None:
    """Both are signed by the same key: the shapes exclude each other, so a signature cannot change its meaning."""
    report = canonical.encode(Report("d-1", 1, 0, TokenReport("a" * 64)))
    with pytest.raises(SchemaError):
        decode_enrolment(report)


def test_an_envelope_keeps_the_exact_bytes() -> None:
    sealed = envelope(b"\x00payload\xff", b"s" * 64)
    assert (sealed.payload_bytes(), sealed.signature_bytes()) == (b"\x00payload\xff", b"s" * 64)
    with pytest.raises(SchemaError):
        Envelope("not base64!", "").payload_bytes()


def test_an_enrolment_string_survives_and_hides_its_secret() -> None:
    text = f"sdxe_s3cret.{'a' * 64}.{'b' * 64}"
    parsed = parse_enrol_string(text)
    assert parsed.text() == text
    assert parsed.secret == "s3cret"
    assert "s3cret" not in repr(parsed)


@pytest.mark.parametrize(
    "bad", ["", "sdxe_", "sdxe_x.y.z", f"sdx_x.{'a' * 64}.{'b' * 64}", f"sdxe_x.{'A' * 64}.{'b' * 64}"]
)
def test_something_else_is_not_an_enrolment_string(bad: str) -> None:
    with pytest.raises(SchemaError):
        parse_enrol_string(bad)


@pytest.mark.parametrize(
    ("detail", "fits"), [("a\0b", False), ("\\\0", False), ("\\u0000", True), ("\\\\u0000", True), ("\u0001", True)]
)
def test_a_nul_is_refused_and_what_looks_like_one_is_not(detail: str, fits: bool) -> None:
    raw = canonical.encode(Report("d-1", 1, 0, ResultReport("d-1.2", "success", {}, detail=detail)))
    if fits:
        body = decode_report(raw).body
        assert isinstance(body, ResultReport)
        assert body.detail == detail
    else:
        with pytest.raises(SchemaError, match="NUL"):
            decode_report(raw)
