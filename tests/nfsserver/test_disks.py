"""Two disks: the one that is slow keeps nobody waiting who asked for the other."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.tools.nfs3 import UNSTABLE, Nfs3, Proc, pack_COMMIT3args
from tests.tools.rpc import receive
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks  # noqa: F401
from .test_mistakes import slowed

SLOW, QUICK = 1, 2
SLOW_S = 3.0
BATCHES = 3    # more than the threads that sync one disk


@pytest.mark.root
def test_commit_does_not_wait_for_another_disk(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """COMMITs that arrive together are synced together, but each disk by itself; and one disk does not take all threads."""
    places = {SLOW: tmp_path / "slow", QUICK: tmp_path / "quick"}
    for place in (*places.values(), tmp_path / "server"):
        place.mkdir()
    disks.mount(disks.image("disk", "mkfs.ext4", "-q"), places[SLOW])
    with OneWorker(tmp_path / "server", [export_of(place, expid) for expid, place in places.items()]) as worker:
        nfs = Nfs3(worker.tcp())
        files = {expid: nfs.create(worker.root(expid), b"file").must().h for expid in places}
        for fh in files.values():
            nfs.write(fh, b"data", stable=UNSTABLE).must()
        waits = [nfs.message(Proc.COMMIT, pack_COMMIT3args(files[SLOW], 0, 0)) for _ in range(BATCHES)]
        quick = [nfs.message(Proc.COMMIT, pack_COMMIT3args(files[QUICK], 0, 0)) for _ in range(BATCHES)]
        with slowed(worker, tmp_path / "log", "fsync", SLOW_S, path=places[SLOW] / "file"):
            begun = time.monotonic()
            for one, other in zip(waits, quick, strict=True):
                nfs.transport.send(one.pack())
                nfs.transport.send(other.pack())
                receive(nfs.transport, other.xid)
            assert time.monotonic() - begun < SLOW_S
            receive(nfs.transport, waits[-1].xid)
        assert time.monotonic() - begun >= SLOW_S
        nfs.close()
