"""A mistake of our own in the middle of a call, and calls that are under way while the world changes."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex, Nx
from tests.nfs3.test_drc import await_attached
from tests.tools.nfs3 import ACCES, EXIST, JUKEBOX, Nfs3, Proc, pack_diropargs3, pack_opaque, pack_READ3args, unpack_result
from tests.tools.rpc import SYSTEM_ERR, exchange, receive
from tests.tools.worker import TREE, OneWorker, everyone, export_of

EXPORT = 1
SLOW_S = 2.0   # longer than a new table takes on a busy machine

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
def slow_reads(worker: OneWorker, log: Path) -> Iterator[None]:
    """While in it each pread64 of the worker takes SLOW_S longer."""
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is not installed")
    command = [strace, "-f", "-o", str(log), "-e", "trace=pread64", "-e", f"inject=pread64:delay_enter={int(SLOW_S * 1e6)}",
               "-p", str(worker.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            await_attached(tracer, 1)
            yield
        finally:
            tracer.terminate()


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
        with slow_reads(worker, base / "reads"):
            nfs.transport.send(waits.pack())
            nfs.transport.send(quick.pack())
            receive(nfs.transport, quick.xid)   # so the READ is in the pool, or was answered
            worker.load([export_of(base / "export", EXPORT, Ex(0), everyone(Nx.DENY))])
            res = unpack_result(Proc.READ, receive(nfs.transport, waits.xid).body)
        if "pread64" not in (base / "reads").read_text():
            pytest.skip("the file system of the temporary directory keeps all in memory")
        assert res.status == JUKEBOX and nfs.read(fh).status == ACCES
        nfs.close()
