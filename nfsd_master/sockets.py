"""The sockets of nfsd: TCP listeners, and one UDP socket for each slot and address.

All are made and kept by the master, so that a worker that is replaced gets the same UDP socket and no datagram is lost.

UDP: the first socket of an address is bound plain, which fails when anybody has the port; then it gets SO_REUSEPORT, and the
sockets of the other slots join it.  Never SO_REUSEADDR on UDP: with it a stranger's socket on the same port would be allowed
and receive our calls.  TCP: SO_REUSEADDR (connections in TIME_WAIT do not keep the port), IPV6_V6ONLY on the v6 socket.
"""
from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass, field

from oncrpc.addresses import bind_early

from . import log
from .holder import who_holds
from .options import Options
from .paths import StartError

BACKLOG = 4096           # the kernel clips it to net.core.somaxconn; a reconnecting crowd after a restart waits here
UDP_BUFFER = 4 << 20     # receive buffer asked for: 64 calls of 64 KiB; the kernel clips it to net.core.rmem_max
PORT_TRIES = 64          # for port 0: a port must be free for every address and both transports
PORT_TAKEN = 2           # exit status


@dataclass(frozen=True, slots=True)
class Bind:
    """One address to bind: family AF_INET or AF_INET6, numeric host; a wildcard family that the host lacks is left out.

    v6only  False only for a socket that a manager bound for both families: those that join it must be alike
    """

    family: int
    host: str
    wildcard: bool
    v6only: bool = True


@dataclass(slots=True)
class Sockets:
    """What is bound.  udp: slot -> its sockets, one an address in the order of `binds`."""

    binds: list[Bind]
    port: int
    tcp: list[socket.socket] = field(default_factory=list)
    udp: dict[int, list[socket.socket]] = field(default_factory=dict)
    udp_wanted: bool = True

    def close(self) -> None:
        self.close_tcp()
        for sock in [s for socks in self.udp.values() for s in socks]:
            sock.close()
        self.udp.clear()

    def close_tcp(self) -> None:
        for sock in self.tcp:
            sock.close()
        self.tcp.clear()

    def slot(self, number: int) -> list[socket.socket]:
        """The UDP sockets of slot `number`, bound now when it is new.  Raises OSError."""
        if number not in self.udp and self.udp_wanted:
            self.udp[number] = [_udp(b, self.port, joins=True) for b in self.binds]
        return self.udp.get(number, [])

    def close_slot(self, number: int) -> None:
        """The slot is gone: its share of the datagrams goes to the others.  The last slot's sockets stay: they are the port."""
        if len(self.udp) > 1:
            for sock in self.udp.pop(number, []):
                sock.close()


def binds_of(options: Options) -> list[Bind]:
    if not options.binds:
        wildcards = {"4": Bind(socket.AF_INET, "0.0.0.0", True), "6": Bind(socket.AF_INET6, "::", True)}
        return [wildcards[f] for f in options.families]
    found = []
    for text in dict.fromkeys(options.binds):
        version = ipaddress.ip_address(text).version
        if str(version) in options.families:
            found.append(Bind(socket.AF_INET if version == 4 else socket.AF_INET6, text, False))
    return found


def open_sockets(options: Options) -> Sockets:
    """Everything bound and listening.  Raises StartError that names the address, the port and its holder where it can be seen."""
    for attempt in range(PORT_TRIES):
        try:
            return _open(options, _free_port(options) if options.port == 0 else options.port)
        except OSError as exc:
            address, kind = getattr(exc, "nfsd_bind", ("", ""))
            if options.port == 0 and exc.errno == errno.EADDRINUSE and attempt < PORT_TRIES - 1:
                continue
            raise StartError(_why(exc, kind, address, options.port), PORT_TAKEN if exc.errno == errno.EADDRINUSE else 1) from exc
    raise StartError("no port is free for all addresses", PORT_TAKEN)


def adopt_sockets(given: list[socket.socket]) -> Sockets:
    """Sockets that a manager bound for us: TCP listeners, and at the most one UDP socket an address.  Raises StartError."""
    made = Sockets([], 0)
    for sock in given:
        kind = sock.type
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            raise StartError(f"socket {sock.fileno()} that was handed to us is neither TCP nor UDP", PORT_TAKEN)
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        if made.port not in (0, port):
            raise StartError(f"sockets handed to us have ports {made.port} and {port}; NFS has one", PORT_TAKEN)
        made.port = port
        if kind == socket.SOCK_STREAM:
            made.tcp.append(sock)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # those of the other slots join it
            made.udp.setdefault(0, []).append(sock)
            v6only = sock.family == socket.AF_INET6 and bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
            made.binds.append(Bind(sock.family, host, False, v6only))
    made.udp_wanted = bool(made.udp)
    return made


def _why(exc: OSError, kind: str, address: str, port: int) -> str:
    text = f"{kind} port {port} of {address}: {exc.strerror}"
    if exc.errno == errno.EADDRINUSE:
        text += f" by {who_holds(kind, port) or 'a process that is not ours to see'}"
    if exc.errno == errno.EACCES and 0 < port < 1024:
        text += " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return text


def _free_port(options: Options) -> int:
    first = binds_of(options)[0] if binds_of(options) else Bind(socket.AF_INET, "0.0.0.0", True)
    with socket.socket(first.family, socket.SOCK_STREAM) as sock:
        _bind(sock, first, 0)
        return int(sock.getsockname()[1])


def _open(options: Options, port: int) -> Sockets:
    made = Sockets([], port, udp_wanted=options.udp)
    wanted = binds_of(options)
    try:
        for bind in wanted:
            _open_one(made, bind, options)
    except OSError:
        made.close()
        raise
    if not made.binds:
        raise StartError("no address to bind: the host has no such family", PORT_TAKEN)
    return made


def _open_one(made: Sockets, bind: Bind, options: Options) -> None:
    """Listener and first UDP socket of one address."""
    kind = "tcp"
    try:
        listener = _tcp(bind, made.port) if options.tcp else None
        if listener is not None:
            made.tcp.append(listener)
        if options.udp:
            kind = "udp"
            made.udp.setdefault(0, []).append(_udp(bind, made.port, joins=False))
    except OSError as exc:
        if bind.wildcard and exc.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return  # a host without this family
        exc.nfsd_bind = (bind.host, kind)  # type: ignore[attr-defined]
        raise
    made.binds.append(bind)


def _socket(bind: Bind, kind: int) -> socket.socket:
    sock = socket.socket(bind.family, kind | socket.SOCK_NONBLOCK)
    if bind.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.v6only)
    return sock


def _bind(sock: socket.socket, bind: Bind, port: int) -> bool:
    """Whether the machine has the address now; one that was named is bound anyhow."""
    if bind.wildcard:
        sock.bind((bind.host, port))
        return True
    return bind_early(sock, bind.host, port)


def _tcp(bind: Bind, port: int) -> socket.socket:
    sock = _socket(bind, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not _bind(sock, bind, port):
            log.logger.warning("%s is no address of this machine now; it is served when it is", bind.host)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _udp(bind: Bind, port: int, *, joins: bool) -> socket.socket:
    """A UDP socket; joins: beside the first one, whose bind was the test for a taken port."""
    sock = _socket(bind, socket.SOCK_DGRAM)
    try:
        if joins:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, bind, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
    except OSError:
        sock.close()
        raise
    return sock
