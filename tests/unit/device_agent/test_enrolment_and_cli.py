"""Enrolment, and the command as people and scripts call it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_agent import cli
from device_agent.core.errors import SettingsError, TransportError, TrustError
from device_agent.enrolment import default_hardware, default_serial, enrol
from device_agent.ports.clock import SystemClock
from device_agent.ports.home import Home
from device_agent.ports.hub import Answer
from device_agent.ports.storage import DiskStorage
from device_agent.settings import decode_settings
from firmware_schemas.device_api import EnrolRequest, Envelope, decode_enrolment
from firmware_schemas.ids import check_name
from tests.support.publisher import Payload
from tests.support.static_hub import DEVICE, StaticHub, StaticLink, enrolled, serving


@pytest.fixture
def hub() -> StaticHub:
    return StaticHub()


def enrol_at(hub: StaticHub, state: Path, link: Any = None, **changes: Any) -> str:
    arguments: dict[str, Any] = {"hub_url": "https://hub.example.org/", "serial": "s-1", "hardware": "rpi-cm4"}
    arguments |= changes
    return enrol(
        Home(state),
        arguments["hub_url"],
        hub.told(),
        arguments["serial"],
        arguments["hardware"],
        storage=DiskStorage(),
        clock=SystemClock(),
        hub=link or hub.link,
    ).device_id


def test_what_enrolment_leaves(hub: StaticHub, tmp_path: Path) -> None:
    assert enrol_at(hub, tmp_path / "state") == DEVICE
    home = Home(tmp_path / "state")
    lines = home.settings.read_text().splitlines()
    assert lines == ['hub = "https://hub.example.org"', 'serial = "s-1"', 'hardware = "rpi-cm4"']
    assert home.device_id.read_text() == DEVICE
    assert home.token.read_text().startswith("sdxd_")
    assert home.key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    for secret in (home.key, home.token):
        assert secret.stat().st_mode & 0o777 == 0o600
    assert home.root.stat().st_mode & 0o777 == 0o700
    root = (home.metadata("director") / "root.json").read_bytes()
    assert hashlib.sha256(root).hexdigest() == hub.told().director_root_sha256


class Recording(StaticLink):
    """Keeps what was asked; loses the answer when told to."""

    def __init__(self, hub: StaticHub) -> None:
        super().__init__(hub)
        self.requests: list[EnrolRequest] = []
        self.lose = False

    def exchange(self, method: str, path: str, **more: Any) -> Answer:
        import msgspec

        envelope = msgspec.json.decode(more["body"], type=Envelope)
        self.requests.append(decode_enrolment(envelope.payload_bytes()))
        if self.lose:
            raise TransportError("The answer was lost.")
        return super().exchange(method, path, **more)


def test_a_lost_answer_is_asked_for_again_with_the_same_key_and_token(hub: StaticHub, tmp_path: Path) -> None:
    link = Recording(hub)
    link.lose = True
    with pytest.raises(TransportError):
        enrol_at(hub, tmp_path / "state", link)
    assert not Home(tmp_path / "state").device_id.exists()
    link.lose = False
    enrol_at(hub, tmp_path / "state", link)
    first, second = link.requests
    assert first == second
    token = Home(tmp_path / "state").token.read_text()
    assert first.token_sha256 == hashlib.sha256(token.encode()).hexdigest()
    assert token not in repr(first), "only the hash leaves the craft"


@pytest.mark.parametrize("repository", ["image", "director"])
def test_a_hub_with_another_root_is_not_trusted(hub: StaticHub, tmp_path: Path, repository: str) -> None:
    """Somebody in between answers the enrolment with a root of their own."""

    class Liar(StaticLink):
        def exchange(self, method: str, path: str, **more: Any) -> Answer:
            hub.files[f"{hub.base(repository)}1.root.json"] = b"{}"
            return super().exchange(method, path, **more)

    with pytest.raises(TrustError) as caught:
        enrol_at(hub, tmp_path / "state", Liar(hub))
    assert caught.value.code == "root_digest_mismatch"
    home = Home(tmp_path / "state")
    assert not home.device_id.exists()
    assert not home.metadata("image").exists()
    assert not home.metadata("director").exists()


def test_a_second_enrolment_keeps_settings_and_newer_roots(hub: StaticHub, tmp_path: Path) -> None:
    enrol_at(hub, tmp_path / "state")
    home = Home(tmp_path / "state")
    with home.settings.open("a") as file:
        file.write('[gate]\nkind = "file"\npath = "/run/gate"\n')
    (home.metadata("director") / "root.json").write_bytes(b"newer")
    enrol_at(hub, tmp_path / "state")
    assert "/run/gate" in home.settings.read_text()
    assert (home.metadata("director") / "root.json").read_bytes() == b"newer"


@pytest.mark.parametrize("change", [{"serial": "s-2"}, {"hardware": "other"}, {"hub_url": "https://other.example"}])
def test_a_folder_of_another_enrolment(hub: StaticHub, tmp_path: Path, change: dict[str, str]) -> None:
    enrol_at(hub, tmp_path / "state")
    with pytest.raises(SettingsError) as caught:
        enrol_at(hub, tmp_path / "state", **change)
    assert caught.value.code == "state_in_use"


@pytest.mark.parametrize("change", [{"serial": "a b"}, {"hardware": "UPPER"}, {"hub_url": "ftp://x"}])
def test_arguments_that_cannot_be(hub: StaticHub, tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        enrol_at(hub, tmp_path / "state", **change)
    assert not (tmp_path / "state").exists()


def test_defaults_are_names() -> None:
    assert decode_settings(
        f'hub = "https://x"\nserial = "{default_serial()}"\nhardware = "{default_hardware()}"\n'.encode()
    )
    assert check_name(default_hardware(), "hardware id")


# -- settings --------------------------------------------------------------------------------------------------------

BASE = 'hub = "https://x"\nserial = "s"\nhardware = "h"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub =",
        'hub = "https://x"',
        BASE + 'colour = "red"\n',
        BASE.replace("https", "file"),
        BASE + '[gate]\nkind = "file"\n',
        BASE + '[gate]\nkind = "file"\npath = "relative"\n',
        BASE + '[gate]\nkind = "command"\n',
        BASE + '[gate]\nkind = "command"\nargv = ["relative"]\n',
        BASE + '[activate]\nargv = ["reboot"]\n',
        BASE + "[activate]\nargv = []\n",
        BASE + '[[health]]\nargv = ["check"]\n',
        BASE + '[[health]]\nargv = ["/check"]\ntimeout_s = 0\n',
        BASE + "[limits]\nattempts = 0\n",
        BASE + "[limits]\nbytes_per_day = -1\n",
        BASE + "[trial]\nstarts = 0\n",
    ],
)
def test_settings_that_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        decode_settings(text.encode())


def test_settings_of_the_guide_are_accepted() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "craft.md").read_text()
    block = guide.split("```toml\n")[1].split("```")[0]
    settings = decode_settings(block.encode())
    assert settings.health[0].argv == ("/usr/local/bin/autopilot-heartbeat",)
    assert settings.activate is not None


# -- the command -----------------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run the command in this process; return its exit code and its JSON."""
    code = cli.main([*arguments, "--json"])
    said = capsys.readouterr().out
    return code, json.loads(said) if said.startswith("{") else said


def test_enrol_run_status(
    hub: StaticHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_end_on_sigterm", lambda: None)
    state = str(tmp_path / "state")
    with serving(hub) as url:
        token_file = tmp_path / "told"
        token_file.write_text(hub.told().text() + "\n")
        arguments = ["--hub", url, "--token-file", str(token_file), "--serial", "s", "--hardware", "rpi-cm4"]
        code, said = call(capsys, "enrol", "--state", state, *arguments)
        assert (code, said) == (0, {"device_id": DEVICE, "state": "accepted"})
        hub.assign(hub.publish("app", 1, [Payload("params", b"x")]))
        assert cli.main(["run", "--once", "--state", state]) == 0
    code, said = call(capsys, "status", "--state", state)
    assert code == 0
    assert said["device_id"] == DEVICE
    assert said["state"] == "IDLE"
    assert [part["name"] for part in said["components"]] == ["params"]
    assert said["floors"] == {"app": 1}
    assert said["last_result"]["result"] == "success"
    assert said["last_error"] is None
    assert said["hub"] == url
    assert said["outbox"] == 0
    assert cli.main(["status", "--state", state]) == 0
    assert "app@1.0.0" in capsys.readouterr().out


def test_run_once_without_a_hub_fails_and_says_so(
    hub: StaticHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_end_on_sigterm", lambda: None)
    enrolled(hub, tmp_path / "state")
    assert cli.main(["run", "--once", "--state", str(tmp_path / "state")]) == 1
    _code, said = call(capsys, "status", "--state", str(tmp_path / "state"))
    assert said["last_error"]["code"] == "hub_unreachable"


@pytest.mark.parametrize("command", [["status"], ["run"], ["run", "--once"], ["forget-bad", "ab" * 4]])
def test_a_folder_that_is_not_enrolled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(cli, "_end_on_sigterm", lambda: None)
    code, said = call(capsys, *command, "--state", str(tmp_path / "nowhere"))
    assert code == 1
    assert said["error"]["code"] == "not_enrolled"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["enrol", "--state", "x", "--hub", "https://x"],
        ["enrol", "--state", "x", "--hub", "https://x", "--token", "a", "--token-file", "b"],
        ["run"],
        ["forget-bad", "--state", "x"],
    ],
)
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["enrol", "--hub", "https://x", "--token", "nonsense"], 2),
        (["enrol", "--hub", "https://x", "--token-file", "/nowhere"], 2),
        (["forget-bad", "xyz"], 2),
    ],
)
def test_arguments_that_mean_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    found, said = call(capsys, *arguments, "--state", str(tmp_path / "state"))
    assert found == code
    assert said["error"]["code"] == "usage"


@pytest.mark.parametrize(("status", "code"), [(403, 4), (401, 4), (409, 1), (500, 1)])
def test_what_the_hub_says_to_an_enrolment(
    hub: StaticHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    real = hub.answer
    hub.answer = lambda *_a: (status, {}, b'{"code":"enrol_token_used","detail":"Make a new one."}')  # type: ignore[method-assign]
    with serving(hub) as url:
        arguments = ["--hub", url, "--token", hub.told().text(), "--serial", "s", "--hardware", "h"]
        found, said = call(capsys, "enrol", "--state", str(tmp_path / "state"), *arguments)
    assert found == code
    assert said["error"]["code"] == "enrol_token_used"
    assert real


def test_forget_bad(hub: StaticHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from device_agent.core import journal as journals
    from device_agent.core.journal import BadSet, Journal

    home = enrolled(hub, tmp_path / "state")
    home.journal.write_bytes(journals.encode(Journal(bad=(BadSet(("ab" * 32,), ("server",), "d.1", "health_failed"),))))
    state = ["--state", str(home.root)]
    assert call(capsys, "forget-bad", "cdcdcdcd", *state) == (3, {"forgotten": 0})
    assert call(capsys, "forget-bad", "ABABABAB", *state) == (0, {"forgotten": 1})
    assert journals.decode(home.journal.read_bytes()).bad == ()


def test_the_polling_process_does_not_import_what_is_heavy() -> None:
    """Its memory is a promise: a module that is imported by mistake would be noticed on a craft, not here."""
    code = (
        "import sys; sys.argv=['x']; import device_agent.cli, device_agent.agent, device_agent.ports.hub, "
        "device_agent.ports.identity, device_agent.ports.lock, device_agent.ports.service; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'tuf', 'securesystemslib', 'cryptography', 'zstandard', 'asyncio', 'urllib3', 'requests', 'logging'}))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == []


def test_help_warns_about_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["enrol", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "single-use" in said
    assert "visible in the list of processes" in said
