"""Publishing by several people on several machines, with the real commands and the real hub."""

import json
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from firmware_schemas.limits import UPLOAD_CHUNK_BYTES
from tests.e2e.conftest import House
from tests.support.machine import Machine
from tests.support.mitm import Answer, Mitm, Request


def build(machine: Machine, version: str, *more: str, product: str = "nav", content: str = "") -> str:
    """Build PRODUCT@VERSION of one folder; return the file's name."""
    tree = machine.folder / f"src-{product}-{version}"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_text(content or f"{product} {version}\n" * 1000)
    name = f"{product}-{version}.sdx"
    machine.sdx(
        *("release", "build", "--product", product, "--version", version, "--hardware", "rpi-cm4"),
        *("--component", f"app=directory:{tree.name}", "-o", name, *more),
    )
    return name


def give(file: str, giver: Machine, taker: Machine) -> None:
    (taker.folder / file).write_bytes((giver.folder / file).read_bytes())


def test_two_people_pass_the_file_on(house: House) -> None:
    file = build(house.alice, "1.0.0")
    assert house.alice.run("release", "publish", file).error == "unsigned"
    first = house.alice.signs("release", "sign", file, "--signer", "alice.key")
    assert (first["signed_by"], first["still_needed"], first["complete"]) == (["alice"], 1, False)
    assert set(first["missing"]) == {"bob", "carol"}
    again = house.alice.unlocked("release", "sign", file, "--signer", "alice.key", "--yes")
    assert (again.code, again.error) == (3, "already_signed")
    give(file, house.alice, house.bob)
    second = house.bob.signs("release", "sign", file, "--signer", "bob.key")
    assert (second["signed_by"], second["complete"]) == (["alice", "bob"], True)
    checked = house.bob.sdx("release", "verify", file)
    assert (checked["state"], checked["content"]) == ("signed", "verified")
    sent = house.bob.sdx("release", "publish", file)
    assert (sent["state"], sent["signed_by"], sent["already"]) == ("published", ["alice", "bob"], False)
    twice = house.bob.sdx("release", "publish", file)
    assert (twice["state"], twice["already"], twice["uploaded"]) == ("published", True, [])
    shown = house.carol.sdx("release", "show", "nav@1.0.0")
    assert (shown["state"], shown["signed_by"]) == ("published", ["alice", "bob"])
    from_hub = house.carol.sdx("release", "verify", "nav@1.0.0")
    assert (from_hub["state"], from_hub["content"]) == ("published", "verified")


def test_the_second_person_signs_what_waits_on_the_hub(house: House) -> None:
    file = build(house.alice, "1.1.0")
    house.alice.signs("release", "sign", file, "--signer", "alice.key")
    waiting = house.alice.sdx("release", "publish", file)
    assert (waiting["state"], waiting["still_needed"]) == ("waiting", 1)
    assert set(waiting["missing"]) == {"bob", "carol"}
    listed = house.bob.sdx("release", "list", "--state", "waiting")
    assert [item["id"] for item in listed] == ["nav@1.1.0"]
    dry = house.bob.unlocked("release", "sign", "nav@1.1.0", "--signer", "bob.key", "--dry-run")
    assert dry.code == 0
    assert dry.json["signed_by"] == ["alice"]
    assert house.bob.sdx("release", "show", "nav@1.1.0")["state"] == "waiting"
    done = house.bob.signs("release", "sign", "nav@1.1.0", "--signer", "bob.key")
    assert (done["state"], done["signed_by"]) == ("published", ["alice", "bob"])
    assert house.alice.unlocked("release", "sign", "nav@1.1.0", "--signer", "alice.key").code == 3


def test_signatures_meet_on_the_hub(house: House) -> None:
    """Carol has the file as it was before alice published it: the hub's signature is picked up."""
    file = build(house.alice, "1.2.0")
    house.alice.signs("release", "sign", file, "--signer", "alice.key")
    give(file, house.alice, house.carol)
    house.alice.sdx("release", "publish", file)
    house.carol.signs("release", "sign", file, "--signer", "carol.key")
    sent = house.carol.sdx("release", "publish", file)
    assert (sent["state"], sent["signed_by"]) == ("published", ["alice", "carol"])


def test_two_releases_at_the_same_time_the_later_one_is_rebased(house: House) -> None:
    mine, theirs = build(house.alice, "2.0.0"), build(house.bob, "2.1.0")
    house.alice.signs("release", "sign", mine, "--signer", "alice.key")
    house.bob.signs("release", "sign", theirs, "--signer", "bob.key")
    give(theirs, house.bob, house.carol)
    house.carol.signs("release", "sign", theirs, "--signer", "carol.key")
    assert house.carol.sdx("release", "publish", theirs)["state"] == "published"

    refused = house.alice.run("release", "publish", mine)
    assert (refused.code, refused.error) == (1, "metadata_outdated")
    assert "another release" in refused.json["error"]["message"].lower()

    outcome = house.alice.unlocked("release", "sign", mine, "--signer", "alice.key", "--yes")
    assert outcome.code == 0, outcome
    assert outcome.json["rebased_from"] is not None
    assert outcome.json["dropped"] == ["alice"]
    assert "came first" in outcome.stderr
    assert house.alice.sdx("release", "publish", mine)["state"] == "waiting"
    assert house.bob.signs("release", "sign", "nav@2.0.0", "--signer", "bob.key")["state"] == "published"
    published = {item["id"] for item in house.alice.sdx("release", "list", "--state", "published")}
    assert {"nav@2.0.0", "nav@2.1.0"} <= published
    assert house.carol.sdx("release", "verify", "nav@2.1.0")["state"] == "published"


def test_a_release_that_waits_is_outdated_by_another_and_signed_again_on_the_hub(house: House) -> None:
    first, other = build(house.alice, "3.0.0"), build(house.bob, "3.1.0")
    house.alice.signs("release", "sign", first, "--signer", "alice.key")
    house.alice.sdx("release", "publish", first)
    house.bob.signs("release", "sign", other, "--signer", "bob.key")
    house.bob.sdx("release", "publish", other)
    assert house.carol.signs("release", "sign", "nav@3.1.0", "--signer", "carol.key")["state"] == "published"
    assert house.alice.sdx("release", "show", "nav@3.0.0")["state"] == "outdated"
    again = house.carol.signs("release", "sign", "nav@3.0.0", "--signer", "carol.key")
    assert (again["state"], again["dropped"], again["signed_by"]) == ("waiting", ["alice"], ["carol"])
    assert house.alice.signs("release", "sign", "nav@3.0.0", "--signer", "alice.key")["state"] == "published"


def test_diff_and_list(house: House) -> None:
    one = build(house.alice, "4.0.0", "--fixes", "FB-1")
    two = build(house.alice, "4.0.1", "--fixes", "FB-1", "--fixes", "FB-2")
    found: dict[str, Any] = house.alice.sdx("release", "diff", one, two)
    assert not found["same"]
    changed = {(change["where"], change["what"]) for change in found["changes"]}
    assert {
        ("release", "version"),
        ("release", "fixes"),
        ("component app", "sha256"),
        ("app: bin/app", "changed"),
    } <= changed
    assert house.alice.sdx("release", "diff", one, one)["same"]
    house.alice.signs("release", "sign", one, "--signer", "alice.key")
    assert house.alice.sdx("release", "publish", one)["state"] == "waiting"
    against = house.alice.sdx("release", "diff", "nav@4.0.0", two)
    assert ("release", "version") in {(change["where"], change["what"]) for change in against["changes"]}


def test_the_way_back_is_looked_up_in_what_the_team_has_signed(house: House) -> None:
    old = build(house.alice, "7.0.0")
    house.alice.signs("release", "sign", old, "--signer", "alice.key")
    house.alice.sdx("release", "publish", old)
    waiting = house.alice.run(
        *("release", "build", "src-nav-7.0.0", "--product", "nav", "--version", "7.0.1", "--revert-to", "7.0.0")
    )
    assert (waiting.code, waiting.error) == (1, "release_not_published")
    house.bob.signs("release", "sign", "nav@7.0.0", "--signer", "bob.key")
    file = build(house.alice, "7.1.0", "--revert-to", "nav@7.0.0", "--must-pass")
    shown = house.alice.sdx("release", "show", file)["manifest"]
    assert (shown["revert_counter"], shown["must_pass"]) == (7_000_000, True)
    again = build(house.bob, "7.1.0", "--revert-to", "7.0.0", "--must-pass")
    assert (house.bob.folder / again).read_bytes() == (house.alice.folder / file).read_bytes()
    changes = house.alice.sdx("release", "diff", old, file)["changes"]
    assert {("release", "revert_counter"), ("release", "must_pass")} <= {
        (each["where"], each["what"]) for each in changes
    }


def test_a_tampered_file_is_refused_before_anything_is_signed(house: House) -> None:
    file = build(house.alice, "5.0.0")
    path = house.alice.folder / file
    raw = bytearray(path.read_bytes())
    raw[512 + 30] ^= 1
    path.write_bytes(raw)
    for command in (["verify", file], ["publish", file], ["sign", file, "--signer", "alice.key"]):
        refused = house.alice.run("release", *command)
        assert refused.code == 5, refused
        assert refused.error in {"payload_digest_mismatch", "bundle_invalid"}
    assert path.read_bytes() == raw


def test_yank_takes_a_release_out(house: House) -> None:
    file = build(house.alice, "6.0.0")
    house.alice.signs("release", "sign", file, "--signer", "alice.key")
    house.alice.sdx("release", "publish", file)
    house.bob.signs("release", "sign", "nav@6.0.0", "--signer", "bob.key")
    forbidden = house.alice.run("release", "yank", "nav@6.0.0", "--reason", "x", "--yes")
    assert (forbidden.code, forbidden.error) == (4, "not_allowed")
    done = house.bob.sdx("release", "yank", "nav@6.0.0", "--reason", "loses GPS", "--yes")
    assert done["state"] == "yanked"
    assert house.bob.run("release", "yank", "nav@6.0.0", "--reason", "x", "--yes").code == 3
    assert house.alice.run("device", "assign", "nav@6.0.0", "nobody", "--yes").code == 4
    again = house.alice.run("release", "publish", file)
    assert (again.code, again.error) == (1, "release_yanked")
    # The team's next release leaves its targets behind.
    following = build(house.alice, "6.0.1")
    signed = house.alice.signs("release", "sign", following, "--signer", "alice.key")
    assert signed["removes"] == ["nav@6.0.0"]
    house.alice.sdx("release", "publish", following)
    assert house.bob.signs("release", "sign", "nav@6.0.1", "--signer", "bob.key")["state"] == "published"


def test_strangers_and_wrong_words(house: House, tmp_path: Path) -> None:
    stranger = house.person(tmp_path / "mallory", "mallory", "publisher")
    stranger.unlocked("keys", "new", "mallory.key")
    file = build(stranger, "7.0.0")
    refused = stranger.unlocked("release", "sign", file, "--signer", "mallory.key", "--yes")
    assert (refused.code, refused.error) == (5, "key_not_in_role")
    wrong = house.alice.run(
        "release", "sign", build(house.alice, "7.0.1"), "--signer", "alice.key", "--yes",
        secret="not the passphrase", through="--passphrase-fd",
    )  # fmt: skip
    assert (wrong.code, wrong.error) == (5, "passphrase_wrong")
    nobody = house.alice.run("release", "sign", "nav-7.0.1.sdx", "--signer", "alice.key", "--yes")
    assert (nobody.code, nobody.error) == (2, "passphrase_missing")
    asked = house.alice.unlocked("release", "sign", "nav-7.0.1.sdx", "--signer", "alice.key")
    assert (asked.code, asked.error) == (2, "confirmation_missing")
    assert house.alice.run("release", "show", "nav@9.9.9").code == 1
    assert house.alice.run("release", "verify", "nothing.sdx").code == 2


def test_a_hub_that_is_not_the_pinned_one_gets_no_signature(house: House, tmp_path: Path) -> None:
    file = build(house.alice, "8.0.0")
    other = Machine(tmp_path / "other", {"SDX_IMAGE_ROOT": "0" * 64, "SDX_HUB": house.url})
    other.environment["SDX_TOKEN"] = house.admin_token
    give(file, house.alice, other)
    refused = other.unlocked("release", "sign", file, "--signer", str(house.alice.folder / "alice.key"), "--yes")
    assert (refused.code, refused.error) == (5, "image_root_unknown")


def _heed_ctrl_c() -> None:
    """As on a terminal: a suite that runs in a shell's background inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_publishing_is_interrupted_and_goes_on_where_it_stopped(house: House) -> None:
    tree = house.alice.folder / "large"
    tree.mkdir()
    (tree / "blob").write_bytes(random.Random(5).randbytes(5 * UPLOAD_CHUNK_BYTES))
    house.alice.sdx(
        *("release", "build", "large", "--product", "large", "--version", "1.0.0"),
        *("--hardware", "any", "-o", "large.sdx"),
    )
    house.alice.signs("release", "sign", "large.sdx", "--signer", "alice.key")
    offsets: list[int] = []
    held = threading.Event()

    def watch(request: Request) -> Answer | None:
        if request.method != "PATCH":
            return None
        offsets.append(int({name.lower(): value for name, value in request.headers.items()}["upload-offset"]))
        if len(offsets) == 3:
            held.wait(60)
        return None

    with Mitm(house.url) as mitm:
        mitm.lie(watch)
        environment = {"SDX_HUB": mitm.url, "SDX_TOKEN": house.token("ci", "publisher")}
        ci = Machine(house.alice.folder, environment | {"SDX_IMAGE_ROOT": house.image_root_sha256})
        command, where = ci.command("release", "publish", "large.sdx")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **where, **pipes, text=True, preexec_fn=_heed_ctrl_c) as running:  # noqa: PLW1509 - one call, no lock
            end = time.monotonic() + 60
            while len(offsets) < 3:
                assert time.monotonic() < end
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=60)
        assert running.returncode == 1, (stdout, stderr)
        assert json.loads(stdout)["error"]["code"] == "aborted"
        assert "Traceback" not in stderr
        held.set()
        assert ci.run("release", "show", "large@1.0.0").error == "release_not_found", "nothing was proposed yet"
        assert offsets == [0, UPLOAD_CHUNK_BYTES, 2 * UPLOAD_CHUNK_BYTES]
        time.sleep(0.5)
        offsets.clear()
        sent = ci.sdx("release", "publish", "large.sdx")
        assert sent["state"] == "waiting"
        assert offsets[0] >= 2 * UPLOAD_CHUNK_BYTES, "what the hub had was not sent again"
    assert house.bob.signs("release", "sign", "large@1.0.0", "--signer", "bob.key")["state"] == "published"
    assert house.carol.sdx("release", "verify", "large@1.0.0")["content"] == "verified"
