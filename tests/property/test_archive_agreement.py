"""The two sides of a `directory` payload agree, over random trees.

The publisher and the craft have an implementation each (the agent never imports the hub). What one packs the other must
unpack to the same tree, and pack again to the same bytes: the digest that people signed is compared with the disk.
"""

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.handlers import archive as on_craft
from device_agent.ports.storage import DiskStorage
from sdx_hub.publishing import listing, payload

NAMES = st.one_of(
    st.sampled_from(["a", "a.b", "a-b", "a b", "A", ".hidden", "...", "lib", "lib.so.1", "ü", "日本", "é" * 60]),
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=40).map(
        lambda text: unicodedata.normalize("NFC", text)
    ),
    st.integers(90, 250).map(lambda size: "n" * size),
).filter(lambda name: name not in {".", ".."} and len(name.encode()) <= 255)
FILES = st.tuples(st.binary(max_size=1500), st.booleans())
LINKS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TREES = st.recursive(
    st.dictionaries(NAMES, st.one_of(FILES, LINKS), max_size=4),
    lambda children: st.dictionaries(NAMES, st.one_of(FILES, LINKS, children), max_size=4),
    max_leaves=12,
)
Tree = dict[str, "tuple[bytes, bool] | str | Tree"]


def plant(tree: Tree, folder: Path) -> None:
    """Write a tree; a name that is there already in another spelling is left out."""
    seen: set[str] = set()
    for name, node in tree.items():
        if unicodedata.normalize("NFC", name) in seen:
            continue
        seen.add(unicodedata.normalize("NFC", name))
        path = folder / name
        if isinstance(node, dict):
            path.mkdir()
            plant(node, path)
        elif isinstance(node, str):
            path.symlink_to(node)
        else:
            path.write_bytes(node[0])
            path.chmod(0o755 if node[1] else 0o644)


def seen(folder: Path) -> dict[str, object]:
    """What is there: content and execute bit of files, targets of links, folders."""
    found: dict[str, object] = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent) / name
            key = unicodedata.normalize("NFC", str(path.relative_to(folder)))
            if path.is_symlink():
                found[key] = "/".join(part for part in str(path.readlink()).split("/") if part)
            elif path.is_dir():
                found[key] = None
            else:
                found[key] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def in_pieces(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, len(raw), size))


@settings(max_examples=150, deadline=None)
@given(tree=TREES, piece=st.integers(1, 5000), umask=st.sampled_from([0o022, 0o077, 0o000]))
def test_what_the_publisher_packs_the_craft_unpacks_and_packs_again(tree: Tree, piece: int, umask: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source, slot = Path(scratch) / "source", Path(scratch) / "slot"
        source.mkdir()
        slot.mkdir()
        plant(tree, source)
        signed = payload.source("directory", source)
        raw = b"".join(signed.chunks())
        assert len(raw) == signed.length

        before = os.umask(umask)
        try:
            on_craft.unpack(in_pieces(raw, piece), slot, DiskStorage())
        finally:
            os.umask(before)
        assert seen(slot) == seen(source)

        again: list[bytes] = []
        on_craft.pack(slot, again.append)
        assert b"".join(again) == raw, "the craft proves from its disk what was signed"

        assert b"".join(payload.source("directory", slot).chunks()) == raw
        listed = {each.entry.path: each for each in listing.read(in_pieces(raw, piece))}
        assert listed.keys() == seen(source).keys()
