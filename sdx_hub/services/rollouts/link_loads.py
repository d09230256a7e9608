"""What a rollout sends over the links of its sites."""

import asyncio
from collections import Counter as Tally
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from firmware_schemas.release import Component, ReleaseManifest, hardware_fits
from sdx_hub.adapters.blobs import BlobReader
from sdx_hub.services.devices.previewing import OTHERS
from sdx_hub.services.rollouts.choosing import Chosen
from sdx_hub.services.rollouts.plans import SiteShare

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


async def bytes_by_hardware(blobs: BlobReader, manifest: ReleaseManifest, hardwares: list[str]) -> dict[str, int]:
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
    per_device = [bytes_of[hardware] for hardware in chosen.hardwares]
    found = []
    for _, span in chosen.spans():
        devices, sent = Tally[int](), Tally[int]()
        pairs = zip(chosen.site[span.start : span.stop], chosen.hardware[span.start : span.stop], strict=True)
        for (site, hardware), count in Tally(pairs).items():
            devices[site] += count
            sent[site] += count * per_device[hardware]
        ranked = sorted(devices, key=lambda site: (-sent[site], chosen.sites[site]))
        shares = [SiteShare(chosen.sites[site], devices[site], sent[site]) for site in ranked[:MAX_SITES]]
        if rest := ranked[MAX_SITES:]:
            shares.append(SiteShare(OTHERS, sum(devices[each] for each in rest), sum(sent[each] for each in rest)))
        largest = max((count for site, count in devices.items() if chosen.sites[site]), default=0)
        found.append(WaveLoad(sent.total(), shares, largest))
    return found
