"""From verified metadata to an install plan, or to a refusal with its code: steps 2, 4 and 5 of the trust order.

Pure: the shell in `device_agent.trust` verifies signatures and calls these checks in between, in the order that it
states. A function returns what it checked or raises TrustError; none returns a bool.
"""

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from device_agent.core.errors import TrustError
from firmware_schemas.device_api import InstalledComponent
from firmware_schemas.release import (
    MANIFEST_NAME,
    Component,
    Constraint,
    ReleaseManifest,
    TargetCustom,
    hardware_fits,
)

_T = TypeVar("_T")


class Verified(Struct, Generic[_T], frozen=True):
    """A value that passed its verifier. Only `device_agent.trust.verify` makes one from what came over a link."""

    value: _T


class Target(Struct, frozen=True):
    """One target of verified metadata."""

    path: str
    length: int
    sha256: str
    custom: TargetCustom

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Instruction(Struct, frozen=True):
    """Verified targets metadata of the director: for whom, which action, and what should run."""

    device: str
    action: str
    targets: tuple[Target, ...]


class ReleaseRecord(Struct, frozen=True):
    """A release on this device, with the constraints that later updates must keep to.

    Attributes:
        revert_counter: How far back the device may go after this release; None, as in the manifest: no way back.
    """

    product: str
    version: str
    release_counter: int
    requires: tuple[Constraint, ...] = ()
    conflicts: tuple[Constraint, ...] = ()
    revert_counter: int | None = None

    @property
    def floor(self) -> int:
        """The release counter of the product that is the smallest after this release was committed."""
        return self.release_counter if self.revert_counter is None else self.revert_counter


class Running(Struct, frozen=True):
    """A committed component as it was read back from its slot."""

    type: str
    file_name: str
    sha256: str


class Facts(Struct, frozen=True):
    """What the device knows about itself.

    Attributes:
        running: Committed components by name, with the digests that were read back from their current slots.
        slots: Component name to its current slot, "a" or "b"; missing where none is installed.
        bad: Sets of digests that were rolled back together here. A set is refused as a whole: a healthy payload that
            came with a sick one is not held against the repaired release.
    """

    device: str
    hardware: str
    types: frozenset[str]
    floors: Mapping[str, int]
    releases: tuple[ReleaseRecord, ...]
    running: Mapping[str, Running]
    slots: Mapping[str, str]
    bad: tuple[frozenset[str], ...]


class Item(Struct, frozen=True):
    """One component to install.

    Attributes:
        slot: Where it goes: the slot that is not current.
        previous: The slot to go back to; empty where the component is new.
    """

    component: InstalledComponent
    length: int
    slot: str
    previous: str
    file_name: str = ""


class Probe(Struct, frozen=True):
    """A health command; `component` empty for the device's own."""

    component: str
    argv: tuple[str, ...]
    timeout_s: int


class Plan(Struct, frozen=True):
    """What an action does.

    Attributes:
        items: Only components whose content differs from what runs.
        components: Every component of the assigned releases for this device, as it will be recorded at commit.
        releases: The assigned releases.
    """

    action: str
    items: tuple[Item, ...]
    components: tuple[InstalledComponent, ...]
    releases: tuple[ReleaseRecord, ...]
    probes: tuple[Probe, ...]
    trial_s: int


def check_instruction(instruction: Instruction, facts: Facts) -> Instruction:
    """Step 2: the device is named, no component twice, every component known.

    Raises:
        TrustError: wrong_device, component_twice, component_unknown_type.
    """
    if instruction.device != facts.device:
        raise TrustError(
            f"The instructions are for {instruction.device!r}, this is {facts.device!r}: somebody replays another "
            "device's metadata, or the hub mixed up its devices.",
            "wrong_device",
        )
    seen: set[str] = set()
    for target in instruction.targets:
        name = target.custom.component
        if not name:
            continue
        if name in seen:
            raise TrustError(f"Component {name!r} is listed twice; assign one release of it.", "component_twice")
        seen.add(name)
        if target.custom.type not in facts.types:
            raise TrustError(
                f"Component {name!r} has the type {target.custom.type!r}, which this agent cannot install; it knows "
                f"{', '.join(sorted(facts.types))}.",
                "component_unknown_type",
            )
    return instruction


def check_agreement(instruction: Instruction, image: Mapping[str, Target | None], facts: Facts) -> None:
    """Step 4: both repositories agree, the hardware fits, and no release counter is below its floor.

    Args:
        instruction: What the director said.
        image: What the image repository says about each of the director's paths; None where it has no such target.
        facts: This device.

    Raises:
        TrustError: target_unknown, director_image_mismatch, wrong_hardware, release_rollback.
    """
    for target in instruction.targets:
        genuine = image.get(target.path)
        if genuine is None:
            # A stolen director key can only point at genuine releases: this is where it ends.
            raise TrustError(
                f"No release in the image repository contains {target.path!r}: nobody signed it.", "target_unknown"
            )
        if genuine != target:
            raise TrustError(
                f"Director and image repository disagree about {target.path!r} (length, digest, hardware or release "
                "counter).",
                "director_image_mismatch",
            )
        custom = target.custom
        if not hardware_fits(custom.hardware, facts.hardware):
            raise TrustError(
                f"{target.path!r} is for {', '.join(custom.hardware)}; this device is {facts.hardware}.",
                "wrong_hardware",
            )
        floor = facts.floors.get(custom.product, 0)
        if custom.release_counter < floor:
            raise TrustError(
                f"{custom.product}@{custom.version} has release counter {custom.release_counter}, and this device "
                f"does not go below {floor} any more: publish the old code under a larger counter to go back.",
                "release_rollback",
            )


def make_plan(
    instruction: Instruction, manifests: Mapping[str, ReleaseManifest], facts: Facts, *, longest_trial_s: int
) -> Verified[Plan]:
    """Step 5: the set is complete and compatible; then only what differs is installed.

    Args:
        instruction: Checked by steps 2 and 4.
        manifests: Path of each `release.json` target to its verified content.
        facts: This device.
        longest_trial_s: The device's own bound of a trial.

    Raises:
        TrustError: bundle_incomplete, incompatible, payload_digest_known_bad.
    """
    by_release: dict[tuple[str, str], list[Target]] = {}
    for target in instruction.targets:
        by_release.setdefault((target.custom.product, target.custom.version), []).append(target)

    products: set[str] = set()
    components: list[tuple[Target, Component]] = []
    releases: list[ReleaseRecord] = []
    trial_s = 0
    for (product, version), targets in sorted(by_release.items()):
        if product in products:
            raise TrustError(f"Two releases of {product!r} are assigned at once.", "incompatible")
        products.add(product)
        manifest = _manifest_of(product, version, targets, manifests)
        components += _complete(manifest, targets, facts.hardware)
        trial_s = max(trial_s, manifest.trial_s)
        releases.append(
            ReleaseRecord(
                product,
                version,
                manifest.release_counter,
                manifest.requires,
                manifest.conflicts,
                manifest.revert_counter,
            )
        )
    _check_compatible(releases, facts.releases)

    items: list[Item] = []
    installed: list[InstalledComponent] = []
    probes: list[Probe] = []
    for target, part in sorted(components, key=lambda pair: pair[1].name):
        custom = target.custom
        record = InstalledComponent(
            part.name, part.type, custom.product, custom.version, custom.release_counter, part.sha256
        )
        installed.append(record)
        if part.health is not None:
            probes.append(Probe(part.name, part.health.argv, part.health.timeout_s))
        file_name = part.file_name or part.name
        if facts.running.get(part.name) == Running(part.type, file_name, part.sha256):
            continue
        previous = facts.slots.get(part.name, "")
        items.append(Item(record, part.length, "b" if previous == "a" else "a", previous, file_name))
    _check_not_known_bad(items, installed, facts)
    return Verified(
        Plan(
            instruction.action,
            tuple(items),
            tuple(installed),
            tuple(releases),
            tuple(probes),
            min(trial_s, longest_trial_s),
        )
    )


def _check_not_known_bad(items: Sequence[Item], components: Sequence[InstalledComponent], facts: Facts) -> None:
    """What was rolled back here is not tried again, unless a person says so."""
    wanted = {component.sha256 for component in components} | {entry.sha256 for entry in facts.running.values()}
    fresh = {item.component.sha256 for item in items}
    for bad in facts.bad:
        if bad <= wanted and bad & fresh:
            raise TrustError(
                "This very content was rolled back on this device before; publish a repaired one, or run "
                f"`sdx-agent forget-bad {min(bad)[:12]}` here to try it again.",
                "payload_digest_known_bad",
            )


def _manifest_of(
    product: str, version: str, targets: Sequence[Target], manifests: Mapping[str, ReleaseManifest]
) -> ReleaseManifest:
    """The manifest of a release, which must say the same as its target."""
    listed = [target for target in targets if target.name == MANIFEST_NAME and not target.custom.component]
    if len(listed) != 1 or listed[0].path not in manifests:
        raise TrustError(f"{product}@{version} comes without its manifest.", "bundle_incomplete")
    manifest = manifests[listed[0].path]
    custom = listed[0].custom
    said = (custom.product, custom.version, custom.release_counter)
    if said != (manifest.product, manifest.version, manifest.release_counter):
        raise TrustError(f"The manifest of {product}@{version} describes another release.", "director_image_mismatch")
    return manifest


def _complete(manifest: ReleaseManifest, targets: Sequence[Target], hardware: str) -> list[tuple[Target, Component]]:
    """Pair each component of the manifest that fits the hardware with its target: none missing, none beside them."""
    listed = {target.custom.component: target for target in targets if target.custom.component}
    wanted = {part.name: part for part in manifest.components if hardware_fits(manifest.hardware_of(part), hardware)}
    label = f"{manifest.product}@{manifest.version}"
    if missing := sorted(wanted.keys() - listed.keys()):
        raise TrustError(f"{label} is incomplete: {', '.join(missing)} is not listed.", "bundle_incomplete")
    if beside := sorted(listed.keys() - wanted.keys()):
        raise TrustError(f"{', '.join(beside)} is not part of {label} for {hardware}.", "bundle_incomplete")
    pairs = []
    for name, part in wanted.items():
        target = listed[name]
        agreed = (part.length, part.sha256, part.type) == (target.length, target.sha256, target.custom.type)
        if not agreed or target.custom.release_counter != manifest.release_counter:
            raise TrustError(f"The manifest of {label} disagrees about {name!r}.", "director_image_mismatch")
        pairs.append((target, part))
    return pairs


def _check_compatible(new: Sequence[ReleaseRecord], installed: Sequence[ReleaseRecord]) -> None:
    """Every constraint of every release holds as things will be after the update, also those of what stays."""
    after = {record.product: record for record in installed} | {record.product: record for record in new}
    counters = {product: record.release_counter for product, record in after.items()}
    for record in after.values():
        label = f"{record.product}@{record.version}"
        for need in record.requires:
            if not need.matches(counters.get(need.product)):
                raise TrustError(
                    f"{label} needs {need.product} with a release counter from {need.min_counter} to "
                    f"{need.max_counter}, and it would be {counters.get(need.product, 'missing')}.",
                    "incompatible",
                )
        for clash in record.conflicts:
            if clash.matches(counters.get(clash.product)):
                raise TrustError(
                    f"{label} does not work with {clash.product} at release counter {counters[clash.product]}.",
                    "incompatible",
                )
