"""No secret reaches a log, whatever it is called and wherever in an event it is."""

import io
import json
import logging
import sys

import pytest
import structlog

from sdx_hub import logs

PERSON = "sdx_abcdef123456_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4"
DEVICE = "sdxd_Zm9vYmFyYmF6cXV4"
ENROL = "sdxe_Zm9vYmFyYmF6cXV4"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("info", as_json=True)
    yield stream
    root.handlers[:] = kept
    root.setLevel(level)
    structlog.reset_defaults()


def test_secrets_are_blacked_out(lines: io.StringIO) -> None:
    log = structlog.get_logger("test")
    log.warning("event", token="anything", passphrase="x", password=b"x", authorization=f"Bearer {PERSON}")
    log.warning(
        "event", note=f"a person sent {PERSON} and {DEVICE}", nested={"deep": [f"{ENROL}."]}, secret_sha256="ab"
    )
    log.warning(f"in the event itself: {DEVICE}")
    try:
        int(f"in an exception: {PERSON}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("some.package").error("a library says %s", PERSON)
    text = lines.getvalue()
    for secret in (PERSON, DEVICE, ENROL, "Zm9v", "anything"):
        assert secret not in text
    assert len([json.loads(line) for line in text.splitlines()]) == 5


def test_what_is_no_secret_stays(lines: io.StringIO) -> None:
    log = structlog.get_logger("test")
    log.info("event", device="d-0123456789abcdef0123", code="token_unknown", token_id="abc123", count=3)
    entry = json.loads(lines.getvalue())
    assert (entry["device"], entry["code"], entry["token_id"]) == ("d-0123456789abcdef0123", "token_unknown", "abc123")
    assert (entry["event"], entry["level"], entry["count"]) == ("event", "info", 3)
    assert entry["timestamp"].endswith("Z")


def test_the_level_holds(lines: io.StringIO) -> None:
    log = structlog.get_logger("test")
    log.debug("hidden")
    logging.getLogger("_granian").info("hidden")
    logging.getLogger("tuf.api").info("hidden")
    assert lines.getvalue() == ""
