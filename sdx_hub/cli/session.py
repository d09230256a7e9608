"""What every command gets: the console, the profile, secrets and the hub; and the options that every command has."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from sdx_hub.cli.console import Console
from sdx_hub.cli.failures import UsageFault
from sdx_hub.cli.profile import Profile, pinned_root, resolve
from sdx_hub.cli.secrets import SecretSource
from sdx_hub.publishing.hub_client import HubClient

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from sdx_hub.publishing.image_view import ImageView


class Session:
    """One run of one command.

    Attributes:
        dry_run: Say what would change, and change nothing.
        yes: Ask nothing.
    """

    def __init__(
        self,
        as_json: bool,
        profile: str = "",
        hub: str = "",
        *,
        passphrase_fd: int | None = None,
        dry_run: bool = False,
        yes: bool = False,
    ) -> None:
        self.console = Console(as_json)
        self.secrets = SecretSource(passphrase_fd)
        self.profile_name = profile
        self.hub_flag = hub
        self.dry_run = dry_run
        self.yes = yes
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        if self._profile is None:
            self._profile = resolve(os.environ, Path.cwd(), self.profile_name, self.hub_flag)
        return self._profile

    def now(self) -> datetime:
        return datetime.now(UTC)

    def client(self, *, anonymous: bool = False) -> HubClient:
        """A connection to the chosen hub.

        Args:
            anonymous: The token is not needed, and is not sent.

        Raises:
            UsageFault: No hub (`hub_missing`) or no token (`token_missing`) is known.
        """
        profile = self.profile
        if not profile.hub:
            raise UsageFault("Which hub? Log in with `sdx login --hub URL`, or set SDX_HUB.", "hub_missing")
        if not profile.hub.startswith(("http://", "https://")):
            raise UsageFault(f"{profile.hub!r} is no address: write https://HOST.", "hub_missing")
        if anonymous:
            return HubClient(profile.hub)
        if not profile.token:
            raise UsageFault(
                f"There is no token for {profile.hub}: log in with `sdx login --hub {profile.hub}`, or set "
                "SDX_TOKEN_FILE.",
                "token_missing",
            )
        warn_plain_http(self.console, profile.hub)
        return HubClient(profile.hub, profile.token)

    def image(self, hub: HubClient) -> "ImageView":
        """The image repository, verified from the pinned root.

        Raises:
            UsageFault, TrustError, Unavailable: See `pinned_root` and `ImageView`.
        """
        from sdx_hub.publishing.image_view import ImageView  # Half of the start-up time, and most commands need none.

        view = ImageView(hub, self.profile.cache, pinned_root(self.profile, hub))
        for warning in view.warnings:
            self.console.warn(warning)
        return view


def warn_plain_http(console: Console, hub: str) -> None:
    host = hub.removeprefix("http://").partition("/")[0].rpartition(":")[0] or hub.removeprefix("http://")
    if hub.startswith("http://") and host not in {"127.0.0.1", "localhost", "[::1]"}:
        console.warn(f"{hub} is not encrypted: everybody on the way can read and use your token. Use https.")


def command(
    *, changes: bool = False, secrets: bool = False
) -> Callable[[Callable[Concatenate[Session, P], R]], Callable[P, R]]:
    """Turn a function that takes a Session first into one that click can call, with the options that all share.

    Args:
        changes: It changes something: adds --dry-run and --yes.
        secrets: It may need a passphrase or PIN: adds --passphrase-fd.
    """

    def decorate(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            parent = click.get_current_context().find_root().obj or {}
            session = Session(
                bool(kwargs.pop("as_json")) or bool(parent.get("as_json")),
                str(kwargs.pop("profile") or parent.get("profile") or ""),
                str(kwargs.pop("hub", "") or ""),
                passphrase_fd=kwargs.pop("passphrase_fd", None),  # type: ignore[arg-type]
                dry_run=bool(kwargs.pop("dry_run", False)),
                yes=bool(kwargs.pop("yes", False)),
            )
            return function(session, *args, **kwargs)

        decorated = update_wrapper(run, function)
        options = [
            click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there."),
            click.option("--profile", default="", help="Stored profile; else SDX_PROFILE, sdx.toml, `default`."),
            click.option("--hub", default="", help="Address of the hub; else SDX_HUB, sdx.toml, the profile."),
        ]
        if changes:
            options.append(click.option("--dry-run", is_flag=True, help="Say what would change; change nothing."))
            options.append(click.option("--yes", is_flag=True, help="Ask nothing."))
        if secrets:
            options.append(
                click.option(
                    "--passphrase-fd", type=click.IntRange(0), help="Read the passphrase or PIN from this descriptor."
                )
            )
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
