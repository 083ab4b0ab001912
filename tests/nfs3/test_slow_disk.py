"""A slow disk keeps only those waiting who asked for it: system calls are made slow by strace, others of the connection go on."""
from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest

from tests.tools.nfs3 import (
    GUARDED,
    UNSTABLE,
    Nfs3,
    Proc,
    Sattr3,
    pack_COMMIT3args,
    pack_CREATE3args,
    pack_diropargs3,
    pack_opaque,
    pack_READ3args,
    pack_SETATTR3args,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.rpc import LAST_FRAGMENT, Call, Tcp, receive, unpack_reply
from tests.tools.servers import wait_until

from .conftest import Spot
from .test_drc import await_attached

SLOW_S = 1.0      # an fsync takes so long
QUICK_S = 0.5     # the answers that need no disk come within half of that, on a busy machine too


@contextmanager
def slowed(spot: Spot, calls: str, delay_s: float, *, refused: str = "") -> Iterator[None]:
    """While in it, each of these system calls of the workers and their threads takes so much longer; `refused` says EAGAIN."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    pids = spot.server.worker_pids()
    command = [strace, "-f", "-y", "-o", str(spot.server.directory / "slow.log"), "-e", f"trace={calls},{refused or calls}",
               *(["-e", f"inject={refused}:error=EAGAIN"] if refused else []),
               "-e", f"inject={calls}:delay_enter={int(delay_s * 1e6)}",
               *(word for pid in pids for word in ("-p", str(pid)))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            await_attached(tracer, len(pids))
            yield
        finally:
            tracer.terminate()


def slow_fsync(spot: Spot) -> AbstractContextManager[None]:
    return slowed(spot, "fsync,fdatasync,syncfs", SLOW_S)


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


def answered_before(nfs: Nfs3, slow: list[Call], quick: Call) -> int:
    """Sends the slow calls and then a quick one on the same connection: how many of the slow ones were answered before that.

    Every answer is looked at, the late ones too.
    """
    for message in (*slow, quick):
        nfs.transport.send(message.pack())
    replies = [unpack_reply(nfs.transport.recv()) for _ in (*slow, quick)]
    procs = {message.xid: Proc(message.proc) for message in (*slow, quick)}
    assert all(unpack_result(procs[reply.xid], reply.body).status == 0 for reply in replies)
    return [reply.xid for reply in replies].index(quick.xid)


WAITS_S = 0.2     # a disk that is busy
LEARNT = 2        # calls that may block the loop before it knows that the file system is slow


@pytest.mark.root
def test_getattr_passes_writes_that_the_kernel_throttles(spot: Spot) -> None:
    """Once a WRITE has blocked, those that follow run in the pool; all of them are carried out."""
    file = spot.file()
    writes = [spot.nfs.message(Proc.WRITE, pack_WRITE3args(file, 4 * i, b"%04d" % i, UNSTABLE)) for i in range(8)]
    quick = spot.nfs.message(Proc.GETATTR, pack_opaque(file))
    with slowed(spot, "pwrite64", WAITS_S):
        assert answered_before(spot.nfs, writes, quick) <= LEARNT
    assert spot.local(b"file").read_bytes() == b"".join(b"%04d" % i for i in range(8))


@pytest.mark.root
def test_getattr_passes_reads_that_wait_for_the_disk(spot: Spot) -> None:
    """A READ that the page cache cannot answer (RWF_NOWAIT said EAGAIN) waits in the pool; a GETATTR does not."""
    file = spot.file(data=bytes(4096))
    reads = [spot.nfs.message(Proc.READ, pack_READ3args(file, 512 * i, 512)) for i in range(8)]
    quick = spot.nfs.message(Proc.GETATTR, pack_opaque(file))
    with slowed(spot, "pread64", WAITS_S, refused="preadv2"):
        assert answered_before(spot.nfs, reads, quick) == 0


@pytest.mark.root
def test_getattr_passes_names_and_handles_that_are_not_in_memory(spot: Spot) -> None:
    """Names of a file system that was slow are looked up in the pool when the kernel does not have them in memory."""
    file = spot.file()
    for i in range(8):
        spot.local(b"new%d" % i).touch()
    lookups = [spot.nfs.message(Proc.LOOKUP, pack_diropargs3(spot.fh, b"new%d" % i)) for i in range(8)]
    quick = spot.nfs.message(Proc.GETATTR, pack_opaque(file))
    with slowed(spot, "openat", WAITS_S, refused="openat2"):
        assert answered_before(spot.nfs, lookups, quick) <= LEARNT


@pytest.mark.root
@pytest.mark.kills
def test_getattr_passes_handles_whose_objects_are_not_open(spot: Spot) -> None:
    """After a restart every handle is new to the worker; opening them on a slow file system is the pool's."""
    file = spot.file()
    queries = [spot.nfs.message(Proc.GETATTR, pack_opaque(spot.file(b"old%d" % i))) for i in range(8)]
    before = spot.server.worker_pids()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(set(spot.server.worker_pids()) - set(before)) == len(before), deadline_s=20, what="new workers")
    with closing(spot.server.client()) as client:
        assert client.getattr(file).ok
        with slowed(spot, "open_by_handle_at", WAITS_S):
            assert answered_before(client, queries, client.message(Proc.GETATTR, pack_opaque(file))) <= LEARNT


@pytest.mark.root
def test_link_is_durable_in_the_directory_and_in_the_file(spot: Spot) -> None:
    """The file's link count is as much part of LINK as the name is (RFC 1813 section 4.8)."""
    fh, other = spot.file(), spot.dir(b"other")
    with slow_fsync(spot):
        spot.nfs.link(fh, other, b"second").must()
    synced = (spot.server.directory / "slow.log").read_text()
    assert f"<{spot.local(b'file')}>" in synced and f"<{spot.local(b'other')}>" in synced


@pytest.mark.root
def test_link_of_a_symlink_is_durable(spot: Spot) -> None:
    """It has no descriptor that fsync takes: its file system is synced."""
    spot.local(b"link").symlink_to("target")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    with slow_fsync(spot):
        spot.nfs.link(fh, spot.fh, b"second").must()
    assert "syncfs(" in (spot.server.directory / "slow.log").read_text()


@pytest.mark.root
def test_changes_of_a_batch_share_one_fsync(spot: Spot) -> None:
    """Group commit: 32 CREATEs that arrive together are made durable together; the stream may arrive in some pieces."""
    args = [pack_CREATE3args(spot.fh, b"new%d" % i, GUARDED, Sattr3(mode=0o600)) for i in range(32)]
    creates, transport = [spot.nfs.message(Proc.CREATE, arg) for arg in args], spot.nfs.transport
    assert isinstance(transport, Tcp)
    records = b"".join(struct.pack(">I", LAST_FRAGMENT | len(packed)) + packed for packed in (call.pack() for call in creates))
    with slowed(spot, "fsync,fdatasync,syncfs", 0.001):
        transport.raw(records)
        replies = [unpack_reply(transport.recv()) for _ in creates]
    assert all(unpack_result(Proc.CREATE, reply.body).status == 0 for reply in replies)
    assert 1 <= (spot.server.directory / "slow.log").read_text().count("sync(") <= 4
