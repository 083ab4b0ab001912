"""A slow disk keeps only those waiting who asked for it: fsync made slow by strace, other calls of the same connection go on."""
from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.tools.nfs3 import (
    GUARDED,
    Proc,
    Sattr3,
    pack_COMMIT3args,
    pack_CREATE3args,
    pack_diropargs3,
    pack_opaque,
    pack_SETATTR3args,
    unpack_result,
)
from tests.tools.rpc import receive

from .conftest import Spot
from .test_drc import await_attached

SLOW_S = 1.0      # an fsync takes so long
QUICK_S = 0.5     # the answers that need no disk come within half of that, on a busy machine too


@contextmanager
def slow_fsync(spot: Spot) -> Iterator[None]:
    """While in it, each fsync, fdatasync and syncfs of the workers, and of their threads, takes SLOW_S longer."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    pids = spot.server.worker_pids()
    command = [strace, "-f", "-o", str(spot.server.directory / "slow.log"), "-e", "trace=fsync,fdatasync,syncfs",
               "-e", f"inject=fsync,fdatasync,syncfs:delay_enter={int(SLOW_S * 1e6)}",
               *(word for pid in pids for word in ("-p", str(pid)))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            await_attached(tracer, len(pids))
            yield
        finally:
            tracer.terminate()


@pytest.mark.root
@pytest.mark.parametrize("slow", ["COMMIT", "MKDIR", "CREATE", "RENAME", "SETATTR"])
def test_getattr_passes_a_call_that_waits_for_the_disk(spot: Spot, slow: str) -> None:
    """COMMIT and a change under `sync` wait for fsync; a GETATTR sent after them on the same connection does not.

    CREATE has attributes that come after the file is made, RENAME two directories, and SETATTR a symbolic link, which has no
    descriptor that fsync takes.
    """
    file, other = spot.file(data=b"data"), spot.dir(b"other")
    spot.local(b"link").symlink_to("target")
    link = spot.nfs.lookup(spot.fh, b"link").must().h
    args = {"COMMIT": pack_COMMIT3args(file, 0, 0), "MKDIR": pack_diropargs3(spot.fh, b"new") + bytes(24),
            "CREATE": pack_CREATE3args(spot.fh, b"new", GUARDED, Sattr3(mode=0o600, mtime=(1, 2))),
            "RENAME": pack_diropargs3(spot.fh, b"file") + pack_diropargs3(other, b"moved"),
            "SETATTR": pack_SETATTR3args(link, Sattr3(mtime=(1, 2)), None)}[slow]
    waits = spot.nfs.message(Proc[slow], args)
    quick = spot.nfs.message(Proc.GETATTR, pack_opaque(file))
    with slow_fsync(spot):
        begun = time.monotonic()
        spot.nfs.transport.send(waits.pack())
        spot.nfs.transport.send(quick.pack())
        first = receive(spot.nfs.transport, quick.xid)
        quick_s = time.monotonic() - begun
        last = receive(spot.nfs.transport, waits.xid)
        slow_s = time.monotonic() - begun
    assert unpack_result(Proc.GETATTR, first.body).status == 0
    assert unpack_result(Proc[slow], last.body).status == 0
    assert quick_s < QUICK_S
    assert slow_s >= SLOW_S, "the answer came before the fsync it must wait for"
