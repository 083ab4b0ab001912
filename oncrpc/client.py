"""A blocking RPC client (RFC 5531): UDP, TCP and unix stream sockets, with deadlines.

Called by tools (rpcinfo, showmount, nfsstat) and by daemons at start; never from a loop that serves.
One call at a time.  Over UDP the call is sent again, twice as late each time, until the deadline.
"""
from __future__ import annotations

import os
import socket
import time
from types import TracebackType

from .message import Auth, RpcError, auth_sys, pack_call, unpack_reply
from .record import pack_record, read_record
from .xdr import XdrError

TIMEOUT_S = 10.0            # a whole call, connecting included
FIRST_RETRY_S = 0.5         # UDP; doubles
MAX_REPLY = 4 << 20         # rtmax and more
MAX_DATAGRAM = 65535
RESERVED = range(1023, 599, -1)  # source ports that servers take for privileged; below 600 other services live


class RpcTimeout(TimeoutError):
    """No answer before the deadline."""


def default_cred() -> Auth:
    """AUTH_SYS of this process, at most 16 groups."""
    return auth_sys(os.geteuid(), os.getegid(), tuple(os.getgroups()[:16]), machine=os.fsencode(socket.gethostname())[:255])


def bind_reserved(sock: socket.socket, address: str = "") -> None:
    """Binds to a free port below 1024.  Raises OSError: PermissionError without the right, EADDRINUSE when none is free."""
    wildcard = address or ("::" if sock.family == socket.AF_INET6 else "0.0.0.0")
    error: OSError | None = None
    for port in RESERVED:
        try:
            sock.bind((wildcard, port))
            return
        except PermissionError:
            raise
        except OSError as exc:
            error = exc
    raise error if error is not None else OSError("no reserved port")


class Client:
    """Calls of one program version to one server; a context manager."""

    def __init__(self, sock: socket.socket, prog: int, vers: int, *, cred: Auth | None = None,
                 timeout_s: float = TIMEOUT_S) -> None:
        self.sock, self.prog, self.vers, self.timeout_s = sock, prog, vers, timeout_s
        self.cred = default_cred() if cred is None else cred
        self._stream = sock.type == socket.SOCK_STREAM
        self._xid = int.from_bytes(os.urandom(4), "big")

    @classmethod
    def tcp(cls, address: tuple[str, int], prog: int, vers: int, *, cred: Auth | None = None, timeout_s: float = TIMEOUT_S,
            reserved: bool = False, source: str = "") -> Client:
        """A connection to (host, port); host: a name or an IPv4 or IPv6 address."""
        return cls(_open(address, socket.SOCK_STREAM, timeout_s, reserved, source), prog, vers, cred=cred, timeout_s=timeout_s)

    @classmethod
    def udp(cls, address: tuple[str, int], prog: int, vers: int, *, cred: Auth | None = None, timeout_s: float = TIMEOUT_S,
            reserved: bool = False, source: str = "") -> Client:
        """A UDP socket connected to (host, port): only that address may answer."""
        return cls(_open(address, socket.SOCK_DGRAM, timeout_s, reserved, source), prog, vers, cred=cred, timeout_s=timeout_s)

    @classmethod
    def unix(cls, path: str, prog: int, vers: int, *, cred: Auth | None = None, timeout_s: float = TIMEOUT_S) -> Client:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock, prog, vers, cred=cred, timeout_s=timeout_s)

    def call(self, proc: int, args: bytes = b"", *, timeout_s: float | None = None) -> bytes:
        """The results of procedure `proc`.

        raises  RpcError what the RPC layer answered; RpcTimeout; XdrError the answer is none; OSError
        """
        self._xid = (self._xid + 1) & 0xFFFFFFFF
        message = pack_call(self._xid, self.prog, self.vers, proc, args, self.cred)
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        if self._stream:
            self.sock.settimeout(_left(deadline))
            self.sock.sendall(pack_record(message))
            return self._receive(deadline)
        return self._call_udp(message, deadline)

    def _call_udp(self, message: bytes, deadline: float) -> bytes:
        wait_s = FIRST_RETRY_S
        while True:
            self.sock.send(message)
            try:
                return self._receive(min(deadline, time.monotonic() + wait_s))
            except RpcTimeout:
                _left(deadline)
            wait_s *= 2

    def _receive(self, deadline: float) -> bytes:
        """The reply with our xid; replies to earlier calls are passed over."""
        while True:
            message = self._message(deadline)
            if message[:4] == self._xid.to_bytes(4, "big"):
                return unpack_reply(message)[1]

    def _message(self, deadline: float) -> bytes:
        if self._stream:
            return read_record(lambda size: self._exactly(size, deadline), limit=MAX_REPLY)
        self.sock.settimeout(_left(deadline))
        try:
            return self.sock.recv(MAX_DATAGRAM)
        except TimeoutError as exc:
            raise RpcTimeout("no answer") from exc

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self.sock.settimeout(_left(deadline))
            try:
                piece = self.sock.recv(min(size - len(data), 1 << 20))
            except TimeoutError as exc:
                raise RpcTimeout("no answer") from exc
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return bytes(data)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise RpcTimeout("no answer")
    return left


def _open(address: tuple[str, int], kind: int, timeout_s: float, reserved: bool, source: str) -> socket.socket:
    """A connected socket to the first address that takes us."""
    error: OSError | None = None
    for family, _, proto, _, where in socket.getaddrinfo(*address, type=kind):
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(timeout_s)
            if reserved:
                bind_reserved(sock, source)
            elif source:
                sock.bind((source, 0))
            sock.connect(where)
        except OSError as exc:
            sock.close()
            error = exc
            continue
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise error if error is not None else OSError(f"no address for {address[0]}")


__all__ = ["Client", "RpcError", "RpcTimeout", "XdrError", "bind_reserved", "default_cred"]
