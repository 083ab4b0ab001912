"""How the engine shares a worker among connections (engine/share.c): who takes how many calls in a batch.

Unix sockets, whose bytes are there when send() returns, and one batch at a time, so that nothing depends on the clock.
"""
from __future__ import annotations

import socket
import statistics
import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from oncrpc._rpc import lib

from oncrpc.message import pack_relay
from oncrpc.server import Call as RawCall
from oncrpc.server import Procedure, Program, Server

from ..tools.rpc import LAST_FRAGMENT, Call
from .conftest import PROG

QUOTA = 64        # engine/engine.c
DEEP = 128        # calls that wait: two turns
LEAST_TURN = 16   # engine/share.c
MESSAGE = Call(PROG, 3, 0, xid=1).pack()
RECORD = struct.pack(">I", LAST_FRAGMENT | len(MESSAGE)) + MESSAGE


class Clients:
    """Connections to a server that serves a batch when it is told to."""

    def __init__(self, n: int) -> None:
        self.server = Server([Program(PROG, {3: [Procedure("COUNT", raw=self.count)]})])
        self.socks: list[socket.socket] = []
        self.number: dict[int, int] = {}
        self.served: Counter[int] = Counter()
        self.sent: Counter[int] = Counter()
        for _ in range(n):
            ours, theirs = socket.socketpair()
            ours.settimeout(10)  # a failure rather than a wait
            self.number[self.server.connection(theirs)] = len(self.socks)
            self.socks.append(ours)

    def count(self, call: RawCall) -> None:
        self.served[self.number[call.conn]] += 1
        lib.rpc_null(call)

    def waiting(self, client: int, calls: int) -> None:
        """So many calls of its are there, at least half of them when some were there before."""
        missing = calls - (self.sent[client] - self.served[client])
        if 2 * missing > calls:  # few large pieces: a socket holds only so many
            self.send(client, missing)

    def send(self, client: int, calls: int) -> None:
        self.socks[client].sendall(RECORD * calls)
        self.sent[client] += calls

    def batch(self, waiting: list[int]) -> list[int]:
        """One batch, before which client i has waiting[i] calls; how many of each were served."""
        for client, calls in enumerate(waiting):
            self.waiting(client, calls)
        before = self.served.copy()
        self.server.turn(0)
        lib.rpc_flush(self.server.engine)
        for client, sock in enumerate(self.socks):
            if self.served[client] > before[client]:
                sock.recv(1 << 16)
        return [self.served[i] - before[i] for i in range(len(waiting))]

    def batches(self, n: int, waiting: list[int]) -> list[int]:
        """The same n times; all together."""
        return [sum(column) for column in zip(*(self.batch(waiting) for _ in range(n)), strict=True)]


@pytest.fixture
def clients(n: int) -> Iterator[Clients]:
    made = Clients(n)
    yield made
    for sock in made.socks:
        sock.close()
    made.server.free()


def jain(rates: list[int]) -> float:
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


@pytest.mark.parametrize("n", [32])
@pytest.mark.parametrize("calls", [1, 4, 8])
def test_one_with_many_calls_among_31_with_few_gets_hardly_more(clients: Clients, calls: int) -> None:
    """Jain's index of the 32, after the first turns, in which one that was idle may take a quota."""
    waiting = [DEEP, *[calls] * 31]
    clients.batches(20, waiting)
    fast, *others = clients.batches(100, waiting)
    assert fast <= 1.1 * max(others)
    assert min(others) >= 0.85 * max(others)  # who is last in a full batch may be short of one
    assert jain([fast, *others]) >= 0.99


@pytest.mark.parametrize("n", [32])
def test_shares_are_alike_when_a_round_takes_more_than_a_batch(clients: Clients) -> None:
    """31 * 12 and more calls, 256 in a batch."""
    waiting = [DEEP, *[12] * 31]
    clients.batches(20, waiting)
    fast, *others = clients.batches(100, waiting)
    assert fast <= 1.1 * statistics.median(others)


@pytest.mark.parametrize("n", [32])
def test_sixteen_with_many_calls_leave_sixteen_with_one_theirs(clients: Clients) -> None:
    waiting = [*[DEEP] * 16, *[1] * 16]
    clients.batches(40, waiting)
    assert jain(clients.batches(100, waiting)) >= 0.95


@pytest.mark.parametrize("n", [2])
def test_one_of_two_gets_hardly_more(clients: Clients) -> None:
    clients.batches(20, [DEEP, 1])
    fast, other = clients.batches(100, [DEEP, 1])
    assert fast <= 1.2 * other


@pytest.mark.parametrize(("n", "turn"), [(1, QUOTA), (4, QUOTA), (16, LEAST_TURN)])
def test_connections_that_are_alike_have_whole_turns(clients: Clients, n: int, turn: int) -> None:
    """A turn is one send(): among equals there is nothing to be had from shorter ones."""
    for _ in range(20):
        assert clients.batch([DEEP] * n) == [turn] * n


@pytest.mark.parametrize("n", [32])
def test_thirty_two_with_many_calls_take_whole_turns_by_turns(clients: Clients) -> None:
    """A batch has room for sixteen turns: the others are first in the next one."""
    for _ in range(20):
        first, second = clients.batch([64] * 32), clients.batch([64] * 32)
        assert Counter(first) == Counter(second) == {LEAST_TURN: 16, 0: 16}
        assert [a + b for a, b in zip(first, second, strict=True)] == [LEAST_TURN] * 32


@pytest.mark.parametrize("n", [32])
def test_alone_again_turns_grow_to_the_whole_quota(clients: Clients) -> None:
    clients.batches(20, [DEEP, *[1] * 31])
    alone = [DEEP, *[0] * 31]
    grown = [clients.batch(alone)[0] for _ in range(25)]
    assert grown == sorted(grown)
    assert grown[20:] == [QUOTA] * 5


@pytest.mark.parametrize("n", [2])
def test_other_that_calls_now_and_then_costs_no_short_turns(clients: Clients) -> None:
    """A call in ten batches is not worth what ten short turns cost."""
    for _ in range(20):
        assert clients.batch([DEEP, 1])[0] >= QUOTA // 2
        clients.batches(9, [DEEP, 0])


@pytest.mark.parametrize("n", [400])
def test_one_with_many_calls_among_more_than_a_batch_has_room_for(clients: Clients) -> None:
    """It has a call in each batch of 256: epoll tells of 256 at a time, the others wait unseen by the engine."""
    waiting = [DEEP, *[1] * 399]
    clients.batches(50, waiting)
    fast, *others = clients.batches(100, waiting)
    assert fast <= 110
    assert min(others) >= 60


@pytest.mark.parametrize("n", [2])
def test_one_that_is_ahead_by_chance_has_whole_turns_again(clients: Clients) -> None:
    """It took all it could beside one that took little; now both take the same, not at the same time."""
    clients.batches(20, [DEEP, 1])
    while clients.sent[0] > clients.served[0]:
        clients.batch([0, 1])
    for i in range(400):
        clients.send(0, 16 if i % 2 else 4)
        clients.send(1, 4 if i % 2 else 16)
        last = clients.batch([0, 0])
    assert last == [16, 4]


@pytest.mark.parametrize("n", [3])
def test_idle_connection_saves_nothing_up(clients: Clients) -> None:
    """What it did not ask for is gone: it has no more than the others once it comes, but for a quota."""
    clients.batches(50, [8, 8, 0])
    first, second, third = clients.batches(40, [1, 1, DEEP])
    assert (first, second) == (40, 40)
    assert third <= QUOTA + 3 * first


@pytest.mark.parametrize("n", [1])
def test_calls_that_another_process_received_count_as_of_many_clients(clients: Clients) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    clients.number[clients.server.relayed(theirs)] = -1
    packet = pack_relay(1, MESSAGE, proto=6, family=socket.AF_INET, port=711, address=bytes(4))
    for _ in range(20):
        for _ in range(31):
            ours.send(packet)
        fast = clients.batch([DEEP])[0]
        for _ in range(31):
            ours.recv(1 << 10)
    assert clients.served[-1] == 20 * 31
    assert 1 <= fast <= 2
    ours.close()


@pytest.mark.parametrize("n", [1])
def test_datagrams_of_many_clients_count_as_of_many(clients: Clients) -> None:
    """The socket of 31 UDP clients has one turn, but is not one client."""
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    others = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(31)]
    for other in others:
        other.settimeout(10)
        other.connect(udp.getsockname())
    conn = clients.server.datagram(udp)
    clients.number[conn] = -1
    for round in range(1, 41):
        before = clients.served[0]
        for other in others:
            other.send(MESSAGE)
        clients.waiting(0, DEEP)
        while clients.served[-1] < round * len(others):
            clients.server.turn(0)
        lib.rpc_flush(clients.server.engine)
        clients.socks[0].recv(1 << 16)
        for other in others:
            other.recv(1 << 10)
    assert clients.served[0] - before <= 8  # 1 or 2, but the kernel may hand out datagrams late
    for other in others:
        other.close()
