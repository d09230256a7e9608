from pathlib import Path
from typing import Any

import pytest

from sdx_hub.settings import InvalidSettings, load_settings


def write(folder: Path, text: str) -> None:
    (folder / "hub.toml").write_text(text, encoding="utf-8")


def refused(folder: Path, code: str, environ: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(InvalidSettings) as error:
        load_settings(folder, environ or {}, **flags)
    assert error.value.code == code
    return str(error.value)


def test_the_defaults_are_an_embedded_hub_on_loopback(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings.host == "127.0.0.1"
    assert settings.environment == "production"
    assert settings.database == f"sqlite+aiosqlite:///{tmp_path}/hub.db"
    assert {Path(settings.blobs), settings.uploads_dir, settings.online_dir} == {
        tmp_path / "blobs",
        tmp_path / "uploads",
        tmp_path / "online",
    }
    assert settings.url == "http://127.0.0.1:8400"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, "port = 1\nworkers = 2\nlog_level = 'error'\n")
    settings = load_settings(tmp_path, {"SDX_PORT": "3", "SDX_WORKERS": "4"}, port=5, workers=None)
    assert (settings.port, settings.workers, settings.log_level) == (5, 4, "error")


def test_a_misspelt_key_is_refused_wherever_it_is(tmp_path: Path) -> None:
    assert "prot" in refused(tmp_path, "settings_invalid", {"SDX_PROT": "1"})
    write(tmp_path, "poll_intervall_s = 5\n")
    assert "poll_intervall_s" in refused(tmp_path, "settings_invalid")


def test_variables_of_the_command_and_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {"SDX_TOKEN": "sdx_secret", "SDX_HUB": "http://x", "SDX_PROFILE": "p", "PATH": "/bin", "XSDX_PORT": "1"}
    assert "sdx_secret" not in repr(load_settings(tmp_path, others))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("workers", "0"),
        ("workers", "65"),
        ("poll_interval_s", "0"),
        ("poll_jitter_s", "-1"),
        ("timestamp_life_s", "0"),
        ("fleet_refresh_ms", "19"),
        ("log_level", "chatty"),
        ("environment", "prod"),
        ("public_url", "hub.example.org"),
        ("public_url", "ftp://hub.example.org"),
        ("public_url", "https://"),
        ("public_url", "https://[::1"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, name: str, value: str) -> None:
    assert name in refused(tmp_path, "settings_invalid", {f"SDX_{name.upper()}": value})


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    write(tmp_path, "port = = 1")
    assert "hub.toml" in refused(tmp_path, "settings_invalid")
    (tmp_path / "hub.toml").write_bytes(b"\xff\xfe")
    refused(tmp_path, "settings_invalid")


@pytest.mark.parametrize(
    "flags",
    [
        {"public_url": "http://hub.example.org"},
        {"host": "0.0.0.0"},  # noqa: S104 - what is refused
        {"host": "192.0.2.1"},
        {"log_level": "debug"},
        {"timestamp_life_s": 8 * 86400, "snapshot_life_s": 9 * 86400},
        {"director_life_s": 8 * 86400},
        {"timestamp_life_s": 86400, "snapshot_life_s": 3600},
    ],
)
def test_what_is_unsafe_stops_the_start_in_production_only(tmp_path: Path, flags: dict[str, Any]) -> None:
    refused(tmp_path, "settings_unsafe", **flags)
    load_settings(tmp_path, {}, environment="development", **flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"public_url": "https://hub.example.org"},
        {"public_url": "https://hub.example.org", "host": "0.0.0.0"},  # noqa: S104 - behind a TLS proxy
        {"public_url": "http://127.0.0.1:8400"},
        {"public_url": "http://localhost"},
        {"host": "::1"},
    ],
)
def test_what_is_safe_starts(tmp_path: Path, flags: dict[str, Any]) -> None:
    load_settings(tmp_path, {}, **flags)


def test_an_address_of_version_six_is_bracketed(tmp_path: Path) -> None:
    assert load_settings(tmp_path, {}, host="::1", port=1).url == "http://[::1]:1"


@pytest.mark.parametrize(
    "url", ["postgresql+asyncpg://sdx:s3cret@db/sdx", "postgresql+asyncpg://sdx:s3cret@db:5432/sdx?ssl=require"]
)
def test_the_databases_password_is_never_shown(tmp_path: Path, url: str) -> None:
    settings = load_settings(tmp_path, {"SDX_DATABASE_URL": url})
    assert settings.database == url
    assert "s3cret" not in repr(settings) + str(settings)
    assert "sdx:***@db" in repr(settings)


def test_a_secret_comes_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cr3t-of-the-store\n")
    (tmp_path / "url").write_text("postgresql+asyncpg://sdx:pa55w0rd@db/sdx\n")
    environ = {"SDX_BLOB_SECRET_FILE": str(tmp_path / "secret"), "SDX_DATABASE_URL_FILE": str(tmp_path / "url")}
    settings = load_settings(tmp_path, environ)
    assert settings.blob_secret == "s3cr3t-of-the-store"
    assert settings.database == "postgresql+asyncpg://sdx:pa55w0rd@db/sdx"
    assert "s3cr3t" not in repr(settings)
    assert "pa55w0rd" not in repr(settings)


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, "settings_invalid", {"SDX_BLOB_SECRET_FILE": str(tmp_path / "gone")})
    assert "SDX_BLOB_SECRET_FILE" in message
    assert str(tmp_path / "gone") in message


def test_tls_of_its_own_needs_both_files_and_allows_an_open_address(tmp_path: Path) -> None:
    assert "both" in refused(tmp_path, "settings_invalid", {"SDX_TLS_CERT": "/c.pem"})
    settings = load_settings(tmp_path, {"SDX_TLS_CERT": "/c.pem", "SDX_TLS_KEY": "/k.pem"}, host="192.0.2.1")
    assert settings.url == "https://192.0.2.1:8400"
