"""Changing who may sign: what the next version holds, what is refused, and what a signer is told."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Role, Root, Targets

from sdx_hub.domain.errors import BadInput, HubError, NotFound, TrustError
from sdx_hub.publishing import trust_change
from sdx_hub.publishing.trust_change import Current
from sdx_hub.trust import keys, rotation
from sdx_hub.trust.rotation import KeyChange
from tests.support.team import NOW, ROLE, Person, Team, person


@pytest.fixture
def team() -> Team:
    return Team()


@pytest.fixture
def holders() -> list[Person]:
    return [person(f"root-{number}") for number in range(1, 4)]


@pytest.fixture
def root(holders: list[Person]) -> Root:
    root = Root(expires=NOW + timedelta(days=10), consistent_snapshot=True)
    for role in ("root", "targets"):
        root.roles[role] = Role([], 2)
        for each in holders:
            root.add_key(each.public.key, role)
    for role in ("snapshot", "timestamp"):
        root.add_key(keys.generate("hub")[1].key, role)
    return root


def test_a_new_root_takes_both_thresholds(root: Root, holders: list[Person]) -> None:
    newcomer = person("newcomer")
    change = KeyChange((newcomer.public,), ("root-3",))
    following = rotation.next_root(root, "root", change, NOW)
    assert following.signed.version == root.version + 1
    assert following.signed.expires == NOW + timedelta(days=365)
    following.sign(holders[0].signer, append=True)
    following.sign(newcomer.signer, append=True)
    assert not rotation.signature_state("old", root, "root", following).met
    assert rotation.signature_state("new", following.signed, "root", following).met
    following.sign(holders[1].signer, append=True)
    old = rotation.signature_state("old", root, "root", following)
    assert (old.met, old.signed, old.missing) == (True, ("root-1", "root-2"), ("root-3",))


def test_the_present_root_is_not_changed(root: Root) -> None:
    before = root.to_dict()
    rotation.next_root(root, "root", KeyChange((person("n").public,), ("root-1",)), NOW)
    assert root.to_dict() == before


def test_the_description_says_what_differs_and_nothing_else(root: Root) -> None:
    change = KeyChange((person("newcomer").public,), ("root-3",), 1)
    lines = rotation.describe_change(root, rotation.next_root(root, "root", change, NOW).signed)
    assert [line.split(" (")[0] for line in lines] == [
        "root: - root-3",
        "root: + newcomer",
        "root: threshold 2 -> 1",
        "version 1 -> 2",
        f"expires {root.expires:%Y-%m-%d} -> {NOW + timedelta(days=365):%Y-%m-%d}",
    ]
    whole = rotation.describe_change(None, root)
    assert "root: 2 of 3: root-1, root-2, root-3" in whole


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (lambda t: KeyChange(drop=("nobody",)), NotFound, "key_unknown"),
        (lambda t: KeyChange(drop=("alice", "bob")), BadInput, "ceremony_threshold"),
        (lambda t: KeyChange(drop=("alice",)), BadInput, "ceremony_threshold"),
        (lambda t: KeyChange(threshold=3), BadInput, "ceremony_threshold"),
        (lambda t: KeyChange(threshold=0), BadInput, "ceremony_threshold"),
        (lambda t: KeyChange((person("bob").public,)), TrustError, "key_twice"),
        (lambda t: KeyChange((keys.owned(t.bob.public.key, "bobby"),), threshold=2), TrustError, "key_twice"),
    ],
)
def test_a_change_that_would_weaken_a_team_is_refused(
    team: Team, change: Callable[[Team], KeyChange], error: type[HubError], code: str
) -> None:
    with pytest.raises(error) as refused:
        rotation.next_targets(team.view().delegator, ROLE, change(team), NOW)
    assert refused.value.code == code


def test_the_same_key_under_another_owner_replaces_no_one(team: Team) -> None:
    """The same key again with another name would be one id in the role, and rename its holder in silence."""
    renamed = keys.owned(team.bob.public.key, "bobby")
    with pytest.raises(TrustError) as refused:
        rotation.next_targets(team.view().delegator, ROLE, KeyChange((renamed,)), NOW)
    assert refused.value.code == "key_twice"


def test_a_key_that_is_there_already_is_not_added_again(root: Root, holders: list[Person]) -> None:
    """It would change nothing, and people would sign in the belief that one more person can sign."""
    with pytest.raises(TrustError) as refused:
        rotation.next_root(root, "root", KeyChange((holders[0].public,)), NOW)
    assert refused.value.code == "key_twice"


def test_keys_by_owner_id_and_start_of_id(team: Team) -> None:
    dave = person("dave")
    for name in ("carol", team.carol.public.keyid, team.carol.public.keyid[:8]):
        following = rotation.next_targets(team.view().delegator, ROLE, KeyChange((dave.public,), (name,)), NOW)
        delegations = following.signed.delegations
        assert delegations is not None
        assert delegations.roles is not None
        assert set(delegations.roles[ROLE].keyids) == {
            team.alice.public.keyid,
            team.bob.public.keyid,
            dave.public.keyid,
        }
        assert team.carol.public.keyid not in delegations.keys, "a key of no role is not listed"


def signed_team(team: Team, *people: Person) -> Metadata[Targets]:
    metadata = Metadata(team.view().current)
    for each in people:
        metadata.sign(each.signer, append=True)
    return metadata


def current(team: Team, root: Root, *signers: Person) -> Current:
    return Current(root, Metadata(team.view().delegator), {ROLE: signed_team(team, *signers)})


def test_a_team_that_loses_its_threshold_signs_anew(team: Team, root: Root) -> None:
    change = KeyChange((person("dave").public,), ("carol",))
    unharmed = trust_change.image_files(current(team, root, team.alice, team.bob), ROLE, change, NOW)
    assert [file.name for file in unharmed] == ["2.targets.json"]
    harmed = trust_change.image_files(current(team, root, team.alice, team.carol), ROLE, change, NOW)
    assert [file.name for file in harmed] == ["2.targets.json", f"2.{ROLE}.json"]
    assert harmed[1].metadata.signed.targets == team.view().current.targets


def test_a_new_team_starts_empty_and_names_are_checked(team: Team, root: Root) -> None:
    people = KeyChange(tuple(person(name).public for name in ("x", "y", "z")))
    files = trust_change.image_files(current(team, root), "team-radio", people, NOW)
    assert [file.name for file in files] == ["2.targets.json", "1.team-radio.json"]
    assert files[1].metadata.signed.targets == {}
    for name, error in (("team-root", "team_name"), ("team-Radio", "invalid_name")):
        with pytest.raises(Exception) as refused:
            trust_change.image_files(current(team, root), name, people, NOW)
        assert refused.value.code == error  # type: ignore[attr-defined]
    with pytest.raises(NotFound):
        trust_change.image_files(current(team, root), "team-radio", KeyChange(), NOW)


def test_new_keys_for_targets_bring_targets_along(team: Team, root: Root, holders: list[Person]) -> None:
    targets = Metadata(team.view().delegator)
    targets.sign(holders[0].signer, append=True)
    targets.sign(holders[2].signer, append=True)
    state = Current(root, targets, {})
    change = KeyChange((person("n").public,), ("root-3",))
    assert [file.name for file in trust_change.image_files(state, "targets", change, NOW)] == [
        "2.root.json",
        "2.targets.json",
    ]
    assert [file.name for file in trust_change.image_files(state, "targets", KeyChange(), NOW)] == ["2.targets.json"]


def test_a_hubs_own_role_may_have_one_key_in_both_repositories(root: Root) -> None:
    made = keys.generate("hub")[1]
    replaced = KeyChange((made,), tuple(root.roles["timestamp"].keyids))
    assert rotation.next_root(root, "timestamp", replaced, NOW).signed.roles["timestamp"].keyids == [made.keyid]
    with pytest.raises(BadInput):
        rotation.next_root(root, "targets", KeyChange((made,), ("root-1", "root-2", "root-3"), 1), NOW)
    director = trust_change.director_files(root, "targets", KeyChange((made,), ("root-1", "root-2", "root-3"), 1), NOW)
    assert director[0].name == "director.2.root.json"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root", ("image", "root")),
        ("director", ("director", "root")),
        ("director/targets", ("director", "targets")),
        ("image/team-nav", ("image", "team-nav")),
        ("fleet-config", ("image", "fleet-config")),
    ],
)
def test_role_names(text: str, expected: tuple[str, str]) -> None:
    assert trust_change.parse_role(text) == expected


@pytest.mark.parametrize("text", ["", "director/team-nav", "other/root", "nav", "image/", "root/root"])
def test_role_names_that_are_none(text: str) -> None:
    with pytest.raises(NotFound) as refused:
        trust_change.parse_role(text)
    assert refused.value.code == "role_unknown"


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"[" * 100_000, b'{"signed":{"_type":"root"},"signatures":[]}'])
def test_what_is_no_metadata_is_refused(raw: bytes) -> None:
    with pytest.raises(TrustError) as refused:
        rotation.parse(raw, "a file")
    assert refused.value.code == "metadata_invalid"
