"""The S3 server that tests and the cluster use: content stays over every kind of end, and nothing else is left."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from sdx_hub.demo.servers.seaweed import REGION, SeaweedServer


def store(server: SeaweedServer, bucket: str = "", secret: str = "") -> S3Store:
    return S3Store(
        bucket or server.bucket,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.key_id,
        secret_access_key=secret or server.secret,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def test_it_keeps_what_was_stored_over_a_stop_and_a_kill_on_the_same_port(tmp_path: Path) -> None:
    server = SeaweedServer(tmp_path / "s3")
    try:
        server.start()
        endpoint = server.endpoint
        store(server).put("a/b", b"content")
        server.restart()
        server.kill()
        server.start()
        assert server.endpoint == endpoint
        assert bytes(store(server).get("a/b").bytes()) == b"content"
    finally:
        server.kill()


def test_only_the_right_secret_opens_it_and_only_this_bucket(s3_server: SeaweedServer) -> None:
    with pytest.raises(BaseError):
        store(s3_server, secret="wrong").put("a", b"x")
    with pytest.raises((BaseError, FileNotFoundError)):
        store(s3_server, bucket="another").put("a", b"x")


def test_it_listens_on_loopback_alone(s3_server: SeaweedServer) -> None:
    listening = [each for each in psutil.Process(s3_server.pid).net_connections() if each.status == "LISTEN"]
    assert listening
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


def test_the_secret_is_in_a_private_file_and_in_no_argument(s3_server: SeaweedServer) -> None:
    assert stat.S_IMODE((s3_server.folder / "s3.json").stat().st_mode) == 0o600
    assert s3_server.secret not in " ".join(psutil.Process(s3_server.pid).cmdline())
    assert s3_server.secret not in repr(s3_server) + s3_server.url + s3_server.log.read_text()


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from sdx_hub.demo.servers.seaweed import SeaweedServer\n"
        "server = SeaweedServer(Path(sys.argv[1])); server.start(); print(server.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "s3")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        server = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        server.wait(20)
