"""WRITE and COMMIT (RFC 1813 sections 3.3.7, 3.3.21): data, stability, the write verifier."""
from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    ACCES,
    DATA_SYNC,
    FBIG,
    FILE_SYNC,
    INVAL,
    ISDIR,
    NXIO,
    PERM,
    STALE,
    UNSTABLE,
    Proc,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.rpc import GARBAGE_ARGS, auth_sys

from .conftest import Spot

USER = auth_sys(1000, 1000)


@pytest.mark.parametrize("stable", [UNSTABLE, DATA_SYNC, FILE_SYNC])
def test_write_puts_the_bytes_and_is_at_least_as_stable_as_asked(spot: Spot, stable: int) -> None:
    fh = spot.file(data=b"0123456789")
    res = spot.nfs.write(fh, b"abc", 4, stable=stable).must()
    assert res.count == 3 and res.committed is not None and stable <= res.committed <= FILE_SYNC
    assert spot.local(b"file").read_bytes() == b"0123abc789"


def test_write_beyond_the_end_leaves_a_hole_of_zeros(spot: Spot) -> None:
    fh = spot.file(data=b"ab")
    spot.nfs.write(fh, b"cd", 6).must()
    assert spot.local(b"file").read_bytes() == b"ab\0\0\0\0cd"


def test_write_beyond_4_gib(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.write(fh, b"far", (1 << 32) + 5).must()
    assert spot.local(b"file").stat().st_size == (1 << 32) + 8
    assert spot.nfs.read(fh, (1 << 32) + 5, 10).must().data == b"far"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 65535, 65536, 1_000_000])
def test_write_of_any_length_is_exact(spot: Spot, size: int) -> None:
    fh, data = spot.file(), os.urandom(size)
    assert spot.nfs.write(fh, data).must().count == size
    assert spot.local(b"file").read_bytes() == data


def test_write_of_no_bytes_succeeds_and_leaves_mtime(spot: Spot) -> None:
    """Section 3.3.7: a count of 0 is subject to permission checks only."""
    fh = spot.file(data=b"abc")
    os.utime(spot.local(b"file"), (5, 5))
    assert spot.nfs.write(fh, b"", 100).must().count == 0
    info = spot.local(b"file").stat()
    assert (info.st_size, info.st_mtime) == (3, 5)


def test_write_of_wtmax_is_taken_whole(spot: Spot) -> None:
    fh = spot.file()
    wtmax = (spot.nfs.fsinfo(fh).must().info or {})["wtmax"]
    data = os.urandom(wtmax)
    assert spot.nfs.write(fh, data, stable=UNSTABLE).must().count == wtmax
    assert spot.local(b"file").read_bytes() == data


def test_write_reply_has_the_state_after_the_write(spot: Spot) -> None:
    res = spot.nfs.write(spot.file(data=b"abc"), b"defg", 3).must()
    info = spot.local(b"file").stat()
    assert res.wcc is not None and res.wcc.after is not None
    assert (res.wcc.after.size, res.wcc.after.mtime) == (7, divmod(info.st_mtime_ns, 10**9))


def test_write_verifier_is_the_same_in_all_workers_and_in_commit(spot: Spot) -> None:
    fh, verfs = spot.file(), set()
    for _ in range(8):
        client = spot.server.client(spot.nfs.cred)
        verfs.add(client.write(fh, b"x", stable=UNSTABLE).must().verf)
        verfs.add(client.commit(fh).must().verf)
        client.close()
    assert len(verfs) == 1 and verfs != {bytes(8)}


@pytest.mark.parametrize(("offset", "count"), [(0, 0), (0, 10), (5, 1), (1 << 40, 0), (0, 0xFFFFFFFF),
                                               ((1 << 64) - 1, 0xFFFFFFFF)])
def test_commit_of_any_range_succeeds(spot: Spot, offset: int, count: int) -> None:
    fh = spot.file()
    spot.nfs.write(fh, b"0123456789", stable=UNSTABLE).must()
    res = spot.nfs.commit(fh, offset, count)
    assert res.ok or (offset + count > 1 << 63 and res.status == INVAL)
    assert res.wcc is not None and res.wcc.after is not None and res.wcc.after.size == 10


def test_commit_of_a_directory_fifo_or_symlink_is_inval(spot: Spot) -> None:
    """C19: only regular files have data to commit."""
    os.mkfifo(spot.local(b"fifo"))
    spot.local(b"link").symlink_to("file")
    for fh in (spot.nfs.lookup(spot.fh, b"fifo").must().h, spot.nfs.lookup(spot.fh, b"link").must().h):
        assert spot.nfs.commit(fh).status == INVAL
    assert spot.nfs.commit(spot.dir()).status in (INVAL, ISDIR)


def test_write_count_below_the_data_writes_no_more_than_count(spot: Spot) -> None:
    """D01: count and the length of data must agree; the server may refuse, never invent bytes."""
    fh = spot.file()
    reply = spot.nfs.raw(Proc.WRITE, pack_WRITE3args(fh, 0, b"0123456789abcdef", FILE_SYNC, count=4))
    refused = reply.accept_stat == GARBAGE_ARGS or unpack_result(Proc.WRITE, reply.body).status == INVAL
    assert refused and spot.local(b"file").read_bytes() == b""


def test_write_count_above_the_data_is_refused(spot: Spot) -> None:
    fh = spot.file()
    reply = spot.nfs.raw(Proc.WRITE, pack_WRITE3args(fh, 0, b"0123", FILE_SYNC, count=4096))
    refused = reply.accept_stat == GARBAGE_ARGS or unpack_result(Proc.WRITE, reply.body).status == INVAL
    assert refused and spot.local(b"file").read_bytes() == b""


@pytest.mark.parametrize("stable", [3, 9, 0xFFFFFFFF])
def test_write_unknown_stable_how_is_garbage(spot: Spot, stable: int) -> None:
    fh = spot.file()
    assert spot.nfs.raw(Proc.WRITE, pack_WRITE3args(fh, 0, b"x", stable)).accept_stat == GARBAGE_ARGS
    assert spot.local(b"file").read_bytes() == b""


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_write_at_a_huge_offset_is_fbig_or_inval(spot: Spot, offset: int) -> None:
    fh = spot.file()
    assert spot.nfs.write(fh, b"xyz", offset).status in (FBIG, INVAL)
    assert spot.local(b"file").stat().st_size == 0


def test_write_to_a_directory_is_isdir_or_inval(spot: Spot) -> None:
    assert spot.nfs.write(spot.dir(), b"x").status in (ISDIR, INVAL)


def test_write_to_a_symlink_is_inval_and_leaves_the_target(spot: Spot) -> None:
    spot.file(data=b"abc")
    spot.local(b"link").symlink_to("file")
    assert spot.nfs.write(spot.nfs.lookup(spot.fh, b"link").must().h, b"x").status == INVAL
    assert spot.local(b"file").read_bytes() == b"abc"


def test_write_to_a_fifo_is_inval_at_once(spot: Spot) -> None:
    os.mkfifo(spot.local(b"fifo"))
    assert spot.nfs.write(spot.nfs.lookup(spot.fh, b"fifo").must().h, b"x").status in (INVAL, NXIO)


def test_write_to_a_removed_file_is_stale(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.write(fh, b"x").must()
    spot.local(b"file").unlink()
    assert spot.nfs.write(fh, b"x").status == STALE
    assert spot.nfs.commit(fh).status == STALE


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_write_by_a_stranger_is_acces(spot: Spot, mode: int) -> None:
    fh = spot.file(data=b"abc", mode=mode)
    assert spot.nfs.write(fh, b"x").ok
    assert spot.as_(USER).write(fh, b"y").status == ACCES
    assert spot.local(b"file").read_bytes() == b"xbc"


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_write_by_the_owner_whatever_the_mode(spot: Spot, mode: int) -> None:
    """Section 4.4: open(O_CREAT, 0444) and then write, as cp -p and tar do."""
    fh = spot.file(mode=mode)
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(USER).write(fh, b"own").ok
    assert spot.local(b"file").read_bytes() == b"own"


@pytest.mark.root
def test_write_by_a_group_of_the_caller(spot: Spot) -> None:
    fh = spot.file(mode=0o660)
    os.chown(spot.local(b"file"), 0, 4242)
    assert spot.as_(auth_sys(1000, 1000, (4242,))).write(fh, b"x").ok
    assert spot.as_(auth_sys(1000, 1000, (4243,))).write(fh, b"x").status == ACCES


@pytest.mark.root
def test_write_by_a_user_clears_setuid_and_setgid(spot: Spot) -> None:
    fh = spot.file(data=b"abc", mode=0o6777)
    assert spot.as_(USER).write(fh, b"x").ok
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == 0o777


@pytest.mark.root
def test_write_by_a_user_clears_setuid_also_after_root_wrote(spot: Spot) -> None:
    fh = spot.file(data=b"abc", mode=0o666)
    assert spot.nfs.write(fh, b"x").ok and spot.as_(USER).write(fh, b"x").ok
    spot.local(b"file").chmod(0o4777)
    assert spot.as_(USER).write(fh, b"y").ok
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == 0o777


@pytest.mark.root
def test_commit_by_a_stranger_needs_no_write_right_but_does_no_harm(spot: Spot) -> None:
    fh = spot.file(mode=0o600)
    assert spot.as_(USER).commit(fh).status in (0, ACCES)


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602   # linux/fs.h
FS_IMMUTABLE_FL, FS_APPEND_FL = 0x10, 0x20


@contextmanager
def flagged(path: Path, flag: int) -> Iterator[None]:
    """chattr(1) +i or +a while in it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        (before,) = struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4)))
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", before | flag))
    except OSError as exc:
        os.close(fd)
        pytest.skip(f"no file flags here: {exc}")
    try:
        yield
    finally:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", before))
        os.close(fd)


@pytest.mark.root
@pytest.mark.parametrize("flag", [FS_IMMUTABLE_FL, FS_APPEND_FL], ids=["immutable", "append-only"])
def test_write_by_the_owner_ends_when_the_file_is_sealed(spot: Spot, flag: int) -> None:
    """The server has it open for writing from before: a kernel server would open it again and be refused."""
    fh = spot.file()
    os.chown(spot.local(b"file"), 1000, 1000)
    owner = spot.as_(USER)
    for _ in range(3):
        owner.write(fh, b"before").must()
    with flagged(spot.local(b"file"), flag):
        assert owner.write(fh, b"sealed").status == PERM
        assert spot.local(b"file").read_bytes() == b"before"
    owner.write(fh, b"after ").must()
