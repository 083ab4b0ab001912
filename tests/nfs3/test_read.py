"""READ (RFC 1813 section 3.3.6)."""
from __future__ import annotations

import os

import pytest

from tests.tools.nfs3 import ACCES, FBIG, INVAL, ISDIR, NXIO, OK, STALE
from tests.tools.rpc import auth_sys

from .conftest import Spot

USER = auth_sys(1000, 1000)


@pytest.mark.parametrize(("offset", "count", "data", "eof"), [
    (0, 10, b"0123456789", True),
    (0, 9, b"012345678", False),
    (0, 11, b"0123456789", True),
    (4, 3, b"456", False),
    (9, 1, b"9", True),
    (10, 5, b"", True),
    (11, 5, b"", True),
    (1 << 40, 5, b"", True),
])
def test_read_gives_the_bytes_and_eof_exactly_at_the_end(spot: Spot, offset: int, count: int, data: bytes, eof: bool) -> None:
    res = spot.nfs.read(spot.file(data=b"0123456789"), offset, count).must()
    assert (res.data, res.eof) == (data, eof)
    assert res.a.size == 10


def test_read_of_no_bytes_is_eof_only_at_the_end(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    inside, end = spot.nfs.read(fh, 1, 0).must(), spot.nfs.read(fh, 3, 0).must()
    assert (inside.data, inside.eof, end.data, end.eof) == (b"", False, b"", True)


def test_read_of_an_empty_file_is_eof_and_no_data(spot: Spot) -> None:
    res = spot.nfs.read(spot.file()).must()
    assert (res.data, res.eof) == (b"", True)


@pytest.mark.parametrize("offset", [1 << 63, (1 << 63) - 1, (1 << 64) - 1])
def test_read_at_a_huge_offset_is_eof_and_no_data(spot: Spot, offset: int) -> None:
    res = spot.nfs.read(spot.file(data=b"abc"), offset, 5)
    assert res.status == OK
    assert (res.data, res.eof) == (b"", True)


def test_read_with_the_largest_count_is_short_of_rtmax(spot: Spot) -> None:
    """A count beyond rtmax is cut to it, and eof is decided after that."""
    data = os.urandom(3 << 20)
    fh = spot.file(data=data)
    rtmax = (spot.nfs.fsinfo(fh).must().info or {})["rtmax"]
    res = spot.nfs.read(fh, 0, 0xFFFFFFFF).must()
    assert 0 < len(res.data) <= rtmax
    assert res.data == data[: len(res.data)] and res.eof == (len(res.data) == len(data))


def test_read_of_a_large_file_in_pages_is_the_file(spot: Spot) -> None:
    data = os.urandom(2_500_001)
    fh, got, eof = spot.file(data=data), b"", False
    while not eof:
        res = spot.nfs.read(fh, len(got), 300_007).must()
        got, eof = got + res.data, res.eof
    assert got == data


def test_read_of_a_hole_is_zeros(spot: Spot) -> None:
    fh = spot.file()
    with spot.local(b"file").open("r+b") as file:
        file.seek(5 << 32)
        file.write(b"end")
    assert spot.nfs.read(fh, 4 << 32, 1000).must().data == bytes(1000)
    res = spot.nfs.read(fh, (5 << 32) - 2, 10).must()
    assert (res.data, res.eof) == (b"\0\0end", True)


def test_read_sees_what_a_local_process_wrote(spot: Spot) -> None:
    fh = spot.file(data=b"before")
    assert spot.nfs.read(fh).must().data == b"before"
    spot.local(b"file").write_bytes(b"afterwards")
    assert spot.nfs.read(fh).must().data == b"afterwards"


def test_read_of_a_directory_is_isdir_or_inval(spot: Spot) -> None:
    assert spot.nfs.read(spot.dir()).status in (ISDIR, INVAL)


def test_read_of_a_symlink_is_inval(spot: Spot) -> None:
    spot.file(data=b"secret")
    spot.local(b"link").symlink_to("file")
    assert spot.nfs.read(spot.nfs.lookup(spot.fh, b"link").must().h).status == INVAL


def test_read_of_a_fifo_is_inval_at_once(spot: Spot) -> None:
    os.mkfifo(spot.local(b"fifo"))
    assert spot.nfs.read(spot.nfs.lookup(spot.fh, b"fifo").must().h).status in (INVAL, NXIO)


@pytest.mark.root
def test_read_of_a_device_is_inval(spot: Spot) -> None:
    os.mknod(spot.local(b"dev"), 0o20666, os.makedev(1, 5))
    assert spot.nfs.read(spot.nfs.lookup(spot.fh, b"dev").must().h).status in (INVAL, NXIO)


@pytest.mark.root
def test_read_by_a_stranger_without_the_right_is_acces(spot: Spot) -> None:
    """B09: a valid handle of a 0600 file in the hands of another uid."""
    fh = spot.file(data=b"secret", mode=0o600)
    res = spot.as_(USER).read(fh)
    assert res.status == ACCES and not res.data


@pytest.mark.root
def test_read_by_a_stranger_is_acces_also_when_root_read_it_just_before(spot: Spot) -> None:
    """A descriptor or verdict cached for one caller must not serve another."""
    fh = spot.file(data=b"secret", mode=0o600)
    for _ in range(20):
        assert spot.nfs.read(fh).must().data == b"secret"
        assert spot.as_(USER).read(fh).status == ACCES


@pytest.mark.root
def test_read_right_is_lost_with_a_local_chmod(spot: Spot) -> None:
    fh = spot.file(data=b"data", mode=0o644)
    assert spot.as_(USER).read(fh).ok
    spot.local(b"file").chmod(0o600)
    assert spot.as_(USER).read(fh).status == ACCES


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_read_by_the_owner_whatever_the_mode(spot: Spot, mode: int) -> None:
    """Section 4.4: the owner's client checked at open."""
    fh = spot.file(data=b"own", mode=mode)
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(USER).read(fh).must().data == b"own"


@pytest.mark.root
def test_read_with_execute_right_only_is_allowed(spot: Spot) -> None:
    """Section 4.4: a client must read a program to run it."""
    fh = spot.file(data=b"#!x", mode=0o711)
    assert spot.as_(USER).read(fh).must().data == b"#!x"


def test_read_of_a_removed_file_is_stale(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    assert spot.nfs.read(fh).ok
    spot.local(b"file").unlink()
    assert spot.nfs.read(fh).status == STALE


def test_read_size_attribute_and_data_agree_after_truncation(spot: Spot) -> None:
    fh = spot.file(data=b"x" * 100_000)
    assert spot.nfs.read(fh, 0, 100_000).must().eof
    os.truncate(spot.local(b"file"), 10)
    res = spot.nfs.read(fh, 0, 100_000).must()
    assert (res.data, res.eof, res.a.size) == (b"x" * 10, True, 10)


def test_read_fault_fbig_is_never_used(spot: Spot) -> None:
    """FBIG belongs to writes (section 3.3.6 does not list it)."""
    assert spot.nfs.read(spot.file(), 1 << 62, 0xFFFFFFFF).status != FBIG
