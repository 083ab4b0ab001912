"""Where a sync is done: by the loop in streaks of quick ones, for a client that is alone and waits for each; else by a thread."""
from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import Nfs3, Proc, pack_COMMIT3args, unpack_result
from tests.tools.rpc import Tcp, receive
from tests.tools.servers import ServerSet, pause, wait_until
from tests.tools.strace import straced

from .conftest import CRED

MEMORY = Path("/dev/shm")   # a tmpfs, whose fsync is quick on the busiest machine
COMMITS = 2000
SLOW_S = 1.0
QUICK_S = 0.5


@pytest.fixture
def one(tmp_path: Path) -> Iterator[tuple[ServerSet, Nfs3, bytes]]:
    """A server with one worker, a connection to it, and the handle of its export, which is in memory."""
    if not os.access(MEMORY, os.W_OK):
        pytest.skip(f"{MEMORY} is not there")
    with (tempfile.TemporaryDirectory(dir=MEMORY) as export,
          ServerSet(tmp_path, f'"{export}" 127.0.0.0/8(rw,no_root_squash,insecure)\n', workers=1) as server):
        nfs = server.client(CRED)
        yield server, nfs, server.root(Path(export))
        nfs.close()


def thread_switches(server: ServerSet) -> int:
    """How often the worker's threads, its loop not among them, have waited for something."""
    pid, = server.worker_pids()
    tasks = [path for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
    return sum(int(line.split()[1]) for path in tasks for line in (path / "status").read_text().splitlines()
               if line.startswith("voluntary_ctxt_switches"))


def commits(nfs: Nfs3, file: bytes, count: int) -> None:
    for _ in range(count):
        nfs.commit(file, 0, 0).must()


def test_a_streak_of_quick_syncs_needs_no_thread(one: tuple[ServerSet, Nfs3, bytes]) -> None:
    server, nfs, root = one
    file = nfs.create(root, b"file").must().h
    pause()
    before = thread_switches(server)
    commits(nfs, file, COMMITS)
    assert thread_switches(server) - before < COMMITS / 2


def test_beside_another_client_a_thread_syncs(one: tuple[ServerSet, Nfs3, bytes]) -> None:
    server, nfs, root = one
    file = nfs.create(root, b"file").must().h
    with closing(server.client(CRED).transport) as other:
        before = thread_switches(server)
        for _ in range(COMMITS // 4):
            nfs.commit(file, 0, 0).must()
            Nfs3(other, CRED).null()
        assert thread_switches(server) - before >= COMMITS // 4


def is_received(server: ServerSet, nfs: Nfs3) -> bool:
    """Has the worker taken all that was sent on this connection (proc_net_tcp: local and remote address, tx_queue:rx_queue)?"""
    assert isinstance(nfs.transport, Tcp)
    ends = [f"{server.port:04X}", f"{nfs.transport.sock.getsockname()[1]:04X}"]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any([row[1][-4:], row[2][-4:]] == ends and row[4].endswith(":00000000") for row in rows)


@pytest.mark.root
def test_the_first_sync_after_a_pause_is_a_threads(one: tuple[ServerSet, Nfs3, bytes], tmp_path: Path) -> None:
    """The disk may have become slow in the meantime: a GETATTR behind it does not wait."""
    server, nfs, root = one
    other = server.client(CRED)
    file = nfs.create(root, b"file").must().h
    pause()
    commits(nfs, file, COMMITS)
    with closing(other.transport), straced(server.worker_pids(), tmp_path / "slow.log", "-e", "trace=fsync",
                 "-e", f"inject=fsync:delay_enter={int(SLOW_S * 1e6)}"):  # which begins with a pause
        waits = nfs.message(Proc.COMMIT, pack_COMMIT3args(file, 0, 0))
        nfs.transport.send(waits.pack())
        wait_until(lambda: is_received(server, nfs), deadline_s=SLOW_S, what="the COMMIT to be received")
        begun = time.monotonic()
        other.getattr(file).must()
        quick_s = time.monotonic() - begun
        answer = receive(nfs.transport, waits.xid)
        slow_s = time.monotonic() - begun
    assert unpack_result(Proc.COMMIT, answer.body).status == 0
    assert quick_s < QUICK_S
    assert slow_s > QUICK_S, "the answer came before the fsync it must wait for"
