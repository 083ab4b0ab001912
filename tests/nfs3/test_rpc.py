"""RPC records and headers as an attacker sends them (attacks section A), against the whole server set."""
from __future__ import annotations

import random
import struct
from contextlib import closing, suppress

import pytest

from tests.tools.nfs3 import NFS, Nfs3, Proc, pack_opaque, pack_WRITE3args
from tests.tools.rpc import (
    AUTH_BADCRED,
    AUTH_BADVERF,
    AUTH_TOOWEAK,
    GARBAGE_ARGS,
    LAST_FRAGMENT,
    MSG_DENIED,
    NONE,
    PROC_UNAVAIL,
    PROG_MISMATCH,
    PROG_UNAVAIL,
    ROOT,
    RPC_MISMATCH,
    Auth,
    Call,
    Tcp,
    Udp,
    exchange,
    receive,
    unpack_reply,
)
from tests.tools.servers import ServerSet

from .conftest import Spot

CLOSE_S = 3.0  # the rule is 1 s; other work runs on the machine


@pytest.fixture
def tcp(server: ServerSet, request: pytest.FixtureRequest) -> Tcp:
    made = Tcp(server.address)
    request.addfinalizer(made.close)
    return made


def assert_serves(server: ServerSet) -> None:
    with closing(server.client()) as client:
        client.null()


@pytest.mark.parametrize("mark", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000 | 64 << 20, 0x80000000 | 8 << 20])
def test_record_mark_beyond_the_limit_closes(server: ServerSet, tcp: Tcp, mark: int) -> None:
    """A01."""
    tcp.raw(struct.pack(">I", mark) + bytes(40))
    assert tcp.closed_within(CLOSE_S)
    assert_serves(server)


def test_sum_of_fragments_beyond_the_limit_closes(server: ServerSet, tcp: Tcp) -> None:
    """A03: 8 MiB in fragments of 1 KiB."""
    with suppress(OSError):  # closed while we are sending: what is asked for
        for _ in range(8192):
            tcp.raw(struct.pack(">I", 1024) + bytes(1024))
    assert tcp.closed_within(CLOSE_S)
    assert_serves(server)


def test_zero_length_fragments_are_served_or_closed(server: ServerSet, tcp: Tcp) -> None:
    """A05."""
    call = Call(NFS, 3, 0)
    with suppress(EOFError, ConnectionError):
        tcp.raw(struct.pack(">I", 0) * 1000)
        tcp.send(call.pack())
        assert receive(tcp, call.xid).ok
    assert_serves(server)


@pytest.mark.parametrize("size", [0, 3, 20])
def test_record_too_short_for_a_header_is_closed_or_ignored(server: ServerSet, tcp: Tcp, size: int) -> None:
    """A07."""
    tcp.raw(struct.pack(">I", LAST_FRAGMENT | size) + bytes(size))
    with suppress(EOFError, ConnectionError):
        assert exchange(tcp, Call(NFS, 3, 0)).ok
    assert_serves(server)


@pytest.mark.parametrize("sizes", [(1,), (4,), (7, 3), (40, 1, 1)])
def test_call_in_fragments_is_served(spot: Spot, tcp: Tcp, sizes: tuple[int, ...]) -> None:
    call = Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), spot.nfs.cred)
    message, pieces = call.pack(), []
    for size in sizes:
        pieces.append(message[:size])
        message = message[size:]
    for piece in pieces:
        tcp.raw(struct.pack(">I", len(piece)) + piece)
    tcp.send(message)
    assert receive(tcp, call.xid).ok


def test_call_byte_by_byte_is_served(spot: Spot, tcp: Tcp) -> None:
    call = Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), spot.nfs.cred)
    for byte in struct.pack(">I", LAST_FRAGMENT | len(call.pack())) + call.pack():
        tcp.raw(bytes([byte]))
    assert receive(tcp, call.xid).ok


@pytest.mark.parametrize("vers", [0, 1, 3, 0xFFFFFFFF])
def test_wrong_rpc_version_is_denied(tcp: Tcp, vers: int) -> None:
    """A09."""
    reply = exchange(tcp, Call(NFS, 3, 0, rpcvers=vers))
    assert (reply.stat, reply.detail, reply.low, reply.high) == (MSG_DENIED, RPC_MISMATCH, 2, 2)


def test_unknown_program_version_and_procedure(tcp: Tcp) -> None:
    """A11."""
    assert exchange(tcp, Call(100099, 1, 0)).accept_stat == PROG_UNAVAIL
    assert exchange(tcp, Call(NFS, 5, 0)).accept_stat == PROG_MISMATCH
    for proc in (22, 23, 255, 0xFFFFFFFF):
        assert exchange(tcp, Call(NFS, 3, proc)).accept_stat == PROC_UNAVAIL


def test_version_and_procedure_are_tested_before_the_credential(tcp: Tcp) -> None:
    """Probes come with any flavor."""
    bad = Auth(99, bytes(8))
    assert exchange(tcp, Call(100099, 1, 0, cred=bad)).accept_stat == PROG_UNAVAIL
    assert exchange(tcp, Call(NFS, 5, 0, cred=bad)).accept_stat == PROG_MISMATCH
    assert exchange(tcp, Call(NFS, 3, 99, cred=bad)).accept_stat == PROC_UNAVAIL


@pytest.mark.parametrize("field", ["cred", "verf"])
@pytest.mark.parametrize("size", [404, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_huge_credential_or_verifier_is_refused(server: ServerSet, tcp: Tcp, field: str, size: int) -> None:
    """A13."""
    call = Call(NFS, 3, Proc.GETATTR, bytes(8))
    head = struct.pack(">6I", call.xid, 0, 2, NFS, 3, Proc.GETATTR)
    wrong = struct.pack(">II", 1, size) + bytes(404)
    tcp.send(head + (wrong if field == "cred" else ROOT.pack() + wrong))
    with suppress(EOFError, ConnectionError):
        reply = receive(tcp, call.xid)
        assert reply.accept_stat == GARBAGE_ARGS or reply.auth_error in (AUTH_BADCRED, AUTH_BADVERF)
    assert_serves(server)


def test_verifier_of_400_bytes_is_served_or_rejected(spot: Spot, tcp: Tcp) -> None:
    """A15."""
    reply = exchange(tcp, Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), spot.nfs.cred, Auth(1, bytes(400))))
    assert reply.ok or reply.auth_error == AUTH_BADVERF


def test_reply_message_sent_as_a_call_is_not_answered_with_data(server: ServerSet, tcp: Tcp) -> None:
    """msg_type 1: two servers must not talk to each other."""
    tcp.send(struct.pack(">6I", 1, 1, 0, 0, 0, 0) + bytes(20))
    with suppress(EOFError, ConnectionError):
        assert exchange(tcp, Call(NFS, 3, 0)).ok
    assert_serves(server)


def test_headers_cut_at_every_byte_leave_the_server_serving(spot: Spot) -> None:
    whole = Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), spot.nfs.cred).pack()
    for size in range(len(whole)):
        with closing(Tcp(spot.server.address)) as tcp:
            tcp.send(whole[:size])
            try:
                reply = exchange(tcp, Call(NFS, 3, 0))
                assert reply.ok
            except (EOFError, ConnectionError):
                continue
    assert_serves(spot.server)


def test_udp_garbage_is_never_answered_with_success(server: ServerSet) -> None:
    """A17: 1 to 65,507 random bytes, and cut calls; then the socket still serves."""
    rng = random.Random(17)
    with closing(Udp(server.address)) as udp:
        for size in [1, 3, 4, 11, 12, 23, 24, 39, 40, 41, 500, 9000, 65507] + [rng.randrange(1, 2000) for _ in range(100)]:
            udp.send(rng.randbytes(size))
        whole = Call(NFS, 3, Proc.GETATTR, pack_opaque(b"h" * 32), NONE).pack()
        for size in range(len(whole)):
            udp.send(whole[:size])
        last = Call(NFS, 3, 0)
        udp.send(last.pack())
        while (reply := unpack_reply(udp.recv())).xid != last.xid:
            assert not reply.ok or reply.body == b""
        assert reply.ok


def test_udp_reply_comes_from_the_address_that_was_asked(server: ServerSet) -> None:
    """Udp is connected: a reply from elsewhere would not be received."""
    for _ in range(4):
        with closing(Udp(server.address)) as udp:
            assert exchange(udp, Call(NFS, 3, 0)).ok


def test_connect_and_reset_500_times_leaves_no_descriptor(server: ServerSet) -> None:
    """A21.  Nor a line in the log each."""
    for number in range(500):
        tcp = Tcp(server.address)
        if number % 2:
            tcp.send(Call(NFS, 3, 0).pack())
        tcp.sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close sends RST
        tcp.close()
    assert_serves(server)
    assert "not connected" not in server.log()


def test_silent_half_header_does_not_delay_others(server: ServerSet) -> None:
    """A19, the part that needs no waiting."""
    idle = [Tcp(server.address) for _ in range(50)]
    for one in idle:
        one.raw(b"\x80\x00")
    for _ in range(20):
        assert_serves(server)
    for one in idle:
        one.close()


def test_500_calls_in_flight_are_all_answered(spot: Spot, tcp: Tcp) -> None:
    calls = [Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), spot.nfs.cred) for _ in range(500)]
    for call in calls:
        tcp.send(call.pack())
    assert {unpack_reply(tcp.recv()).xid for _ in calls} == {call.xid for call in calls}


def test_one_slow_reader_does_not_stop_another(spot: Spot) -> None:
    """It asks for 64 MiB and reads nothing; another connection is served meanwhile."""
    fh = spot.file(data=bytes(1 << 20))
    with closing(spot.server.client(spot.nfs.cred)) as slow:
        for _ in range(64):
            slow.transport.send(slow.message(Proc.READ, pack_opaque(fh) + struct.pack(">QI", 0, 1 << 20)).pack())
        for _ in range(4):
            assert_serves(spot.server)


def test_large_write_in_small_pieces_is_whole(spot: Spot, tcp: Tcp) -> None:
    fh, data = spot.file(), random.Random(1).randbytes(300_000)
    call = Call(NFS, 3, Proc.WRITE, pack_WRITE3args(fh, 0, data, 2), spot.nfs.cred)
    record = struct.pack(">I", LAST_FRAGMENT | len(call.pack())) + call.pack()
    for start in range(0, len(record), 7001):
        tcp.raw(record[start:start + 7001])
    assert receive(tcp, call.xid).ok
    assert spot.local(b"file").read_bytes() == data


def test_toweak_flavor_leaves_the_connection_usable(spot: Spot, tcp: Tcp) -> None:
    reply = exchange(tcp, Call(NFS, 3, Proc.GETATTR, pack_opaque(spot.fh), Auth(99, b"")))
    assert reply.auth_error in (AUTH_TOOWEAK, 2, AUTH_BADCRED)
    assert Nfs3(tcp, spot.nfs.cred).getattr(spot.fh).ok
