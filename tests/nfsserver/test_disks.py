"""Two disks: the one that is slow keeps nobody waiting who asked for the other."""
from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import UNSTABLE, Nfs3, Proc, pack_COMMIT3args, pack_READ3args
from tests.tools.rpc import receive
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks  # noqa: F401
from .test_mistakes import slowed

SLOW, QUICK = 1, 2
SLOW_S = 3.0
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
