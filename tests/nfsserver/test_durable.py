"""What is durable when the answer says so: COMMITs that overlap."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfssvc_shim import state
from tests.tools.nfs3 import UNSTABLE, Nfs3, Proc, Res, pack_COMMIT3args, pack_opaque, unpack_result
from tests.tools.rpc import Call, receive
from tests.tools.servers import wait_until
from tests.tools.worker import OneWorker, export_of

from .test_mistakes import slowed

EXPORT = 1
SLOW_S = 1.0
DEADLINE_S = 30.0


@contextmanager
def one_file(directory: Path) -> Iterator[tuple[OneWorker, Nfs3, bytes]]:
    """A worker, a connection, and a file with unstable data."""
    for name in ("export", "server"):
        (directory / name).mkdir()
    with OneWorker(directory / "server", [export_of(directory / "export", EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        fh = nfs.create(worker.root(EXPORT), b"file").must().h
        nfs.write(fh, b"first", stable=UNSTABLE).must()
        yield worker, nfs, fh
        nfs.close()


def begin(nfs: Nfs3, fh: bytes, message: Call) -> Call:
    """Sends it, and waits until the worker has handed it to a thread."""
    nfs.transport.send(message.pack())
    quick = nfs.message(Proc.GETATTR, pack_opaque(fh))
    nfs.transport.send(quick.pack())
    receive(nfs.transport, quick.xid)
    return message


def ended(nfs: Nfs3, message: Call) -> Res:
    return unpack_result(Proc(message.proc), receive(nfs.transport, message.xid).body)


@pytest.mark.root
def test_a_commit_does_not_answer_for_what_was_written_after_it_began(tmp_path: Path) -> None:
    """Until the second COMMIT is done, the worker's death must change the write verifier: S_UNSYNCED says so."""
    log = tmp_path / "log"
    with one_file(tmp_path) as (worker, nfs, fh), slowed(worker, log, "fsync", SLOW_S):
        first = begin(nfs, fh, nfs.message(Proc.COMMIT, pack_COMMIT3args(fh, 0, 0)))
        wait_until(lambda: "fsync(" in log.read_text(), deadline_s=DEADLINE_S, what="the first COMMIT's fsync")
        nfs.write(fh, b"second", stable=UNSTABLE).must()
        second = begin(nfs, fh, nfs.message(Proc.COMMIT, pack_COMMIT3args(fh, 0, 0)))
        ended(nfs, first).must()
        assert worker.row(state.S_UNSYNCED) == 1
        ended(nfs, second).must()
        assert worker.row(state.S_UNSYNCED) == 0
