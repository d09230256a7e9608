"""Names of things, as types and as patterns.

Each id is a string with a narrow alphabet, so that it is safe as one segment of a path, of a URL and of a TUF target
name. The `NewType` keeps two kinds of ids from being mixed up; the `*Field` alias is the same thing for a msgspec
struct, where the pattern is enforced at decoding.
"""

import re
from typing import Annotated, NewType

from msgspec import Meta

from firmware_schemas.errors import InvalidName
from firmware_schemas.limits import MAX_NAME_CHARS

DeviceId = NewType("DeviceId", str)
TeamName = NewType("TeamName", str)
ProductName = NewType("ProductName", str)
ComponentName = NewType("ComponentName", str)
Version = NewType("Version", str)
ReleaseId = NewType("ReleaseId", str)
"""`PRODUCT@VERSION`, for instance `mavsdk@3.1.0`."""
Sha256Hex = NewType("Sha256Hex", str)
ActionId = NewType("ActionId", str)
"""One instruction of the director to one device: `DEVICE.DESIRED_VERSION`."""

# `$` also matches before a final newline; the look-ahead closes that, in Python and ECMAScript alike.
NAME_PATTERN = rf"^[a-z0-9](?:[a-z0-9._-]{{0,{MAX_NAME_CHARS - 2}}}[a-z0-9])?$(?!\n)"
VERSION_PATTERN = rf"^[A-Za-z0-9](?:[A-Za-z0-9.+_-]{{0,{MAX_NAME_CHARS - 2}}}[A-Za-z0-9])?$(?!\n)"
SHA256_PATTERN = r"^[0-9a-f]{64}$(?!\n)"

NameField = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=MAX_NAME_CHARS)]
VersionField = Annotated[str, Meta(pattern=VERSION_PATTERN, max_length=MAX_NAME_CHARS)]
Sha256Field = Annotated[str, Meta(pattern=SHA256_PATTERN)]

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)
_SEMVER = re.compile(r"^v?(\d{1,5})\.(\d{1,3})(?:\.(\d{1,3}))?$")


def check_name(text: str, what: str) -> str:
    """Return `text` if it may name a `what` (a product, a component, a team, a hardware id).

    Raises:
        InvalidName: It has another alphabet or is too long.
    """
    if len(text) > MAX_NAME_CHARS or not _NAME.fullmatch(text) or ".." in text:
        shown = text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
        raise InvalidName(
            f"{shown!r} cannot name a {what}: use 1 to {MAX_NAME_CHARS} of a-z 0-9 . _ -, "
            "starting and ending with a letter or digit."
        )
    return text


def check_version(text: str) -> Version:
    """Return `text` as a version.

    Raises:
        InvalidName: It has another alphabet or is too long.
    """
    if len(text) > MAX_NAME_CHARS or not _VERSION.fullmatch(text) or ".." in text:
        raise InvalidName(
            f"{text[:80]!r} cannot be a version: use 1 to {MAX_NAME_CHARS} of letters, digits and . + _ -, "
            "for instance 1.4.0."
        )
    return Version(text)


def release_id(product: str, version: str) -> ReleaseId:
    return ReleaseId(f"{product}@{version}")


def parse_release_id(text: str) -> tuple[ProductName, Version]:
    """Split `PRODUCT@VERSION`.

    Raises:
        InvalidName: There is no `@`, or a part is not a name.
    """
    product, at, version = text.partition("@")
    if not at:
        raise InvalidName(f"{text[:80]!r} is not a release: write PRODUCT@VERSION, for instance mavsdk@3.1.0.")
    return ProductName(check_name(product, "product")), check_version(version)


def counter_of_version(version: str) -> int | None:
    """The release counter that a plain MAJOR.MINOR[.PATCH] version implies, or None where it implies none.

    The counter is what devices compare (a rollback is a smaller counter), the version is what people read.
    1.4.2 becomes 1_004_002.
    """
    match = _SEMVER.match(version)
    if match is None:
        return None
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major * 1_000_000 + minor * 1_000 + patch
