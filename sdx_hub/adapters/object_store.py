"""The way to an object store that speaks S3: its address, its limits of time, and what its failures mean.

    s3://BUCKET/PREFIX?endpoint=https://s3.example.org&region=eu-west-1

Without `endpoint` it is Amazon's. Buckets are named in the path and not in the host name: that works everywhere. A
store with a certificate of an organisation's own CA is trusted once the system trusts that CA.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, S3Store

from sdx_hub.domain.errors import BadInput, HubError, Unavailable
from sdx_hub.observing import BLOB_STORE_ERRORS, observed

if TYPE_CHECKING:
    from obstore import ObjectMeta  # Neither is there at run time.
    from obstore.store import S3Config, S3Credential

ANSWER_S = 10.0
"""So long may a store take for a question, or for the next piece of what it sends."""
PUT_S = 30.0
"""So long may it take for one piece of what it is given."""

UNDER_WAY = "uploads"
"""Folder of everything that is not a payload yet: pieces of uploads, and large objects before they have their name."""
INCOMING = f"{UNDER_WAY}/incoming-"

_CONNECT_S = 3
_RETRIES = 2
_RETRY_FOR_S = 5
_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
_REGION = "us-east-1"
_PROBE = f"{UNDER_WAY}/probe"
_FULL = ("507 Insufficient Storage", "XMinioStorageFull", "QuotaExceeded")
"""As MinIO and Ceph say it. Others, SeaweedFS for one, say no more than 500."""
_DENIED = ("401 Unauthorized", "403 Forbidden")
_SKEWED = "RequestTimeTooSkewed"
"""A store takes no request that is signed a quarter of an hour off. The hub goes on with all that needs no payload."""
_log = structlog.get_logger(__name__)


def is_object_store(url: str) -> bool:
    return "://" in url


def open_store(url: str, key_id: str, secret: str) -> ObjectStore:
    """Make the client of a store; nothing is sent yet.

    Args:
        url: As above.
        key_id: Of the credentials; empty with an empty secret leaves them to the machine (instance role, web identity).
        secret: Of the credentials.

    Raises:
        BadInput: The URL is malformed (code `blob_url_invalid`).
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else ())
        endpoint = urlsplit(options.get("endpoint", ""))
        in_clear = endpoint.scheme == "http"
        sound = [
            url.startswith(_SCHEME),
            _BUCKET.fullmatch(parts.netloc),
            not parts.path.strip("/") or _PREFIX.fullmatch(parts.path.strip("/")),
            options.keys() <= {"endpoint", "region"},
            "endpoint" not in options or (endpoint.scheme in {"http", "https"} and endpoint.hostname),
            "@" not in url and not parts.fragment,
        ]
    except ValueError:
        sound = [False]
    if not all(sound):
        raise BadInput(
            "blob_url is a folder, or looks like s3://BUCKET/PREFIX?endpoint=https://s3.example.org&region=eu-west-1. "
            "Credentials do not belong into it.",
            "blob_url_invalid",
        )
    if bool(key_id) != bool(secret):
        raise BadInput("blob_key_id and blob_secret belong together: set both or neither.", "blob_url_invalid")
    credential: S3Credential = {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}
    config: S3Config = {
        "region": options.get("region") or _REGION,
        "copy_if_not_exists": "multipart",
        # Said here, because else the environment of another tool (AWS_...) would be heard.
        "virtual_hosted_style_request": False,
        "skip_signature": False,
    }
    if endpoint.scheme:
        config["endpoint"] = options["endpoint"].rstrip("/")
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config=config,
        credential_provider=(lambda: credential) if key_id else None,
        client_options={
            "allow_http": in_clear,
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(seconds=PUT_S),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_FOR_S)},
    )


@asynccontextmanager
async def reaching(within_s: float | None = ANSWER_S) -> AsyncIterator[None]:
    """Around every call: bound its time, and turn the store's failures into ours.

    `FileNotFoundError` and obstore's `AlreadyExistsError` are answers and pass.

    Args:
        within_s: None where the client's own limit for each of many requests is enough.

    Raises:
        Unavailable: `storage_full`, or `blob_store_unavailable` for everything else.
    """
    try:
        async with asyncio.timeout(within_s):
            yield
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except (BaseError, OSError) as error:  # Of which TimeoutError is one.
        raise _meaning(error) from error


async def keys(store: ObjectStore, prefix: str | None = None) -> AsyncIterator["ObjectMeta"]:
    """Everything below a prefix."""
    pages = obstore.list(store, prefix, chunk_size=1000)
    while True:
        async with reaching():
            page = await anext(pages, None)
        if page is None:
            return
        for each in page:
            yield each


async def check(store: ObjectStore) -> None:
    """Prove that a hub can work with a store: list it, write into it, and write only what is not there yet.

    A store that is away is no reason not to start: it may come back, and then nobody should have to do anything.

    Raises:
        BadInput: It refuses us, or cannot do what a hub needs (codes `blob_bucket_missing`, `blob_store_denied`,
            `blob_store_unfit`).
    """
    try:
        async with reaching():
            await anext(obstore.list(store, UNDER_WAY, chunk_size=1), None)
        for attempt in ("first", "second"):
            try:
                async with reaching():
                    await obstore.put_async(store, _PROBE, b"", mode="create")
            except AlreadyExistsError:
                continue
            if attempt == "second":
                raise BadInput(
                    "The object store of blob_url overwrites where it is asked not to (If-None-Match): two hubs could "
                    "mix two forms of a payload. Use one that has conditional writes.",
                    "blob_store_unfit",
                )
    except FileNotFoundError as error:
        raise _missing() from error
    except Unavailable as error:
        said = str(error.__cause__)
        if "NoSuchBucket" in said or "404 Not Found" in said:
            raise _missing() from error
        if any(sign in said for sign in _DENIED) and _SKEWED not in said:
            raise BadInput(
                "The object store of blob_url refuses the credentials in blob_key_id and blob_secret, or the bucket "
                "is not theirs. They need to read, write, list and delete in it.",
                "blob_store_denied",
            ) from error
        _log.warning("blob_store_unavailable_at_start", reason=_first_line(error.__cause__))


def _missing() -> HubError:
    return BadInput("The bucket of blob_url does not exist. Make it, or correct the name.", "blob_bucket_missing")


def _meaning(error: Exception) -> Unavailable:
    observed.count(BLOB_STORE_ERRORS)
    said = str(error)
    if any(sign in said for sign in _FULL):
        return Unavailable(
            "The hub's object store is full. Nothing is lost; make room there and run the same command again.",
            "storage_full",
        )
    if _SKEWED in said:
        _log.error("blob_store_refuses_clock", reason=_first_line(error))
        return Unavailable(
            "The clock of this replica's machine is off, and the object store refuses it. Try again; another replica "
            "may answer.",
            "blob_store_unavailable",
        )
    _log.warning("blob_store_unavailable", reason=_first_line(error))
    return Unavailable(
        "The hub's object store does not answer as it should. Nothing is lost; try again in a moment.",
        "blob_store_unavailable",
    )


def _first_line(error: BaseException | None) -> str:
    """What obstore says first: method, address and status. The rest is for its developers."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
