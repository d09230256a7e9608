"""A large payload from a laptop to a craft: built, signed, published, downloaded and installed in little memory.

Half of it cannot be compressed, half of it can. Everything is the real thing: the `sdx` command, the hub, the polling
agent and its worker. Besides the bound of 200 MB there is one on what each process adds to its memory for the payload:
that one finds a whole payload in memory at a tenth of the size too.
"""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from sdx_hub.trust import keys
from tests.support.craft import AGENT, Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.hub import SDX
from tests.support.memory import PeakMemory

MIB = 1024 * 1024
MOST_MIB = 200 * 1000 * 1000 / MIB
REDUCED_MIB, WHOLE_MIB = 96, 1024
ADDED_SHARE = 0.4
"""Of the reduced payload: so much may a process grow over what a payload of a few bytes takes. Half of it, what is left
of it when compressed, would be too much."""
PASSPHRASE = "correct horse battery staple"


def generate(path: Path, size_mib: int) -> str:
    """Write the payload; return its digest. Blocks that can be compressed and blocks that cannot take turns."""
    text = b"".join(b"%06d the craft flies straight\n" % line for line in range(MIB // 32))
    assert len(text) == MIB
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(size_mib):
            block = os.urandom(MIB) if number % 2 else text
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


class Laptop:
    """A publisher's machine: the `sdx` command with a profile and two people's keys.

    Attributes:
        peaks: Of each command, in MiB.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.folder = folder
        self.peaks: dict[str, float] = {}
        folder.mkdir()
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")} | {
            "SDX_HUB": fleet.url,
            "SDX_TOKEN": fleet.publisher.token,
            "SDX_IMAGE_ROOT": fleet.image_root_sha256,
            "SDX_CONFIG": str(folder / "config"),
        }
        self.signers = [self._key_file(fleet, number) for number in (0, 1)]

    def _key_file(self, fleet: Fleet, number: int) -> Path:
        person = fleet.people["team-nav"][number]
        assert isinstance(person.signer, CryptoSigner)
        path = self.folder / f"{number}.key"
        path.write_bytes(keys.encrypted_pem(person.signer._private_key, PASSPHRASE))  # type: ignore[arg-type]
        keys.write_public(person.public, keys.public_path(path))
        return path

    def sdx(self, *arguments: str) -> None:
        with (self.folder / "passphrase").open("w+") as secret, (self.folder / "log").open("a+") as log:
            secret.write(PASSPHRASE + "\n")
            secret.flush()
            secret.seek(0)
            more = ["--yes", "--passphrase-fd", str(secret.fileno())] if "sign" in arguments else []
            process = subprocess.Popen(
                [SDX, *arguments, *more, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self.folder,
                pass_fds=[secret.fileno()],
            )
            with PeakMemory(process.pid) as peaks:
                code = process.wait(1200)
        assert code == 0, (arguments, (self.folder / "log").read_text()[-2000:])
        name = " ".join(arguments[:2])
        self.peaks[name] = max(self.peaks.get(name, 0.0), peaks.of_root)


def publish(laptop: Laptop, source: Path, version: str) -> None:
    file = str(laptop.folder / f"{version}.sdx")
    laptop.sdx(
        "release",
        "build",
        "--component",
        f"image=file:{source}",
        "--product",
        "large",
        "--version",
        version,
        "-o",
        file,
    )
    for signer in laptop.signers:
        laptop.sdx("release", "sign", file, "--signer", str(signer))
    laptop.sdx("release", "publish", file, "--yes")


def flight(fleet: Fleet, craft: Craft, version: str, within_s: float) -> tuple[float, float]:
    """Let the agent run until the release is installed; return the peaks of poller and worker in MiB."""
    fleet.publisher.assign(f"large@{version}", craft.device_id)
    with (craft.state.parent / "agent.log").open("ab") as log:
        agent = subprocess.Popen([AGENT, "run", "--state", str(craft.state)], stdout=log, stderr=log)
        try:
            with PeakMemory(agent.pid) as peaks:
                wait_until(lambda: result_of(fleet, craft, version) == "success", within_s)
        finally:
            agent.terminate()
            agent.wait(30)
    return peaks.of_root, peaks.of_children


def result_of(fleet: Fleet, craft: Craft, version: str) -> str:
    with fleet.client() as client:
        action = client.get(f"/api/v1/devices/{craft.device_id}").raise_for_status().json()["action"]
    assert action["state"] in {"open", "success"}, action
    return str(action["state"])


def wait_until(holds: Callable[[], bool], within_s: float) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s:g} s"
        time.sleep(0.5)


def journey(folder: Path, size_mib: int, within_s: float) -> dict[str, tuple[float, float]]:
    """A tiny release, then the large one, all the way; the peaks of each process after the first and after both."""
    small, large = folder / "small.bin", folder / "large.bin"
    small.write_bytes(b"small")
    digest = generate(large, size_mib)
    with start_fleet(folder / "fleet") as fleet:
        craft = fleet.new_craft(folder / "craft" / "state", fleet.url)
        laptop = Laptop(fleet, folder / "laptop")
        found: list[dict[str, float]] = []
        with PeakMemory(fleet.hub.pid) as hub:
            for version, source in (("1.0.0", small), ("2.0.0", large)):
                laptop.peaks.clear()
                publish(laptop, source, version)
                poller, worker = flight(fleet, craft, version, within_s)
                hub.look()
                one = {"hub": hub.of_children, "hub (main)": hub.of_root, "hub (whole)": hub.together_mib}
                one |= {"poller": poller, "worker": worker}
                found.append(one | {f"sdx {name}": peak for name, peak in laptop.peaks.items()})
        assert craft.running() == {"image/image": digest}
    return {name: (found[0][name], found[1][name]) for name in found[0]}


def check(peaks: dict[str, tuple[float, float]], size_mib: int, say: Callable[[str], None]) -> None:
    say(f"payload of {size_mib} MiB; peak RSS (of the whole hub: PSS) in MiB for a small payload, and for this one:")
    for name, (before, after) in peaks.items():
        say(f"  {name:<22} {before:7.1f} {after:7.1f}")
    for name, (before, after) in peaks.items():
        assert after < MOST_MIB, f"{name} needs {after:.0f} MiB"
        assert after - before < ADDED_SHARE * REDUCED_MIB, f"{name} grew by {after - before:.0f} MiB"
    assert set(peaks) >= {"hub", "poller", "worker", "sdx release build", "sdx release sign", "sdx release publish"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_payload_of_96_mib_in_bounded_memory(tmp_path: Path, say: Callable[[str], None]) -> None:
    (tmp_path / "craft").mkdir()
    check(journey(tmp_path, REDUCED_MIB, 240), REDUCED_MIB, say)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_payload_of_one_gib_in_bounded_memory(tmp_path: Path, say: Callable[[str], None]) -> None:
    (tmp_path / "craft").mkdir()
    check(journey(tmp_path, WHOLE_MIB, 1800), WHOLE_MIB, say)


def test_the_look_finds_a_payload_in_memory(tmp_path: Path) -> None:
    """A process that holds a payload is seen to: otherwise the bounds above prove nothing."""
    generate(tmp_path / "payload", REDUCED_MIB)
    code = "import sys, time; held = open(sys.argv[1], 'rb').read(); time.sleep(0.5)"
    process = subprocess.Popen(["/usr/bin/env", "python3", "-c", code, str(tmp_path / "payload")])
    with PeakMemory(process.pid) as peaks:
        process.wait(60)
    assert peaks.of_root > REDUCED_MIB


def test_the_payload_is_half_incompressible(tmp_path: Path) -> None:
    import zstandard

    generate(tmp_path / "payload", 8)
    packed = len(zstandard.compress((tmp_path / "payload").read_bytes()))
    assert 4 * MIB < packed < 5 * MIB
