"""The engine as clients see it: records, headers, credentials, and what hostile clients send (RFC 5531)."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from oncrpc._rpc import lib

from oncrpc.message import pack_relay, unpack_relay_reply
from oncrpc.server import NULL, Limits, Procedure, Program, Request, Server
from oncrpc.server import Call as RawCall
from oncrpc.xdr import Unpacker

from ..tools.rpc import (
    AUTH_BADCRED,
    AUTH_BADVERF,
    AUTH_REJECTEDCRED,
    GARBAGE_ARGS,
    LAST_FRAGMENT,
    PROC_UNAVAIL,
    PROG_MISMATCH,
    PROG_UNAVAIL,
    SYSTEM_ERR,
    Auth,
    Call,
    Tcp,
    Udp,
    auth_sys,
    exchange,
    pipeline,
    receive,
    unpack_reply,
)
from .conftest import BIG, BUG, DROP, ECHO, HOLD, HOLE, PROG, SLOW, WHO, Small

RECORD_LIMIT = (1 << 20) + 4096 + 1024  # MAX_RECORD of engine/core.h


def mark(length: int, *, last: bool = True) -> bytes:
    return struct.pack(">I", length | (LAST_FRAGMENT if last else 0))


def transports(small: Small) -> list[Tcp | Udp]:
    return [Tcp(small.address), Udp(small.udp_address)]


def still_serves(small: Small) -> None:
    """A NULL on a fresh connection is answered."""
    fresh = Tcp(small.address)
    assert exchange(fresh, Call(PROG, 3, 0)).ok
    fresh.close()


def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    """For what the server's thread counts: nothing announces it."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        os.sched_yield()


# ---- what is answered without a procedure


@pytest.mark.parametrize(
    ("call", "stat", "low_high"),
    [
        (Call(100099, 3, 0), PROG_UNAVAIL, (0, 0)),
        (Call(PROG, 1, 0), PROG_MISMATCH, (2, 3)),
        (Call(PROG, 0xFFFFFFFF, 7), PROG_MISMATCH, (2, 3)),
        (Call(PROG, 2, 5), PROC_UNAVAIL, (0, 0)),
        (Call(PROG, 3, HOLE), PROC_UNAVAIL, (0, 0)),
        (Call(PROG, 3, 22), PROC_UNAVAIL, (0, 0)),
        (Call(PROG, 3, 0xFFFFFFFF), PROC_UNAVAIL, (0, 0)),
    ],
)
def test_unknown_program_version_procedure_gets_its_own_status(
    small: Small, call: Call, stat: int, low_high: tuple[int, int]
) -> None:
    """RFC 5531 section 9; also with a credential that nobody would accept: authentication is tested last."""
    for transport in transports(small):
        for cred in (call.cred, Auth(99, b"x" * 40)):
            reply = exchange(transport, Call(call.prog, call.vers, call.proc, cred=cred))
            assert (reply.accept_stat, reply.low, reply.high) == (stat, *low_high)
        transport.close()


def test_rpcvers_3_is_denied_with_range_2_to_2(small: Small) -> None:
    for transport in transports(small):
        reply = exchange(transport, Call(PROG, 3, 0, rpcvers=3))
        assert (reply.stat, reply.detail, reply.low, reply.high) == (1, 0, 2, 2)
        transport.close()


@pytest.mark.parametrize("flavor", [0, 1, 2, 3, 6, 7, 390003, 0xFFFFFFFF])
def test_null_is_answered_whatever_the_flavor(small: Small, flavor: int) -> None:
    transport = Tcp(small.address)
    assert exchange(transport, Call(PROG, 3, 0, cred=Auth(flavor, b"abcd"))).ok
    transport.close()


@pytest.mark.parametrize("flavor", [2, 3, 6, 7, 390003, 0xFFFFFFFF])
def test_other_flavors_are_refused_elsewhere(small: Small, flavor: int) -> None:
    transport = Tcp(small.address)
    assert exchange(transport, Call(PROG, 3, ECHO, cred=Auth(flavor, b"abcd"))).auth_error == AUTH_REJECTEDCRED
    transport.close()


# ---- credentials


def who(small: Small, cred: Auth, transport: Tcp | None = None) -> tuple[list[int], bytes, int]:
    connection = transport or Tcp(small.address)
    reply = exchange(connection, Call(PROG, 3, WHO, cred=cred))
    assert reply.ok, reply
    data = Unpacker(reply.body)
    head = [data.unpack_uint() for _ in range(8)]
    numbers = head[4:7] + [data.unpack_uint() for _ in range(head[7])]
    address, uid = data.unpack_string(), data.unpack_int()
    if transport is None:
        connection.close()
    return numbers, address, uid


@pytest.mark.parametrize(
    ("uid", "gid", "gids"),
    [
        (0, 0, ()),
        (65536, 65536, (65536,)),
        (0xFFFFFFFF, 0xFFFFFFFF, (0xFFFFFFFF,)),
        (1, 2, tuple(range(16))),
    ],
)
def test_auth_sys_arrives_as_it_was_sent(small: Small, uid: int, gid: int, gids: tuple[int, ...]) -> None:
    """uid 65536 is not 0 (16-bit truncation), 0xffffffff is passed on: the procedures make it the anonymous user."""
    assert who(small, auth_sys(uid, gid, gids))[0] == [1, uid, gid, *gids]


def test_auth_none_is_nobody(small: Small) -> None:
    assert who(small, Auth())[0] == [0, 0xFFFFFFFF, 0xFFFFFFFF]


def test_credentials_of_one_connection_do_not_mix(small: Small) -> None:
    """The last credential is remembered with the connection; another one must not be taken for it."""
    transport = Tcp(small.address)
    seed = random.randrange(1 << 32)
    rnd = random.Random(seed)
    for _ in range(500):
        uid, gid, gids = rnd.randrange(3), rnd.randrange(3), tuple(rnd.randrange(2) for _ in range(rnd.randrange(3)))
        machine = rnd.choice([b"a", b"b", b"longer name"])
        assert who(small, auth_sys(uid, gid, gids, machine=machine), transport)[0] == [1, uid, gid, *gids], f"seed {seed}"
    transport.close()


def test_more_credentials_than_the_table_holds(small: Small) -> None:
    """10,000 uids: old ones make room, none is taken for another."""
    transport = Tcp(small.address)
    for first in range(0, 10_000, 50):
        calls = [Call(PROG, 3, WHO, cred=auth_sys(uid)) for uid in range(first, first + 50)]
        for uid, reply in enumerate(pipeline(transport, calls), first):
            assert struct.unpack_from(">I", reply.body, 20)[0] == uid
    transport.close()


@pytest.mark.parametrize(
    "body",
    [
        auth_sys(machine=b"m" * 256).body,  # machinename<255>
        auth_sys(gids=tuple(range(17))).body,  # gids<16>
        auth_sys(1, 1).body + bytes(4),  # longer than it says
        auth_sys(1, 1, (5,)).body[:-4],  # shorter than it says
        struct.pack(">II", 1, 0xFFFFFFFC) + bytes(20),
        struct.pack(">III", 1, 0, 0),
        b"",
    ],
    ids=["machine256", "gids17", "trailing", "short", "machine-huge", "cut", "empty"],
)
def test_malformed_auth_sys_is_badcred(small: Small, body: bytes) -> None:
    """RFC 5531 appendix A; attack rows A13, B03."""
    for transport in transports(small):
        assert exchange(transport, Call(PROG, 3, ECHO, cred=Auth(1, body))).auth_error == AUTH_BADCRED
        transport.close()


@pytest.mark.parametrize("length", [404, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFC])
def test_credential_or_verifier_over_400_bytes(small: Small, length: int) -> None:
    """Attack row A13: nothing is allocated from the length."""
    head = struct.pack(">6I", 7, 0, 2, PROG, 3, ECHO)
    transport = Tcp(small.address)
    transport.send(head + struct.pack(">II", 1, length) + bytes(500))
    assert receive(transport, 7).auth_error == AUTH_BADCRED
    transport.send(head + struct.pack(">IIII", 0, 0, 0, length) + bytes(500))
    assert receive(transport, 7).auth_error == AUTH_BADVERF
    transport.close()
    still_serves(small)


def test_verifier_of_400_bytes_is_served(small: Small) -> None:
    """Attack row A15."""
    transport = Tcp(small.address)
    assert exchange(transport, Call(PROG, 3, ECHO, b"args", verf=Auth(1, b"v" * 400))).body == b"args"
    transport.close()


def test_truncated_call_is_garbage_or_no_call(small: Small) -> None:
    """Every prefix of a call: below six words it is no call and the connection ends (UDP: silence), then GARBAGE_ARGS."""
    whole = Call(PROG, 3, ECHO, cred=auth_sys(1, 2, (3,))).pack()
    for size in range(len(whole)):
        transport = Tcp(small.address)
        transport.send(whole[:size])
        if size < 24:
            assert transport.closed_within(5), size
        else:
            assert unpack_reply(transport.recv()).accept_stat == GARBAGE_ARGS, size
        transport.close()
    udp = Udp(small.udp_address)
    for size in range(len(whole)):
        udp.send(whole[:size])
        if size >= 24:
            assert unpack_reply(udp.recv()).accept_stat == GARBAGE_ARGS, size
    assert exchange(udp, Call(PROG, 3, 0)).ok
    udp.close()


# ---- records


def test_every_cut_of_a_record_into_two_fragments(small: Small) -> None:
    call = Call(PROG, 3, ECHO, b"0123456789ab")
    message = call.pack()
    transport = Tcp(small.address)
    for at in range(len(message) + 1):
        transport.raw(mark(at, last=False) + message[:at] + mark(len(message) - at) + message[at:])
        assert receive(transport, call.xid).body == b"0123456789ab", at
    transport.close()


def test_record_sent_byte_by_byte(small: Small) -> None:
    call = Call(PROG, 3, ECHO, b"args")
    transport = Tcp(small.address)
    for byte in mark(len(call.pack())) + call.pack():
        transport.raw(bytes([byte]))
    assert receive(transport, call.xid).body == b"args"
    transport.close()


@pytest.mark.parametrize("size", [0, 4, 65536, 262_144, 1 << 20])
def test_records_of_all_sizes_come_back(small: Small, size: int) -> None:
    args = os.urandom(size)
    transport = Tcp(small.address)
    for reply in pipeline(transport, [Call(PROG, 3, ECHO, args) for _ in range(3 if size > 100_000 else 40)]):
        assert reply.body == args
    transport.close()


def test_pipelined_small_and_large_records_mix(small: Small) -> None:
    """What is left of a bite, an unfinished record, and a record in its own buffer follow one another."""
    seed = random.randrange(1 << 32)
    rnd = random.Random(seed)
    transport = Tcp(small.address)
    for _ in range(20):
        args = [os.urandom(4 * rnd.choice([0, 1, 20, 1000, 9000, 30_000])) for _ in range(12)]
        replies = list(pipeline(transport, [Call(PROG, 3, rnd.choice([ECHO, SLOW]), one) for one in args]))
        assert [reply.body for reply in replies] == args, f"seed {seed}"
    transport.close()


def test_more_calls_at_once_than_a_batch(small: Small) -> None:
    transport = Tcp(small.address)
    assert all(reply.ok for reply in pipeline(transport, [Call(PROG, 3, 0) for _ in range(2000)]))
    transport.close()


@pytest.mark.parametrize(
    "attack",
    [
        b"\xff\xff\xff\xff" + bytes(40),  # A01
        mark(RECORD_LIMIT + 1),
        mark(0x7FFFFFFF, last=False) + bytes(40),
        mark(0),  # A07
        mark(3) + b"abc",
        mark(20) + bytes(20),
        mark(40) + struct.pack(">2I", 1, 1) + bytes(32),  # a REPLY
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["A01", "over-limit", "2GiB", "empty", "3", "20", "reply", "http"],
)
def test_bad_record_closes_at_once(small: Small, attack: bytes) -> None:
    """Within a second, and without memory."""
    transport = Tcp(small.address)
    transport.raw(attack)
    assert transport.closed_within(1)
    transport.close()
    still_serves(small)
    assert small.counters()["in_bytes"] == 0


def test_sum_of_fragments_is_limited(small: Small) -> None:
    """Attack row A03: 2,000 fragments of 1 KiB, none the last."""
    transport = Tcp(small.address)
    try:
        for _ in range(2000):
            transport.raw(mark(1024, last=False) + bytes(1024))
        closed = transport.closed_within(1)
    except OSError:
        closed = True
    assert closed
    transport.close()
    still_serves(small)


def test_thousand_empty_fragments_then_a_call(small: Small) -> None:
    """Attack row A05."""
    call = Call(PROG, 3, 0)
    transport = Tcp(small.address)
    transport.raw(mark(0, last=False) * 1000 + mark(len(call.pack())) + call.pack())
    assert receive(transport, call.xid).ok
    transport.raw(mark(0, last=False) * 3000)
    assert transport.closed_within(1)
    transport.close()


def test_bad_record_behind_a_good_call_closes(small: Small) -> None:
    """The good one may have run; its answer is lost with the connection."""
    call = Call(PROG, 3, ECHO, b"abcd")
    transport = Tcp(small.address)
    transport.raw(mark(len(call.pack())) + call.pack() + mark(3) + b"abc")
    assert transport.closed_within(1)
    transport.close()
    still_serves(small)


@pytest.mark.parametrize("limits", [Limits(record_s=1)])
def test_record_that_does_not_arrive_is_closed_and_others_are_not(small: Small) -> None:
    """Attack row A19, with a deadline of one second: half a header, half a record; an idle connection stays."""
    idle = Tcp(small.address)
    exchange(idle, Call(PROG, 3, 0))
    half = [Tcp(small.address) for _ in range(20)]
    for i, transport in enumerate(half):
        transport.raw((mark(4000) + bytes(3000))[: 2 + 100 * i])
    assert all(transport.closed_within(6) for transport in half)
    assert exchange(idle, Call(PROG, 3, 0)).ok
    assert small.counters()["deadline"] == 20
    for transport in (idle, *half):
        transport.close()


def test_half_closed_connection_gets_its_answers(small: Small) -> None:
    """A client that sends its calls and shuts down its side."""
    transport = Tcp(small.address)
    calls = [Call(PROG, 3, SLOW if i % 3 == 0 else ECHO, b"abcd") for i in range(100)]
    for call in calls:
        transport.send(call.pack())
    transport.sock.shutdown(socket.SHUT_WR)
    assert {unpack_reply(transport.recv()).xid for _ in calls} == {call.xid for call in calls}
    assert transport.closed_within(1)
    transport.close()


def test_connection_reset_between_call_and_reply(small: Small) -> None:
    """Attack row A21: no SIGPIPE, no descriptor left (the fixture looks)."""
    for _ in range(300):
        transport = Tcp(small.address)
        transport.send(Call(PROG, 3, SLOW, b"abcd").pack())
        transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()
    still_serves(small)
    until(lambda: small.counters()["detached_now"] == 0)


# ---- replies that wait


@pytest.mark.parametrize("limits", [Limits(stall_s=1)])
def test_client_that_takes_no_replies_is_closed_and_others_are_served(small: Small) -> None:
    """Fault F26: it stops being read when its replies wait, and is closed after stall_s without progress."""
    greedy = Tcp(small.address)
    greedy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(64):
        greedy.send(Call(PROG, 3, BIG, struct.pack(">I", 1 << 20)).pack())
    until(lambda: small.counters()["pending_conns"] == 1)
    assert small.counters()["out_bytes"] <= 3 << 20, "a turn has TURN_REPLY bytes of replies, and one reply more"
    still_serves(small)
    until(lambda: small.counters()["stalled"] == 1, 8)
    until(lambda: small.counters()["out_bytes"] == 0)
    greedy.close()


def test_slow_reader_gets_everything(small: Small) -> None:
    transport = Tcp(small.address)
    calls = [Call(PROG, 3, BIG, struct.pack(">I", 300_000)) for _ in range(40)]
    assert [len(reply.body) for reply in pipeline(transport, calls)] == [300_000] * 40
    transport.close()


def test_reply_to_a_connection_that_died_goes_nowhere(small: Small) -> None:
    first = Tcp(small.address)
    first.send(Call(PROG, 3, HOLD).pack())
    until(lambda: len(small.held) == 1)
    first.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST: a FIN alone may want the answer
    first.close()
    until(lambda: small.counters()["conns"] == 0)
    second = Tcp(small.address)  # takes the same place in the table
    exchange(second, Call(PROG, 3, 0))
    until(lambda: small.counters()["conns"] == 1)
    small.soon(lambda: small.held[0].reply(b"for the first"))
    until(lambda: small.counters()["detached_now"] == 0)
    assert exchange(second, Call(PROG, 3, ECHO, b"second")).body == b"second"
    second.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        second.sock.recv(1)
    second.close()


@pytest.mark.parametrize("limits", [Limits(max_detached=10)])
def test_too_many_waiting_calls_get_system_err(small: Small) -> None:
    transport = Tcp(small.address)
    replies = []
    calls = [Call(PROG, 3, HOLD) for _ in range(15)]
    for call in calls:
        transport.send(call.pack())
    for _ in range(5):
        replies.append(unpack_reply(transport.recv()).accept_stat)
    assert replies == [SYSTEM_ERR] * 5
    transport.close()


@pytest.mark.parametrize("stays", [True, False], ids=["connected", "gone"])
def test_one_address_cannot_have_all_calls_that_wait(small: Small, stays: bool) -> None:
    """Ten connections with 256 calls each, which need not stay; another client's call waits as if they were not there."""
    greedy = [Tcp(small.address) for _ in range(10)]
    for transport in greedy:
        transport.raw(b"".join(mark(len(call)) + call for call in (Call(PROG, 3, HOLD).pack() for _ in range(256))))
        if not stays:
            transport.close()
    until(lambda: len(small.held) >= 512)
    other = Tcp(small.address, source="127.0.0.2")
    call = Call(PROG, 3, HOLD)
    other.send(call.pack())
    until(lambda: "127.0.0.2" in small.held_for)
    assert len(small.held) < 1024
    small.soon(lambda: answer_all(small))
    assert receive(other, call.xid).body == b"waited"
    if stays:
        for transport in greedy:
            assert [unpack_reply(transport.recv()).body for _ in range(256)] == [b"waited"] * 256
    for transport in [other, *greedy]:
        transport.close()


def answer_all(small: Small) -> None:
    """All calls that wait, and those that come then, until close()."""
    for pending in small.held:
        if pending._call is not None:
            pending.reply(b"waited")
    small.server.call_later(0.001, lambda: answer_all(small))


def test_room_that_a_waiting_call_took_counts_when_it_waits_again() -> None:
    """A READ opens its reply before it goes to a thread; had it waited for its file, that is the room of a detached call."""
    counted = []

    def row(call: RawCall) -> None:
        waiting = lib.rpc_detach(call, 16)
        assert waiting.eng.room(waiting, 1 << 20) == 0 and lib.rpc_detach(waiting, 1 << 20) == waiting
        counted.append(server.counters()["detached_bytes"])
        lib.rpc_deny(waiting, SYSTEM_ERR)

    server = Server([Program(PROG, {3: [NULL, Procedure("READ", raw=row)]})], limits=Limits())
    ours, theirs = socket.socketpair()
    server.connection(theirs)
    message = Call(PROG, 3, 1, b"abcd").pack()
    ours.sendall(mark(len(message)) + message)
    while not counted:
        server.turn(1000)
    assert counted[0] >= 1 << 20
    assert server.counters()["detached_bytes"] == 0
    server.free()
    ours.close()


def test_mistake_of_ours_is_system_err_and_counted(small: Small) -> None:
    transport = Tcp(small.address)
    assert exchange(transport, Call(PROG, 3, BUG)).accept_stat == SYSTEM_ERR
    assert exchange(transport, Call(PROG, 3, 0)).ok
    assert small.counters()["mistakes"] == 1
    transport.close()


def test_arguments_that_do_not_decode_are_garbage(small: Small) -> None:
    transport = Tcp(small.address)
    for size in range(4):
        assert exchange(transport, Call(PROG, 3, BIG, bytes(size))).accept_stat == GARBAGE_ARGS
    assert exchange(transport, Call(PROG, 3, WHO, b"more")).accept_stat == GARBAGE_ARGS
    transport.close()


# ---- UDP, unix sockets, relays


def test_udp_answer_comes_from_the_address_that_was_asked(small: Small) -> None:
    """Multi-homed hosts; the client's connected socket takes answers from that address only."""
    port = small.udp_address[1]
    for address in ("127.0.0.1", "127.0.0.5", "127.255.0.9"):
        transport = Udp((address, port))
        assert exchange(transport, Call(PROG, 3, ECHO, b"abcd")).body == b"abcd"
        transport.close()


def test_udp_dropped_call_gets_no_answer_and_garbage_leaves_no_state(small: Small) -> None:
    """Attack row A17."""
    transport = Udp(small.udp_address)
    transport.send(Call(PROG, 3, DROP).pack())
    rnd = random.Random(17)
    for size in (1, 3, 4, 23, 24, 39, 40, 1000, 9000, 65_507):
        transport.send(rnd.randbytes(size))
    assert exchange(transport, Call(PROG, 3, ECHO, b"abcd")).body == b"abcd"
    assert small.counters()["detached_now"] == 0
    transport.close()


def test_largest_udp_reply_and_one_too_large(small: Small) -> None:
    transport = Udp(small.udp_address)
    assert len(exchange(transport, Call(PROG, 3, BIG, struct.pack(">I", 65_480))).body) == 65_480
    transport.send(Call(PROG, 3, BIG, struct.pack(">I", 65_508)).pack())
    assert exchange(transport, Call(PROG, 3, 0)).ok
    assert small.counters()["udp_dropped"] == 1
    transport.close()


def test_burst_of_datagrams_is_answered(small: Small) -> None:
    transport = Udp(small.udp_address)
    for _ in range(10):
        assert all(reply.ok for reply in pipeline(transport, [Call(PROG, 3, SLOW, b"abcd") for _ in range(60)]))
    transport.close()


def test_unix_socket_knows_who_connected(small: Small) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(small.path)
    call = Call(PROG, 3, WHO, cred=auth_sys(4711))
    sock.sendall(mark(len(call.pack())) + call.pack())
    head = sock.recv(4, socket.MSG_WAITALL)
    message = sock.recv(int.from_bytes(head, "big") & ~LAST_FRAGMENT, socket.MSG_WAITALL)
    body = unpack_reply(message).body
    family, _, proto, local, _, uid = struct.unpack_from(">6I", body)
    assert (family, proto, local, uid) == (socket.AF_UNIX, 1, 1, 4711)
    assert struct.unpack(">i", body[-4:])[0] == os.geteuid()
    sock.close()


def test_loopback_is_local_and_the_address_is_text(small: Small) -> None:
    for transport in transports(small):
        body = exchange(transport, Call(PROG, 3, WHO)).body
        family, port, proto, local = struct.unpack_from(">4I", body)
        assert (family, port, local) == (socket.AF_INET, transport.sock.getsockname()[1], 1)
        assert proto == (6 if isinstance(transport, Tcp) else 17)
        assert b"127.0.0.1" in body
        transport.close()


def test_relayed_call_has_the_clients_address_and_is_not_local() -> None:
    """struct rpc_relay_head: what workers hand to mountd."""
    seen = []

    def look(request: Request) -> bytes:
        seen.append((request.address, request.port, request.proto, request.is_local, request.is_relayed, request.cred.uid))
        return b"done"

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    closed: list[bool] = []
    server = Server([Program(PROG, {3: [NULL, Procedure("LOOK", look)]})])
    server.relayed(theirs, lambda: closed.append(True))
    call = Call(PROG, 3, 1, cred=auth_sys(8))
    for serial, proto, family, address, text in (
        (1, 6, socket.AF_INET, "10.1.2.3", "10.1.2.3"),
        (0xFFFFFFFF, 17, socket.AF_INET6, "2001:db8::1", "2001:db8::1"),
    ):
        ours.send(
            pack_relay(serial, call.pack(), proto=proto, family=family, port=711, address=socket.inet_pton(family, address))
        )
        server.turn(1000)
        server.turn(0)
        assert unpack_relay_reply(ours.recv(1000)) == (serial, bytes(unpack_reply_bytes(call.xid, b"done")))
        assert seen.pop() == (text, 711, proto, False, True, 8)
    ours.send(b"too short for a head")
    server.turn(1000)
    server.turn(0)
    assert closed == [True]
    ours.close()
    server.free()


def unpack_reply_bytes(xid: int, body: bytes) -> bytes:
    """The whole accepted reply."""
    return struct.pack(">6I", xid, 1, 0, 0, 0, 0) + body


# ---- many connections


@pytest.mark.parametrize("limits", [Limits(max_conns=50)])
def test_newcomer_takes_the_place_of_the_oldest_idle(small: Small) -> None:
    first, *others = [Tcp(small.address) for _ in range(50)]
    for transport in (first, *others):
        assert exchange(transport, Call(PROG, 3, 0)).ok
    for transport in others:
        assert exchange(transport, Call(PROG, 3, 0)).ok
    still_serves(small)
    assert first.closed_within(1)
    assert all(exchange(transport, Call(PROG, 3, 0)).ok for transport in others)
    for transport in (first, *others):
        transport.close()


@pytest.mark.parametrize("limits", [Limits(max_conns=100)])
def test_address_with_very_many_connections_makes_room_for_itself(small: Small) -> None:
    """Fault F29: one host's flood must not push out the idle connections of all others."""
    quiet = [Tcp(small.address, source=f"127.0.1.{i}") for i in range(1, 21)]
    for transport in quiet:
        assert exchange(transport, Call(PROG, 3, 0)).ok
    flood = [Tcp(small.address, source="127.0.2.1") for _ in range(1000)]
    until(lambda: small.counters()["accepted"] == 1020)
    assert small.counters()["conns"] == 100
    for transport in quiet:
        assert exchange(transport, Call(PROG, 3, 0)).ok
    for transport in quiet + flood:
        transport.close()


def test_out_of_descriptors_evicts_and_goes_on(small: Small) -> None:
    """Fault F25, in this process: the limit is lowered until accept(2) fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    busy = Tcp(small.address)
    exchange(busy, Call(PROG, 3, 0))
    idle = [Tcp(small.address) for _ in range(10)]
    for transport in idle:
        exchange(transport, Call(PROG, 3, 0))
    newcomer = socket.socket()
    used = {int(fd) for fd in os.listdir("/proc/self/fd")}
    lowest = next(fd for fd in range(soft) if fd not in used)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))  # accept(2) would give `lowest`
        exchange(busy, Call(PROG, 3, 0))
        newcomer.connect(small.address)
        until(lambda: small.counters()["evicted"] >= 1)
        assert exchange(busy, Call(PROG, 3, 0)).ok
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    newcomer.close()
    busy.close()
    for transport in idle:
        transport.close()


def test_thousand_idle_connections_hold_no_buffers(small: Small) -> None:
    """Fault F28, small: what they cost is their struct."""
    idle = [Tcp(small.address) for _ in range(400)]
    for transport in idle:
        exchange(transport, Call(PROG, 3, ECHO, bytes(8000)))
    count = small.counters()
    assert (count["conns"], count["in_bytes"], count["out_bytes"], count["partial"]) == (400, 0, 0, 0)
    for transport in idle:
        transport.close()
    until(lambda: small.counters()["conns"] == 0)


def test_flood_of_one_connection_leaves_others_their_turn(small: Small) -> None:
    """A client that always has calls waiting must not hold up another for more than a few batches."""
    flood = Tcp(small.address)
    flood.sock.setblocking(False)
    record = b"".join(mark(len(Call(PROG, 3, 0, xid=1).pack())) + Call(PROG, 3, 0, xid=1).pack() for _ in range(200))
    polite = Tcp(small.address)
    for _ in range(50):
        try:
            flood.sock.send(record)
            flood.sock.recv(1 << 20)
        except BlockingIOError:
            pass
        assert exchange(polite, Call(PROG, 3, ECHO, b"abcd")).body == b"abcd"
    flood.close()
    polite.close()


def test_connection_with_many_calls_waiting_gets_its_share_and_no_more() -> None:
    """31 connections have some calls waiting and one has twenty times as many: until the first is through, each was served
    as often (Jain's index, (sum x)^2 / (n sum x^2))."""
    served: list[int] = []
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    address = tcp.getsockname()

    def who(request: Request) -> bytes:
        served.append(request.port)
        return b""

    server = Server([Program(PROG, {3: [Procedure("WHO", who)]})])
    server.listen(tcp)
    clients = [Tcp(address) for _ in range(32)]
    while server.counters()["conns"] < len(clients):
        server.turn(1000)
    server.stop_reading(True)
    for client, calls in zip(clients, [2000, *[100] * 31], strict=True):
        message = Call(PROG, 3, 0).pack()
        client.sock.sendall((mark(len(message)) + message) * calls)
    server.stop_reading(False)
    ports = [client.sock.getsockname()[1] for client in clients]
    while max(map(served.count, ports[1:])) < 100:
        server.turn(1000)
    shares = [served.count(port) for port in ports]
    assert sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares)) >= 0.95, shares
    for client in clients:
        client.close()
    server.free()


def test_calls_for_c_and_for_python_are_answered_in_their_order(small: Small) -> None:
    """NULL is answered by a function in C, ECHO by Python: neither overtakes the other."""
    transport = Tcp(small.address)
    calls = [Call(PROG, 3, (0, ECHO, ECHO, 0, 0)[i % 5], b"") for i in range(200)]
    for call in calls:
        transport.send(call.pack())
    assert [unpack_reply(transport.recv()).xid for _ in calls] == [call.xid for call in calls]
    transport.close()


def test_loop_that_serves_calls_in_c_alone_hears_timers_signals_and_wake() -> None:
    """Nothing of the batches goes through Python, but everything else does."""
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    address = tcp.getsockname()
    server = Server([Program(PROG, {3: [NULL]})])
    server.listen(tcp)
    seen: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)
    stop = threading.Event()

    def on_signal() -> None:
        seen.append("signal")
        server.stop()

    def on_timer() -> None:
        seen.append("timer")
        os.kill(os.getpid(), signal.SIGUSR1)

    def load() -> None:
        transport = Tcp(address)
        while not stop.is_set():
            exchange(transport, Call(PROG, 3, 0))
        transport.close()

    client = threading.Thread(target=load)
    client.start()
    server.catch({signal.SIGUSR1: on_signal})
    server.call_later(0.02, on_timer)
    server.run()
    assert seen == ["timer", "signal"]
    assert server.counters()["calls"] > 0
    stop.set()
    while client.is_alive():
        server.turn(10)
    signal.signal(signal.SIGUSR1, before)
    server.free()


# ---- the loop


def test_stop_reading_holds_calls_until_it_is_off() -> None:
    """Workers do not read calls before they have an export table."""
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 0))
    address = tcp.getsockname()
    server = Server([Program(PROG, {3: [Procedure("NULL", lambda request: b"")]})])
    server.listen(tcp)
    server.stop_reading(True)
    transport = Tcp(address)
    transport.send(Call(PROG, 3, 0, xid=5).pack())
    for _ in range(5):
        assert server.turn(10) == 0
    server.stop_reading(False)
    assert server.turn(1000) == 1
    server.turn(0)
    assert receive(transport, 5).ok
    transport.close()
    server.free()


def test_events_timers_and_wake() -> None:
    server = Server()
    reader, writer = socket.socketpair()
    seen: list[str] = []
    conn = server.on_readable(reader.fileno(), lambda: seen.append(reader.recv(10).decode()))
    timer = server.call_later(0, lambda: seen.append("never"))
    timer.cancel()
    server.call_later(0, lambda: seen.append("timer"))
    writer.send(b"event")
    while len(seen) < 2:
        server.turn()
    assert sorted(seen) == ["event", "timer"]
    server.close(conn)
    writer.send(b"unheard")
    server.wake()
    server.turn(5000)
    assert len(seen) == 2
    assert select.select([reader], [], [], 0)[0], "the descriptor stayed ours"
    reader.close()
    writer.close()
    server.free()


def test_signals_are_handled_at_the_end_of_a_turn_never_inside_a_handler() -> None:
    """A second SIGCHLD while the first is handled once made waitpid(2) run twice for one child."""
    server = Server()
    seen: list[str] = []

    def handle() -> None:
        seen.append("in")
        if len(seen) == 1:
            signal.raise_signal(signal.SIGUSR1)
            assert seen == ["in"], "not inside a handler"
        seen.append("out")

    before = signal.getsignal(signal.SIGUSR1)
    try:
        server.catch({signal.SIGUSR1: handle})
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [], "not outside a turn"
        server.turn(5000)
        server.turn(0)
        assert seen == ["in", "out", "in", "out"]
    finally:
        signal.signal(signal.SIGUSR1, before)
        server.free()
