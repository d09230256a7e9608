"""What a release is: a manifest that names its components, and the custom part of their TUF targets.

A release `PRODUCT@VERSION` of team `TEAM` is these targets of the image repository, all in the team's delegated role:

    TEAM/PRODUCT/VERSION/release.json       the manifest, canonical JSON
    TEAM/PRODUCT/VERSION/COMPONENT          one payload for each component, canonical and uncompressed

The manifest makes the set complete (no partial bundle), and carries what concerns the release as a whole. Every
target repeats in `custom` what a device checks before it downloads anything.
"""

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from firmware_schemas import canonical
from firmware_schemas.errors import InvalidManifest, LimitExceeded
from firmware_schemas.ids import NameField, Sha256Field, VersionField
from firmware_schemas.limits import (
    MAX_COMPONENTS,
    MAX_CONSTRAINTS,
    MAX_MANIFEST_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_CHARS,
)

MANIFEST_NAME = "release.json"
ANY_HARDWARE = "any"

Counter = Annotated[int, Meta(ge=0, le=2**53 - 1)]
PayloadLength = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)]
Hardware = Annotated[tuple[NameField, ...], Meta(min_length=1, max_length=MAX_CONSTRAINTS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]


class HealthCheck(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A command of the payload that proves it healthy by exit status 0.

    Attributes:
        argv: Program and arguments. A program without a leading `/` is inside the component's own folder. It runs
            with that folder as working directory, without a shell.
        timeout_s: It counts as failed after so many seconds.
    """

    argv: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=512)], ...], Meta(min_length=1, max_length=32)]
    timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 30


class Constraint(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A range of another product's release counter, both ends included."""

    product: NameField
    min_counter: Counter = 0
    max_counter: Counter = 2**53 - 1

    def matches(self, counter: int | None) -> bool:
        """Whether a device with `counter` of this product (None: not installed) is in the range."""
        return counter is not None and self.min_counter <= counter <= self.max_counter


class Component(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One installable part.

    Attributes:
        type: The handler that installs it: `directory` (a canonical tar, unpacked into an A/B slot), `file` (one file
            in an A/B slot), later others. A device refuses a type that it has no handler for.
        sha256, length: Of the canonical, uncompressed payload.
        hardware: Narrower than the release's list; empty means the release's.
        file_name: For a `file` component: its name in the slot; empty means the component's name.
    """

    name: NameField
    type: NameField
    sha256: Sha256Field
    length: PayloadLength
    hardware: tuple[NameField, ...] = ()
    file_name: Annotated[str, Meta(max_length=128, pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._+-]*)?$(?!\n)")] = ""
    health: HealthCheck | None = None


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """An SBOM or an attestation that travels with the release as an ordinary target, named `doc.NAME`."""

    name: NameField
    sha256: Sha256Field
    length: PayloadLength


class ReleaseManifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The signed description of one release.

    Attributes:
        schema: Always 1 here; another number is a newer contract, and is refused.
        release_counter: Grows with each release of the product; a device refuses one below its floor.
        revert_counter: The smallest release counter of the product that a device may go back to after it has committed
            this release; None: this release's own, so that there is no way back.
        must_pass: A device that runs an older release installs this one before any newer one.
        requires: Each must match a product of the device, as it will be after the update.
        conflicts: None may match.
        fixes: Feedback or issue ids that this release answers.
        sbom: Name of the document (in `documents`) that is the SBOM.
        trial_s: How long the craft watches the new version before it commits.
    """

    product: NameField
    version: VersionField
    release_counter: Counter
    components: Annotated[tuple[Component, ...], Meta(min_length=1, max_length=MAX_COMPONENTS)]
    hardware: Hardware = (ANY_HARDWARE,)
    requires: Annotated[tuple[Constraint, ...], Meta(max_length=MAX_CONSTRAINTS)] = ()
    conflicts: Annotated[tuple[Constraint, ...], Meta(max_length=MAX_CONSTRAINTS)] = ()
    fixes: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=256)] = ()
    notes: Text = ""
    sbom: str = ""
    documents: tuple[Document, ...] = ()
    trial_s: Annotated[int, Meta(ge=0, le=7 * 86400)] = 0
    revert_counter: Counter | None = None
    must_pass: bool = False
    schema: Annotated[int, Meta(ge=1, le=1)] = 1

    @property
    def floor(self) -> int:
        """The release counter below which a device that committed this release never goes again."""
        return self.release_counter if self.revert_counter is None else self.revert_counter

    def component(self, name: str) -> Component | None:
        return next((component for component in self.components if component.name == name), None)

    def hardware_of(self, component: Component) -> tuple[str, ...]:
        return component.hardware or self.hardware

    def fits(self, hardware: str) -> bool:
        return hardware_fits(self.hardware, hardware)


class TargetCustom(Struct, frozen=True, omit_defaults=True):
    """The `custom` object of a TUF target: what a device needs to know before it downloads.

    The director repeats it, and both repositories must say the same. Unknown fields are allowed: other TUF clients
    and later versions of ours may add some.
    """

    product: NameField
    version: VersionField
    release_counter: Counter
    hardware: Hardware
    component: str = ""
    """Empty for the manifest and for documents."""
    type: str = ""
    requires: tuple[Constraint, ...] = ()
    conflicts: tuple[Constraint, ...] = ()
    fixes: tuple[str, ...] = ()
    sbom: str = ""
    attestations: tuple[str, ...] = ()


class ReleaseTarget(Struct, frozen=True):
    """A target of a release as TUF metadata lists it."""

    path: str
    length: int
    sha256: str
    custom: TargetCustom


def hardware_fits(allowed: tuple[str, ...], hardware: str) -> bool:
    return ANY_HARDWARE in allowed or hardware in allowed


def target_path(team: str, product: str, version: str, name: str) -> str:
    return f"{team}/{product}/{version}/{name}"


def encode_manifest(manifest: ReleaseManifest) -> bytes:
    """The canonical bytes of a manifest: what is hashed, signed and stored."""
    return canonical.encode(manifest)


def decode_manifest(raw: bytes) -> ReleaseManifest:
    """Decode a manifest strictly.

    Raises:
        LimitExceeded: It is larger than `MAX_MANIFEST_BYTES`.
        InvalidManifest: It does not follow the contract; the message names the field.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise LimitExceeded(f"The release manifest has {len(raw)} bytes; {MAX_MANIFEST_BYTES} are allowed.")
    try:
        manifest = msgspec.json.decode(raw, type=ReleaseManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"The release manifest is not valid: {error}.") from error
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: ReleaseManifest) -> None:
    """Check what the types cannot: unique names, an SBOM that exists, and a way back that leads back.

    Raises:
        InvalidManifest: A rule does not hold.
    """
    names = [component.name for component in manifest.components]
    if len(set(names)) != len(names):
        raise InvalidManifest(f"A component is named twice in {manifest.product}@{manifest.version}: {sorted(names)}.")
    documents = [document.name for document in manifest.documents]
    if len(set(documents)) != len(documents):
        raise InvalidManifest(f"A document is named twice in {manifest.product}@{manifest.version}.")
    if manifest.sbom and manifest.sbom not in documents:
        raise InvalidManifest(f"The SBOM {manifest.sbom!r} is not among the documents of the release.")
    if manifest.floor > manifest.release_counter:
        raise InvalidManifest(
            f"{manifest.product}@{manifest.version} has the release counter {manifest.release_counter} and the revert "
            f"counter {manifest.floor}: a way back leads to the same counter or a smaller one."
        )
    if MANIFEST_NAME in names:
        raise InvalidManifest(f"A component cannot be named {MANIFEST_NAME!r}: that is the manifest.")
    for component in manifest.components:
        if component.name.startswith("doc."):
            raise InvalidManifest(f"A component's name cannot start with 'doc.': {component.name!r}.")


def targets_of(team: str, manifest: ReleaseManifest) -> tuple[ReleaseTarget, ...]:
    """Every TUF target of a release, the manifest first.

    The publisher signs exactly these, the hub checks that a proposal adds exactly these, and the director lists the
    manifest and the components for a device.
    """
    raw = encode_manifest(manifest)

    def path(name: str) -> str:
        return target_path(team, manifest.product, manifest.version, name)

    def custom(**fields: Any) -> TargetCustom:
        return TargetCustom(
            **{
                "product": manifest.product,
                "version": manifest.version,
                "release_counter": manifest.release_counter,
                "hardware": manifest.hardware,
                **fields,
            }
        )

    whole = custom(requires=manifest.requires, conflicts=manifest.conflicts, fixes=manifest.fixes, sbom=manifest.sbom)
    targets = [ReleaseTarget(path(MANIFEST_NAME), len(raw), _sha256(raw), whole)]
    targets += [
        ReleaseTarget(
            path(part.name),
            part.length,
            part.sha256,
            custom(component=part.name, type=part.type, hardware=manifest.hardware_of(part)),
        )
        for part in manifest.components
    ]
    targets += [
        ReleaseTarget(path(f"doc.{document.name}"), document.length, document.sha256, custom())
        for document in manifest.documents
    ]
    return tuple(targets)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
