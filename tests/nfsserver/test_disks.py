"""Two disks: the one that is slow keeps nobody waiting who asked for the other."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfssvc_shim import state
from tests.tools.nfs3 import (
    JUKEBOX,
    OK,
    UNSTABLE,
    Nfs3,
    Proc,
    Sattr3,
    pack_COMMIT3args,
    pack_opaque,
    pack_READ3args,
    pack_SETATTR3args,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.rpc import receive, unpack_reply
from tests.tools.servers import wait_until
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks  # noqa: F401
from .test_mistakes import slowed

SLOW, QUICK = 1, 2
SLOW_S = 3.0
WRITE_S = 1.0
BATCHES = 3    # more than the threads that sync one disk
READS = 16     # more than all threads


@contextmanager
def two_disks(made: Disks, directory: Path) -> Iterator[tuple[OneWorker, Path, Nfs3, dict[int, bytes]]]:
    """A worker with an export on each; a file on the slow one, a connection, and a handle of a file on each."""
    places = {SLOW: directory / "slow", QUICK: directory / "quick"}
    for place in (*places.values(), directory / "server"):
        place.mkdir()
    made.mount(made.image("disk", "mkfs.ext4", "-q"), places[SLOW])
    with OneWorker(directory / "server", [export_of(place, expid) for expid, place in places.items()]) as worker:
        nfs = Nfs3(worker.tcp())
        files = {expid: nfs.create(worker.root(expid), b"file").must().h for expid in places}
        for fh in files.values():
            nfs.write(fh, b"data", stable=UNSTABLE).must()
        yield worker, places[SLOW] / "file", nfs, files
        nfs.close()


@pytest.mark.root
def test_commit_does_not_wait_for_another_disk(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """COMMITs that arrive together are synced together, but each disk by itself; and one disk does not take all threads."""
    with two_disks(disks, tmp_path) as (worker, slow_file, nfs, files):
        waits = [nfs.message(Proc.COMMIT, pack_COMMIT3args(files[SLOW], 0, 0)) for _ in range(BATCHES)]
        quick = [nfs.message(Proc.COMMIT, pack_COMMIT3args(files[QUICK], 0, 0)) for _ in range(BATCHES)]
        with slowed(worker, tmp_path / "log", "fsync", SLOW_S, path=slow_file):
            begun = time.monotonic()
            for one, other in zip(waits, quick, strict=True):
                nfs.transport.send(one.pack())
                nfs.transport.send(other.pack())
                receive(nfs.transport, other.xid)
            assert time.monotonic() - begun < SLOW_S
            receive(nfs.transport, waits[-1].xid)
        assert time.monotonic() - begun >= SLOW_S


@pytest.mark.root
def test_reads_of_a_slow_disk_leave_threads_for_another(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    with two_disks(disks, tmp_path) as (worker, slow_file, nfs, files):
        waits = [nfs.message(Proc.READ, pack_READ3args(files[SLOW], 0, 4)) for _ in range(READS)]
        quick = nfs.message(Proc.COMMIT, pack_COMMIT3args(files[QUICK], 0, 0))
        with slowed(worker, tmp_path / "log", "pread64", SLOW_S, refused="preadv2", path=slow_file):
            begun = time.monotonic()
            for message in (*waits, quick):
                nfs.transport.send(message.pack())
            receive(nfs.transport, quick.xid)
            assert time.monotonic() - begun < SLOW_S


LOCKS = 4096   # of directories and files, in the state that workers share (drc.c)
FIRST_LOCK = (state.OFF_DRC + 2096) // 8


def lock_of(path: Path) -> int:
    st = path.stat()
    return ((st.st_dev * 0x9E3779B97F4A7C15 ^ st.st_ino * 0xC2B2AE3D27D4EB4F) & (1 << 64) - 1) >> 40 & LOCKS - 1


def sharing_a_lock(place: Path, other: Path) -> bytes:
    """The name of a new file whose lock is that of `other`.  The others stay until it is found, or it would get their numbers."""
    want, made = lock_of(other), []
    for i in range(20 * LOCKS):
        made.append(place / f"file{i}")
        made[-1].touch()
        if lock_of(made[-1]) == want:
            break
    else:
        pytest.skip("no such inode number")
    for path in made[:-1]:
        path.unlink()
    return os.fsencode(made[-1].name)


@pytest.mark.root
def test_a_change_whose_lock_a_slow_write_has_keeps_nobody_else_waiting(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """Locks are shared by what hashes alike: the loop must not wait for one whose owner waits for a slow disk."""
    with two_disks(disks, tmp_path) as (worker, slow_file, nfs, files):
        shared = nfs.lookup(worker.root(QUICK), sharing_a_lock(tmp_path / "quick", slow_file)).must().h
        write = nfs.message(Proc.WRITE, pack_WRITE3args(files[SLOW], 0, b"data", UNSTABLE))
        chmod = nfs.message(Proc.SETATTR, pack_SETATTR3args(shared, Sattr3(mode=0o600), None))
        quick = nfs.message(Proc.GETATTR, pack_opaque(files[QUICK]))
        with slowed(worker, tmp_path / "log", "pwrite64", WRITE_S, path=slow_file):
            nfs.write(files[SLOW], b"first", stable=UNSTABLE).must()   # from here on the disk is known to be slow
            nfs.transport.send(write.pack())
            wait_until(lambda: worker.state.words[FIRST_LOCK + lock_of(slow_file)] != 0, deadline_s=20, what="the writer")
            for message in (chmod, quick):
                nfs.transport.send(message.pack())
            replies = [unpack_reply(nfs.transport.recv()) for _ in range(3)]
        assert [reply.xid for reply in replies] == [quick.xid, write.xid, chmod.xid]
        assert unpack_result(Proc.SETATTR, replies[2].body).ok


ADDRESSES = 5    # each may have a quarter of all calls that wait: one more than takes them all
PER_ADDRESS = 512
CONNECTIONS = 2  # of an address: each may have half of that


@pytest.mark.root
def test_when_too_many_calls_wait_the_next_is_told_so_and_waits_nowhere(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """2,048 calls wait for the slow disk: others that would have to wait are JUKEBOX, before they have done anything; the rest is
    served."""
    with two_disks(disks, tmp_path) as (worker, slow_file, nfs, files):
        hogs = [Nfs3(worker.tcp(f"127.0.0.{9 + i % ADDRESSES}")) for i in range(ADDRESSES * CONNECTIONS)]
        last = hogs[-1]
        with slowed(worker, tmp_path / "log", "pread64", SLOW_S, refused="preadv2", path=slow_file):
            for hog in hogs:
                for _ in range(PER_ADDRESS // CONNECTIONS):
                    hog.transport.send(hog.message(Proc.READ, pack_READ3args(files[SLOW], 0, 4)).pack())
            told = unpack_result(Proc.READ, unpack_reply(last.transport.recv()).body)
            begun = time.monotonic()
            statuses = [nfs.getattr(files[SLOW]).status, nfs.mkdir(worker.root(QUICK), b"new").status,
                        nfs.write(files[QUICK], b"more").status, nfs.read(files[QUICK]).status]
            assert time.monotonic() - begun < SLOW_S
        worker.kill()   # what waits would take some minutes
        for hog in hogs:
            hog.close()
    assert (told.status, statuses) == (JUKEBOX, [OK, JUKEBOX, JUKEBOX, OK])
    assert not (tmp_path / "quick" / "new").exists() and (tmp_path / "quick" / "file").read_bytes() == b"data"
