"""What an attacker with stolen keys can make: TUF metadata that is signed, and lies."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from firmware_schemas.device_api import ACTION_FIELD, DEVICE_FIELD, TIME_FIELD
from tests.support.mitm import Answer, Mitm, Request

_SERIALIZER = JSONSerializer(compact=True)


def in_days(days: float) -> datetime:
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


def seal(signed: Any, signers: Iterable[Signer]) -> bytes:
    """Sign with every signer and serialise."""
    metadata = Metadata(signed)
    for index, signer in enumerate(signers):
        metadata.sign(signer, append=index > 0)
    return metadata.to_bytes(_SERIALIZER)


def altered(raw: bytes, signers: Iterable[Signer], change: Callable[[Any], None]) -> bytes:
    """Other content for signed metadata, signed anew."""
    signed = Metadata.from_bytes(raw).signed
    change(signed)
    return seal(signed, signers)


class StolenDirector:
    """All online keys of the director in the wrong hands: makes what it likes for one device, behind a proxy.

    Args:
        signers: For `targets`, `snapshot` and `timestamp`.
        device_id: Whom the proxy lies to.
    """

    def __init__(self, signers: dict[str, Signer], device_id: str) -> None:
        self._signers = signers
        self._device_id = device_id

    def files(
        self,
        targets: dict[str, TargetFile],
        version: int = 1000,
        *,
        device: str = "",
        action: str = "",
        expires: datetime | None = None,
        time_s: int | None = None,
    ) -> dict[str, bytes]:
        """The three files, by their names under `metadata/`."""
        expires = expires or in_days(1)
        fields = {
            DEVICE_FIELD: device or self._device_id,
            ACTION_FIELD: action or f"{self._device_id}.{version}",
        }
        signed_targets = Targets(version=version, expires=expires, targets=targets, unrecognized_fields=fields)
        raw_targets = seal(signed_targets, [self._signers["targets"]])
        snapshot = Snapshot(version=version, expires=expires, meta={"targets.json": MetaFile(version)})
        raw_snapshot = seal(snapshot, [self._signers["snapshot"]])
        now_s = int(datetime.now(UTC).timestamp()) if time_s is None else time_s
        timestamp = Timestamp(
            version=version,
            expires=expires,
            snapshot_meta=MetaFile(version),
            unrecognized_fields={TIME_FIELD: now_s},
        )
        raw_timestamp = seal(timestamp, [self._signers["timestamp"]])
        return {
            "timestamp.json": raw_timestamp,
            f"{version}.snapshot.json": raw_snapshot,
            f"{version}.targets.json": raw_targets,
        }

    def serve(self, mitm: Mitm, targets: dict[str, TargetFile], version: int = 1000, **fields: Any) -> None:
        """Have the proxy serve forged instructions, and say at the poll that there are some."""
        say_changed(mitm, version)
        for name, raw in self.files(targets, version, **fields).items():
            mitm.replace(f"/tuf/director/{self._device_id}/metadata/{name}", raw)


def say_changed(mitm: Mitm, version: int) -> None:
    """A poll answer that always says: there is something new."""

    def rule(request: Request) -> Answer | None:
        if request.path.split("?")[0] != "/device/v1/poll":
            return None
        body = f'{{"desired_version":{version},"action":"forged.{version}","interval_s":1,"jitter_s":1}}'.encode()
        return 200, {"content-type": "application/json", "etag": f'"{version}"', "sdx-poll-interval": "1"}, body

    mitm.lie(rule)
