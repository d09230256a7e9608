"""How releases, proposals and differences look to people, and their stable JSON."""

from typing import Any

import msgspec

from firmware_schemas.ids import release_id
from firmware_schemas.release import Constraint, ReleaseManifest
from sdx_hub.cli.console import facts, size, table
from sdx_hub.publishing.bundle import Bundle, manifest_digest
from sdx_hub.publishing.diff import Change
from sdx_hub.publishing.signing import Step
from sdx_hub.publishing.team_metadata import Proposal, release_of_path

_MAX_COUNTER = 2**53 - 1


def manifest_text(manifest: ReleaseManifest) -> str:
    """A release, for somebody who may sign it: everything that the manifest says."""
    pairs: list[tuple[str, object]] = [
        ("release", release_id(manifest.product, manifest.version)),
        ("counter", manifest.release_counter),
        ("way back", _way_back(manifest)),
        ("hardware", ", ".join(manifest.hardware)),
    ]
    if manifest.requires:
        pairs.append(("requires", ", ".join(_range(each) for each in manifest.requires)))
    if manifest.conflicts:
        pairs.append(("conflicts", ", ".join(_range(each) for each in manifest.conflicts)))
    if manifest.fixes:
        pairs.append(("fixes", ", ".join(manifest.fixes)))
    if manifest.must_pass:
        pairs.append(("must pass", "devices that run an older release install this one before any newer one"))
    if manifest.trial_s:
        pairs.append(("trial", f"{manifest.trial_s} s"))
    if manifest.sbom:
        pairs.append(("sbom", manifest.sbom))
    if manifest.notes:
        pairs.append(("notes", manifest.notes.strip().replace("\n", "\n" + " " * 10)))
    parts = table(
        ("component", "type", "size", "sha256", "hardware", "health check"),
        [
            (
                part.name,
                part.type,
                size(part.length),
                part.sha256,
                ", ".join(part.hardware),
                " ".join(part.health.argv) if part.health else "",
            )
            for part in manifest.components
        ],
    )
    documents = [(f"doc {each.name}", f"{size(each.length)}  {each.sha256}") for each in manifest.documents]
    return "\n".join(filter(None, [facts(pairs), "", parts, facts(documents)]))


def _way_back(manifest: ReleaseManifest) -> str:
    if manifest.floor == manifest.release_counter:
        return "none: a device that has committed this release never runs an older one again"
    return f"to releases with a counter from {manifest.floor} on"


def bundle_document(bundle: Bundle) -> dict[str, Any]:
    """What a .sdx file is, for --json."""
    return {
        "release": bundle.id,
        "product": bundle.manifest.product,
        "version": bundle.manifest.version,
        "release_counter": bundle.manifest.release_counter,
        "file": str(bundle.path),
        "size": bundle.path.stat().st_size,
        "manifest_sha256": manifest_digest(bundle),
        "manifest": msgspec.to_builtins(bundle.manifest),
        "role": bundle.signed.role if bundle.signed else None,
    }


def proposal_document(proposal: Proposal) -> dict[str, Any]:
    """How far the signatures are, for --json."""
    return {
        "role": proposal.role,
        "metadata_version": proposal.metadata.signed.version,
        "expires_at": proposal.metadata.signed.expires.isoformat(),
        "threshold": proposal.threshold,
        "signed_by": list(proposal.signed_by),
        "missing": list(proposal.missing),
        "still_needed": proposal.still_needed,
        "complete": proposal.complete,
        "removes": sorted({release_of_path(path) for path in proposal.removed}),
    }


def step_text(manifest: ReleaseManifest, step: Step) -> str:
    """Everything that a signature would go under."""
    proposal = step.proposal
    signed = proposal.metadata.signed
    pairs: list[tuple[str, object]] = [
        ("signs for", f"{proposal.role}, version {proposal.base_version} -> {signed.version}"),
        ("expires", f"{signed.expires:%Y-%m-%d}"),
        ("signed by", ", ".join(proposal.signed_by) or "nobody yet"),
        ("missing", missing_text(proposal.still_needed, proposal.missing)),
    ]
    if proposal.removed:
        gone = sorted({release_of_path(path) for path in proposal.removed})
        pairs.append(("takes out", f"{', '.join(gone)} (yanked)"))
    return f"{manifest_text(manifest)}\n\n{facts(pairs)}"


def missing_text(still_needed: int, missing: Any) -> str:
    """Whose signature is missing, in words."""
    names = ", ".join(missing)
    if not still_needed:
        return "none: the threshold is reached"
    if still_needed == len(list(missing)):
        return f"{still_needed}: {names}"
    return f"{still_needed} of: {names}"


def shown_text(shown: dict[str, Any]) -> str:
    """A release as the hub has it, without its manifest."""
    names = ("state", "role", "created_by", "created_at", "published_at", "yanked_at", "yank_reason")
    pairs = [(name.replace("_", " "), shown[name]) for name in names if shown.get(name)]
    pairs.append(("signed by", ", ".join(shown.get("signed_by") or ()) or "nobody yet"))
    if shown.get("state") in {"waiting", "outdated"}:
        needed = int(shown.get("threshold") or 0) - len(shown.get("signed_by") or ())
        pairs.append(("missing", missing_text(max(0, needed), shown.get("missing") or ())))
    return facts(pairs)


def changes_text(changes: list[Change]) -> str:
    """Differences as a table; digests are cut short."""
    if not changes:
        return "No difference."
    return table(
        ("where", "what", "before", "after"),
        [(change.where, change.what, _short(change.before), _short(change.after)) for change in changes],
    )


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name}={_short(each)}" for name, each in value.items() if each not in ("", [], None))
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value)
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _range(constraint: Constraint) -> str:
    low, high = constraint.min_counter, constraint.max_counter
    if high == _MAX_COUNTER:
        return f"{constraint.product}>={low}"
    if low == high:
        return f"{constraint.product}={low}"
    return f"{constraint.product}<={high}" if not low else f"{constraint.product}>={low},<={high}"
