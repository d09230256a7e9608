"""What a person relies on before signing: metadata that does anything but publish the release is refused."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from securesystemslib.signer import Signature
from tuf.api.metadata import Delegations, Metadata, Root, TargetFile, Targets

from sdx_hub.domain.errors import BadInput, ConflictError, TrustError
from sdx_hub.publishing import team_metadata
from sdx_hub.publishing.errors import BundleRefused
from tests.support.team import NOW, ROLE, Team, manifest

OTHER = "nav/other/1.0.0/app"


def other_file(sha256: str = "b" * 64) -> TargetFile:
    return TargetFile(9, {"sha256": sha256}, OTHER, {"custom": {"product": "other"}})


@pytest.fixture
def team() -> Team:
    team = Team()
    team.targets[OTHER] = other_file()
    return team


def honest(team: Team) -> Metadata[Targets]:
    return team_metadata.next_version(team.view(), manifest(), (), NOW)


def check(team: Team, metadata: Metadata[Any], yanked: tuple[str, ...] = ()) -> team_metadata.Proposal:
    return team_metadata.check(team.view(), metadata, manifest(), yanked, NOW)


def test_the_honest_step_passes_and_adds_exactly_the_releases_targets(team: Team) -> None:
    metadata = honest(team)
    proposal = check(team, metadata)
    assert proposal.added == ("nav/nav/1.0.0/release.json", "nav/nav/1.0.0/app")
    assert metadata.signed.version == team.version + 1
    assert metadata.signed.targets.keys() - {OTHER} == set(proposal.added)
    assert (proposal.signed_by, proposal.missing, proposal.still_needed) == ((), ("alice", "bob", "carol"), 2)


def test_the_counter_of_a_release_is_what_the_team_has_signed(team: Team) -> None:
    team.targets |= team_metadata.target_files("nav", manifest("1.2.0", release_counter=77))
    view = team.view()
    assert team_metadata.counter_of(view, "nav", "1.2.0") == 77
    assert team_metadata.counter_of(view, "nav", "9.9.9") is None
    team.targets["nav/odd/1.0.0/release.json"] = other_file()
    assert team_metadata.counter_of(team.view(), "odd", "1.0.0") is None


def smuggle_target(signed: Targets) -> None:
    path = "nav/nav/9.9.9/app"
    signed.targets[path] = TargetFile(1, {"sha256": "c" * 64}, path)


def change_a_published_target(signed: Targets) -> None:
    signed.targets[OTHER] = other_file("d" * 64)


def remove_a_published_target(signed: Targets) -> None:
    del signed.targets[OTHER]


def change_the_payload(signed: Targets) -> None:
    signed.targets["nav/nav/1.0.0/app"].hashes["sha256"] = "e" * 64


def change_custom(signed: Targets) -> None:
    custom = signed.targets["nav/nav/1.0.0/app"].unrecognized_fields["custom"]
    custom["hardware"] = ["any"]


def leave_out_a_target(signed: Targets) -> None:
    del signed.targets["nav/nav/1.0.0/app"]


def delegate(signed: Targets) -> None:
    signed.delegations = Delegations({}, {})


def add_a_field(signed: Targets) -> None:
    signed.unrecognized_fields["x-note"] = "harmless, surely"


@pytest.mark.parametrize(
    "change",
    [
        smuggle_target,
        change_a_published_target,
        remove_a_published_target,
        change_the_payload,
        change_custom,
        leave_out_a_target,
        delegate,
        add_a_field,
    ],
)
def test_a_smuggled_change_is_refused(team: Team, change: Callable[[Targets], None]) -> None:
    metadata = honest(team)
    check(team, metadata)
    metadata.signed = copy.deepcopy(metadata.signed)
    change(metadata.signed)
    with pytest.raises(BundleRefused) as refused:
        check(team, metadata)
    assert refused.value.code == "targets_changed"


def test_metadata_of_another_type_is_refused(team: Team) -> None:
    with pytest.raises(BundleRefused) as refused:
        check(team, Metadata(Root()))
    assert refused.value.code == "targets_changed"


@pytest.mark.parametrize("days", [-1, 0, 182, 4000])
def test_an_expiry_that_is_past_or_too_far_is_refused(team: Team, days: int) -> None:
    metadata = honest(team)
    metadata.signed.expires = NOW + timedelta(days=days)
    with pytest.raises(TrustError) as refused:
        check(team, metadata)
    assert refused.value.code == "expiry_refused"


@pytest.mark.parametrize("version", [1, 3])
def test_only_the_next_version_is_taken(team: Team, version: int) -> None:
    metadata = honest(team)
    metadata.signed.version = version
    with pytest.raises(ConflictError) as refused:
        check(team, metadata)
    assert refused.value.code == "metadata_outdated"
    assert refused.value.extra["current_version"] == 1


def test_targets_of_a_yanked_release_leave_and_only_those(team: Team) -> None:
    metadata = team_metadata.next_version(team.view(), manifest(), ["other@1.0.0"], NOW)
    assert OTHER not in metadata.signed.targets
    assert check(team, metadata, ("other@1.0.0",)).removed == (OTHER,)
    with pytest.raises(BundleRefused):
        check(team, metadata)


def test_a_published_release_cannot_get_another_content(team: Team) -> None:
    team.publish(honest(team))
    with pytest.raises(ConflictError) as refused:
        team_metadata.next_version(team.view(), manifest(fixes=("FB-1",)), (), NOW)
    assert refused.value.code == "release_exists"


def test_signatures_count_by_person(team: Team) -> None:
    metadata = honest(team)
    metadata.sign(team.bob.signer, append=True)
    first = check(team, metadata)
    assert (first.signed_by, first.missing, first.complete) == (("bob",), ("alice", "carol"), False)
    metadata.sign(team.bob.signer, append=True)
    assert check(team, metadata).signed_by == ("bob",), "the same person twice is one"
    metadata.sign(team.alice.signer, append=True)
    both = check(team, metadata)
    assert (both.signed_by, both.complete, both.still_needed) == (("alice", "bob"), True, 0)


def test_a_strangers_signature_is_refused(team: Team) -> None:
    metadata = honest(team)
    metadata.sign(team.mallory.signer)
    with pytest.raises(BundleRefused) as refused:
        check(team, metadata)
    assert refused.value.code == "signature_invalid"


def test_a_signature_over_other_bytes_is_refused_and_names_its_owner(team: Team) -> None:
    metadata = honest(team)
    keyid = team.bob.public.keyid
    metadata.signatures[keyid] = Signature(keyid, team.bob.signer.sign(b"something else").signature)
    with pytest.raises(BundleRefused, match="bob") as refused:
        check(team, metadata)
    assert refused.value.code == "signature_invalid"


def test_the_role_of_a_key(team: Team) -> None:
    delegator = team.view().delegator
    assert team_metadata.role_of_key(delegator, team.alice.public.keyid) == ROLE
    with pytest.raises(TrustError) as refused:
        team_metadata.role_of_key(delegator, team.mallory.public.keyid)
    assert refused.value.code == "key_not_in_role"
    with pytest.raises(TrustError) as refused:
        team_metadata.role_of_key(delegator, team.alice.public.keyid, "team-other")
    assert refused.value.code == "key_not_in_role"
    roles = delegator.delegations.roles if delegator.delegations else None
    assert roles is not None
    roles["team-second"] = copy.copy(roles[ROLE])
    with pytest.raises(BadInput) as ambiguous:
        team_metadata.role_of_key(delegator, team.alice.public.keyid)
    assert ambiguous.value.code == "role_ambiguous"
    assert team_metadata.role_of_key(delegator, team.alice.public.keyid, known="team-second") == "team-second"


def test_a_team_cannot_publish_outside_of_its_paths(team: Team) -> None:
    view = team.view()
    roles = view.delegator.delegations.roles if view.delegator.delegations else None
    assert roles is not None
    roles[ROLE].paths = ["payload/*/*/*"]
    with pytest.raises(TrustError) as refused:
        team_metadata.next_version(view, manifest(), (), NOW)
    assert refused.value.code == "targets_changed"
