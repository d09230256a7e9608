"""The demo's software: two successive versions of MAVSDK for a 64-bit ARM companion computer, as PyPI serves them.

`pip download` fetches the wheels, so that a mirror or a proxy that pip knows of is used here too. The component is
the wheel's `mavsdk_server` program with its checksums and a `check` script, which is the health check on the craft.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from sdx_hub.demo.errors import DemoError

VERSIONS = ("3.17.2", "3.17.4")
BROKEN_VERSION = "3.17.5"
PROGRAM = "mavsdk_server"

_MEMBER = f"mavsdk/bin/{PROGRAM}"
_CHECK = """\
#!/bin/sh
# Healthy means: a 64-bit little-endian ELF program for AArch64, whole, and of the version that it claims.
set -eu
header=$(od -An -tx1 -N20 mavsdk_server | tr -d ' \\n')
case "$header" in
    7f454c460201*b700) ;;
    *) echo "mavsdk_server is no AArch64 program: $header" >&2; exit 1 ;;
esac
sha256sum --check --quiet SHA256SUMS >&2
"""


def fetch_wheel(version: str, cache: Path) -> Path:
    """The wheel of one version, from the cache or from the package index that pip is set up to use.

    Raises:
        DemoError: The index cannot be reached, or does not have it (`registry_unreachable`).
    """
    pattern = f"mavsdk-{version}-*aarch64*.whl"
    if found := next(cache.glob(pattern), None):
        return found
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform=manylinux2014_aarch64", "--python-version=3.11"]
    command += [f"--dest={cache}", f"mavsdk=={version}"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed argv
    found = next(cache.glob(pattern), None)
    if outcome.returncode != 0 or found is None:
        reason = (outcome.stderr.strip().splitlines() or ["no output"])[-1]
        raise DemoError(
            f"The demo installs real software, the wheel mavsdk {version} for linux aarch64, and the package index "
            f"did not give it ({reason}). Connect to the internet, or point pip to a mirror (PIP_INDEX_URL), or put "
            f"the files {', '.join(f'mavsdk-{each}-py3-none-manylinux2014_aarch64.whl' for each in VERSIONS)} into "
            f"{cache}, and run the same command again.",
            "registry_unreachable",
        )
    return found


def unpack(wheel: Path, version: str, folder: Path) -> Path:
    """Make the component's folder out of a wheel: the program, its checksums, the check, the version.

    Raises:
        DemoError: The wheel holds no such program.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program = folder / PROGRAM
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, program.open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DemoError(f"{wheel} holds no {_MEMBER}; delete the file and run the command again.") from error
    program.chmod(0o755)
    _say_version(folder, version)
    check = folder / "check"
    check.write_text(_CHECK)
    check.chmod(0o755)
    return folder


def next_version(before: Path, version: str, folder: Path) -> Path:
    """A copy that says another version of itself."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    _say_version(folder, version)
    return folder


def break_payload(good: Path, folder: Path) -> Path:
    """A copy with a mistake that signatures cannot catch: the program was cut short before people signed it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    with (folder / PROGRAM).open("r+b") as program:
        program.truncate(1024 * 1024)
    return folder


def _say_version(folder: Path, version: str) -> None:
    (folder / "VERSION").write_text(version + "\n")
    (folder / "SHA256SUMS").write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in (PROGRAM, "VERSION")))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
