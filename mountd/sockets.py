"""mountd's own sockets: UDP and TCP on one port, for each address and family."""
from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from oncrpc.addresses import bind_early

TRIES = 20                # to find a port that is free for all, when any will do


@dataclass(slots=True)
class Sockets:
    """Bound, not yet listening.  netids: those with a wildcard or other non-loopback address, for the port mapper.
    absent: addresses that the machine does not have now."""

    port: int = 0
    streams: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)
    netids: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    def close(self) -> None:
        for sock in (*self.streams, *self.datagrams):
            sock.close()


def bind_all(port: int, hosts: Sequence[str], transports: Sequence[str]) -> Sockets:
    """Binds each of `hosts` (none: every address; else loopback too).  Raises OSError with the address in its text."""
    addresses = [*dict.fromkeys((*hosts, "127.0.0.1"))] if hosts else ["0.0.0.0", "::"]
    for left in reversed(range(TRIES)):
        sockets = Sockets(port)
        try:
            for address in addresses:
                for transport in transports:
                    _bind(sockets, address, transport, optional=not hosts and address == "::")
            return sockets
        except OSError as exc:
            sockets.close()
            if port or not left or exc.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("unreachable")


def _bind(sockets: Sockets, address: str, transport: str, *, optional: bool) -> None:
    six = ":" in address
    try:
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET,
                             socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
    except OSError:
        if optional:
            return  # a machine without IPv6
        raise
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport == "tcp":
            # Not on UDP: there it would let a second server take our calls.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wildcard = address in ("0.0.0.0", "::")
        if wildcard:
            sock.bind((address, sockets.port))
        elif not bind_early(sock, address, sockets.port):
            sockets.absent.add(address)
    except OSError as exc:
        sock.close()
        if optional and exc.errno == errno.EADDRNOTAVAIL:
            return
        raise OSError(exc.errno, f"{transport} {address} port {sockets.port}: {exc.strerror}") from None
    sockets.port = sock.getsockname()[1]
    (sockets.streams if transport == "tcp" else sockets.datagrams).append(sock)
    netid = transport + ("6" if six else "")
    if netid not in sockets.netids:
        sockets.netids.append(netid)
