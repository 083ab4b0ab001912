"""A mistake of our own in the middle of a call, and calls that are under way while the world changes."""
from __future__ import annotations

import array
import fcntl
import os
import select
import shutil
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Ex, Nfssvc, Nx
from nfssvc_shim.records import AuthIn, Cred, pack_authin
from oncrpc.xdr import Packer
from tests.tools.nfs3 import ACCES, EXIST, JUKEBOX, Nfs3, Proc, pack_diropargs3, pack_opaque, pack_READ3args, unpack_result
from tests.tools.rpc import LAST_FRAGMENT, SYSTEM_ERR, Auth, Call, exchange, receive, unpack_reply
from tests.tools.servers import wait_until
from tests.tools.strace import straced
from tests.tools.worker import TREE, OneWorker, everyone, export_of

EXPORT = 1
SLOW_S = 2.0   # longer than a new table takes on a busy machine
DEADLINE_S = 30.0

FAILS_ONCE = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from nfsserver.worker import Worker
real, failed = Worker._answer, []
def answer(self, call, status, row):
    if call.proc == 9 and status > 0 and not failed:
        failed.append(1)
        raise RuntimeError("a mistake")
    real(self, call, status, row)
Worker._answer = answer
runpy.run_module("nfsserver", run_name="__main__", alter_sys=True)
"""


class Faulty(OneWorker):
    """Its first MKDIR that ends in an error raises."""

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-I", "-c", FAILS_ONCE, str(TREE)]

    def log(self) -> str:
        return super().log().replace("Traceback", "The traceback that is wanted")


@pytest.fixture
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfsmistake-"))
    made.chmod(0o755)
    (made / "export").mkdir()
    (made / "server").mkdir()
    yield made
    shutil.rmtree(made)


def test_a_call_that_raised_can_be_sent_again(base: Path) -> None:
    """Its entry in the duplicate request cache must not say for ever that it runs."""
    with Faulty(base / "server", [export_of(base / "export", EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        message = nfs.message(Proc.MKDIR, pack_diropargs3(worker.root(EXPORT), b"..") + bytes(24))
        assert exchange(nfs.transport, message).accept_stat == SYSTEM_ERR
        assert unpack_result(Proc.MKDIR, exchange(nfs.transport, message).body).status == EXIST
        nfs.close()


@contextmanager
def slowed(worker: OneWorker, log: Path, call: str, delay_s: float, *, refused: str = "",
           path: Path | None = None) -> Iterator[None]:
    """While in it each such system call of the worker (on `path` alone) takes so much longer; `refused` says EAGAIN."""
    with straced([worker.process.pid], log, "-e", f"trace={call},{refused or call}",
                 "-e", f"inject={call}:delay_enter={int(delay_s * 1e6)}",
                 *(["-e", f"inject={refused}:error=EAGAIN"] if refused else []), *(["-P", str(path)] if path else [])):
        yield


def forget_pages(path: Path) -> None:
    """The next read of the file waits for the disk."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.root
def test_read_that_waited_for_the_disk_is_not_answered_after_it_was_revoked(base: Path) -> None:
    """Who was told that the new table is in force sees nothing more go out under the old one."""
    file = base / "export" / "file"
    file.write_bytes(b"data" * 5000)
    with OneWorker(base / "server", [export_of(base / "export", EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        fh = nfs.lookup(worker.root(EXPORT), b"file").must().h
        nfs.read(fh).must()
        forget_pages(file)
        waits, quick = nfs.message(Proc.READ, pack_READ3args(fh, 0, 1000)), nfs.message(Proc.GETATTR, pack_opaque(fh))
        with slowed(worker, base / "reads", "pread64", SLOW_S):
            nfs.transport.send(waits.pack())
            nfs.transport.send(quick.pack())
            receive(nfs.transport, quick.xid)   # so the READ is in the pool, or was answered
            worker.load([export_of(base / "export", EXPORT, Ex(0), everyone(Nx.DENY))])
            res = unpack_result(Proc.READ, receive(nfs.transport, waits.xid).body)
        if "pread64" not in (base / "reads").read_text():
            pytest.skip("the file system of the temporary directory keeps all in memory")
        assert res.status == JUKEBOX and nfs.read(fh).status == ACCES
        nfs.close()


WAIT_S = 0.5   # how long each look-up of a name takes on a disk that is busy


def slow_names(worker: OneWorker, log: Path) -> AbstractContextManager[None]:
    """While in it no name is in memory, and looking for one takes WAIT_S."""
    return slowed(worker, log, "openat", WAIT_S, refused="openat2")


@pytest.mark.root
def test_a_name_that_was_found_under_the_old_table_is_not_shown_under_the_new_one(base: Path) -> None:
    """A LOOKUP waits for the disk as root; meanwhile root is squashed, who may not search the directory."""
    (base / "export" / "private").mkdir(mode=0o700)
    for name in ("one", "two", "three"):
        (base / "export" / "private" / name).touch()
    with OneWorker(base / "server", [export_of(base / "export", EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        private = nfs.lookup(worker.root(EXPORT), b"private").must().h
        waits, quick = nfs.message(Proc.LOOKUP, pack_diropargs3(private, b"two")), nfs.message(Proc.GETATTR, pack_opaque(private))
        with slow_names(worker, base / "names"):
            nfs.lookup(private, b"one").must()    # from here on the file system is slow
            nfs.transport.send(waits.pack())
            nfs.transport.send(quick.pack())
            receive(nfs.transport, quick.xid)
            worker.load([export_of(base / "export", EXPORT, Ex(0), everyone(Nx.MAPROOT))])
            res = unpack_result(Proc.LOOKUP, receive(nfs.transport, waits.xid).body)
        assert res.status in (ACCES, JUKEBOX) and nfs.lookup(private, b"three").status == ACCES
        nfs.close()


@pytest.mark.root
def test_answers_under_the_old_table_leave_before_the_new_one_is_acknowledged(base: Path) -> None:
    """Three calls of one batch: the table changes while the second waits for the disk, the third takes the new one."""
    with OneWorker(base / "server", [export_of(base / "export", EXPORT)]) as worker:
        transport, root = worker.tcp(), worker.root(EXPORT)
        nfs = Nfs3(transport)
        nfs.getattr(root).must()
        calls = [nfs.message(Proc.GETATTR, pack_opaque(root)), nfs.message(Proc.MKDIR, pack_diropargs3(root, b"new") + bytes(24)),
                 nfs.message(Proc.GETATTR, pack_opaque(root))]
        log = base / "sends"
        with slowed(worker, log, "mkdirat,sendto", SLOW_S):
            transport.raw(b"".join(struct.pack(">I", LAST_FRAGMENT | len(call.pack())) + call.pack() for call in calls))
            wait_until(lambda: "mkdirat(" in log.read_text(), deadline_s=DEADLINE_S, what="the second call")
            worker.load([export_of(base / "export", EXPORT, Ex(0), everyone(Nx.DENY))])
            answered, _, _ = select.select([transport.sock], [], [], 0)
            reply = unpack_reply(transport.recv())
        assert (reply.xid, unpack_result(Proc.GETATTR, reply.body).status) == (calls[0].xid, 0)
        assert answered, "who was told that the new table is in force saw an answer under the old one afterwards"
        nfs.close()


def with_ticket(message: Call) -> Call:
    p = Packer()
    p.pack_uint(0)
    p.pack_opaque(b"ticket")
    p.pack_uint(3600)
    return replace(message, cred=Auth(4, bytes(p)), verf=Auth(4, struct.pack(">I", 0) + b"12 encrypted"))


@pytest.mark.root
def test_calls_with_tickets_that_wait_for_the_disk_stay_what_they_are(base: Path) -> None:
    """A LOOKUP and a REMOVE wait at the same time: one is answered, the other removes, and each its own name."""
    for name in ("first", "looked", "removed"):
        (base / "export" / name).touch()
    with OneWorker(base / "server", [export_of(base / "export", EXPORT)]) as worker:
        nfs, root = Nfs3(worker.tcp()), worker.root(EXPORT)
        worker.ask(Nfssvc.AUTHIN, struct.pack(">I", 1))
        calls = [with_ticket(nfs.message(proc, pack_diropargs3(root, name)))
                 for proc, name in ((Proc.LOOKUP, b"looked"), (Proc.REMOVE, b"removed"))]
        with slow_names(worker, base / "names"):
            nfs.lookup(root, b"first").must()
            for call in calls:
                nfs.transport.send(call.pack())
            questions = [worker.channel.recv()[0] for _ in calls]
            for question in questions:
                worker.channel.reply(question, pack_authin(AuthIn(0, True, Cred(0, 0))))
            replies = [unpack_reply(nfs.transport.recv()) for _ in calls]
        assert sorted(os.listdir(base / "export")) == ["first", "looked"]
        assert all(reply.ok for reply in replies)
        nfs.close()


def test_answers_that_are_not_read_for_a_while_are_all_sent(tmp_path: Path) -> None:
    """More than the channel has room for: the control half may be busy with something else, or not run."""
    (tmp_path / "server").mkdir()
    with OneWorker(tmp_path / "server", [export_of(tmp_path, EXPORT)]) as worker:
        asked = list(range(1001, 1601))
        for serial in asked:
            worker.channel.send(Message(Nfssvc.VERBOSE, serial, bytes(4)))
        wait_until(lambda: not unread(worker.channel), deadline_s=DEADLINE_S, what="the worker has taken all")
        assert [worker.channel.recv()[0].serial for _ in asked] == asked


def unread(channel: Channel) -> int:
    """Bytes sent that the peer has not received: SIOCOUTQ, tcp(7)."""
    room = array.array("i", [0])
    fcntl.ioctl(channel.fileno(), termios.TIOCOUTQ, room)
    return int(room[0])
