"""Which proposal a signature goes under when two people work at the same time; nothing gets lost silently."""

import pytest
from securesystemslib.signer import Signature

from firmware_schemas.release import ReleaseManifest
from sdx_hub.domain.errors import ConflictError, TrustError
from sdx_hub.publishing import signing
from sdx_hub.publishing.signing import Step
from tests.support.team import NOW, Person, Team, manifest

LATER = NOW.replace(hour=18)


def prepare(team: Team, release: ReleaseManifest, carried: bytes | None = None, waiting: bytes | None = None) -> Step:
    return signing.prepare(team.view(), release, carried=carried, waiting=waiting, yanked=(), now=NOW)


def signed(team: Team, release: ReleaseManifest, *people: Person, when: object = NOW) -> bytes:
    step = signing.prepare(team.view(), release, carried=None, waiting=None, yanked=(), now=when)  # type: ignore[arg-type]
    raw = step.raw
    for person in people:
        step = prepare(team, release, raw)
        proposal = signing.sign(team.view(), step, release, person.signer, yanked=(), now=NOW)
        raw = signing.encode(proposal.metadata)
    return raw


@pytest.fixture
def team() -> Team:
    return Team()


def test_two_people_one_after_the_other(team: Team) -> None:
    raw = signed(team, manifest(), team.alice, team.bob)
    step = prepare(team, manifest(), raw)
    assert step.proposal.complete
    assert (step.dropped, step.rebased_from, step.changed) == ((), None, False)


def test_another_release_came_first_rebases_and_names_who_must_sign_again(team: Team) -> None:
    mine = signed(team, manifest("2.0.0"), team.alice)
    first = prepare(team, manifest(), signed(team, manifest(), team.bob, team.carol))
    team.publish(first.proposal.metadata)
    step = prepare(team, manifest("2.0.0"), mine)
    assert step.rebased_from == 2
    assert step.dropped == ("alice",)
    assert step.proposal.signed_by == ()
    assert step.proposal.metadata.signed.version == 3
    assert any("alice must sign again" in note and "came first" in note for note in step.notes)
    after = step.proposal.metadata.signed.targets
    assert {"nav/nav/1.0.0/app", "nav/nav/2.0.0/app"} <= after.keys(), "the first release stays published"


def test_signatures_on_the_same_bytes_are_joined(team: Team) -> None:
    base = signed(team, manifest())
    one = signing.sign(team.view(), prepare(team, manifest(), base), manifest(), team.alice.signer, yanked=(), now=NOW)
    two = signing.sign(team.view(), prepare(team, manifest(), base), manifest(), team.bob.signer, yanked=(), now=NOW)
    step = prepare(team, manifest(), signing.encode(one.metadata), signing.encode(two.metadata))
    assert step.proposal.signed_by == ("alice", "bob")
    assert step.proposal.complete
    assert step.changed
    assert step.dropped == ()


def test_an_unsigned_file_continues_what_waits_on_the_hub(team: Team) -> None:
    waiting = signed(team, manifest(), team.alice, when=LATER)
    step = prepare(team, manifest(), None, waiting)
    assert step.proposal.signed_by == ("alice",)
    assert step.changed


def test_other_bytes_at_a_draw_the_hubs_go_on(team: Team) -> None:
    step = prepare(
        team, manifest(), signed(team, manifest(), team.alice), signed(team, manifest(), team.bob, when=LATER)
    )
    assert step.proposal.signed_by == ("bob",)
    assert step.dropped == ("alice",)
    assert any("alice must sign again" in note for note in step.notes)


def test_other_bytes_with_more_signatures_in_the_file_go_on(team: Team) -> None:
    mine = signed(team, manifest(), team.alice, team.carol)
    step = prepare(team, manifest(), mine, signed(team, manifest(), team.bob, when=LATER))
    assert step.proposal.signed_by == ("alice", "carol")
    assert step.dropped == ("bob",)


def test_a_lying_hubs_proposal_is_not_used(team: Team) -> None:
    lie = signed(team, manifest(fixes=("FB-666",)), team.alice)
    mine = signed(team, manifest(), team.bob)
    step = prepare(team, manifest(), mine, lie)
    assert step.proposal.signed_by == ("bob",)
    assert any("not used" in note for note in step.notes)
    step = prepare(team, manifest(), mine, b"no metadata at all")
    assert step.proposal.signed_by == ("bob",)


def test_a_smuggled_change_in_the_file_is_refused(team: Team) -> None:
    with pytest.raises(TrustError) as refused:
        prepare(team, manifest(), signed(team, manifest(fixes=("FB-666",)), team.alice))
    assert refused.value.code == "targets_changed"


def test_signatures_of_keys_that_left_the_team_are_dropped(team: Team) -> None:
    raw = signed(team, manifest(), team.alice, team.bob)
    gone, team.alice = team.alice, team.mallory
    step = prepare(team, manifest(), raw)
    assert step.proposal.signed_by == ("bob",)
    assert step.dropped == (gone.public.keyid[:12],)
    assert step.changed


def test_published_already_says_so(team: Team) -> None:
    team.publish(prepare(team, manifest(), signed(team, manifest(), team.alice, team.bob)).proposal.metadata)
    with pytest.raises(ConflictError) as refused:
        prepare(team, manifest())
    assert refused.value.code == "already_published"
    with pytest.raises(ConflictError) as refused:
        prepare(team, manifest(notes="other"))
    assert refused.value.code == "release_exists"


def test_a_hub_that_is_behind_the_file_is_not_rebased_on(team: Team) -> None:
    team.version = 5
    raw = signed(team, manifest(), team.alice)
    team.version = 3
    with pytest.raises(ConflictError) as refused:
        prepare(team, manifest(), raw)
    assert refused.value.code == "hub_behind"


def test_a_signer_that_is_another_key_than_it_says_is_refused(team: Team) -> None:
    class Impostor:
        def sign(self, payload: bytes) -> Signature:
            return Signature(team.alice.public.keyid, team.mallory.signer.sign(payload).signature)

    step = prepare(team, manifest())
    with pytest.raises(TrustError) as refused:
        signing.sign(team.view(), step, manifest(), Impostor(), yanked=(), now=NOW)  # type: ignore[arg-type]
    assert refused.value.code == "signature_invalid"


def test_a_signer_that_fails_is_named(team: Team) -> None:
    class Broken:
        def sign(self, payload: bytes) -> Signature:
            raise ValueError("the token was pulled out")

    with pytest.raises(TrustError, match="pulled out") as refused:
        signing.sign(team.view(), prepare(team, manifest()), manifest(), Broken(), yanked=(), now=NOW)  # type: ignore[arg-type]
    assert refused.value.code == "signer_failed"
