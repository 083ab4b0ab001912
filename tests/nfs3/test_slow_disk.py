"""A slow disk keeps only those waiting who asked for it: system calls are made slow by strace, others of the connection go on."""
from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

import pytest

from tests.tools.nfs3 import (
    EXCLUSIVE,
    EXIST,
    GUARDED,
    NF3FIFO,
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
from tests.tools.rpc import LAST_FRAGMENT, Call, Tcp, auth_sys, exchange, receive, unpack_reply
from tests.tools.servers import wait_until
from tests.tools.strace import straced

from .conftest import Spot

SLOW_S = 1.0      # an fsync takes so long
QUICK_S = 0.5     # the answers that need no disk come within half of that, on a busy machine too


@contextmanager
def slowed(spot: Spot, calls: str, delay_s: float, *, refused: str = "") -> Iterator[None]:
    """While in it, each of these system calls of the workers and their threads takes so much longer; `refused` says EAGAIN."""
    with straced(spot.server.worker_pids(), spot.server.directory / "slow.log", "-y", "-e", f"trace={calls},{refused or calls}",
                 *(["-e", f"inject={refused}:error=EAGAIN"] if refused else []),
                 "-e", f"inject={calls}:delay_enter={int(delay_s * 1e6)}"):
        yield


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
LISTED = 6        # directories
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


@dataclass(frozen=True)
class Change:
    """A procedure, the system call that it waits in, its arguments and what it leaves behind."""

    call: str
    before: Callable[[Spot, bytes], object]          # local, for a name
    args: Callable[[Spot, bytes, bytes], bytes]      # of the name, whose handle is the third
    after: Callable[[Spot, bytes], bool]


def there(spot: Spot, name: bytes) -> bool:
    return spot.local(name).is_symlink() or spot.local(name).exists()


def gone(spot: Spot, name: bytes) -> bool:
    return not there(spot, name)


def nothing(spot: Spot, name: bytes) -> None:
    """The change makes it."""


def full(spot: Spot, name: bytes) -> None:
    spot.local(name).write_bytes(b"data")


NEW = bytes(24)   # sattr3 that sets nothing
CHANGES = {
    "CREATE": Change("utimensat", nothing, lambda s, n, h: pack_CREATE3args(s.fh, n, EXCLUSIVE, b"verifier"), there),
    "MKDIR": Change("mkdirat", nothing, lambda s, n, h: pack_diropargs3(s.fh, n) + NEW, there),
    "SYMLINK": Change("symlinkat", nothing, lambda s, n, h: pack_diropargs3(s.fh, n) + NEW + pack_opaque(b"target"),
                      lambda s, n: there(s, n) and os.readlink(s.local(n)) == "target"),
    "MKNOD": Change("mknodat", nothing, lambda s, n, h: pack_diropargs3(s.fh, n) + struct.pack(">I", NF3FIFO) + NEW, there),
    "REMOVE": Change("unlinkat", full, lambda s, n, h: pack_diropargs3(s.fh, n), gone),
    "RMDIR": Change("unlinkat", lambda s, n: s.local(n).mkdir(), lambda s, n, h: pack_diropargs3(s.fh, n), gone),
    "RENAME": Change("renameat", full, lambda s, n, h: pack_diropargs3(s.fh, n) + pack_diropargs3(s.fh, b"to-" + n),
                     lambda s, n: gone(s, n) and there(s, b"to-" + n)),
    "LINK": Change("linkat", full, lambda s, n, h: pack_opaque(h) + pack_diropargs3(s.fh, b"to-" + n),
                   lambda s, n: s.local(n).stat().st_nlink == 2),
    "SETATTR": Change("ftruncate", full, lambda s, n, h: pack_SETATTR3args(h, Sattr3(size=2, mode=0o400), None),
                      lambda s, n: s.local(n).read_bytes() == b"da"),
}


def handle_if(spot: Spot, change: Change, name: bytes) -> bytes:
    """Of what is there before the change."""
    return b"" if change.before is nothing else spot.nfs.lookup(spot.fh, name).must().h


@pytest.mark.root
@pytest.mark.parametrize("proc", CHANGES)
def test_getattr_passes_changes_that_wait_for_the_disk(spot: Spot, proc: str) -> None:
    """Once a change has blocked, those that follow are done in the pool, each once; what they say is what a quick one says."""
    change, names = CHANGES[proc], [b"name%d" % i for i in range(8)]
    for name in names:
        change.before(spot, name)
    handles = [handle_if(spot, change, name) for name in names]
    slow = [spot.nfs.message(Proc[proc], change.args(spot, name, fh)) for name, fh in zip(names, handles, strict=True)]
    quick = spot.nfs.message(Proc.GETATTR, pack_opaque(spot.fh))
    with slowed(spot, change.call, WAITS_S):
        for message in (*slow, quick):
            spot.nfs.transport.send(message.pack())
        replies = [unpack_reply(spot.nfs.transport.recv())]
        while replies[-1].xid != quick.xid:
            replies.append(unpack_reply(spot.nfs.transport.recv()))
        done = sum(change.after(spot, name) for name in names)  # the order alone tells nothing: a change waits to be durable
        replies += [unpack_reply(spot.nfs.transport.recv()) for _ in range(len(slow) + 1 - len(replies))]
    assert done < len(names)
    assert all(unpack_result(Proc[proc], reply.body).status == 0 for reply in replies if reply.xid != quick.xid)
    assert [name for name in names if not change.after(spot, name)] == []


@pytest.mark.root
@pytest.mark.parametrize("proc", ["MKDIR", "REMOVE", "RENAME", "SETATTR"])
def test_a_change_that_waits_has_the_attributes_from_before_and_after(spot: Spot, proc: str) -> None:
    """wcc_data of a change in the pool: nobody else's change lies between the two."""
    change = CHANGES[proc]
    for name in (b"first", b"second"):
        change.before(spot, name)
    handles = {name: handle_if(spot, change, name) for name in (b"first", b"second")}
    with slowed(spot, change.call, WAITS_S):
        for name in (b"first", b"second"):
            before = spot.nfs.getattr(handles[name] if proc == "SETATTR" else spot.fh).must().a
            body = exchange(spot.nfs.transport, spot.nfs.message(Proc[proc], change.args(spot, name, handles[name]))).body
            res = unpack_result(Proc[proc], body).must()
            assert res.wcc.before is not None and res.wcc.after is not None
            assert (res.wcc.before.mtime, res.wcc.before.ctime) == (before.mtime, before.ctime)
            assert res.wcc.after == spot.nfs.getattr(handles[name] if proc == "SETATTR" else spot.fh).must().a


@pytest.mark.root
def test_a_change_that_waits_may_fail_and_its_retransmission_is_answered_alike(spot: Spot) -> None:
    """The entry in the duplicate request cache stands while a thread has the call: sent again it is dropped, then replayed."""
    spot.local(b"there").mkdir()
    fails = spot.nfs.message(Proc.MKDIR, pack_diropargs3(spot.fh, b"there") + NEW)
    makes = spot.nfs.message(Proc.MKDIR, pack_diropargs3(spot.fh, b"new") + NEW)
    with slowed(spot, "mkdirat", WAITS_S):
        spot.nfs.mkdir(spot.fh, b"first").must()
        for message in (fails, makes, fails, makes):
            spot.nfs.transport.send(message.pack())
        replies = {reply.xid: reply.body for reply in (unpack_reply(spot.nfs.transport.recv()) for _ in range(2))}
        assert unpack_result(Proc.MKDIR, replies[fails.xid]).status == EXIST
        assert unpack_result(Proc.MKDIR, replies[makes.xid]).ok
        for message in (fails, makes):
            assert exchange(spot.nfs.transport, message).body == replies[message.xid]


@pytest.mark.root
def test_who_makes_it_is_its_owner_also_in_the_pool(spot: Spot) -> None:
    """Two users in turn: each change runs as its own caller."""
    spot.path.chmod(0o777)
    users = [spot.nfs.as_(auth_sys(uid, uid)) for uid in (1001, 1002)]
    calls = [users[i % 2].message(Proc.MKDIR, pack_diropargs3(spot.fh, b"of%d" % i) + NEW) for i in range(6)]
    with slowed(spot, "mkdirat", WAITS_S):
        answered_before(spot.nfs, calls, spot.nfs.message(Proc.GETATTR, pack_opaque(spot.fh)))
    assert [spot.local(b"of%d" % i).stat().st_uid for i in range(6)] == [1001, 1002] * 3


@pytest.mark.root
@pytest.mark.parametrize("proc", ["READDIR", "READDIRPLUS"])
def test_getattr_passes_directories_that_are_read_from_the_disk(spot: Spot, proc: str) -> None:
    """Once one has blocked, the next are read in the pool first.  (That they are in memory then is the kernel's part.)"""
    for i in range(LISTED):
        (spot.local(b"dir%d" % i) / f"entry{i}").mkdir(parents=True)
    dirs = [spot.nfs.lookup(spot.fh, b"dir%d" % i).must().h for i in range(LISTED)]
    args = [pack_opaque(fh) + bytes(16) + struct.pack(">2I", 4096, 4096)[:4 if proc == "READDIR" else 8] for fh in dirs]
    lists = [spot.nfs.message(Proc[proc], arg) for arg in args]
    with slowed(spot, "getdents64", WAITS_S):
        assert answered_before(spot.nfs, lists[:-1], spot.nfs.message(Proc.GETATTR, pack_opaque(spot.fh))) <= LEARNT
        res = unpack_result(Proc[proc], exchange(spot.nfs.transport, lists[-1]).body)
    assert {entry.name for entry in res.must().entries} == {b".", b"..", b"entry%d" % (LISTED - 1)}


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
    with slowed(spot, "fsync,fdatasync,syncfs", WAITS_S):
        transport.raw(records)
        replies = [unpack_reply(transport.recv()) for _ in creates]
    assert all(unpack_result(Proc.CREATE, reply.body).status == 0 for reply in replies)
    assert 1 <= (spot.server.directory / "slow.log").read_text().count("sync(") <= 4
