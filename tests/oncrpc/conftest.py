"""A small server in a thread of the test's process, and a check that no descriptor is left."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from oncrpc.server import LATER, NULL, Limits, Pending, Procedure, Program, Request, Server, _Later
from oncrpc.xdr import Packer

PROG = 100003
(ECHO, HOLE, SLOW, BUG, WHO, DROP, BIG, HOLD) = range(1, 9)


class Small:
    """Serves program PROG versions 2 and 3 over TCP, UDP and a unix socket until close()."""

    def __init__(self, path: str, limits: Limits) -> None:
        self.path = path
        self.held: list[Pending] = []
        self.held_for: list[str] = []   # their clients' addresses
        procs = [
            NULL,
            Procedure("ECHO", lambda r: r.args.rest()),
            None,
            Procedure("SLOW", self.slow),
            Procedure("BUG", self.bug),
            Procedure("WHO", who),
            Procedure("DROP", lambda r: None),
            Procedure("BIG", big, weight=4),
            Procedure("HOLD", self.hold),
        ]
        self.server = Server([Program(PROG, {2: procs[:2], 3: procs})], limits=limits)
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = tcp.getsockname()
        self.server.listen(tcp)
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 0))
        self.udp_address = ("127.0.0.1", udp.getsockname()[1])
        self.server.datagram(udp)
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(path)
        self.server.listen(unix)
        self._soon: deque[Callable[[], None]] = deque()
        self._asked, self._asks = socket.socketpair()
        self.server.on_readable(self._asked.fileno(), self._run_soon)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def soon(self, callback: Callable[[], None]) -> None:
        """The server's thread calls back: call_later() is for that thread alone."""
        self._soon.append(callback)
        self._asks.send(b"!")

    def _run_soon(self) -> None:
        self._asked.recv(1)
        self._soon.popleft()()

    def slow(self, request: Request) -> _Later:
        """Answers 10 ms later, by a timer."""
        args = request.args.rest()
        pending = request.later(room=len(args))
        self.server.call_later(0.01, lambda: pending.reply(args))
        return LATER

    def hold(self, request: Request) -> _Later:
        self.held.append(request.later())
        self.held_for.append(request.address)
        return LATER

    @staticmethod
    def bug(request: Request) -> bytes:
        raise ZeroDivisionError("a mistake of ours, on purpose")

    def counters(self) -> dict[str, int]:
        return self.server.counters()

    def close(self) -> None:
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        for pending in self.held:
            if pending._call is not None:
                pending.drop()
        self.server.free()
        self._asked.close()
        self._asks.close()


def who(request: Request) -> bytes:
    """Everything that a handler can know of its caller."""
    cred = request.cred
    out = Packer()
    for value in (
        request.family,
        request.port,
        request.proto,
        request.is_local,
        cred.flavor,
        cred.uid,
        cred.gid,
        len(cred.gids),
        *cred.gids,
    ):
        out.pack_uint(int(value))
    out.pack_string(request.address.encode())
    uid = request.unix_uid
    out.pack_int(-1 if uid is None else uid)
    request.args.check_end()
    return bytes(out)


def big(request: Request) -> bytes:
    """So many zeros."""
    return bytes(min(request.args.unpack_uint(), 1 << 20) & ~3)


@pytest.fixture
def limits() -> Limits:
    """Override by parametrize."""
    return Limits()


@pytest.fixture
def small(tmp_path: object, limits: Limits) -> Iterator[Small]:
    before = set(os.listdir("/proc/self/fd"))
    running = Small(f"{tmp_path}/sock", limits)
    try:
        yield running
    finally:
        running.close()
    assert len(os.listdir("/proc/self/fd")) <= len(before), "descriptors are left"
