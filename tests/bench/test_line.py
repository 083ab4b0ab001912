"""bench/line.c takes no reply for a success that is none."""
from __future__ import annotations

import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("numpy")
BENCH = Path(__file__).resolve().parents[2] / "bench"
LIMIT_S = 20.0
Answer = Callable[[int], bytes]  # xid: what the server sends, record marks included

pytestmark = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler for line.c")


def _whole(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def _serve(listener: socket.socket, answer: Answer, group: int, held: int) -> None:
    """Has `held` calls wait, and answers each `group` before them in the opposite order, until the client goes."""
    listener.settimeout(LIMIT_S)
    xids: list[int] = []
    with listener, listener.accept()[0] as sock:
        sock.settimeout(LIMIT_S)
        while mark := _whole(sock, 4):
            xids.append(int.from_bytes(_whole(sock, int.from_bytes(mark, "big") & 0x7FFFFFFF)[:4], "big"))
            if len(xids) == group + held:
                sock.sendall(b"".join(answer(xid) for xid in reversed(xids[:group])))
                del xids[:group]


@pytest.fixture
def server() -> Iterator[Callable[..., int]]:
    """Starts a server with the given answers; its port."""
    threads = []

    def start(answer: Answer, group: int = 1, held: int = 0) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        threads.append(threading.Thread(target=_serve, args=(listener, answer, group, held)))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def _reply(xid: int, status: int = 0, *, results: bytes = b"", accept: int = 0) -> bytes:
    return struct.pack(">IIIQII", xid, 1, 0, 0, accept, status) + results


def _record(*fragments: bytes) -> bytes:
    marks = [len(f) for f in fragments[:-1]] + [0x80000000 | len(fragments[-1])]
    return b"".join(struct.pack(">I", m) + f for m, f in zip(marks, fragments, strict=True))


def _asked(nfsload: ModuleType, port: int, *, depth: int = 1, rounds: int = 3, **more: int) -> tuple[int, dict[str, int]]:
    """Answers counted after so many sends, each followed by receiving until all is answered; and the refusals."""
    conn = nfsload.Conn("127.0.0.1", port, LIMIT_S)
    raws = [bytearray(nfsload.record(nfsload.message(nfsload.PROG_NFS, 3, 1, nfsload.auth_sys(0, 0), b""))) for _ in range(3)]
    line = nfsload.Pipeline(conn, raws, depth, **more)
    for _ in range(rounds):
        line.send_more()
        while line.inflight:
            line.take()
    conn.sock.close()
    assert len(line.latency_s) == line.done
    assert (line.latency_s >= 0).all()
    return line.done, dict(line.errors)


def test_answers_in_any_order_are_all_taken(nfsload: ModuleType, server: Callable[..., int]) -> None:
    assert _asked(nfsload, server(lambda xid: _record(_reply(xid)), 8), depth=8) == (24, {})


def test_what_is_sent_while_others_wait_takes_no_place_of_theirs(nfsload: ModuleType, server: Callable[..., int]) -> None:
    """Half of the calls are always out when the next ones are sent in the place of the answered half."""
    conn = nfsload.Conn("127.0.0.1", server(lambda xid: _record(_reply(xid)), 4, 4), LIMIT_S)
    raws = [bytearray(nfsload.record(nfsload.message(nfsload.PROG_NFS, 3, 1, nfsload.auth_sys(0, 0), b""))) for _ in range(8)]
    line = nfsload.Pipeline(conn, raws, 8)
    line.send_group(8, 0.0)
    for answered in (4, 8, 12):
        while line.done < answered:
            line.take()
        line.send_group(4, 0.0)
    while line.done < 16:
        line.take()
    conn.sock.close()
    assert (line.inflight, dict(line.errors)) == (4, {})


def test_data_that_all_calls_share_follows_each_of_them(nfsload: ModuleType) -> None:
    """Kept once by the load, it is on the wire with each call, and the heads are their own."""
    data = bytes(range(256)) * 400
    raws = [bytearray(nfsload.record(nfsload.message(nfsload.PROG_NFS, 3, 7, nfsload.auth_sys(0, 0), bytes([i]) * 600 + data)))
            for i in range(40)]
    assert nfsload.shared_tail(raws) >= nfsload.TAIL_MIN
    with socket.create_server(("127.0.0.1", 0)) as listener:
        conn = nfsload.Conn("127.0.0.1", listener.getsockname()[1], LIMIT_S)
        peer = listener.accept()[0]
        line = nfsload.Pipeline(conn, raws, 80)
        sender = threading.Thread(target=line.send_more)
        sender.start()
        with peer:
            peer.settimeout(LIMIT_S)
            came = [_whole(peer, len(raws[0])) for _ in range(80)]
        sender.join(LIMIT_S)
    conn.sock.close()
    assert [c[:4] + c[8:] for c in came] == [bytes(r[:4] + r[8:]) for r in raws * 2]
    assert len({c[4:8] for c in came}) == 80


def test_answer_in_fragments_is_one(nfsload: ModuleType, server: Callable[..., int]) -> None:
    """unfs3 sends long replies so; a fragment may be empty, and the first may end within the results."""
    whole = bytes(300_000)
    port = server(lambda xid: _record(_reply(xid), whole, b"", whole))
    assert _asked(nfsload, port, least=600_000) == (3, {})


def test_null_has_no_nfsstat3(nfsload: ModuleType, server: Callable[..., int]) -> None:
    port = server(lambda xid: _record(_reply(xid)[:24]), 4)
    assert _asked(nfsload, port, depth=4, null=True) == (12, {})


@pytest.mark.parametrize(("answer", "why"), [
    (lambda xid: _record(_reply(xid, 70)), "0000000000000046"),
    (lambda xid: _record(_reply(xid, accept=4)[:24]), "0000000400000000"),
    (lambda xid: _record(_reply(xid)[:24]), "short"),
    (lambda xid: _record(_reply(xid, results=bytes(71))), "short"),
    (lambda xid: _record(struct.pack(">IIIII", xid, 1, 1, 1, 2) + bytes(8)), "denied"),
])
def test_refusal_is_counted_once_a_call(nfsload: ModuleType, server: Callable[..., int], answer: Answer, why: str) -> None:
    assert _asked(nfsload, server(answer), least=100) == (3, {why: 3})


def test_answer_to_nothing_is_no_answer(nfsload: ModuleType, server: Callable[..., int]) -> None:
    """A wrong xid, and a second answer to the same call."""
    port = server(lambda xid: _record(_reply(xid ^ 0x10000, 70)) + _record(_reply(xid)) + _record(_reply(xid, 70)))
    done, errors = _asked(nfsload, port)
    assert done == 3
    assert list(errors) == ["unexpected"]
    assert errors["unexpected"] in (5, 6)  # the last one may still be on its way


def test_many_kinds_of_refusal_fit(nfsload: ModuleType, server: Callable[..., int]) -> None:
    port = server(lambda xid: _record(_reply(xid, 1 + xid % 40)))
    done, errors = _asked(nfsload, port, rounds=40)
    assert done == sum(errors.values()) == 40
    assert errors["other"] == 25


def test_server_that_hangs_up_is_told(nfsload: ModuleType) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    conn = nfsload.Conn("127.0.0.1", listener.getsockname()[1], LIMIT_S)
    line = nfsload.Pipeline(conn, [bytearray(100)] * 2, 1)
    listener.accept()[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="the server closed the connection"):
        line.take()
    listener.close()
    conn.sock.close()


def _two_lines(crowd: ModuleType, port: int, stall_s: float = LIMIT_S) -> Any:
    """Lines of depth 1 and 4 in one loop, which give up when they hear nothing for so long."""
    load = crowd.nfsload
    call = load.record(load.message(load.PROG_NFS, 3, 1, load.auth_sys(0, 0), b""))
    return crowd.Mixed(port, [1, 4], [[bytearray(call) for _ in range(4)] for _ in range(2)], stall_s=stall_s)


def test_lines_of_one_loop_end_when_all_is_answered(crowd: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        servers = [threading.Thread(target=_answer_all, args=(listener,)) for _ in range(2)]
        for thread in servers:
            thread.start()
        mixed = _two_lines(crowd, listener.getsockname()[1])
        mixed.run(0.05)
        counts = [(line.inflight, dict(line.errors), len(line.latency_s) == line.done > 0) for line in mixed.lines]
        mixed.close()
        for thread in servers:
            thread.join(LIMIT_S)
    assert counts == [(0, {}, True)] * 2


def _answer_all(listener: socket.socket) -> None:
    """One connection, each call of it, until it ends."""
    with listener.accept()[0] as sock:
        sock.settimeout(LIMIT_S)
        while mark := _whole(sock, 4):
            sock.sendall(_record(_reply(int.from_bytes(_whole(sock, int.from_bytes(mark, "big") & 0x7FFFFFFF)[:4], "big"))))


def test_lines_of_one_loop_give_up_when_nothing_comes(crowd: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mixed = _two_lines(crowd, listener.getsockname()[1], 0.2)
        with pytest.raises(crowd.nfsload.Stalled):
            mixed.run(0.05)
        mixed.close()


def test_lines_of_one_loop_tell_that_one_was_closed(crowd: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mixed = _two_lines(crowd, listener.getsockname()[1])
        listener.accept()[0].close()
        with pytest.raises(ConnectionError) as told:
            mixed.run(0.05)
        assert not isinstance(told.value, crowd.nfsload.Stalled)
        mixed.close()
