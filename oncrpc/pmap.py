"""Asking and telling the port mapper: PMAP version 2 over UDP and TCP, rpcbind versions 3 and 4 over its unix socket (RFC 1833).

Called by daemons at start and stop (register, unregister), by mountd and lockd clients (getport), by rpcinfo (dump).

Registering: rpcbind's unix socket where there is one (it knows our uid, and IPv6 netids), else PMAP over UDP to 127.0.0.1,
from a reserved port when we may have one (OpenBSD's and our own portmap ask for it when a port below 1024 or 2049 is
registered).  A daemon that has dropped its rights hands in a socket that it bound before.
"""
from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from .client import Client, bind_reserved, default_cred
from .message import AUTH_NONE, Auth, RpcError
from .xdr import Packer, Unpacker, XdrError

PMAP_PROG = 100000
PMAP_VERS, RPCB_VERS3, RPCB_VERS4 = 2, 3, 4
PMAP_PORT = 111
SOCKETS = ("/run/rpcbind.sock", "/var/run/rpcbind.sock")

NULL, SET, UNSET, GETPORT, DUMP, CALLIT = range(6)
GETADDR, GETTIME = 3, 6

IPPROTO_TCP, IPPROTO_UDP = 6, 17
NETIDS = {"udp": (socket.AF_INET, IPPROTO_UDP), "tcp": (socket.AF_INET, IPPROTO_TCP),
          "udp6": (socket.AF_INET6, IPPROTO_UDP), "tcp6": (socket.AF_INET6, IPPROTO_TCP)}

MAX_ENTRIES = 8192   # of a DUMP that we accept
MAX_STRING = 1024    # netid, universal address, owner in an answer
TIMEOUT_S = 3.0      # the port mapper is on this machine, or one datagram away


@dataclass(frozen=True, slots=True)
class Mapping:
    """struct pmap"""

    prog: int
    vers: int
    prot: int
    port: int


@dataclass(frozen=True, slots=True)
class Rpcb:
    """struct rpcb"""

    prog: int
    vers: int
    netid: str
    addr: str
    owner: str


def pack_mapping(mapping: Mapping) -> bytes:
    out = Packer()
    for value in (mapping.prog, mapping.vers, mapping.prot, mapping.port):
        out.pack_uint(value)
    return bytes(out)


def unpack_mapping(data: Unpacker) -> Mapping:
    return Mapping(data.unpack_uint(), data.unpack_uint(), data.unpack_uint(), data.unpack_uint())


def pack_rpcb(entry: Rpcb) -> bytes:
    out = Packer()
    out.pack_uint(entry.prog)
    out.pack_uint(entry.vers)
    for text in (entry.netid, entry.addr, entry.owner):
        out.pack_string(text.encode())
    return bytes(out)


def unpack_rpcb(data: Unpacker) -> Rpcb:
    prog, vers = data.unpack_uint(), data.unpack_uint()
    netid, addr, owner = (data.unpack_string(MAX_STRING).decode(errors="replace") for _ in range(3))
    return Rpcb(prog, vers, netid, addr, owner)


def universal_address(host: str, port: int) -> str:
    """RFC 5665 section 5.2.3: a.b.c.d.p1.p2, x:x::x.p1.p2"""
    return f"{host}.{port >> 8}.{port & 255}"


def split_universal(addr: str) -> tuple[str, int]:
    """Host and port of a universal address.  Raises ValueError."""
    host, high, low = addr.rsplit(".", 2)
    if not (high.isascii() and high.isdigit() and low.isascii() and low.isdigit()) or max(int(high), int(low)) > 255:
        raise ValueError(f"no universal address: {addr!r}")
    socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0])
    return host, int(high) << 8 | int(low)


class Pmap:
    """PMAP version 2 at (host, port), over UDP unless told otherwise."""

    def __init__(self, host: str = "127.0.0.1", *, port: int = PMAP_PORT, tcp: bool = False, timeout_s: float = TIMEOUT_S,
                 sock: socket.socket | None = None, reserved: bool = False) -> None:
        """sock  a bound IPv4 UDP socket to send from; it stays the caller's."""
        self._own = sock is None
        cred = Auth(AUTH_NONE)
        if sock is not None:
            sock.connect((host, port))
            self.client = Client(sock, PMAP_PROG, PMAP_VERS, cred=cred, timeout_s=timeout_s)
        else:
            opener = Client.tcp if tcp else Client.udp
            self.client = opener((host, port), PMAP_PROG, PMAP_VERS, cred=cred, timeout_s=timeout_s, reserved=reserved)

    def null(self) -> None:
        self.client.call(NULL)

    def set(self, mapping: Mapping) -> bool:
        return self._bool(SET, mapping)

    def unset(self, prog: int, vers: int) -> bool:
        """Removes the mappings of both protocols."""
        return self._bool(UNSET, Mapping(prog, vers, 0, 0))

    def getport(self, prog: int, vers: int, prot: int) -> int:
        """The port, possibly of another version; 0: not registered."""
        data = Unpacker(self.client.call(GETPORT, pack_mapping(Mapping(prog, vers, prot, 0))))
        port = data.unpack_uint()
        if port > 65535:
            raise XdrError(f"port {port}")
        return port

    def dump(self) -> list[Mapping]:
        data = Unpacker(self.client.call(DUMP))
        found: list[Mapping] = []
        while data.unpack_bool():
            if len(found) == MAX_ENTRIES:
                raise XdrError(f"more than {MAX_ENTRIES} mappings")
            found.append(unpack_mapping(data))
        return found

    def _bool(self, proc: int, mapping: Mapping) -> bool:
        return Unpacker(self.client.call(proc, pack_mapping(mapping))).unpack_bool()

    def close(self) -> None:
        if self._own:
            self.client.close()

    def __enter__(self) -> Pmap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Rpcbind:
    """rpcbind version 4 (or 3) over its unix socket, or at (host, port) over TCP."""

    def __init__(self, path: str = "", *, host: str = "", port: int = PMAP_PORT, vers: int = RPCB_VERS4,
                 timeout_s: float = TIMEOUT_S) -> None:
        """path  of the unix socket; "": host is given.  Raises OSError when nobody is there."""
        if host:
            self.client = Client.tcp((host, port), PMAP_PROG, vers, timeout_s=timeout_s)
        else:
            self.client = Client.unix(path, PMAP_PROG, vers, timeout_s=timeout_s, cred=default_cred())

    def set(self, entry: Rpcb) -> bool:
        return Unpacker(self.client.call(SET, pack_rpcb(entry))).unpack_bool()

    def unset(self, prog: int, vers: int, netid: str = "") -> bool:
        """netid "": all transports."""
        return Unpacker(self.client.call(UNSET, pack_rpcb(Rpcb(prog, vers, netid, "", _owner())))).unpack_bool()

    def getaddr(self, prog: int, vers: int, netid: str) -> str:
        """The universal address, "" when not registered."""
        answer = Unpacker(self.client.call(GETADDR, pack_rpcb(Rpcb(prog, vers, netid, "", ""))))
        return answer.unpack_string(MAX_STRING).decode(errors="replace")

    def dump(self) -> list[Rpcb]:
        data = Unpacker(self.client.call(DUMP))
        found: list[Rpcb] = []
        while data.unpack_bool():
            if len(found) == MAX_ENTRIES:
                raise XdrError(f"more than {MAX_ENTRIES} entries")
            found.append(unpack_rpcb(data))
        return found

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Rpcbind:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _owner() -> str:
    return "superuser" if os.geteuid() == 0 else str(os.geteuid())


def rpcbind_socket(path: str = "") -> str:
    """The unix socket of the rpcbind that runs here; "" when there is none."""
    for candidate in (path,) if path else SOCKETS:
        if os.path.exists(candidate):
            return candidate
    return ""


def reserved_socket() -> socket.socket:
    """A UDP socket for Pmap(sock=), from a port below 1024 where we may: made before rights are dropped."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bind_reserved(sock, "127.0.0.1")
    except OSError:
        sock.bind(("127.0.0.1", 0))
    return sock


def register(services: Iterable[tuple[int, int, str, int]], *, port: int = PMAP_PORT, path: str = "",
             sock: socket.socket | None = None) -> list[tuple[int, int, str, int]]:
    """Registers (prog, vers, netid, port) each; an entry of ours that is there is replaced first.

    netid   udp tcp udp6 tcp6; the IPv6 ones are skipped where only PMAP version 2 answers
    port    the port mapper's; other than 111 in tests, then only its `path` is tried, not the usual sockets
    sock    what reserved_socket() gave
    returns those that were refused; raises OSError, RpcTimeout when nobody answers
    """
    wanted = list(services)
    where = rpcbind_socket(path) if path or port == PMAP_PORT else ""
    if where:
        try:
            return _register_rpcbind(where, wanted)
        except (ConnectionError, FileNotFoundError, PermissionError, RpcError, XdrError):
            pass  # a stale socket file, or a mapper without version 4
    return _register_pmap(wanted, port, sock)


def _register_rpcbind(path: str, wanted: list[tuple[int, int, str, int]]) -> list[tuple[int, int, str, int]]:
    refused = []
    with Rpcbind(path) as mapper:
        for prog, vers, netid, port in wanted:
            mapper.unset(prog, vers, netid)
            host = "::" if NETIDS[netid][0] == socket.AF_INET6 else "0.0.0.0"
            if not mapper.set(Rpcb(prog, vers, netid, universal_address(host, port), _owner())):
                refused.append((prog, vers, netid, port))
    return refused


def _register_pmap(wanted: list[tuple[int, int, str, int]], port: int,
                   sock: socket.socket | None) -> list[tuple[int, int, str, int]]:
    refused = []
    own = None if sock else reserved_socket()
    try:
        with Pmap(port=port, sock=sock or own) as mapper:
            for prog, vers in dict.fromkeys((prog, vers) for prog, vers, netid, _ in wanted if not netid.endswith("6")):
                mapper.unset(prog, vers)
            for prog, vers, netid, number in wanted:
                if netid.endswith("6"):
                    continue
                if not mapper.set(Mapping(prog, vers, NETIDS[netid][1], number)):
                    refused.append((prog, vers, netid, number))
    finally:
        if own is not None:
            own.close()
    return refused


def unregister(programs: Iterable[tuple[int, int]], *, port: int = PMAP_PORT, path: str = "",
               sock: socket.socket | None = None) -> None:
    """Removes (prog, vers) each, all transports.  Raises OSError, RpcTimeout when nobody answers."""
    wanted = list(programs)
    where = rpcbind_socket(path) if path or port == PMAP_PORT else ""
    if where:
        try:
            with Rpcbind(where) as mapper:
                for prog, vers in wanted:
                    mapper.unset(prog, vers)
            return
        except (ConnectionError, FileNotFoundError, PermissionError, RpcError, XdrError):
            pass
    own = None if sock else reserved_socket()
    try:
        with Pmap(port=port, sock=sock or own) as pmap:
            for prog, vers in wanted:
                pmap.unset(prog, vers)
    finally:
        if own is not None:
            own.close()
