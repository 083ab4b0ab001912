"""LOOKUP (RFC 1813 section 3.3.3) and what a name may be."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, INVAL, NAMETOOLONG, NF3LNK, NOENT, NOTDIR, STALE, Proc, pack_opaque, pack_uints
from tests.tools.rpc import GARBAGE_ARGS, auth_sys
from tests.tools.strace import straced

from .conftest import Exports, Spot


def test_lookup_gives_handle_and_both_attributes(spot: Spot) -> None:
    spot.file(data=b"12345")
    res = spot.nfs.lookup(spot.fh, b"file").must()
    assert res.a.size == 5
    assert res.dir_attr is not None and res.dir_attr.fileid == spot.path.stat().st_ino
    assert spot.nfs.getattr(res.h).must().a.fileid == res.a.fileid


def test_lookup_of_a_missing_name_is_noent_with_dir_attributes(spot: Spot) -> None:
    res = spot.nfs.lookup(spot.fh, b"missing")
    assert res.status == NOENT and res.dir_attr is not None


def test_lookup_in_a_file_is_notdir(spot: Spot) -> None:
    assert spot.nfs.lookup(spot.file(), b"x").status == NOTDIR


def test_lookup_in_a_symlink_is_notdir(spot: Spot) -> None:
    spot.dir()
    spot.local(b"link").symlink_to("dir")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    assert spot.nfs.lookup(fh, b"x").status == NOTDIR


def test_lookup_does_not_follow_a_symlink(spot: Spot) -> None:
    spot.file()
    spot.local(b"link").symlink_to("file")
    assert spot.nfs.lookup(spot.fh, b"link").must().a.type == NF3LNK


def test_lookup_of_dot_is_the_directory(spot: Spot) -> None:
    assert spot.nfs.lookup(spot.fh, b".").must().a.fileid == spot.path.stat().st_ino


def test_lookup_of_dotdot_is_the_parent(spot: Spot) -> None:
    fh = spot.dir()
    assert spot.nfs.lookup(fh, b"..").must().a.fileid == spot.path.stat().st_ino


DEEP = 1200   # levels; more than one path of ".."s has room for


@pytest.fixture
def deep(spot: Spot) -> Iterator[list[bytes]]:
    """A chain of directories, each named d in the one before: their handles, from the test's own directory on."""
    handles, fd = [spot.fh], os.open(spot.path, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", 0o755, dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        handles.append(spot.nfs.lookup(handles[-1], b"d").must().h)
    os.close(fd)
    yield handles
    subprocess.run(["rm", "-rf", spot.path], check=True)   # deeper than shutil.rmtree() goes


@pytest.mark.root
def test_lookup_of_dotdot_deep_down_takes_no_system_call_a_level(spot: Spot, deep: list[bytes]) -> None:
    """The loop does it, and all others wait."""
    log = spot.server.directory / "dotdot.log"
    with straced(spot.server.worker_pids(), log, "-e", "trace=openat"):
        for level in (DEEP, DEEP - 1, 2, 1):
            assert spot.nfs.lookup(deep[level], b"..").must().h == deep[level - 1]
    assert log.read_text().count("openat(") < DEEP / 10


@pytest.mark.root
def test_lookup_of_dotdot_goes_where_the_directory_was_moved_but_not_out_of_the_export(spot: Spot, exports: Exports,
                                                                                       deep: list[bytes]) -> None:
    at = DEEP // 2
    place = Path(spot.path, *["d"] * at)
    outside = exports.base / "outside"
    place.rename(outside)
    try:
        assert [spot.nfs.lookup(deep[level], b"..").status for level in (at, at + 1, DEEP)] == [STALE] * 3
    finally:
        outside.rename(spot.path / "moved")
    for level in (DEEP, at + 1):
        assert spot.nfs.lookup(deep[level], b"..").must().h == deep[level - 1]
    assert spot.nfs.lookup(deep[at], b"..").must().h == spot.fh


def test_lookup_of_dotdot_in_the_export_root_stays_inside(spot: Spot, exports: Exports) -> None:
    """".." of the root is the root, or refused; never its parent."""
    root = spot.server.root(exports.base / "rw")
    res = spot.nfs.lookup(root, b"..")
    assert res.status in (ACCES, NOENT) or res.a.fileid == (exports.base / "rw").stat().st_ino


@pytest.mark.parametrize("name", [b"a/b", b"/", b"/etc", b"../x", b"dir/file"])
def test_lookup_of_a_name_with_a_slash_is_refused(spot: Spot, name: bytes) -> None:
    spot.dir()
    spot.local(b"dir/file").write_bytes(b"")
    assert spot.nfs.lookup(spot.fh, name).status in (INVAL, ACCES)


@pytest.mark.parametrize("name", [b"\0", b"file\0", b"fi\0le"])
def test_lookup_of_a_name_with_nul_is_refused(spot: Spot, name: bytes) -> None:
    spot.file()
    assert spot.nfs.lookup(spot.fh, name).status in (INVAL, ACCES)


def test_lookup_of_the_empty_name_is_acces(spot: Spot) -> None:
    """Section 3.3.3: a null string is refused; ACCES as the kernel servers answer."""
    assert spot.nfs.lookup(spot.fh, b"").status == ACCES


@pytest.mark.parametrize(("size", "status"), [(255, NOENT), (256, NAMETOOLONG), (1025, NAMETOOLONG)])
def test_lookup_limit_of_a_name(spot: Spot, size: int, status: int) -> None:
    assert spot.nfs.lookup(spot.fh, b"n" * size).status == status


def test_lookup_of_a_name_of_64_kib_is_refused(spot: Spot) -> None:
    reply = spot.nfs.raw(Proc.LOOKUP, pack_opaque(spot.fh) + pack_opaque(b"n" * 65536))
    assert reply.accept_stat == GARBAGE_ARGS or reply.body[:4] == pack_uints(NAMETOOLONG)


def test_lookup_with_a_length_beyond_the_message_is_garbage(spot: Spot) -> None:
    reply = spot.nfs.raw(Proc.LOOKUP, pack_opaque(spot.fh) + pack_uints(0xFFFFFFFF) + b"name")
    assert reply.accept_stat == GARBAGE_ARGS


def test_names_are_bytes(spot: Spot) -> None:
    """Each byte but NUL and '/' is a name (issue: names are bytes, no character set)."""
    for value in sorted(set(range(1, 256)) - {ord("/"), ord(".")}):
        name = bytes([value])
        made = spot.nfs.create(spot.fh, name).must()
        assert spot.nfs.lookup(spot.fh, name).must().a.fileid == made.a.fileid
    assert len(os.listdir(os.fsencode(spot.path))) == 253
    assert {entry.name for entry in spot.nfs.list(spot.fh)} >= set(os.listdir(os.fsencode(spot.path)))


def test_name_of_255_bytes_that_are_no_utf8(spot: Spot) -> None:
    name = b"\xff\xfe\x80" * 85
    spot.nfs.create(spot.fh, name).must()
    assert os.listdir(os.fsencode(spot.path)) == [name]
    spot.nfs.remove(spot.fh, name).must()


@pytest.mark.root
@pytest.mark.parametrize("name", [b".", b".."])
def test_lookup_of_dots_without_the_right_to_search_is_acces(spot: Spot, name: bytes) -> None:
    fh = spot.dir(mode=0o744)
    assert spot.as_(auth_sys(1000, 1000)).lookup(fh, name).status == ACCES
    spot.local(b"dir").chmod(0o711)
    assert spot.as_(auth_sys(1000, 1000)).lookup(fh, name).ok
