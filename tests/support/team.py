"""A team of three people with keys in memory, and the image repository's metadata around it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from firmware_schemas.release import Component, ReleaseManifest
from sdx_hub.publishing.team_metadata import TeamView
from sdx_hub.trust import keys
from sdx_hub.trust.ceremony import Quorum, first_delegations
from sdx_hub.trust.keys import PublicKey

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROLE = "team-nav"


@dataclass
class Person:
    """Somebody with a key."""

    public: PublicKey
    signer: CryptoSigner

    @property
    def name(self) -> str:
        return self.public.owner


def person(name: str) -> Person:
    private, public = keys.generate(name)
    return Person(public, CryptoSigner(private, public.key))


@dataclass
class Team:
    """Alice, Bob and Carol; two of them must sign. Mallory is in no team."""

    alice: Person = field(default_factory=lambda: person("alice"))
    bob: Person = field(default_factory=lambda: person("bob"))
    carol: Person = field(default_factory=lambda: person("carol"))
    mallory: Person = field(default_factory=lambda: person("mallory"))
    targets: dict[str, TargetFile] = field(default_factory=dict)
    version: int = 1

    @property
    def people(self) -> tuple[Person, ...]:
        return (self.alice, self.bob, self.carol)

    def view(self) -> TeamView:
        publics = [each.public for each in self.people]
        delegations = first_delegations({ROLE: (Quorum(2, 3), publics)})
        delegator = Targets(expires=NOW + timedelta(days=300), delegations=delegations)
        current = Targets(version=self.version, expires=NOW + timedelta(days=100), targets=dict(self.targets))
        return TeamView(ROLE, delegator, current)

    def publish(self, metadata: Metadata[Targets]) -> None:
        """The repository moves on to this metadata."""
        self.version = metadata.signed.version
        self.targets = dict(metadata.signed.targets)


def manifest(version: str = "1.0.0", product: str = "nav", **fields: object) -> ReleaseManifest:
    parts: Mapping[str, object] = {
        "release_counter": 1_000_000,
        "components": (Component("app", "file", "a" * 64, 5),),
        "hardware": ("rpi-cm4",),
    }
    return ReleaseManifest(product=product, version=version, **{**parts, **fields})  # type: ignore[arg-type]
