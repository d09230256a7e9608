"""`sdx login`: store a profile."""

import os

import click

from sdx_hub.cli.profile import UserConfig, root_with_digest
from sdx_hub.cli.secrets import SecretSource, read_descriptor
from sdx_hub.cli.session import Session, command, warn_plain_http
from sdx_hub.domain.errors import BadInput
from sdx_hub.publishing.hub_client import HubClient


@click.command()
@click.option("--token-fd", type=click.IntRange(0), help="Read the token from this descriptor instead of asking.")
@click.option("--image-root-sha256", default="", help="Digest of the image root, from the people of the ceremony.")
@command()
def login(session: Session, token_fd: int | None, image_root_sha256: str) -> None:
    """Store the address, the token and the pinned image root of a hub (--hub URL)."""
    hub = session.hub_flag or os.environ.get("SDX_HUB", "")
    if not hub.startswith(("http://", "https://")):
        raise click.UsageError("--hub URL is needed, for instance --hub https://hub.example.org.")
    if image_root_sha256 and (len(image_root_sha256) != 64 or set(image_root_sha256) - set("0123456789abcdef")):
        raise click.UsageError("--image-root-sha256 takes 64 hexadecimal digits.")
    name = session.profile_name or "default"
    if not name.replace("-", "").replace("_", "").isalnum():
        raise BadInput(f"{name!r} cannot name a profile: use letters, digits, - and _.", "profile_name")
    warn_plain_http(session.console, hub)
    token = read_descriptor(token_fd, "token") if token_fd is not None else SecretSource(None)("token")
    with HubClient(hub, token) as client:
        person = client.get("/whoami")
        root = root_with_digest(client, image_root_sha256) if image_root_sha256 else None
    user = UserConfig(os.environ)
    user.store(name, hub.rstrip("/"), token, root)
    if root is None:
        session.console.warn(
            "No image root was pinned: releases of this hub cannot be signed from here. Log in again with "
            "--image-root-sha256 HEX; the digest comes from the people who held the ceremony, not from the hub."
        )
    session.console.result(
        {"profile": name, "hub": hub, "person": person, "image_root_sha256": image_root_sha256},
        f"Logged in to {hub} as {person.get('name', '?')} ({person.get('role', '?')}); profile {name} in {user.file}.",
    )
