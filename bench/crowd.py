"""Many TCP connections of one process to one server, for what nfsload's one process a connection cannot do.

`Crowd` sends single calls on one connection after another (10,000 of them or one: the client's cost a call is the same);
`Mixed` keeps a depth of its own on each of some connections.  Used by curves, fairness, footprint, slowdisk.
"""
from __future__ import annotations

import random
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import nfsload

SPARE_FILES = 100  # descriptors that this process has for other things


def allow_files(n: int) -> None:
    """Raises RLIMIT_NOFILE so that `n` connections fit; servers started afterwards inherit it.

    raises  RuntimeError when the hard limit is lower and we may not raise it
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = n + SPARE_FILES
    if soft >= want:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(hard, want)))
    except (ValueError, PermissionError):
        raise RuntimeError(f"{n} connections need {want} descriptors; the hard limit is {hard}") from None


def percentile_us(seconds: list[float], p: float) -> float:
    """The p-th percentile (0 to 100) in microseconds."""
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] * 1e6, 1)


@dataclass(slots=True)
class Crowd:
    """`n` connections that are used in turn."""
    socks: list[socket.socket] = field(default_factory=list)
    next: int = 0
    xid: int = field(default_factory=lambda: random.getrandbits(31))

    def grow(self, port: int, n: int) -> None:
        """Up to `n` connections.  raises OSError when the server or this machine allows no more"""
        while len(self.socks) < n:
            sock = socket.create_connection(("127.0.0.1", port), nfsload.STALL_S)
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(nfsload.STALL_S), 0))
            self.socks.append(sock)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        self.socks.clear()

    def turn(self, calls: list[bytearray], at_once: int) -> list[float]:
        """Each call on the next connection, `at_once` of them in flight; the seconds until each was answered.

        raises  RuntimeError when a reply is not a success
        """
        took = []
        for i in range(0, len(calls), at_once):
            group = []
            for raw in calls[i:i + at_once]:
                self.xid += 1
                struct.pack_into(">I", raw, 4, self.xid & 0xFFFFFFFF)
                sock = self.socks[self.next % len(self.socks)]
                self.next += 1
                sock.send(raw)
                group.append((sock, time.perf_counter()))
            for sock, sent in group:
                whole_reply(sock)
                took.append(time.perf_counter() - sent)
        return took


def whole_reply(sock: socket.socket) -> None:
    """Reads one reply of one fragment and looks at its accept_stat and nfsstat3 (a NULL's has none)."""
    data = sock.recv(1 << 17)
    while len(data) < 4 or len(data) < 4 + (int.from_bytes(data[:4], "big") & 0x7FFFFFFF):
        more = sock.recv(1 << 17)
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    if data[24:32] != nfsload.OK[:len(data) - 24]:
        raise RuntimeError(f"refused: {data[24:32].hex()}")


@contextmanager
def crowd(port: int, n: int) -> Iterator[Crowd]:
    many = Crowd()
    try:
        many.grow(port, n)
        yield many
    finally:
        many.close()


class Mixed:
    """Connections that each keep their own number of calls in flight, in one loop in C (line.c)."""

    def __init__(self, port: int, depths: list[int], raws: list[list[bytearray]], *, stall_s: float = nfsload.STALL_S) -> None:
        self.stall_s = stall_s
        self.lines = [nfsload.Pipeline(nfsload.Conn("127.0.0.1", port, stall_s), raw, depth)
                      for depth, raw in zip(depths, raws, strict=True)]

    def run(self, seconds: float) -> float:
        """All lines for so long, then until all is answered; returns the seconds.

        raises  Stalled when no connection hears anything for stall_s, ConnectionError when the server closes one
        """
        ffi, lib = nfsload.line_library()
        took = ffi.new("double *")
        err = lib.lines_run([line.line for line in self.lines], len(self.lines), seconds, self.stall_s, took)
        self.lines[0].checked(err)
        return float(took[0])

    def close(self) -> None:
        for line in self.lines:
            line.conn.sock.close()
