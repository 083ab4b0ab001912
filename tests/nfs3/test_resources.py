"""What clients cost: descriptors and memory come back; many connections and slow ones harm nobody (A19, A21, F26, F28)."""
from __future__ import annotations

import os
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.tools.nfs3 import UNSTABLE, Proc, pack_opaque, pack_READ3args, pack_READDIR3args, pack_uints
from tests.tools.rpc import Call, Tcp, exchange
from tests.tools.servers import OURS, ServerSet, wait_until

from .conftest import CRED, Spot

pytestmark = pytest.mark.skipif(not OURS, reason="looks into our processes")
NFS3ERR_STALE = 70
CONNECTIONS = 1000
QUICK_S = 0.5     # a NULL on a fresh connection, on a machine with other work
GROWTH = 4 << 20  # of one process by hostile messages; the rule is 2 MiB, malloc's arenas are not exact
RECORD_DEADLINE_S = 30


def descriptors(server: ServerSet) -> dict[int, int]:
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in server.worker_pids()}


def resident(server: ServerSet) -> dict[int, int]:
    """Bytes of memory in use, by process of the set."""
    return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() for pid in server.pids()}


def null_s(server: ServerSet) -> float:
    """Seconds for a NULL on a fresh connection."""
    start = time.monotonic()
    with closing(server.client()) as client:
        client.null()
    return time.monotonic() - start


@pytest.fixture
def many() -> Iterator[None]:
    """This process may have as many descriptors as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 200:
        pytest.skip(f"RLIMIT_NOFILE {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CONNECTIONS + 200), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.root  # the workers are not dumpable: nobody else may look at their descriptors
def test_closed_and_reset_connections_leave_no_descriptor(server: ServerSet) -> None:
    """A21: half of them are reset, a quarter in the middle of a record."""
    assert null_s(server) < QUICK_S * 4
    before = descriptors(server)
    for number in range(400):
        tcp = Tcp(server.address)
        if number % 4 == 0:
            tcp.raw(b"\x80\x00\x00\x64abc")
        elif number % 4 == 1:
            tcp.send(Call(100003, 3, 0).pack())
        if number % 2:
            tcp.sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close resets
        tcp.close()
    wait_until(lambda: all(descriptors(server)[pid] <= count + 2 for pid, count in before.items()), deadline_s=10,
               what="the descriptors of closed connections")


def test_idle_connections_cost_little_and_delay_nobody(server: ServerSet, many: None) -> None:
    """F28, smaller: a thousand idle connections, then a fresh one is served at once; memory is counted."""
    null_s(server)
    before = sum(resident(server).values())
    idle = [Tcp(server.address) for _ in range(CONNECTIONS)]
    for tcp in idle[::10]:
        assert exchange(tcp, Call(100003, 3, 0)).ok
    assert min(null_s(server) for _ in range(5)) < QUICK_S
    assert sum(resident(server).values()) - before < CONNECTIONS * 16 * 1024 + GROWTH
    for tcp in idle:
        tcp.close()


class Scarce(ServerSet):
    """As many exports as its workers may have descriptors for, with a few to spare."""

    FILES = 1200
    EXPORTS = 800

    def command(self) -> list[str]:
        return ["prlimit", f"--nofile={self.FILES}:{self.FILES}", *super().command()]


class Few(ServerSet):
    """One worker with few descriptors."""

    FILES = 256

    def __init__(self, directory: Path, exports: str) -> None:
        super().__init__(directory, exports, workers=1)

    def command(self) -> list[str]:
        return ["prlimit", f"--nofile={self.FILES}:{self.FILES}", *super().command()]


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="sets a limit with prlimit(1)")
def test_newcomers_are_served_when_descriptors_run_out(tmp_path: Path) -> None:
    """F25: more connections than descriptors, beside as many objects with open files: the ones that are idle make room, nobody
    is refused, and the worker stays."""
    for name in ("data", "server"):
        (tmp_path / name).mkdir()
    for number in range(Few.FILES):
        (tmp_path / "data" / str(number)).write_bytes(b"data")
    with Few(tmp_path / "server", f'"{tmp_path / "data"}" 127.0.0.0/8(rw,no_root_squash,insecure)\n') as server:
        workers, top = server.worker_pids(), server.root(tmp_path / "data")
        with closing(server.client(CRED)) as nfs:
            files = [nfs.lookup(top, b"%d" % number).must().h for number in range(Few.FILES)]
            for file in files:
                nfs.read(file).must()
                nfs.write(file, b"data", stable=UNSTABLE).must()
        clients = []
        for number in range(Few.FILES * 2):
            clients.append(server.client(CRED, source=f"127.0.0.{2 + number % 50}"))
            assert clients[-1].read(files[number % Few.FILES]).must().data == b"data"
        for client in clients:
            client.close()
        assert server.worker_pids() == workers
        assert "Too many open files" not in server.log() and "truncated packet" not in server.log()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="sets a limit with prlimit(1)")
def test_objects_make_room_where_exports_take_most_descriptors(tmp_path: Path) -> None:
    """Each export holds a descriptor for good; an object that is asked for takes the place of another one."""
    paths = [tmp_path / "data" / str(number) for number in range(Scarce.EXPORTS)]
    for path in paths:
        path.mkdir(parents=True)
    (tmp_path / "server").mkdir()
    table = "".join(f"{path} 127.0.0.1(rw,no_root_squash,insecure)\n" for path in paths)
    with Scarce(tmp_path / "server", table, workers=1) as server, closing(server.client()) as client:
        roots = [server.root(path) for path in paths]
        assert [client.getattr(root).status for root in roots * 2] == [0] * Scarce.EXPORTS * 2


N_ROOTS = 60


def exported(paths: list[Path]) -> str:
    return "".join(f"{path} 127.0.0.1(rw,no_root_squash,insecure)\n" for path in paths)


@pytest.mark.root  # the workers are not dumpable: nobody else may look at their descriptors
def test_roots_that_are_asked_for_use_the_descriptors_of_their_exports(tmp_path: Path) -> None:
    """10,000 exports and their roots would not fit into 20,000 files.  A descriptor goes once, with its export, whoever had it,
    not with a root that was removed; one whose export went is STALE, one at the same place afterwards is another directory."""
    paths = [tmp_path / "data" / str(number) for number in range(N_ROOTS)]
    for path in paths:
        path.mkdir(parents=True)
    (tmp_path / "server").mkdir()
    with ServerSet(tmp_path / "server", exported(paths), workers=1) as server, closing(server.client()) as client:
        client.null()
        before, = descriptors(server).values()
        roots = [server.root(path) for path in paths]
        assert [client.getattr(root).status for root in roots] == [0] * N_ROOTS
        after, = descriptors(server).values()
        assert after - before < N_ROOTS / 2
        for path in paths[N_ROOTS // 2:]:
            path.rmdir()
        assert [client.getattr(root).status for root in roots[N_ROOTS // 2:]] == [NFS3ERR_STALE] * (N_ROOTS // 2)
        assert abs(descriptors(server).popitem()[1] - after) < N_ROOTS / 4
        for path in paths[N_ROOTS // 2:]:
            path.mkdir()
        gone, stays = roots[1], roots[0]
        paths[2].rmdir()
        paths[2].mkdir()
        server.reload(exported([paths[0], paths[2]]))
        wait_until(lambda: client.getattr(gone).status == NFS3ERR_STALE, deadline_s=20, what="the shorter table")
        assert (client.getattr(stays).status, client.getattr(roots[2]).status) == (0, NFS3ERR_STALE)
        few, = descriptors(server).values()
        assert after - few > N_ROOTS / 2
        server.reload(exported(paths))
        wait_until(lambda: client.getattr(gone).status == 0, deadline_s=20, what="the whole table")
        assert [client.getattr(server.root(path)).status for path in paths] == [0] * N_ROOTS
        again, = descriptors(server).values()
        assert abs(again - after) < N_ROOTS / 4


def hostile(spot: Spot) -> None:
    """One round of messages that name sizes they do not have, or ask for more than there is."""
    for mark in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000 | 8 << 20):
        with closing(Tcp(spot.server.address)) as tcp, suppress(OSError):
            tcp.raw(struct.pack(">I", mark) + bytes(4000))
            tcp.closed_within(2)
    for args in (pack_uints(0xFFFFFFFF), pack_uints(0x7FFFFFF0) + bytes(64), pack_opaque(spot.fh) + pack_uints(0xFFFFFFFF)):
        assert not exchange(spot.nfs.transport, spot.nfs.message(Proc.LOOKUP, args)).ok
    for proc, args in ((Proc.READDIR, pack_READDIR3args(spot.fh, 0, bytes(8), 0xFFFFFFFF)),
                       (Proc.READ, pack_READ3args(spot.fh, 0, 0xFFFFFFFF))):
        assert exchange(spot.nfs.transport, spot.nfs.message(proc, args)).ok


def test_hostile_messages_take_no_memory(spot: Spot) -> None:
    """Nothing is allocated from a length that a peer named."""
    for _ in range(20):
        hostile(spot)
    before = resident(spot.server)
    for _ in range(60):
        hostile(spot)
    after = resident(spot.server)
    assert {pid: after[pid] - size for pid, size in before.items() if after[pid] - size > GROWTH} == {}


def test_half_sent_large_records_are_bounded_together(spot: Spot) -> None:
    """Forty connections each announce 1 MiB and send a few bytes: no buffers of that size are kept, others are served."""
    before = sum(resident(spot.server).values())
    conns = [Tcp(spot.server.address) for _ in range(40)]
    for tcp in conns:
        tcp.raw(struct.pack(">I", 0x80000000 | 1 << 20) + bytes(100))
    assert min(null_s(spot.server) for _ in range(5)) < QUICK_S
    assert sum(resident(spot.server).values()) - before < 40 * (64 << 10) + GROWTH
    for tcp in conns:
        tcp.close()


@pytest.mark.skipif(not os.environ.get("NFS3_SLOW"), reason="takes 30 s; NFS3_SLOW=1 runs it")
def test_record_that_is_never_finished_is_closed_after_its_deadline(server: ServerSet) -> None:
    """A19: half a header, half a record, and a byte now and then."""
    conns = [Tcp(server.address) for _ in range(3)]
    conns[0].raw(b"\x80\x00")
    conns[1].raw(struct.pack(">I", 0x80000064) + bytes(50))
    conns[2].raw(struct.pack(">I", 0x80000064))
    start = time.monotonic()
    while time.monotonic() - start < RECORD_DEADLINE_S - 5:
        conns[2].raw(b"\0")
        assert not conns[2].closed_within(2)
    for tcp in conns:
        assert tcp.closed_within(RECORD_DEADLINE_S)
        tcp.close()
    assert null_s(server) < QUICK_S * 4
