"""Archives that are hostile, and slots that switch and go back."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from device_agent.core.errors import ArchiveError, InstallError
from device_agent.core.plan import Item
from device_agent.handlers import archive
from device_agent.handlers.registry import handlers
from device_agent.handlers.slot_set import current_slot
from device_agent.handlers.slots import Handler
from device_agent.ports.storage import DiskStorage
from firmware_schemas.device_api import InstalledComponent
from firmware_schemas.limits import MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_ENTRIES
from tests.support.publisher import canonical_tar

Fill = Callable[[tarfile.TarFile], None]


def tar(fill: Fill, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as written:
        fill(written)
    return buffer.getvalue()


def add(written: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    content = b"owned" if kind == tarfile.REGTYPE else b""
    entry.size = len(content)
    written.addfile(entry, io.BytesIO(content))


def unpack(raw: bytes, folder: Path, piece: int = 1000) -> None:
    folder.mkdir()
    archive.unpack((raw[start : start + piece] for start in range(0, len(raw), piece)), folder, DiskStorage())


def several(*names: str) -> Fill:
    def fill(written: tarfile.TarFile) -> None:
        for name in names:
            add(written, name, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE)

    return fill


def linked(*links: tuple[str, str]) -> Fill:
    def fill(written: tarfile.TarFile) -> None:
        add(written, "dir", tarfile.DIRTYPE)
        for name, target in links:
            add(written, name, tarfile.SYMTYPE, target)

    return fill


HOSTILE: dict[str, tuple[str, bytes]] = {
    "climbs": ("archive_climbs", tar(several("../x"))),
    "climbs inside": ("archive_climbs", tar(several("a/", "a/../../x"))),
    "absolute": ("archive_climbs", tar(several("/x"))),
    "a dot": ("archive_bad_entry", tar(several("./x"))),
    "an empty part": ("archive_bad_entry", tar(several("a//x"))),
    "not composed": ("archive_bad_entry", tar(several("e\u0301"))),
    "twice": ("archive_bad_entry", tar(several("x", "x"))),
    "out of order": ("archive_bad_entry", tar(several("b", "a"))),
    "no parent": ("archive_bad_entry", tar(several("a/x"))),
    "below a file": ("archive_bad_entry", tar(several("a", "a/x"))),
    "below a link": ("archive_bad_entry", tar(lambda t: (linked(("door", "dir"))(t), add(t, "door/x"))[0])),
    "a link up": ("archive_link_escapes", tar(linked(("dir/door", "../../x")))),
    "a link up by a link": (
        "archive_link_escapes",
        tar(
            linked(
                ("dir/l", "x/../../.."),
            )
        ),
    ),
    "an absolute link": ("archive_link_escapes", tar(linked(("door", "/etc")))),
    "an empty link": ("archive_bad_entry", tar(linked(("door", "a//b")))),
    "a long name": ("archive_name_too_long", tar(several("n" * 300))),
    "a name of 64 KB": ("archive_name_too_long", tar(several("n" * 65536))),
    "too deep": ("archive_name_too_long", tar(several("/".join(["d"] * (MAX_ARCHIVE_DEPTH + 2))))),
    "a hard link": ("archive_bad_entry", tar(lambda t: add(t, "h", tarfile.LNKTYPE, "/etc/passwd"))),
    "a device": ("archive_bad_entry", tar(lambda t: add(t, "null", tarfile.CHRTYPE))),
    "setuid": ("archive_bad_entry", tar(lambda t: add(t, "su", mode=0o4755))),
    "gnu long name": ("archive_bad_entry", tar(several("n" * 150), tarfile.GNU_FORMAT)),
    "cut off": ("archive_bad_entry", tar(several("x"))[:600]),
    "no archive": ("archive_bad_entry", b"hello" * 500),
    "nothing": ("archive_bad_entry", b""),
    "something after the end": ("archive_bad_entry", tar(several("x")) + b"y"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive(tmp_path: Path, name: str) -> None:
    code, raw = HOSTILE[name]
    before = {path for path in tmp_path.parent.rglob("*") if path.name in {"x", "owned"}}
    with pytest.raises(ArchiveError) as caught:
        unpack(raw, tmp_path / "slot")
    assert caught.value.code == code
    assert len(str(caught.value)) < 500
    outside = {path for path in tmp_path.parent.rglob("*") if path.name in {"x", "owned"}} - before
    assert not [path for path in outside if tmp_path / "slot" not in path.parents]


def test_a_changed_header_is_noticed(tmp_path: Path) -> None:
    raw = bytearray(tar(several("x")))
    raw[100] ^= 1
    with pytest.raises(ArchiveError, match="checksum"):
        unpack(bytes(raw), tmp_path / "slot")


def test_an_archive_of_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ARCHIVE_ENTRIES", 3)
    with pytest.raises(ArchiveError) as caught:
        unpack(tar(several("a", "b", "c", "d")), tmp_path / "slot")
    assert caught.value.code == "archive_too_large"
    assert MAX_ARCHIVE_ENTRIES > 3


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=3000), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(trees, st.integers(1, 5000))
def test_what_is_unpacked_packs_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], piece: int
) -> None:
    folder = tmp_path_factory.mktemp("tree") / "slot"
    raw = canonical_tar(files)
    try:
        unpack(raw, folder, piece)
    except (ArchiveError, OSError):
        reject()  # Names that collide, or have no canonical form.
    packed = io.BytesIO()
    archive.pack(folder, packed.write)
    assert packed.getvalue() == raw


# -- slots -----------------------------------------------------------------------------------------------------------


def item(raw: bytes, kind: str, slot: str, previous: str = "", name: str = "server") -> Item:
    part = InstalledComponent(name, kind, "app", "1", 1, hashlib.sha256(raw).hexdigest())
    return Item(part, len(raw), slot, previous, name)


@pytest.fixture
def slots(tmp_path: Path) -> Path:
    return tmp_path / "slots"


def contents(kind: str, number: int) -> bytes:
    return canonical_tar({"bin/x": b"%d" % number}) if kind == "directory" else b"%d" % number


def install(handler: Handler, raw: bytes, what: Item) -> None:
    handler.check(what)
    handler.stage(what, iter([raw]))
    handler.verify(what)
    handler.switch([what])


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_slots_switch_and_go_back(slots: Path, kind: str) -> None:
    handler = handlers(slots, DiskStorage())[kind]
    first, second = contents(kind, 1), contents(kind, 2)
    install(handler, first, item(first, kind, "a"))
    assert current_slot(slots, "server") == "a"
    later = item(second, kind, "b", "a")
    install(handler, second, later)
    assert current_slot(slots, "server") == "b"
    handler.rollback([later])
    handler.rollback([later])
    assert current_slot(slots, "server") == "a"
    assert handler.digest("server", "a", "server") == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_the_current_slot_is_never_written_to(slots: Path, kind: str) -> None:
    handler = handlers(slots, DiskStorage())[kind]
    first = contents(kind, 1)
    install(handler, first, item(first, kind, "a"))
    with pytest.raises(InstallError, match="current"):
        handler.stage(item(contents(kind, 2), kind, "a"), iter([contents(kind, 2)]))
    handler.discard(item(first, kind, "a"))
    assert handler.digest("server", "a", "server") == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_slot_that_reads_back_otherwise_is_not_switched_to(slots: Path, kind: str) -> None:
    handler = handlers(slots, DiskStorage())[kind]
    raw = contents(kind, 1)
    what = item(raw, kind, "a")
    handler.stage(what, iter([raw]))
    victim = next(path for path in (slots / "server" / "a").rglob("*") if path.is_file())
    victim.write_bytes(b"torn")
    with pytest.raises(InstallError, match="reads back"):
        handler.verify(what)


def test_staging_begins_anew_over_what_was_left(slots: Path) -> None:
    handler = handlers(slots, DiskStorage())["directory"]
    (slots / "server" / "a").mkdir(parents=True)
    (slots / "server" / "a" / "left").write_text("over")
    raw = contents("directory", 1)
    install(handler, raw, item(raw, "directory", "a"))
    assert [path.name for path in (slots / "server" / "a").iterdir()] == ["bin"]


@pytest.mark.parametrize("slot", ["", "c", "../x", "a/b"])
def test_a_plan_that_names_no_slot(slots: Path, slot: str) -> None:
    with pytest.raises(InstallError):
        handlers(slots, DiskStorage())["file"].check(item(b"x", "file", slot))


def test_a_file_name_that_climbs(slots: Path) -> None:
    import msgspec

    bad = msgspec.structs.replace(item(b"x", "file", "a"), file_name="../x")
    with pytest.raises(InstallError):
        handlers(slots, DiskStorage())["file"].check(bad)


def test_a_current_link_that_somebody_pointed_elsewhere_is_none(slots: Path) -> None:
    (slots / "server").mkdir(parents=True)
    (slots / "server" / "current").symlink_to("../../etc")
    assert current_slot(slots, "server") == ""
