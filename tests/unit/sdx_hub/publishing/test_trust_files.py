"""What a file that people sign is, and what it may not be."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Role, Root, Snapshot, TargetFile, Targets

from sdx_hub.domain.errors import ConflictError, HubError, NotFound, TrustError
from sdx_hub.publishing import trust_files
from sdx_hub.publishing.trust_change import Current, image_files
from sdx_hub.publishing.trust_files import Present
from sdx_hub.trust import rotation
from sdx_hub.trust.rotation import KeyChange
from tests.support.team import NOW, ROLE, Person, Team, person


class House:
    """Two roots of different people, a top targets role, and a team."""

    def __init__(self) -> None:
        self.team = Team()
        self.holders = [person(f"root-{number}") for number in range(1, 4)]
        self.others = [person(f"director-{number}") for number in range(1, 4)]
        self.image_root = self._root(self.holders)
        self.director_root = self._root(self.others)
        self.image_root.roles["targets"] = Role([], 2)
        for each in self.holders:
            self.image_root.add_key(each.public.key, "targets")

    def _root(self, people: list[Person]) -> Root:
        root = Root(version=4, expires=NOW + timedelta(days=200), consistent_snapshot=True)
        root.roles["root"] = Role([], 2)
        for each in people:
            root.add_key(each.public.key, "root")
        return root

    @property
    def present(self) -> Present:
        def team(role: str) -> Targets:
            if role != ROLE:
                raise NotFound("No such role.", "role_unknown")
            return self.team.view().current

        return Present(lambda: self.image_root, lambda: self.team.view().delegator, team, lambda: self.director_root)

    def current(self) -> Current:
        view = self.team.view()
        return Current(self.image_root, Metadata(view.delegator), {ROLE: Metadata(view.current)})


@pytest.fixture
def house() -> House:
    return House()


def save(folder: Path, name: str, metadata: Metadata[Any]) -> Path:
    (folder / name).write_bytes(metadata.to_bytes())
    return folder / name


def test_a_root_belongs_to_the_repository_whose_holders_it_shares(house: House, tmp_path: Path) -> None:
    for root, repository in ((house.image_root, "image"), (house.director_root, "director")):
        following = rotation.next_root(root, "root", KeyChange(), NOW)
        # Whatever the file is called: a name is no proof.
        file = trust_files.explain(save(tmp_path, "director.5.root.json", following), house.present, NOW)
        assert (file.repository, file.role) == (repository, "root")
        assert [by for by, _, _ in file.judges] == ["root 4", "root 5"]


def test_a_root_of_strangers_is_refused(house: House, tmp_path: Path) -> None:
    path = save(tmp_path, "5.root.json", rotation.next_root(House().image_root, "root", KeyChange(), NOW))
    with pytest.raises(TrustError) as refused:
        trust_files.explain(path, house.present, NOW)
    assert refused.value.code == "root_unknown"


def test_the_directors_root_is_listed_whole_because_nothing_pins_it(house: House, tmp_path: Path) -> None:
    image = trust_files.explain(
        save(tmp_path, "5.root.json", rotation.next_root(house.image_root, "root", KeyChange(), NOW)),
        house.present,
        NOW,
    )
    director = trust_files.explain(
        save(tmp_path, "director.5.root.json", rotation.next_root(house.director_root, "root", KeyChange(), NOW)),
        house.present,
        NOW,
    )
    assert not any("root-1" in line for line in image.description()), "no key differs"
    assert any("director-1, director-2, director-3" in line for line in director.description())


def test_files_of_one_change_explain_each_other(house: House, tmp_path: Path) -> None:
    dave = person("dave")
    change = KeyChange((dave.public,), ("carol",))
    for file in image_files(house.current(), ROLE, change, NOW):
        save(tmp_path, file.name, file.metadata)
    team_file = trust_files.explain(tmp_path / f"2.{ROLE}.json", house.present, NOW)
    assert [by for by, _, _ in team_file.judges] == ["targets 2"], "the delegator that comes with it counts"
    assert {key.unrecognized_fields["x-sdx-keyowner"] for key in team_file.allowed_keys().values()} == {
        "alice",
        "bob",
        "dave",
    }
    (tmp_path / "2.targets.json").unlink()
    alone = trust_files.explain(tmp_path / f"2.{ROLE}.json", house.present, NOW)
    assert dave.public.keyid not in alone.allowed_keys()


def test_signatures_that_count_are_kept_and_others_are_not(house: House, tmp_path: Path) -> None:
    following = rotation.next_root(house.image_root, "root", KeyChange(), NOW)
    following.sign(house.holders[0].signer, append=True)
    following.sign(house.team.mallory.signer, append=True)
    file = trust_files.explain(save(tmp_path, "5.root.json", following), house.present, NOW)
    assert trust_files.valid_signatures(file).keys() == {house.holders[0].public.keyid}
    assert not file.complete
    following.sign(house.holders[1].signer, append=True)
    assert trust_files.explain(save(tmp_path, "5.root.json", following), house.present, NOW).complete


def add_a_target(signed: Targets) -> None:
    signed.targets["nav/nav/9.9.9/app"] = TargetFile(1, {"sha256": "a" * 64}, "nav/nav/9.9.9/app")


def expire(signed: Targets) -> None:
    signed.expires = NOW - timedelta(days=1)


def live_for_ever(signed: Targets) -> None:
    signed.expires = NOW + timedelta(days=4000)


def skip_a_version(signed: Targets) -> None:
    signed.version += 1


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (add_a_target, TrustError, "targets_changed"),
        (expire, TrustError, "expiry_refused"),
        (live_for_ever, TrustError, "expiry_refused"),
        (skip_a_version, ConflictError, "metadata_outdated"),
    ],
)
def test_team_metadata_that_nobody_should_sign(
    house: House, tmp_path: Path, change: Callable[[Targets], None], error: type[HubError], code: str
) -> None:
    metadata = rotation.refreshed_team(house.team.view().current, NOW)
    trust_files.explain(save(tmp_path, f"2.{ROLE}.json", metadata), house.present, NOW)
    change(metadata.signed)
    with pytest.raises(error) as refused:
        trust_files.explain(save(tmp_path, f"2.{ROLE}.json", metadata), house.present, NOW)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("metadata.json", TrustError, "metadata_invalid"),
        ("2.targets.json", TrustError, "metadata_invalid"),
        ("2.team-other.json", NotFound, "role_unknown"),
    ],
)
def test_a_name_that_does_not_say_whose(
    house: House, tmp_path: Path, name: str, error: type[HubError], code: str
) -> None:
    metadata = rotation.refreshed_team(house.team.view().current, NOW)
    with pytest.raises(error) as refused:
        trust_files.explain(save(tmp_path, name, metadata), house.present, NOW)
    assert refused.value.code == code


def test_what_the_hub_signs_by_itself_is_not_for_people(house: House, tmp_path: Path) -> None:
    path = save(tmp_path, "5.snapshot.json", Metadata(Snapshot(expires=NOW + timedelta(days=1))))
    with pytest.raises(TrustError) as refused:
        trust_files.explain(path, house.present, NOW)
    assert refused.value.code == "metadata_invalid"
    with pytest.raises(NotFound) as missing:
        trust_files.explain(tmp_path / "nothing.json", house.present, NOW)
    assert missing.value.code == "file_missing"
