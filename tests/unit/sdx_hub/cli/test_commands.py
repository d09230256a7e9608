"""The command line as a whole: JSON alone on stdout, exit codes, secrets that never show, files that appear whole."""

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_schemas.errors import InvalidManifest, InvalidName
from sdx_hub.cli import failures, main
from sdx_hub.cli.failures import NothingToDo, UsageFault
from sdx_hub.cli.secrets import SecretSource, read_descriptor
from sdx_hub.domain import errors
from sdx_hub.publishing import bundle
from sdx_hub.publishing.errors import BuildRefused, BundleRefused
from sdx_hub.trust import pkcs8
from tests.unit.sdx_hub.trust.test_signers import LABEL, MODULES, PIN

PASSPHRASE = "a long passphrase"
Run = Callable[..., "tuple[int, Any, str]"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `sdx ... --json` in this process, in an empty folder; gives exit code, JSON and stderr."""
    for name in [name for name in os.environ if name.startswith("SDX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SDX_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 16)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*arguments: str, secret: str = "") -> tuple[int, Any, str]:
        words = list(arguments)
        if secret:
            source, sink = os.pipe()
            os.write(sink, secret.encode() + b"\n")
            os.close(sink)
            words += ["--passphrase-fd", str(source)]
        code = main.run([*words, "--json"])
        captured = capfd.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run


def sources(folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "run").write_text("#!/bin/sh\n")
    (folder / "app" / "run").chmod(0o755)
    (folder / "copter.param").write_text("RTL_ALT,1500\n")
    (folder / "bom.json").write_text("{}")
    (folder / "NOTES.md").write_text("Better.\n")


BUILD = (
    *("release", "build", "--product", "nav", "--version", "1.4.0", "--hardware", "rpi-cm4"),
    *("--component", "app=directory:app", "--component", "params=file:copter.param", "-o", "nav.sdx"),
)


def test_build_takes_every_word(run: Run, tmp_path: Path) -> None:
    sources(tmp_path)
    code, document, _ = run(
        *BUILD,
        *(
            "--health",
            "app=./run --fast 'two words'",
            "--file-name",
            "params=copter.txt",
            "--hardware",
            "params=pixhawk",
        ),
        *("--requires", "base>=2.0.0", "--conflicts", "legacy>=0", "--fixes", "FB-12", "--sbom", "bom.json"),
        *("--notes-file", "NOTES.md", "--document", "copter.param", "--trial", "60", "--counter", "77"),
        *("--revert-counter", "70", "--must-pass"),
    )
    assert code == 0
    manifest = document["manifest"]
    app, params = manifest["components"]
    assert app["health"]["argv"] == ["./run", "--fast", "two words"]
    assert (params["file_name"], params["hardware"]) == ("copter.txt", ["pixhawk"])
    assert [(each["product"], each["min_counter"]) for each in manifest["requires"]] == [("base", 2_000_000)]
    assert [(each["product"], each.get("min_counter", 0)) for each in manifest["conflicts"]] == [("legacy", 0)]
    assert manifest["fixes"] == ["FB-12"]
    assert (manifest["sbom"], manifest["notes"], manifest["trial_s"]) == ("bom.json", "Better.\n", 60)
    assert (manifest["revert_counter"], manifest["must_pass"]) == (70, True)
    assert document["release_counter"] == 77
    assert bundle.read(tmp_path / "nav.sdx").id == document["release"] == "nav@1.4.0"


def test_build_by_bare_sources_and_default_name(run: Run, tmp_path: Path) -> None:
    sources(tmp_path)
    code, document, err = run("release", "build", "app", "copter.param", "--product", "nav", "--version", "1.0.0")
    assert code == 0
    assert [(part["name"], part["type"]) for part in document["manifest"]["components"]] == [
        ("app", "directory"),
        ("copter.param", "file"),
    ]
    assert document["manifest"]["hardware"] == ["any"]
    assert "every board" in err, "any hardware is said aloud"
    assert (tmp_path / "nav-1.0.0.sdx").exists()


def test_a_dry_build_writes_nothing_and_says_the_same(run: Run, tmp_path: Path) -> None:
    sources(tmp_path)
    before = sorted(tmp_path.iterdir())
    _, dry, _ = run(*BUILD, "--dry-run")
    assert sorted(tmp_path.iterdir()) == before
    _, real, _ = run(*BUILD)
    assert dry["manifest_sha256"] == real["manifest_sha256"]


def test_a_signed_file_is_not_replaced_without_a_word(run: Run, tmp_path: Path) -> None:
    sources(tmp_path)
    run(*BUILD)
    bundle.write_signed(bundle.read(tmp_path / "nav.sdx"), "team-nav", b"{}")
    code, document, _ = run(*BUILD)
    assert (code, document["error"]["code"]) == (2, "confirmation_missing")
    signed = bundle.read(tmp_path / "nav.sdx").signed
    assert signed is not None
    assert run(*BUILD, "--yes")[0] == 0
    assert bundle.read(tmp_path / "nav.sdx").signed is None


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (["--component", "x"], 2, "component_form"),
        (["--revert-to", "1.3.0", "--revert-counter", "3"], 2, "usage"),
        (["--revert-to", "other@1.3.0"], 2, "revert_form"),
        (["--revert-to", "../1"], 2, "invalid_name"),
        (["--revert-to", "1.3.0"], 2, "hub_missing"),
        (["--revert-counter", "1004001"], 1, "invalid_manifest"),
        (["--health", "nobody=./run"], 2, "component_form"),
        (["--health", "app=./a", "--health", "app=./b"], 2, "component_form"),
        (["--health", "app='unclosed"], 2, "component_form"),
        (["--requires", "base"], 2, "constraint_form"),
        (["--notes", "x", "--notes-file", "NOTES.md"], 2, "usage"),
        (["--notes-file", "nothing"], 2, "source_missing"),
        (["--component", "gone=directory:gone"], 1, "source_missing"),
        (["--document", "gone"], 1, "source_missing"),
        (["--hardware", "Rpi"], 1, "invalid_manifest"),
        (["--counter", "x"], 2, "usage"),
        (["--no-such-option"], 2, "usage"),
    ],
)
def test_wrong_words_say_what_is_wrong_and_leave_nothing(
    run: Run, tmp_path: Path, words: list[str], code: int, name: str
) -> None:
    sources(tmp_path)
    before = sorted(tmp_path.iterdir())
    outcome = run(*BUILD, *words)
    assert (outcome[0], outcome[1]["error"]["code"]) == (code, name)
    assert sorted(tmp_path.iterdir()) == before


def test_what_needs_no_hub_needs_no_hub(run: Run, tmp_path: Path) -> None:
    sources(tmp_path)
    run(*BUILD)
    code, document, err = run("release", "verify", "nav.sdx")
    assert (code, document["content"], document["signatures"]) == (0, "verified", None)
    assert "not checked" in err
    assert run("release", "show", "nav.sdx")[1]["release"] == "nav@1.4.0"
    assert run("release", "diff", "nav.sdx", "nav.sdx")[1]["same"]
    code, document, _ = run("release", "publish", "nav.sdx")
    assert (code, document["error"]["code"]) == (2, "hub_missing")
    code, document, _ = run("device", "list", "--hub", "http://127.0.0.1:1")
    assert (code, document["error"]["code"]) == (2, "token_missing")


def test_a_key_pair_and_a_ceremony_of_people_without_any_hub(run: Run, tmp_path: Path) -> None:
    for name in ("alice", "bob", "carol"):
        code, document, _ = run("keys", "new", f"{name}.key", secret=PASSPHRASE)
        assert (code, document["owner"]) == (0, name)
        assert stat.S_IMODE((tmp_path / f"{name}.key").stat().st_mode) == 0o600
    team = [word for name in ("alice", "bob", "carol") for word in ("--team-key", f"nav={name}.pub")]
    quorums = ("--root", "1/2", "--targets", "1/2", "--director", "1/2", "--fleet-config", "1/2", "--team", "nav=2/3")
    code, planned, _ = run("keys", "ceremony", "dir", *quorums, *team, "--dry-run")
    assert (code, planned["roles"]["team-nav"], (tmp_path / "dir").exists()) == (0, "2/3", False)
    code, made, err = run("keys", "ceremony", "dir", *quorums, *team, secret=PASSPHRASE)
    assert code == 0
    assert made["missing"] == {"image/1.team-nav.json": 2}
    assert "ONE PERSON on ONE MACHINE" in err
    assert "threshold 1" in err
    file = "dir/image/1.team-nav.json"
    code, document, _ = run("keys", "sign", file, "--signer", "alice.key", "--dry-run", secret=PASSPHRASE)
    assert (code, document["complete"], document["signatures"][0]["signed_by"]) == (0, False, [])
    code, document, err = run("keys", "sign", file, "--signer", "alice.key", "--yes", secret=PASSPHRASE)
    assert (code, document["signatures"][0]["signed_by"], document["complete"]) == (0, ["alice"], False)
    assert "image/team-nav, version 1" in err, "what is signed is said before"
    assert run("keys", "sign", file, "--signer", "alice.key", "--yes", secret=PASSPHRASE)[0] == 3
    code, document, _ = run("keys", "sign", file, "--signer", "dir/keys/root-1.key", "--yes", secret=PASSPHRASE)
    assert (code, document["error"]["code"]) == (5, "key_not_in_role")
    code, document, _ = run("keys", "sign", file, "--signer", "bob.key", "--yes", secret=PASSPHRASE)
    assert document["complete"]
    code, document, _ = run("keys", "new", "alice.key", secret=PASSPHRASE)
    assert (code, document["error"]["code"]) == (1, "key_exists")


def test_a_ceremony_that_one_lost_key_would_end_is_refused(run: Run, tmp_path: Path) -> None:
    code, document, _ = run("keys", "ceremony", "dir", "--root", "3/3", secret=PASSPHRASE)
    assert (code, document["error"]["code"]) == (2, "ceremony_threshold")
    assert not (tmp_path / "dir").exists()


def test_a_hardware_key_is_imported_and_signs(run: Run, tmp_path: Path) -> None:
    """In a process of its own: a PKCS#11 module reads its configuration once."""
    module = next((path for path in MODULES if Path(path).exists()), None)
    if shutil.which("softhsm2-util") is None or module is None:
        pytest.skip("softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
    environment = clean | {"SOFTHSM2_CONF": str(config), "PYKCS11LIB": module, "SDX_CONFIG": str(tmp_path / "config")}
    from tests.unit.sdx_hub.trust.test_signers import _ec_key

    _ec_key(tmp_path / "ec.pem")
    for words in (
        ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "12345678"],
        ["--import", str(tmp_path / "ec.pem"), "--token", LABEL, "--label", "sign", "--id", "02", "--pin", PIN],
    ):
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True, env=environment)

    def sdx(*arguments: str) -> Any:
        source, sink = os.pipe()
        os.write(sink, PIN.encode() + b"\n")
        os.close(sink)
        command = [str(Path(sys.executable).parent / "sdx"), *arguments, "--json", "--passphrase-fd", str(source)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, pass_fds=(source,), capture_output=True, text=True, check=False
        )
        os.close(source)
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    uri = "hsm:2?label=sdx+test"
    assert sdx("keys", "import", uri, "--name", "hanna", "-o", "hanna.pub")["uri"] == uri
    run("keys", "new", "alice.key", secret=PASSPHRASE)
    run("keys", "new", "bob.key", secret=PASSPHRASE)
    team = [word for name in ("hanna", "alice", "bob") for word in ("--team-key", f"nav={name}.pub")]
    assert run("keys", "ceremony", "dir", "--team", "nav=2/3", *team, secret=PASSPHRASE)[0] == 0
    signed = sdx("keys", "sign", "dir/image/1.team-nav.json", "--signer", uri, "--yes")
    assert signed["signatures"][0]["signed_by"] == ["hanna"]


def test_no_command_takes_a_secret_as_an_argument() -> None:
    """What is in argv is in everybody's process list."""
    import click

    def options(command: click.Command, context: click.Context) -> list[str]:
        found = [name for parameter in command.params for name in parameter.opts]
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                if inner := command.get_command(context, name):
                    found += options(inner, context)
        return found

    found = options(main.sdx, click.Context(main.sdx))
    assert "--passphrase-fd" in found
    assert "--token-fd" in found
    assert not {"--passphrase", "--password", "--pin", "--token", "--secret"} & set(found)


def test_secrets_come_through_a_descriptor_and_are_in_no_repr() -> None:
    source, sink = os.pipe()
    os.write(sink, b"top secret\r\nsecond line\n")
    os.close(sink)
    secrets = SecretSource(source)
    assert secrets("passphrase") == "top secret"
    assert secrets.new("another") == "top secret", "the descriptor is read once"
    assert "top secret" not in repr(secrets)
    os.close(source)


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_descriptor_is_no_secret(content: bytes) -> None:
    source, sink = os.pipe()
    os.write(sink, content)
    os.close(sink)
    with pytest.raises(UsageFault) as refused:
        read_descriptor(source, "token")
    assert refused.value.code == "passphrase_missing"
    os.close(source)
    with pytest.raises(UsageFault):
        read_descriptor(source, "token")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.HubError("x"), 1),
        (errors.BadInput("x"), 1),
        (errors.NotFound("x"), 1),
        (errors.ConflictError("x"), 1),
        (errors.Unavailable("x"), 1),
        (BuildRefused("x"), 1),
        (InvalidManifest("x"), 1),
        (UsageFault("x"), 2),
        (InvalidName("x"), 2),
        (errors.BadInput("x", "component_form"), 2),
        (NothingToDo("x"), 3),
        (errors.ConflictError("x", "already_signed"), 3),
        (errors.NotAuthenticated("x"), 4),
        (errors.NotAllowed("x"), 4),
        (errors.TrustError("x"), 5),
        (BundleRefused("x"), 5),
        (errors.HubError("x", "rollout_halted"), 6),
        (ValueError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert failures.exit_code_of(error) == code


def test_a_fault_of_its_own_is_one_sentence_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdx_hub.cli.release.bundles.read", lambda _: 1 / 0)
    Path("x.sdx").touch()
    code, document, err = run("release", "show", "x.sdx")
    assert (code, document["error"]["code"]) == (1, "internal_error")
    assert "Traceback" not in err
