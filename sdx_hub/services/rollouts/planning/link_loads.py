"""What a rollout sends over the links of its sites."""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from firmware_schemas.release import Component, ReleaseManifest, hardware_fits
from sdx_hub.adapters.blobs import BlobReader
from sdx_hub.domain.rollout.arranging import Chosen
from sdx_hub.services.devices.previewing import OTHERS
from sdx_hub.services.rollouts.planning.plans import SiteShare

MAX_SITES: Final = 50


class WaveLoad(Struct, frozen=True):
    """One wave.

    Attributes:
        sites: The most bytes first; the rest together.
        largest_site: Devices at the site that has most of them.
    """

    transported_bytes: int
    sites: list[SiteShare]
    largest_site: int


async def bytes_by_hardware(blobs: BlobReader, manifest: ReleaseManifest, hardwares: Iterable[str]) -> dict[str, int]:
    """Bytes that a device fetches, as they are transported.

    Raises:
        Unavailable: The store does not answer (code `blob_store_unavailable`).
    """
    sized = dict(
        zip(
            manifest.components,
            await asyncio.gather(*(_size(blobs, part) for part in manifest.components)),
            strict=True,
        )
    )
    return {
        hardware: sum(size for part, size in sized.items() if hardware_fits(manifest.hardware_of(part), hardware))
        for hardware in hardwares
    }


async def _size(blobs: BlobReader, part: Component) -> int:
    packed = await blobs.stat(part.sha256, "zstd")
    return part.length if packed is None else packed


def loads(chosen: Chosen, bytes_of: Mapping[str, int]) -> list[WaveLoad]:
    """What each wave sends, at the most."""
    found = []
    for _, members in chosen.spans():
        devices, sent = Tally[str](), Tally[str]()
        for alike, count in chosen.counted(members):
            devices[alike.site] += count
            sent[alike.site] += count * bytes_of[alike.hardware]
        ranked = sorted(devices, key=lambda site: (-sent[site], site))
        shares = [SiteShare(site, devices[site], sent[site]) for site in ranked[:MAX_SITES]]
        if rest := ranked[MAX_SITES:]:
            shares.append(SiteShare(OTHERS, sum(devices[each] for each in rest), sum(sent[each] for each in rest)))
        found.append(WaveLoad(sent.total(), shares, max((devices[site] for site in devices if site), default=0)))
    return found
