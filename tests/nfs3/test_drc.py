"""Retransmissions: the duplicate request cache, and what a killed worker had in hand (attack F02, protocol note 5.4).

A retransmission has the same xid, credential and arguments, and comes from the same address; it may come over the same
connection, another one, another source port and so to another worker.  Its answer is the first one's, and nothing is done twice.
"""
from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    EXIST,
    FILE_SYNC,
    GUARDED,
    NF3FIFO,
    NOENT,
    OK,
    UNSTABLE,
    Nfs3,
    Proc,
    Sattr3,
    pack_CREATE3args,
    pack_diropargs3,
    pack_LINK3args,
    pack_MKDIR3args,
    pack_MKNOD3args,
    pack_RENAME3args,
    pack_SETATTR3args,
    pack_SYMLINK3args,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.rpc import Call, Reply, auth_sys, exchange, next_xid, pipeline, replace, unpack_reply
from tests.tools.servers import ServerSet, wait_until
from tests.tools.strace import straced

from .conftest import Spot

ATTR = Sattr3(mode=0o755)
PATIENCE_S = 30.0   # of a client, before it says that the server does not answer: a new worker may be a while on a busy machine
SYSCALLS = {"CREATE": "openat,openat2,mknodat", "MKDIR": "mkdirat", "SYMLINK": "symlinkat", "MKNOD": "mknodat",
            "REMOVE": "unlinkat", "RMDIR": "unlinkat", "RENAME": "renameat,renameat2", "LINK": "linkat",
            "WRITE": "pwrite64,pwritev,pwritev2"}
DONE_BY = {**SYSCALLS, "SETATTR": "ftruncate"}
CHANGES = ["CREATE", "MKDIR", "SYMLINK", "MKNOD", "REMOVE", "RMDIR", "RENAME", "LINK", "SETATTR", "WRITE"]


def change(spot: Spot, name: str, tag: bytes = b"") -> Call:
    """A call that succeeds once, and would fail or do harm when done again; `tag` keeps several apart."""
    new, old = b"new" + tag, b"old" + tag
    if name in ("REMOVE", "RENAME", "LINK", "SETATTR", "WRITE"):
        fh = spot.file(old, b"content")
    elif name == "RMDIR":
        spot.dir(old)
    args = {
        "CREATE": lambda: pack_CREATE3args(spot.fh, new, GUARDED, ATTR), "MKDIR": lambda: pack_MKDIR3args(spot.fh, new, ATTR),
        "SYMLINK": lambda: pack_SYMLINK3args(spot.fh, new, ATTR, b"target"),
        "MKNOD": lambda: pack_MKNOD3args(spot.fh, new, NF3FIFO, ATTR, (0, 0)), "REMOVE": lambda: pack_diropargs3(spot.fh, old),
        "RMDIR": lambda: pack_diropargs3(spot.fh, old), "RENAME": lambda: pack_RENAME3args(spot.fh, old, spot.fh, new),
        "LINK": lambda: pack_LINK3args(fh, spot.fh, new),
        "SETATTR": lambda: pack_SETATTR3args(fh, Sattr3(size=3), spot.nfs.getattr(fh).must().a.ctime),
        "WRITE": lambda: pack_WRITE3args(fh, 0, b"CONTENT", FILE_SYNC),
    }[name]()
    return spot.nfs.message(Proc[name], args)


def send_from_new_connection(spot: Spot, call: Call, *, proto: str = "tcp", source: str = "") -> Reply:
    with closing(spot.server.client(proto=proto, source=source)) as other:
        return exchange(other.transport, call)


def ask_until_answered(spot: Spot, call: Call, *, deadline_s: float = PATIENCE_S) -> Reply:
    """A client's patience: the call is sent again, each time on a new connection, until one is answered."""
    end = time.monotonic() + deadline_s
    while True:
        with closing(spot.server.client()) as client:
            client.transport.sock.settimeout(0.5)  # type: ignore[attr-defined]
            try:
                return exchange(client.transport, call)
            except (OSError, EOFError):
                if time.monotonic() > end:
                    raise


@pytest.mark.parametrize("name", CHANGES)
def test_retransmission_on_the_same_connection_gets_the_same_answer(spot: Spot, name: str) -> None:
    call = change(spot, name)
    first = exchange(spot.nfs.transport, call)
    assert unpack_result(Proc[name], first.body).status == OK
    for _ in range(5):
        assert exchange(spot.nfs.transport, call) == first


@pytest.mark.parametrize("name", CHANGES)
def test_retransmission_from_other_connections_gets_the_same_answer(spot: Spot, name: str) -> None:
    """Eight connections meet each of the workers."""
    call = change(spot, name)
    first = exchange(spot.nfs.transport, call)
    assert unpack_result(Proc[name], first.body).status == OK
    for _ in range(8):
        assert send_from_new_connection(spot, call) == first


@pytest.mark.parametrize("name", CHANGES)
def test_retransmission_over_udp_gets_the_same_answer(spot: Spot, name: str) -> None:
    call = change(spot, name)
    first = send_from_new_connection(spot, call, proto="udp")
    assert unpack_result(Proc[name], first.body).status == OK
    for _ in range(8):
        assert send_from_new_connection(spot, call, proto="udp") == first


@pytest.mark.parametrize("name", CHANGES)
def test_retransmissions_sent_at_once_are_done_once(spot: Spot, name: str) -> None:
    """The second arrives while the first runs: it is dropped or gets the first's answer, never an answer of its own."""
    call = change(spot, name)
    assert len(set(sent_at_once(spot, call))) == 1
    assert unpack_result(Proc[name], send_from_new_connection(spot, call).body).status == OK


@pytest.mark.root
@pytest.mark.parametrize("name", CHANGES)
def test_retransmissions_while_the_first_waits_for_the_disk_are_not_done(spot: Spot, trace: Path, name: str) -> None:
    """Six are sent, and one system call is made."""
    call, syncs, calls = change(spot, name), "fsync,fdatasync,syncfs", DONE_BY[name]
    with straced(spot.server.worker_pids(), trace, "-e", f"trace={syncs},{calls}", "-e", f"inject={syncs}:delay_enter=300000"):
        assert len(set(sent_at_once(spot, call))) == 1
    made = [line for line in trace.read_text().splitlines() if any(f" {each}(" in line for each in calls.split(","))]
    assert len([line for line in made if name != "CREATE" or "O_EXCL" in line]) == 1
    assert unpack_result(Proc[name], send_from_new_connection(spot, call).body).status == OK


def sent_at_once(spot: Spot, call: Call) -> list[bytes]:
    """The answers to `call`, sent on six connections; at least one."""
    clients = [spot.server.client() for _ in range(6)]
    fences = [client.message(Proc.NULL, b"") for client in clients]
    for client, fence in zip(clients, fences, strict=True):
        client.transport.send(call.pack())
        client.transport.send(fence.pack())
    replies = [body for client, fence in zip(clients, fences, strict=True) for body in answers_before(client, fence)]
    if not replies:  # all but the one that still runs were dropped
        replies = [first_of(clients)]
    for client in clients:
        client.close()
    assert {unpack_reply(reply).xid for reply in replies} == {call.xid}
    return replies


def answers_before(client: Nfs3, fence: Call) -> list[bytes]:
    """What comes before the answer to `fence`: a call sent before it is in work by then, or has been answered or dropped."""
    came = [client.transport.recv()]
    while unpack_reply(came[-1]).xid != fence.xid:
        came.append(client.transport.recv())
    return came[:-1]


def first_of(clients: list[Nfs3]) -> bytes:
    """The next record that comes on any of the connections."""
    by_socket = {client.transport.sock: client for client in clients}  # type: ignore[attr-defined]
    readable, _, _ = select.select(list(by_socket), [], [], PATIENCE_S)
    assert readable, f"no answer within {PATIENCE_S} s"
    return by_socket[readable[0]].transport.recv()


def test_same_xid_with_other_arguments_is_another_call(spot: Spot) -> None:
    call = change(spot, "MKDIR")
    assert exchange(spot.nfs.transport, call).ok
    other = replace(call, args=pack_MKDIR3args(spot.fh, b"other", ATTR))
    assert unpack_result(Proc.MKDIR, exchange(spot.nfs.transport, other).body).status == OK
    assert sorted(os.listdir(spot.path)) == ["new", "other"]


def test_same_xid_with_other_procedure_is_another_call(spot: Spot) -> None:
    xid = next_xid()
    made = exchange(spot.nfs.transport, Call(100003, 3, Proc.MKDIR, pack_MKDIR3args(spot.fh, b"x", ATTR), spot.nfs.cred, xid=xid))
    assert unpack_result(Proc.MKDIR, made.body).ok
    gone = exchange(spot.nfs.transport, Call(100003, 3, Proc.RMDIR, pack_diropargs3(spot.fh, b"x"), spot.nfs.cred, xid=xid))
    assert unpack_result(Proc.RMDIR, gone.body).ok and os.listdir(spot.path) == []


def test_same_call_from_another_address_is_another_call(spot: Spot) -> None:
    """Never another caller's reply."""
    call = change(spot, "MKDIR")
    assert unpack_result(Proc.MKDIR, exchange(spot.nfs.transport, call).body).status == OK
    reply = send_from_new_connection(spot, call, source="127.0.0.9")
    assert unpack_result(Proc.MKDIR, reply.body).status == EXIST


@pytest.mark.root
def test_same_call_of_another_user_is_another_call(spot: Spot) -> None:
    call = change(spot, "MKDIR")
    assert exchange(spot.nfs.transport, call).ok
    reply = exchange(spot.nfs.transport, replace(call, cred=auth_sys(1000, 1000)))
    assert unpack_result(Proc.MKDIR, reply.body).status == EXIST


def test_new_xid_with_the_same_arguments_is_another_call(spot: Spot) -> None:
    call = change(spot, "REMOVE")
    assert unpack_result(Proc.REMOVE, exchange(spot.nfs.transport, call).body).status == OK
    assert unpack_result(Proc.REMOVE, exchange(spot.nfs.transport, replace(call, xid=next_xid())).body).status == NOENT


def test_write_that_differs_in_the_middle_is_another_call(spot: Spot) -> None:
    """The cache looks at all of the data, or its checksum; not at the ends alone, with the same xid from one client."""
    fh = spot.file()
    one, two = b"a" * 32768, b"a" * 16000 + b"b" + b"a" * 16767
    call = spot.nfs.message(Proc.WRITE, pack_WRITE3args(fh, 0, one, FILE_SYNC))
    assert exchange(spot.nfs.transport, call).ok
    assert exchange(spot.nfs.transport, replace(call, xid=next_xid(), args=pack_WRITE3args(fh, 0, two, FILE_SYNC))).ok
    assert spot.local(b"file").read_bytes() == two


def test_failed_call_is_answered_alike_when_sent_again(spot: Spot) -> None:
    """EXIST stays EXIST although the name is gone by then."""
    spot.dir(b"x")
    call = spot.nfs.message(Proc.MKDIR, pack_MKDIR3args(spot.fh, b"x", ATTR))
    first = exchange(spot.nfs.transport, call)
    assert unpack_result(Proc.MKDIR, first.body).status == EXIST
    assert send_from_new_connection(spot, call) == first


def test_2000_changes_each_retransmitted_have_no_wrong_answer(spot: Spot) -> None:
    calls = [spot.nfs.message(Proc.MKDIR, pack_MKDIR3args(spot.fh, b"%d" % number, ATTR)) for number in range(1000)]
    calls += [spot.nfs.message(Proc.RMDIR, pack_diropargs3(spot.fh, b"%d" % number)) for number in range(1000)]
    firsts = [reply for start in range(0, 2000, 50) for reply in pipeline(spot.nfs.transport, calls[start:start + 50])]
    assert {reply.body[:4] for reply in firsts} == {bytes(4)}
    with closing(spot.server.client()) as other:
        seconds = [reply for start in range(0, 2000, 50) for reply in pipeline(other.transport, calls[start:start + 50])]
    assert seconds == firsts and os.listdir(spot.path) == []


@pytest.mark.kills
def test_retransmissions_of_everything_by_everyone_have_no_wrong_answer(spot: Spot) -> None:
    """NFS3_RETRANSMISSIONS of them (default 2,000): each change sent again five times, over the same connection and new ones.

    In every tenth round the workers are killed in between.
    """
    wanted = int(os.environ.get("NFS3_RETRANSMISSIONS", "2000"))
    for number in range(max(1, wanted // 500)):
        client = spot.server.client()
        here = Spot(spot.server, client, spot.path, spot.fh)
        calls = [change(here, name, b"-%s-%d-%d" % (name.encode(), number, at)) for name in CHANGES for at in range(10)]
        firsts = list(pipeline(client.transport, calls))
        assert {reply.body[:4] for reply in firsts} == {bytes(4)}
        assert list(pipeline(client.transport, calls)) == firsts
        if number % 10 == 9:
            kill_workers(spot.server)
        for _ in range(4):
            with closing(spot.server.client()) as other:
                assert list(pipeline(other.transport, calls)) == firsts
        client.close()


# --- workers that die -----------------------------------------------------------------------------------------------------

def kill_workers(server: ServerSet) -> None:
    """SIGKILL to all workers; returns when as many new ones are there and one serves."""
    before = server.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await_new_workers(server, before)


def await_new_workers(server: ServerSet, before: list[int]) -> None:
    def all_new() -> bool:
        slots = [(slot["pid"], slot["alive"]) for slot in server.status()["slots"]]
        return len(slots) == len(before) and all(alive and pid not in before for pid, alive in slots)
    wait_until(all_new, deadline_s=PATIENCE_S, what="new workers")


@pytest.mark.kills
@pytest.mark.parametrize("name", CHANGES)
def test_retransmission_after_the_workers_were_killed_gets_the_same_answer(spot: Spot, name: str) -> None:
    """The cache lies in shared memory and outlives the worker that filled it."""
    call = change(spot, name)
    first = exchange(spot.nfs.transport, call)
    assert unpack_result(Proc[name], first.body).status == OK
    kill_workers(spot.server)
    assert send_from_new_connection(spot, call) == first


@contextmanager
def killed_at(server: ServerSet, syscalls: str, log: Path) -> Iterator[None]:
    """While in it, a worker that enters one of `syscalls` is killed before the call is done."""
    with straced(server.worker_pids(), log, "-e", f"trace={syscalls}", "-e", f"inject={syscalls}:signal=SIGKILL:when=1",
                 kill=True):
        yield


REPLIES = "sendto,sendmsg,sendmmsg,write,writev"


@pytest.mark.root
@pytest.mark.kills
@pytest.mark.parametrize("name", sorted(SYSCALLS))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_retransmission_after_a_death_in_the_middle_is_decided_rightly(spot: Spot, trace: Path, name: str, moment: str) -> None:
    """F02: the worker dies at the system call (not done) or at the reply (done, not answered): the client sees OK, once."""
    call, before = change(spot, name), spot.server.worker_pids()
    spot.nfs.null()  # the connection is the worker's: it has nothing more to say about that, and so dies of this call's reply
    with killed_at(spot.server, SYSCALLS[name] if moment == "before" else REPLIES, trace):
        spot.nfs.transport.send(call.pack())
        with pytest.raises((EOFError, OSError)):
            spot.nfs.transport.recv()
    if moment == "after":
        assert_done_once(spot, name)
    for _ in range(4):
        assert unpack_result(Proc[name], ask_until_answered(spot, call).body).status == OK
    assert_done_once(spot, name)
    wait_until(lambda: set(spot.server.worker_pids()) != set(before) and len(spot.server.worker_pids()) == len(before),
               deadline_s=PATIENCE_S, what="the new worker")


@pytest.fixture
def trace(spot: Spot) -> Path:
    return spot.server.directory / "strace.log"


def assert_done_once(spot: Spot, name: str) -> None:
    there = set(os.listdir(spot.path))
    if name in ("REMOVE", "RMDIR"):
        assert there == set()
    elif name == "WRITE":
        assert spot.local(b"old").read_bytes() == b"CONTENT"
    elif name == "LINK":
        assert there == {"old", "new"} and spot.local(b"new").stat().st_nlink == 2
    else:
        assert there == {"new"}


# --- the write verifier ---------------------------------------------------------------------------------------------------

@pytest.mark.kills
def test_write_verifier_changes_when_a_worker_dies_with_unsynced_data(spot: Spot) -> None:
    """It may have taken an unread write error with it."""
    fh = spot.file()
    verf = spot.nfs.write(fh, b"x", stable=UNSTABLE).must().verf
    kill_workers(spot.server)
    with closing(spot.server.client(spot.nfs.cred)) as client:
        assert client.commit(fh).must().verf != verf


@pytest.mark.kills
def test_write_verifier_stays_when_a_worker_dies_with_nothing_unsynced(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.write(fh, b"x", stable=UNSTABLE).must()
    verf = spot.nfs.commit(fh).must().verf
    kill_workers(spot.server)
    with closing(spot.server.client(spot.nfs.cred)) as client:
        assert client.commit(fh).must().verf == verf


@pytest.mark.kills
def test_handles_and_data_live_through_the_death_of_workers(spot: Spot) -> None:
    fh = spot.nfs.create(spot.fh, b"x", ATTR).must().h
    spot.nfs.write(fh, b"acknowledged", stable=FILE_SYNC).must()
    for _ in range(3):
        kill_workers(spot.server)
        with closing(spot.server.client(spot.nfs.cred)) as client:
            assert client.read(fh).must().data == b"acknowledged"


@pytest.mark.kills
def test_only_the_dead_workers_connections_are_lost(spot: Spot) -> None:
    """F01: the others go on."""
    clients = [spot.server.client(spot.nfs.cred) for _ in range(8)]
    assert all(_answers(client) for client in clients)
    before = spot.server.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(spot.server.worker_pids()) == len(before) and before[0] not in spot.server.worker_pids(),
               deadline_s=PATIENCE_S, what="the new worker")
    alive = sum(_answers(client) for client in clients)
    assert 0 < alive < len(clients)
    for client in clients:
        client.close()


def _answers(client: Nfs3) -> bool:
    try:
        client.null()
        return True
    except (OSError, EOFError):
        return False
