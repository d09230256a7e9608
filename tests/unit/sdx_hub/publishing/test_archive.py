"""The canonical archive: against its description, written down anew in tests/support/publisher.py, and tarfile."""

import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_schemas.limits import MAX_ARCHIVE_DEPTH
from sdx_hub.publishing import archive, listing, payload, sources
from sdx_hub.publishing.archive import Entry
from sdx_hub.publishing.errors import BuildRefused, BundleRefused
from tests.support.publisher import canonical_tar

FILES = {
    "run": b"#!/bin/sh\nexit 0\n",
    "lib/a.so": b"\x7fELF" + bytes(1000),
    "lib/deep/er/x": b"",
    "lib.txt": b"sorts between lib and lib/",
    "n" * 150 + "/long name": b"pax",
    "größe": "ü".encode(),
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith(b"#!") else 0o644)
    return folder


def packed(folder: Path) -> bytes:
    return b"".join(payload.source("directory", folder).chunks())


def test_the_bytes_are_those_of_the_description(tmp_path: Path) -> None:
    raw = packed(write(tmp_path, FILES))
    assert raw == canonical_tar(FILES)
    assert len(raw) % tarfile.RECORDSIZE == 0
    assert payload.source("directory", tmp_path).length == len(raw)


def test_times_umask_owner_order_and_extra_modes_do_not_matter(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write(one, FILES)
    before = os.umask(0o077)
    try:
        write(two, dict(reversed(FILES.items())))
    finally:
        os.umask(before)
    for number, path in enumerate(sorted(two.rglob("*"))):
        if path.is_file():
            path.chmod(0o777 if path.stat().st_mode & stat.S_IXUSR else 0o600)
        os.utime(path, (number, number))
    assert packed(one) == packed(two)


def test_links_empty_folders_and_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("../b/./c//")
    (tmp_path / "b").mkdir()
    (tmp_path / "current").symlink_to("b")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path))) as tar:
        assert [(member.name, member.linkname, member.mode) for member in tar] == [
            ("a", "", 0o755),
            ("a/up", "../b/c", 0o777),
            ("b", "", 0o755),
            ("current", "b", 0o777),
            ("empty", "", 0o755),
        ]


def test_a_tar_gives_the_same_bytes_as_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "tree", FILES)
    loose = tmp_path / "loose.tar"
    with tarfile.open(loose, "w:", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                tar.add(path, f"./{path.relative_to(folder)}", recursive=False)
    assert b"".join(payload.source("directory", loose).chunks()) == packed(folder)


def test_two_spellings_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "u\u0308").touch()
    (tmp_path / "\u00fc").touch()
    with pytest.raises(BuildRefused) as refused:
        sources.folder_entries(tmp_path)
    assert refused.value.code == "archive_bad_entry"


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def a_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        try:
            bound.bind("s")
        finally:
            os.chdir(here)


def an_absolute_link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")


def a_climbing_link(folder: Path) -> None:
    (folder / "link").symlink_to("../outside")


def a_link_that_goes_up_in_the_middle(folder: Path) -> None:
    (folder / "link").symlink_to("a/../../outside")


def a_name_with_a_newline(folder: Path) -> None:
    (folder / "a\nb").touch()


def a_name_that_is_no_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff\xfe")).touch()


def too_deep(folder: Path) -> None:
    folder.joinpath(*(["d"] * (MAX_ARCHIVE_DEPTH + 1))).mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (a_pipe, "archive_bad_entry"),
        (a_socket, "archive_bad_entry"),
        (an_absolute_link, "archive_link_escapes"),
        (a_climbing_link, "archive_link_escapes"),
        (a_link_that_goes_up_in_the_middle, "archive_link_escapes"),
        (a_name_with_a_newline, "archive_bad_name"),
        (a_name_that_is_no_utf8, "archive_bad_name"),
        (too_deep, "archive_too_deep"),
    ],
)
def test_a_hostile_folder_is_refused(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    make(tmp_path)
    with pytest.raises(BuildRefused) as refused:
        payload.source("directory", tmp_path)
    assert refused.value.code == code


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([member("../up")], "archive_climbs"),
        ([member("/etc/passwd")], "archive_climbs"),
        ([member("a/../../up")], "archive_climbs"),
        ([member("a" * 65_536)], "archive_name_too_long"),
        ([member("a" * 256)], "archive_name_too_long"),
        ([member("link", tarfile.SYMTYPE, linkname="../../etc")], "archive_link_escapes"),
        ([member("link", tarfile.SYMTYPE, linkname="b" * 5000)], "archive_name_too_long"),
        ([member("a"), member("hard", tarfile.LNKTYPE, linkname="a")], "archive_bad_entry"),
        ([member("null", tarfile.CHRTYPE)], "archive_bad_entry"),
        ([member("a"), member("a")], "archive_bad_entry"),
        ([member("a"), member("a/b")], "archive_bad_entry"),
        ([member("a", tarfile.SYMTYPE, linkname="b"), member("a/b")], "archive_bad_entry"),
        ([member("/".join("d" * (MAX_ARCHIVE_DEPTH + 1)))], "archive_too_deep"),
    ],
)
def test_a_hostile_tar_is_refused(tmp_path: Path, members: list[tarfile.TarInfo], code: str) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for info in members:
            tar.addfile(info)
    with pytest.raises(BuildRefused) as refused:
        payload.source("directory", path)
    assert refused.value.code == code


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b\x08\x00" + bytes(600)])
def test_something_else_than_a_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BuildRefused) as refused:
        payload.source("directory", path)
    assert refused.value.code == "source_missing"


@pytest.mark.parametrize("change", [b"", b"much longer than it was when it was listed"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"ten bytes!")
    source = payload.source("directory", tmp_path)
    file.write_bytes(change)
    with pytest.raises(BuildRefused) as refused:
        list(source.chunks())
    assert refused.value.code == "source_changed"


def test_a_file_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "file").write_bytes(b"harmless")
    (tmp_path / "secret").write_bytes(b"password")
    source = payload.source("directory", folder)
    (folder / "file").unlink()
    (folder / "file").symlink_to(tmp_path / "secret")
    with pytest.raises(BuildRefused) as refused:
        list(source.chunks())
    assert refused.value.code == "source_missing"


def test_listing_gives_back_what_was_packed(tmp_path: Path) -> None:
    raw = packed(write(tmp_path, FILES))
    found = {
        listed.entry.path: listed
        for listed in listing.read(raw[start : start + 97] for start in range(0, len(raw), 97))
    }
    assert {path for path, listed in found.items() if listed.entry.kind == "file"} == FILES.keys()
    assert found["run"].entry.executable
    assert found["lib"].entry.kind == "folder"


def loose(raw: bytes) -> bytes:
    """The same files, but with times and owners: what plain `tar` writes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(raw)) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for info in old:
            info.mtime = 1_700_000_000
            new.addfile(info, old.extractfile(info) if info.isreg() else None)
    return buffer.getvalue()


def swapped(raw: bytes) -> bytes:
    return raw[1024:2048] + raw[:1024] + raw[2048:]


@pytest.mark.parametrize(
    "change",
    [
        loose,
        swapped,
        lambda raw: raw + bytes(tarfile.RECORDSIZE),
        lambda raw: raw[:-512],
        lambda raw: raw[:-1] + b"\1",
        lambda raw: raw[:600] + b"\1" + raw[601:],
        lambda raw: raw[:1024] + raw,
    ],
)
def test_any_other_form_is_not_canonical(change: Callable[[bytes], bytes]) -> None:
    raw = canonical_tar({"a": b"1", "b": b"2"})
    assert [listed.entry.path for listed in listing.read([raw])] == ["a", "b"]
    with pytest.raises(BundleRefused) as refused:
        list(listing.read([change(raw)]))
    assert refused.value.code == "archive_not_canonical"


def test_a_file_in_a_folder_that_is_not_there_is_refused() -> None:
    body = archive.header(Entry("a/b", "file"))
    raw = body + bytes(tarfile.RECORDSIZE - len(body))
    with pytest.raises(BundleRefused, match="folder of") as refused:
        list(listing.read([raw]))
    assert refused.value.code == "archive_not_canonical"


def test_an_endless_extension_header_is_not_read() -> None:
    header = bytearray(archive.header(Entry("x" * 120, "file"))[:512])
    header[124:136] = b"77777777777\0"
    with pytest.raises(BundleRefused) as refused:
        list(listing.read([bytes(header)]))
    assert refused.value.code == "archive_name_too_long"
