"""Binding to an address that the machine may not have yet.

At boot a daemon may start before the network; a floating address comes and goes.  Linux' IP_FREEBIND (ip(7)) binds all the same:
what is bound serves whenever the address is there, and nothing has to be watched.  Called by: daemons, for the addresses of -h.
"""
from __future__ import annotations

import errno
import socket

IP_FREEBIND = 15          # linux/in.h; Python has no name for it
IPV6_FREEBIND = 78        # linux/in6.h


def bind_early(sock: socket.socket, host: str, port: int) -> bool:
    """Binds `sock` to the numeric address `host`; whether the machine has that address now.  Raises OSError."""
    try:
        sock.bind((host, port))
    except OSError as exc:
        if exc.errno != errno.EADDRNOTAVAIL:
            raise
    else:
        return True
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((host, port))
    return False
