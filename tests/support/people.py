"""A ceremony among people whose keys are in memory: no passphrase, so it takes milliseconds."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from sdx_hub.trust import ceremony, keys
from sdx_hub.trust.ceremony import CeremonyPlan, Quorum
from sdx_hub.trust.keys import PublicKey

ROOT = Quorum(2, 3)
TEAM = Quorum(2, 3)


@dataclass
class Person:
    """Someone with a key in memory."""

    public: PublicKey
    signer: CryptoSigner

    @property
    def keyid(self) -> str:
        return self.public.keyid

    @classmethod
    def named(cls, owner: str) -> "Person":
        private, public = keys.generate(owner)
        return cls(public, CryptoSigner(private, public.key))


@dataclass
class People:
    """Everybody who holds a key, by role (`director` holds the director's root).

    Attributes:
        folder: The ceremony's folder, with every signature.
    """

    folder: Path
    by_role: dict[str, list[Person]]

    def __getitem__(self, role: str) -> list[Person]:
        return self.by_role[role]

    def sign(self, metadata: Metadata[Any], role: str, count: int = 2) -> bytes:
        return sign(metadata, self[role][:count])


def sign(metadata: Metadata[Any], signers: Iterable[Person]) -> bytes:
    """Sign by these people, and write it as `sdx keys sign` does."""
    for person in signers:
        metadata.sign(person.signer, append=True)
    return metadata.to_bytes()


def hold_ceremony(folder: Path, now: datetime, *teams: str) -> People:
    """Everybody brings a public key; then two people sign each file."""
    plan = CeremonyPlan(teams=dict.fromkeys(teams, TEAM), root=ROOT, targets=TEAM, director=ROOT, fleet_config=TEAM)
    people = {
        role: [Person.named(f"{role}-{number}") for number in range(1, quorum.size + 1)]
        for role, quorum in plan.quorums().items()
    }
    brought = {role: [person.public for person in holders] for role, holders in people.items()}
    plan = CeremonyPlan(plan.teams, plan.root, plan.targets, plan.director, plan.fleet_config, brought)
    ceremony.hold(plan, folder, "", now)
    for path in [*folder.glob("image/*.json"), *folder.glob("director/*.json")]:
        role = "director" if path.parent.name == "director" else path.name.split(".")[1]
        path.write_bytes(sign(Metadata[Any].from_file(str(path)), people[role][:2]))
    return People(folder, people)
