"""A real S3 server for each pytest process that asks for one, and a prefix of its own for each test."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sdx_hub.demo.servers.seaweed import SeaweedServer


@dataclass(frozen=True)
class Bucket:
    """A part of a bucket that nobody else writes into."""

    url: str
    key_id: str
    secret: str

    @property
    def settings(self) -> dict[str, str]:
        """For a hub process."""
        return {"SDX_BLOB_URL": self.url, "SDX_BLOB_KEY_ID": self.key_id, "SDX_BLOB_SECRET": self.secret}


def fresh_bucket(server: SeaweedServer) -> Bucket:
    return Bucket(server.url_of(f"test-{secrets.token_hex(8)}"), server.key_id, server.secret)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """Shared by all tests of this process: who stops or pauses it takes a server of their own."""
    server = SeaweedServer(tmp_path_factory.mktemp("s3"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def settings_on(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of a hub that stores payloads where the parameter says: in its `folder`, or in `s3`."""
    return fresh_bucket(request.getfixturevalue("s3_server")).settings if request.param == "s3" else {}


@pytest.fixture
def s3(s3_server: SeaweedServer) -> Bucket:
    return fresh_bucket(s3_server)
