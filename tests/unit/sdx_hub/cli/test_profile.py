"""Which hub, as whom, which root: flag > SDX_* > sdx.toml > user config; and what a stranger's sdx.toml never gets."""

import hashlib
import os
import stat
from pathlib import Path

import httpx
import pytest

from sdx_hub.cli.failures import UsageFault
from sdx_hub.cli.profile import UserConfig, pinned_root, resolve
from sdx_hub.domain.errors import TrustError
from sdx_hub.publishing.hub_client import HubClient

STORED, OTHER = "https://stored.example", "https://other.example"
ROOT = b'{"the":"pinned root"}'


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    environment = {"SDX_CONFIG": str(tmp_path / "config")}
    UserConfig(environment).store("default", STORED, "sdx_stored", ROOT)
    UserConfig(environment).store("work", OTHER, "sdx_work", None)
    return environment


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def test_the_user_config_is_the_last_word(environment: dict[str, str], here: Path) -> None:
    profile = resolve(environment, here)
    assert (profile.name, profile.hub, profile.token, profile.image_root) == ("default", STORED, "sdx_stored", ROOT)


@pytest.mark.parametrize(
    ("flag", "variable", "project", "expected"),
    [
        ("https://flag", "https://variable", "https://project", "https://flag"),
        ("", "https://variable", "https://project", "https://variable"),
        ("", "", "https://project", "https://project"),
        ("", "", "", STORED),
    ],
)
def test_the_address(
    environment: dict[str, str], here: Path, flag: str, variable: str, project: str, expected: str
) -> None:
    if variable:
        environment["SDX_HUB"] = variable
    if project:
        (here / "sdx.toml").write_text(f'hub = "{project}"\n')
    profile = resolve(environment, here, hub=flag)
    assert profile.hub == expected
    assert profile.token == ("sdx_stored" if expected == STORED else ""), "a token belongs to the hub it was stored for"
    assert (profile.image_root is not None) == (expected == STORED), "and so does a root"


@pytest.mark.parametrize(("flag", "variable"), [("work", "default"), ("", "work")])
def test_the_profile(environment: dict[str, str], here: Path, flag: str, variable: str) -> None:
    (here / "sdx.toml").write_text('profile = "default"\n')
    profile = resolve(environment | {"SDX_PROFILE": variable}, here, flag)
    assert (profile.name, profile.hub, profile.token) == ("work", OTHER, "sdx_work")


def test_an_sdx_toml_of_somebody_else_cannot_replace_the_stored_root(environment: dict[str, str], here: Path) -> None:
    (here / "sdx.toml").write_text(f'hub = "{STORED}/"\nimage_root_sha256 = "{"0" * 64}"\n')
    profile = resolve(environment, here)
    assert (profile.token, profile.image_root, profile.image_root_sha256) == ("sdx_stored", ROOT, "")
    (here / "sdx.toml").write_text(f'hub = "{OTHER}"\nimage_root_sha256 = "{"0" * 64}"\n')
    profile = resolve(environment, here)
    assert (profile.token, profile.image_root, profile.image_root_sha256) == ("", None, "0" * 64)


def test_the_environment_gives_tokens_and_roots(environment: dict[str, str], here: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("sdx_file\n")
    file.chmod(0o600)
    root = tmp_path / "root.json"
    root.write_bytes(b"{}")
    more = environment | {"SDX_TOKEN_FILE": str(file), "SDX_IMAGE_ROOT": str(root)}
    profile = resolve(more, here, hub=OTHER)
    assert (profile.token, profile.image_root) == ("sdx_file", b"{}")
    profile = resolve(more | {"SDX_TOKEN": "sdx_direct", "SDX_IMAGE_ROOT": "a" * 64}, here)
    assert (profile.token, profile.image_root, profile.image_root_sha256) == ("sdx_direct", None, "a" * 64)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('token = "sdx_x"', "config_invalid"),
        ('image_root_sha256 = "short"', "config_invalid"),
        ("not toml", "config_invalid"),
    ],
)
def test_what_an_sdx_toml_may_not_say(environment: dict[str, str], here: Path, content: str, code: str) -> None:
    (here / "sdx.toml").write_text(content)
    with pytest.raises(UsageFault) as refused:
        resolve(environment, here)
    assert refused.value.code == code


def test_a_profile_that_does_not_exist_is_not_silently_another(environment: dict[str, str], here: Path) -> None:
    for flag, variable in (("nope", ""), ("", "nope")):
        more = environment | ({"SDX_PROFILE": variable} if variable else {})
        with pytest.raises(UsageFault) as refused:
            resolve(more, here, flag)
        assert refused.value.code == "profile_unknown"


def test_a_token_that_others_can_read_is_refused(environment: dict[str, str], here: Path) -> None:
    (UserConfig(environment).folder / "default.token").chmod(0o644)
    with pytest.raises(UsageFault) as refused:
        resolve(environment, here)
    assert refused.value.code == "token_file_open"
    (UserConfig(environment).folder / "default.token").unlink()
    with pytest.raises(UsageFault) as missing:
        resolve(environment, here)
    assert missing.value.code == "token_file_missing"


def test_what_is_stored_is_for_the_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        config = UserConfig({"SDX_CONFIG": str(tmp_path / "alice.toml")})
        config.store("default", STORED, "sdx_alice", ROOT)
        UserConfig({"SDX_CONFIG": str(tmp_path / "bob.toml")}).store("default", STORED, "sdx_bob", ROOT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(config.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((config.folder / "default.token").stat().st_mode) == 0o600
    assert stat.S_IMODE(config.file.stat().st_mode) == 0o600
    assert "sdx_alice" not in config.file.read_text()
    alice = resolve({"SDX_CONFIG": str(tmp_path / "alice.toml")}, tmp_path)
    assert alice.token == "sdx_alice", "two config files in one folder share nothing"
    assert "sdx_alice" not in repr(alice)


def serve(roots: list[bytes]) -> HubClient:
    def handle(request: httpx.Request) -> httpx.Response:
        number = int(request.url.path.rpartition("/")[2].split(".")[0])
        if number <= len(roots):
            return httpx.Response(200, content=roots[number - 1])
        return httpx.Response(404, json={"code": "metadata_not_found", "detail": "None."})

    return HubClient(STORED, "", httpx.MockTransport(handle))


def test_a_pinned_digest_finds_its_root_whichever_version_it_is(here: Path) -> None:
    digest = hashlib.sha256(b"second").hexdigest()
    profile = resolve({"SDX_IMAGE_ROOT": digest, "SDX_CONFIG": str(here)}, here, hub=STORED)
    with serve([b"first", b"second", b"third"]) as hub:
        assert pinned_root(profile, hub) == b"second"
    with serve([b"first", b"forged"]) as hub, pytest.raises(TrustError) as refused:
        pinned_root(profile, hub)
    assert refused.value.code == "image_root_unknown"


def test_nothing_is_trusted_on_first_use(here: Path) -> None:
    profile = resolve({"SDX_CONFIG": str(here)}, here, hub=STORED)
    with serve([b"first"]) as hub, pytest.raises(UsageFault) as refused:
        pinned_root(profile, hub)
    assert refused.value.code == "image_root_missing"
