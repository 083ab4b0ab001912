"""File handles: forged, cut, moved, stale (attacks C01 to C13)."""
from __future__ import annotations

import os
import random
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    BADHANDLE,
    ISDIR,
    NF3DIR,
    NF3LNK,
    NOTDIR,
    STALE,
    Nfs3,
    Proc,
    pack_opaque,
    pack_uints,
    sample_args,
    unpack_result,
)
from tests.tools.rpc import GARBAGE_ARGS, pipeline

from .conftest import Exports, Spot

WITH_HANDLE = [proc for proc in Proc if proc != Proc.NULL]


def statuses(nfs: Nfs3, handles: list[bytes], proc: Proc = Proc.GETATTR) -> set[int]:
    """The statuses of one call for each handle, fifty in flight."""
    found: set[int] = set()
    for start in range(0, len(handles), 50):
        calls = [nfs.message(proc, sample_args(fh)[proc]) for fh in handles[start:start + 50]]
        for reply in pipeline(nfs.transport, calls):
            assert reply.ok, reply
            found.add(unpack_result(proc, reply.body).status)
    return found


@pytest.mark.parametrize("proc", WITH_HANDLE, ids=lambda proc: proc.name)
@pytest.mark.parametrize("size", [1, 3, 10, 32, 63, 64])
def test_handle_of_wrong_size_or_random_bytes_is_badhandle(spot: Spot, proc: Proc, size: int) -> None:
    """C01."""
    for fh in (bytes(size), b"\xff" * size, random.Random(size).randbytes(size)):
        assert statuses(spot.nfs, [fh], proc) == {BADHANDLE}


@pytest.mark.parametrize("proc", WITH_HANDLE, ids=lambda proc: proc.name)
def test_handle_of_no_bytes_is_badhandle_or_garbage(spot: Spot, proc: Proc) -> None:
    reply = spot.nfs.raw(proc, sample_args(b"")[proc])
    assert reply.accept_stat == GARBAGE_ARGS or unpack_result(proc, reply.body).status in (BADHANDLE, STALE)


@pytest.mark.parametrize("proc", WITH_HANDLE, ids=lambda proc: proc.name)
def test_handle_of_65_bytes_is_garbage(spot: Spot, proc: Proc) -> None:
    assert spot.nfs.raw(proc, sample_args(bytes(65))[proc]).accept_stat == GARBAGE_ARGS


@pytest.mark.parametrize("proc", WITH_HANDLE, ids=lambda proc: proc.name)
@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF])
def test_handle_with_a_huge_length_is_garbage(spot: Spot, proc: Proc, size: int) -> None:
    """C01, CVE-2003-0619: a length that turns negative."""
    rest = sample_args(spot.fh)[proc][4:]
    assert spot.nfs.raw(proc, pack_uints(size) + rest).accept_stat == GARBAGE_ARGS


def test_every_bit_flip_of_handles_is_badhandle(spot: Spot) -> None:
    """C03: each bit of 20 handles, and 400 random bits of 200 more."""
    rng = random.Random(3)
    forged: list[bytes] = []
    for number in range(220):
        name = b"f%d" % number
        fh = spot.file(name)
        bits = range(len(fh) * 8) if number < 20 else rng.sample(range(len(fh) * 8), 2)
        forged += [(int.from_bytes(fh, "big") ^ 1 << bit).to_bytes(len(fh), "big") for bit in bits]
    assert statuses(spot.nfs, forged) == {BADHANDLE}


def test_every_cut_and_extension_of_a_handle_is_badhandle(spot: Spot) -> None:
    fh = spot.file()
    forged = [fh[:size] for size in range(1, len(fh))] + [fh + bytes(size) for size in range(1, 65 - len(fh))]
    assert statuses(spot.nfs, forged) == {BADHANDLE}


def test_forged_handle_is_badhandle_for_changes(spot: Spot) -> None:
    fh = bytearray(spot.fh)
    fh[-1] ^= 1
    for proc in WITH_HANDLE:
        assert statuses(spot.nfs, [bytes(fh)], proc) == {BADHANDLE}
    assert os.listdir(spot.path) == []


def test_parts_of_two_handles_do_not_make_a_third(spot: Spot, exports: Exports) -> None:
    """C05: the head of one export's handle with the rest of another's."""
    other = spot.server.root(exports.base / "ro")
    mixed = [spot.fh[:cut] + other[cut:] for cut in range(1, min(len(spot.fh), len(other)))]
    mixed = [fh for fh in mixed if fh not in (spot.fh, other)]
    assert mixed and statuses(spot.nfs, mixed) == {BADHANDLE}


def test_handle_is_the_same_for_each_lookup_connection_and_link(spot: Spot) -> None:
    """Clients compare handles byte for byte."""
    fh = spot.file()
    os.link(spot.local(b"file"), spot.local(b"second"))
    with closing(spot.server.client(spot.nfs.cred)) as other:
        assert other.lookup(spot.fh, b"file").must().h == fh == spot.nfs.lookup(spot.fh, b"file").must().h
    assert spot.nfs.lookup(spot.fh, b"second").must().a.fileid == spot.nfs.getattr(fh).must().a.fileid


def test_handle_from_create_is_the_one_of_lookup(spot: Spot) -> None:
    fh = spot.nfs.create(spot.fh, b"new").must().h
    assert spot.nfs.lookup(spot.fh, b"new").must().h == fh


def test_handle_lives_through_rename_and_unlink_of_other_links(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    spot.dir(b"d")
    spot.local(b"file").rename(spot.local(b"d/moved"))
    assert spot.nfs.read(fh).must().data == b"abc"
    os.link(spot.local(b"d/moved"), spot.local(b"link"))
    spot.local(b"d/moved").unlink()
    assert spot.nfs.read(fh).must().data == b"abc"


@pytest.mark.parametrize("proc", WITH_HANDLE, ids=lambda proc: proc.name)
def test_handle_of_a_removed_object_is_stale(spot: Spot, proc: Proc) -> None:
    """C07, for a file and for a directory; a call for the other type of object may say so instead."""
    file, directory = spot.file(), spot.dir()
    spot.local(b"file").unlink()
    spot.local(b"dir").rmdir()
    assert statuses(spot.nfs, [file], proc) <= {STALE, NOTDIR} and statuses(spot.nfs, [directory], proc) <= {STALE, ISDIR}
    assert STALE in statuses(spot.nfs, [file, directory], proc)


def test_handle_of_a_reused_inode_is_stale(spot: Spot) -> None:
    """C07: delete and create until the number repeats; the old handle never opens the new file."""
    seen: dict[int, bytes] = {}
    for turn in range(500):
        fh = spot.file(b"f", b"%d" % turn)
        inode = spot.local(b"f").stat().st_ino
        if inode in seen:
            assert seen[inode] != fh
            assert spot.nfs.getattr(seen[inode]).status == STALE and spot.nfs.read(seen[inode]).status == STALE
            return
        seen[inode] = fh
        spot.local(b"f").unlink()
    pytest.skip("the file system did not use an inode number again")


@pytest.mark.root
def test_handle_survives_dropped_caches(spot: Spot) -> None:
    """F38: the cold path, when neither inode nor directory entry is in memory."""
    spot.dir(b"d")
    spot.local(b"d/f").write_bytes(b"abc")
    fh = spot.nfs.walk(spot.fh, b"d/f")
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    except OSError as exc:
        pytest.skip(f"drop_caches: {exc}")
    assert spot.nfs.read(fh).must().data == b"abc"
    assert spot.nfs.lookup(spot.nfs.lookup(spot.fh, b"d").must().h, b"..").must().a.fileid == spot.path.stat().st_ino


def test_root_of_an_export_that_is_swapped_for_a_symlink_has_no_effect(spot: Spot, exports: Exports) -> None:
    """E03: the export is resolved when it is loaded."""
    target = exports.base / "all"
    top = spot.server.root(target)
    (target / "inside").write_bytes(b"x")
    moved = exports.base / "moved"
    target.rename(moved)
    target.symlink_to("/etc")
    try:
        res = spot.nfs.lookup(top, b"passwd")
        assert not res.ok
        inside = spot.nfs.lookup(top, b"inside")
        assert not inside.ok or inside.a.fileid == (moved / "inside").stat().st_ino
    finally:
        target.unlink()
        moved.rename(target)
        (target / "inside").unlink()


@pytest.mark.parametrize("seconds", [3])
def test_symlink_swap_race_never_leaves_the_export(spot: Spot, exports: Exports, seconds: float) -> None:
    """C13: a local process flips a name between a directory and a symlink to a directory outside, while calls run under it."""
    outside = exports.base / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"untouched")
    real, flip, aside = spot.local(b"real"), spot.local(b"flip"), spot.local(b"aside")
    real.mkdir(mode=0o777)
    aside.symlink_to(outside)
    stop = threading.Event()

    def flipper() -> None:
        while not stop.is_set():
            real.rename(flip)
            flip.rename(real)
            aside.rename(flip)
            flip.rename(aside)

    thread = threading.Thread(target=flipper)
    thread.start()
    try:
        _race(spot, outside, seconds)
    finally:
        stop.set()
        thread.join()
    assert os.listdir(outside) == ["victim"] and (outside / "victim").read_bytes() == b"untouched"


def _race(spot: Spot, outside: Path, seconds: float) -> None:
    inode, stop = outside.stat().st_ino, threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    while not stop.is_set():
        res = spot.nfs.lookup(spot.fh, b"flip")
        if not res.ok:
            continue
        assert res.a.type in (NF3DIR, NF3LNK) and res.a.fileid != inode
        for inner in (spot.nfs.lookup(res.h, b"victim"), spot.nfs.create(res.h, b"made"), spot.nfs.remove(res.h, b"victim"),
                      spot.nfs.rename(res.h, b"victim", spot.fh, b"stolen")):
            assert inner.attr is None or inner.attr.fileid != (outside / "victim").stat().st_ino
    timer.join()


def test_handle_with_trailing_garbage_in_the_call_is_garbage_or_served(spot: Spot) -> None:
    """Bytes after the arguments: RFC 5531 knows no such message; nothing else may come of it."""
    reply = spot.nfs.raw(Proc.GETATTR, pack_opaque(spot.fh) + bytes(64))
    assert reply.ok or reply.accept_stat == GARBAGE_ARGS
