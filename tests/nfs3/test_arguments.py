"""Arguments that no client sends: sizes, times, names and numbers at and beyond their limits; each is refused."""
from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    ACCES,
    BADHANDLE,
    EXCLUSIVE,
    FBIG,
    INVAL,
    ISDIR,
    NAMETOOLONG,
    NOENT,
    NOT_SYNC,
    STALE,
    Proc,
    Sattr3,
    pack_diropargs3,
    pack_opaque,
    pack_READ3args,
    pack_SETATTR3args,
    pack_uints,
    unpack_result,
)
from tests.tools.rpc import GARBAGE_ARGS

from .conftest import Spot

NOTHING_SET = pack_uints(0, 0, 0, 0)   # of sattr3, before its two times
FS_FACTS = pytest.mark.parametrize("proc", [Proc.FSSTAT, Proc.FSINFO, Proc.PATHCONF], ids=lambda proc: proc.name)


def test_an_inode_number_that_never_was_is_refused_before_the_file_system_sees_it(spot: Spot) -> None:
    """CVE-2006-3468: a forged inode number made ext3 go read-only.  The signature is looked at first."""
    fh = bytearray(spot.file())
    fh[16:20] = struct.pack("<I", 0xFFFFFFF0)
    assert spot.nfs.getattr(bytes(fh)).status == BADHANDLE
    assert spot.nfs.write(bytes(fh), b"x").status == BADHANDLE
    spot.local(b"still").write_bytes(b"writable")


NAMES = [(b"", (ACCES, GARBAGE_ARGS)), (b"n" * 255, (NOENT,)), (b"n" * 256, (NAMETOOLONG,)), (b"n" * 1025, (NAMETOOLONG,)),
         (b"n" * 65536, (NAMETOOLONG, GARBAGE_ARGS))]


@pytest.mark.parametrize(("name", "status"), NAMES, ids=lambda value: str(len(value)))
def test_lookup_of_a_name_of_any_length(spot: Spot, name: bytes, status: tuple[int, ...]) -> None:
    """C15, C17."""
    reply = spot.nfs.raw(Proc.LOOKUP, pack_diropargs3(spot.fh, name))
    got = unpack_result(Proc.LOOKUP, reply.body).status if reply.ok else reply.accept_stat
    assert got in status


def test_a_name_of_negative_length_is_garbage(spot: Spot) -> None:
    """C17."""
    for size in (0xFFFFFFFF, 0x80000000, 0x7FFFFFFF):
        assert spot.nfs.raw(Proc.LOOKUP, pack_opaque(spot.fh) + pack_uints(size) + b"name").accept_stat == GARBAGE_ARGS


def enums(spot: Spot) -> dict[str, tuple[Proc, bytes]]:
    fh = spot.file()
    return {
        "stable": (Proc.WRITE, pack_opaque(fh) + bytes(8) + pack_uints(4, 9) + pack_opaque(b"data")),
        "createmode": (Proc.CREATE, pack_diropargs3(spot.fh, b"new") + pack_uints(3)),
        "set_atime": (Proc.SETATTR, pack_opaque(fh) + NOTHING_SET + pack_uints(7, 0, 0)),
        "set_mtime": (Proc.SETATTR, pack_opaque(fh) + NOTHING_SET + pack_uints(0, 7, 0)),
        "set_mode": (Proc.SETATTR, pack_opaque(fh) + pack_uints(2, 0o777, 0, 0, 0, 0, 0, 0)),
        "guard": (Proc.SETATTR, pack_opaque(fh) + NOTHING_SET + pack_uints(0, 0, 2, 0, 0)),
    }


@pytest.mark.parametrize("which", ["stable", "createmode", "set_atime", "set_mtime", "set_mode", "guard"])
def test_a_value_outside_its_enumeration_is_garbage(spot: Spot, which: str) -> None:
    """D03."""
    proc, args = enums(spot)[which]
    assert spot.nfs.raw(proc, args).accept_stat == GARBAGE_ARGS
    assert spot.local(b"file").read_bytes() == b"" and not spot.local(b"new").exists()


@pytest.mark.parametrize("count", [0x7FFFFFFF, 0xFFFFFFFF])
def test_read_of_a_huge_count_is_short(spot: Spot, count: int) -> None:
    """D05: at most rtmax, and memory for no more."""
    fh = spot.file()
    os.truncate(spot.local(b"file"), 3 << 20)
    res = spot.nfs.read(fh, 0, count).must()
    assert 0 < len(res.data) <= 1 << 20 and res.eof is False


@pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 1, (1 << 63) - 1])
def test_read_at_a_huge_offset_is_the_end(spot: Spot, offset: int) -> None:
    """D05."""
    res = spot.nfs.read(spot.file(data=b"data"), offset, 10).must()
    assert (res.data, res.eof) == (b"", True)


def test_read_of_a_directory_is_isdir(spot: Spot) -> None:
    """D05."""
    reply = spot.nfs.raw(Proc.READ, pack_READ3args(spot.fh, 0, 10))
    assert unpack_result(Proc.READ, reply.body).status == ISDIR


@pytest.mark.parametrize("nanoseconds", [10**9, 0xFFFFFFFF])
def test_setattr_of_nanoseconds_beyond_a_second_is_inval(spot: Spot, nanoseconds: int) -> None:
    """D11: a kernel server of old stored them."""
    fh = spot.file()
    before = spot.local(b"file").stat().st_mtime_ns
    for attr in (Sattr3(atime=(1, nanoseconds)), Sattr3(mtime=(1, nanoseconds))):
        assert spot.nfs.setattr(fh, attr).status == INVAL
    assert spot.local(b"file").stat().st_mtime_ns == before


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_setattr_of_a_size_beyond_63_bits_is_fbig(spot: Spot, size: int) -> None:
    """D11."""
    assert spot.nfs.setattr(spot.file(data=b"data"), Sattr3(size=size)).status in (FBIG, INVAL)
    assert spot.local(b"file").read_bytes() == b"data"


def test_setattr_of_a_directorys_size_is_isdir(spot: Spot) -> None:
    """D11."""
    assert spot.nfs.setattr(spot.fh, Sattr3(size=0)).status in (ISDIR, INVAL)


def test_setattr_with_another_ctime_in_its_guard_does_nothing(spot: Spot) -> None:
    """D11."""
    fh = spot.file(data=b"data")
    seconds, nanoseconds = spot.nfs.getattr(fh).must().a.ctime
    for guard in ((seconds + 1, nanoseconds), (seconds, nanoseconds ^ 1), (0, 0)):
        reply = spot.nfs.raw(Proc.SETATTR, pack_SETATTR3args(fh, Sattr3(size=0), guard))
        assert unpack_result(Proc.SETATTR, reply.body).status == NOT_SYNC
    assert spot.local(b"file").read_bytes() == b"data"


@FS_FACTS
def test_file_system_facts_by_a_bad_or_stale_handle(spot: Spot, proc: Proc) -> None:
    """D19."""
    fh = spot.file()
    gone = spot.nfs.lookup(spot.fh, b"file").must().h
    spot.nfs.remove(spot.fh, b"file").must()
    assert unpack_result(proc, spot.nfs.raw(proc, pack_opaque(gone)).body).status == STALE
    forged = bytes([*fh[:-1], fh[-1] ^ 1])
    assert unpack_result(proc, spot.nfs.raw(proc, pack_opaque(forged)).body).status == BADHANDLE


def test_free_space_is_never_more_than_there_is(spot: Spot) -> None:
    """D19: no number below zero, which would be 2^64 and some."""
    info = spot.nfs.fsstat(spot.fh).must().info
    assert info is not None
    assert info["abytes"] <= info["fbytes"] <= info["tbytes"] < 1 << 62
    assert info["afiles"] <= info["ffiles"] <= info["tfiles"] < 1 << 62


def test_exclusive_create_leaves_nothing_open_to_others(spot: Spot) -> None:
    """Between it and the SETATTR that follows nobody else gets at the file."""
    spot.nfs.create(spot.fh, b"new", mode=EXCLUSIVE, verf=b"verifier").must()
    assert Path(spot.local(b"new")).stat().st_mode & 0o077 == 0
