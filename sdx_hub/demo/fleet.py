"""The demo's craft: agents as real processes, each with a state folder and an identity of its own."""

import json
import os
import signal
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct, field

from firmware_schemas.device_api import Envelope, InventoryReport, decode_report
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers import process
from sdx_hub.demo.tools import program

BOARD, NEW_BOARD = "rpi-cm4", "rpi-cm4-rev2"
COMPONENTS = {BOARD: "server", NEW_BOARD: "server-rev2"}
"""The component of each release that is built for a board."""


def board_of(number: int) -> str:
    """Every third craft has the newer board, from the first one on."""
    return NEW_BOARD if number % 3 == 1 else BOARD


class Craft(Struct):
    """One simulated craft.

    Attributes:
        serial: Its serial number, by which people know it.
        state: The agent's state folder.
        hardware: Its board.
        environment: More variables for its commands: an authority to trust, say.
        process: The running agent.
    """

    serial: str
    state: Path
    hardware: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def enrol(self, hub: str, enrol_string: str) -> None:
        """Enrol through the real command, the secret on standard input.

        Raises:
            DemoError: The agent refused, or the hub did.
        """
        command = [program("sdx-agent"), "enrol", "--hub", hub, "--token-file", "-", "--serial", self.serial]
        command += ["--hardware", self.hardware, "--state", str(self.state), "--json"]
        outcome = subprocess.run(  # noqa: S603 - our own command
            command,
            input=enrol_string,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self.environment,
        )
        if outcome.returncode != 0:
            raise DemoError(f"{self.serial} could not enrol: {outcome.stdout} {outcome.stderr}")
        # The device's own health file: `sdx demo break` removes it, and the next update rolls back on this craft.
        self.healthy.touch()
        settings = self.state / "agent.toml"
        argv = json.dumps(["/usr/bin/test", "-e", str(self.healthy)])
        settings.write_text(f"{settings.read_text()}\n[[health]]\nargv = {argv}\n\n[trial]\ninterval_s = 1.0\n")

    @property
    def healthy(self) -> Path:
        return self.state / "healthy"

    @property
    def software(self) -> Path:
        """Where its agent has installed the component for its board."""
        return self.state / "slots" / COMPONENTS[self.hardware] / "current"

    def start(self) -> None:
        """Run its agent, for as long as the thread lives that calls this."""
        command = [program("sdx-agent"), "run", "--state", str(self.state)]
        self.process = process.start(command, self.state / "agent.log", environment=os.environ | self.environment)

    def stop(self) -> None:
        if self.process is None:
            return
        end_group(self.process.pid)
        self.process.wait(timeout=20)
        self.process = None

    def status(self) -> dict[str, object]:
        """What `sdx-agent status --json` says."""
        command = [program("sdx-agent"), "status", "--state", str(self.state), "--json"]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        answer: dict[str, object] = json.loads(outcome.stdout)
        return answer

    def proves(self, payload: str, signature: str) -> InventoryReport:
        """The inventory in a signed report, after checking the signature with the key that lies on the craft.

        The key is read from the craft and not asked of the hub: the proof must not rest on the hub's word.

        Raises:
            cryptography.exceptions.InvalidSignature: The signature is not this craft's.
            DemoError: The report is something else.
        """
        pem = (self.state / "identity" / "device.key").read_bytes()
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise DemoError(f"{self.serial} has a key of another kind than Ed25519.")
        signed = Envelope(payload, signature)
        key.public_key().verify(signed.signature_bytes(), signed.payload_bytes())
        body = decode_report(signed.payload_bytes()).body
        if not isinstance(body, InventoryReport):
            raise DemoError(f"{self.serial}: the hub's proof is a {type(body).__name__}, not an inventory.")
        return body


def end_group(pid: int) -> None:
    """Ask a process and its children to end; one that has ended already is fine."""
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
