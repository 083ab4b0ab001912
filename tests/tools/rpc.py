"""A plain synchronous ONC RPC client for tests (RFC 5531), with the bytes in reach.

Duty: build any call, also a wrong one; send it over TCP or UDP from any source address and port; give back the reply as
it came.  Nothing here is shared with the server's own RPC code except XDR, so that one mistake cannot hide in both.
"""
from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from oncrpc.xdr import Packer, Unpacker

CALL, REPLY = 0, 1
MSG_ACCEPTED, MSG_DENIED = 0, 1
SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR = range(6)
RPC_MISMATCH, AUTH_ERROR = 0, 1
AUTH_BADCRED, AUTH_REJECTEDCRED, AUTH_BADVERF, AUTH_REJECTEDVERF, AUTH_TOOWEAK = 1, 2, 3, 4, 5
AUTH_NONE, AUTH_SYS = 0, 1
LAST_FRAGMENT = 0x80000000
TIMEOUT_S = 10.0   # a reply that takes longer is a failure; the machine may be busy with other tests
MAX_REPLY = 8 << 20

_xids = itertools.count(int.from_bytes(os.urandom(3), "big") << 6)


def next_xid() -> int:
    """A number no call of this process had before."""
    return next(_xids) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Auth:
    """opaque_auth: flavor and body<400>."""

    flavor: int = AUTH_NONE
    body: bytes = b""

    def pack(self) -> bytes:
        out = Packer()
        out.pack_uint(self.flavor)
        out.pack_opaque(self.body)
        return bytes(out)


def auth_sys(uid: int = 0, gid: int = 0, gids: tuple[int, ...] = (), *, machine: bytes = b"test", stamp: int = 0) -> Auth:
    """authsys_parms of RFC 5531 appendix A; nothing is checked, so that wrong ones can be made."""
    out = Packer()
    out.pack_uint(stamp)
    out.pack_opaque(machine)
    out.pack_uint(uid)
    out.pack_uint(gid)
    out.pack_uint(len(gids))
    for one in gids:
        out.pack_uint(one)
    return Auth(AUTH_SYS, bytes(out))


NONE = Auth()
ROOT = auth_sys()


@dataclass(frozen=True, slots=True)
class Call:
    """One call message; `replace` makes a variant of it."""

    prog: int
    vers: int
    proc: int
    args: bytes = b""
    cred: Auth = ROOT
    verf: Auth = NONE
    xid: int = field(default_factory=next_xid)
    rpcvers: int = 2

    def pack(self) -> bytes:
        head = struct.pack(">6I", self.xid, CALL, self.rpcvers, self.prog, self.vers, self.proc)
        return head + self.cred.pack() + self.verf.pack() + self.args


@dataclass(frozen=True, slots=True)
class Reply:
    """A decoded reply header; `body` is what follows it."""

    xid: int
    stat: int
    detail: int           # accept_stat or reject_stat
    low: int = 0          # of PROG_MISMATCH and RPC_MISMATCH
    high: int = 0
    auth_stat: int = 0
    body: bytes = b""

    @property
    def ok(self) -> bool:
        return self.stat == MSG_ACCEPTED and self.detail == SUCCESS

    @property
    def accept_stat(self) -> int | None:
        return self.detail if self.stat == MSG_ACCEPTED else None

    @property
    def auth_error(self) -> int | None:
        return self.auth_stat if self.stat == MSG_DENIED and self.detail == AUTH_ERROR else None


class RpcFailed(Exception):
    """The call was answered by the RPC layer, not by the procedure."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"{reply}")
        self.reply = reply


def unpack_reply(message: bytes) -> Reply:
    """reply_body of RFC 5531 section 9.  Raises XdrError when it is none."""
    data = Unpacker(message)
    xid, kind, stat = data.unpack_uint(), data.unpack_uint(), data.unpack_uint()
    assert kind == REPLY and stat in (MSG_ACCEPTED, MSG_DENIED), message[:64].hex()
    return _unpack_accepted(xid, data) if stat == MSG_ACCEPTED else _unpack_denied(xid, data)


def _unpack_accepted(xid: int, data: Unpacker) -> Reply:
    data.unpack_uint()
    data.unpack_opaque(400)
    detail = data.unpack_uint()
    if detail == SUCCESS:
        return Reply(xid, MSG_ACCEPTED, detail, body=data.rest())
    low, high = (data.unpack_uint(), data.unpack_uint()) if detail == PROG_MISMATCH else (0, 0)
    data.check_end()
    return Reply(xid, MSG_ACCEPTED, detail, low, high)


def _unpack_denied(xid: int, data: Unpacker) -> Reply:
    detail = data.unpack_uint()
    if detail == RPC_MISMATCH:
        reply = Reply(xid, MSG_DENIED, detail, data.unpack_uint(), data.unpack_uint())
    else:
        reply = Reply(xid, MSG_DENIED, detail, auth_stat=data.unpack_uint())
    data.check_end()
    return reply


class Transport(Protocol):
    """What a client needs of a connection."""

    def send(self, message: bytes) -> None: ...
    def recv(self) -> bytes: ...
    def close(self) -> None: ...


def _source(sock: socket.socket, address: str, port: int) -> None:
    if address or port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))


class Tcp:
    """A connection with record marking (RFC 5531 section 11); `raw` bytes can be sent as well."""

    def __init__(self, server: tuple[str, int], *, source: str = "", source_port: int = 0, timeout_s: float = TIMEOUT_S) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(timeout_s)
            _source(self.sock, source, source_port)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.connect(server)
        except BaseException:
            self.sock.close()
            raise

    def send(self, message: bytes) -> None:
        self.raw(struct.pack(">I", LAST_FRAGMENT | len(message)) + message)

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self) -> bytes:
        """The next record.  Raises EOFError when the server closed the connection."""
        parts, last = [], False
        while not last:
            mark = struct.unpack(">I", self._exactly(4))[0]
            last, size = bool(mark & LAST_FRAGMENT), mark & ~LAST_FRAGMENT
            assert size <= MAX_REPLY, f"a reply fragment of {size} bytes"
            parts.append(self._exactly(size))
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError("the server closed the connection")
            data += piece
        return bytes(data)

    def closed_within(self, seconds: float) -> bool:
        """Does the server end the connection before that?  Whatever it says before is read and dropped."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


class Udp:
    """A connected UDP socket: only the server's address may answer."""

    def __init__(self, server: tuple[str, int], *, source: str = "", source_port: int = 0, timeout_s: float = TIMEOUT_S) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(timeout_s)
        _source(self.sock, source, source_port)
        self.sock.connect(server)

    def send(self, message: bytes) -> None:
        self.sock.send(message)

    def recv(self) -> bytes:
        return self.sock.recv(65536)

    def close(self) -> None:
        self.sock.close()


def exchange(transport: Transport, call: Call) -> Reply:
    """Sends `call` and returns its reply; replies to earlier calls of the connection are passed over."""
    transport.send(call.pack())
    return receive(transport, call.xid)


def receive(transport: Transport, xid: int) -> Reply:
    """The reply to `xid`."""
    while True:
        reply = unpack_reply(transport.recv())
        if reply.xid == xid:
            return reply


def pipeline(transport: Transport, calls: list[Call]) -> Iterator[Reply]:
    """Sends all calls at once; the replies in the order of the calls, in whatever order they came."""
    for call in calls:
        transport.send(call.pack())
    got: dict[int, Reply] = {}
    for call in calls:
        while call.xid not in got:
            reply = unpack_reply(transport.recv())
            got[reply.xid] = reply
        yield got.pop(call.xid)


__all__ = ["AUTH_NONE", "AUTH_SYS", "NONE", "ROOT", "Auth", "Call", "Reply", "RpcFailed", "Tcp", "Transport", "Udp", "auth_sys",
           "exchange", "next_xid", "pipeline", "receive", "replace", "unpack_reply"]
