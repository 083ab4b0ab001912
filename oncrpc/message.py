"""RPC messages (RFC 5531 section 9): calls and replies, encoded and decoded; AUTH_SYS bodies (appendix A).

Bytes in, records out, and back.  Used by client.py and by tests; the server side of it is C (engine/).
"""
from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from .xdr import Packer, Unpacker, XdrError

RPC_VERSION = 2
MAX_AUTH = 400       # opaque_auth body<400>
MAX_MACHINE = 255    # authsys_parms machinename<255>
MAX_GIDS = 16        # authsys_parms gids<16>

CALL, REPLY = 0, 1
MSG_ACCEPTED, MSG_DENIED = 0, 1
RPC_MISMATCH, AUTH_ERROR = 0, 1
AUTH_NONE, AUTH_SYS, AUTH_SHORT = 0, 1, 2


class AcceptStat(IntEnum):
    """accept_stat"""

    SUCCESS = 0
    PROG_UNAVAIL = 1
    PROG_MISMATCH = 2
    PROC_UNAVAIL = 3
    GARBAGE_ARGS = 4
    SYSTEM_ERR = 5


class AuthStat(IntEnum):
    """auth_stat; the values of RPCSEC_GSS are left out"""

    AUTH_OK = 0
    AUTH_BADCRED = 1
    AUTH_REJECTEDCRED = 2
    AUTH_BADVERF = 3
    AUTH_REJECTEDVERF = 4
    AUTH_TOOWEAK = 5
    AUTH_INVALIDRESP = 6
    AUTH_FAILED = 7


class RpcError(Exception):
    """The call was, or is to be, answered by the RPC layer: accept_stat, or auth_stat when the call is denied.

    Raised by a server's handler it becomes that answer; raised by a client it is the answer that came.
    """

    def __init__(self, accept_stat: int = AcceptStat.SYSTEM_ERR, *, auth_stat: int | None = None, low: int = 0,
                 high: int = 0) -> None:
        self.accept_stat, self.auth_stat, self.low, self.high = accept_stat, auth_stat, low, high
        super().__init__(self._text())

    def _text(self) -> str:
        if self.auth_stat is not None:
            known = self.auth_stat in AuthStat._value2member_map_
            return f"authentication refused: {AuthStat(self.auth_stat).name if known else self.auth_stat}"
        known = self.accept_stat in AcceptStat._value2member_map_
        name = AcceptStat(self.accept_stat).name if known else f"accept_stat {self.accept_stat}"
        return f"{name}, versions {self.low} to {self.high}" if self.accept_stat == AcceptStat.PROG_MISMATCH else name


@dataclass(frozen=True, slots=True)
class Auth:
    """opaque_auth: flavor and body<400>."""

    flavor: int = AUTH_NONE
    body: bytes = b""


def auth_sys(uid: int, gid: int, gids: tuple[int, ...] = (), *, machine: bytes = b"", stamp: int = 0) -> Auth:
    """An AUTH_SYS credential.  More than 16 groups, or a longer name, do not fit: XdrError."""
    if len(machine) > MAX_MACHINE or len(gids) > MAX_GIDS:
        raise XdrError(f"authsys_parms: a machine name of {len(machine)} bytes, {len(gids)} groups")
    out = Packer()
    out.pack_uint(stamp)
    out.pack_opaque(machine)
    for value in (uid, gid, len(gids), *gids):
        out.pack_uint(value)
    return Auth(AUTH_SYS, bytes(out))


def pack_call(xid: int, prog: int, vers: int, proc: int, args: bytes,  # noqa: PLR0917  the order of rpc_msg
              cred: Auth = Auth(), verf: Auth = Auth()) -> bytes:
    """rpc_msg with a call_body."""
    out = Packer()
    out.pack_raw(struct.pack(">6I", xid, CALL, RPC_VERSION, prog, vers, proc))
    for auth in (cred, verf):
        out.pack_uint(auth.flavor)
        out.pack_opaque(auth.body)
    out.pack_raw(args)
    return bytes(out)


def unpack_reply(message: bytes) -> tuple[int, bytes]:
    """rpc_msg with a reply_body: its xid and the results.

    raises  RpcError when the RPC layer answered, XdrError when it is no reply
    """
    data = Unpacker(message)
    xid, kind, stat = data.unpack_uint(), data.unpack_uint(), data.unpack_uint()
    if kind != REPLY or stat not in (MSG_ACCEPTED, MSG_DENIED):
        raise XdrError(f"no reply: type {kind}, reply_stat {stat}")
    if stat == MSG_DENIED:
        if data.unpack_uint() == RPC_MISMATCH:
            raise RpcError(AcceptStat.PROG_MISMATCH, low=data.unpack_uint(), high=data.unpack_uint())
        raise RpcError(auth_stat=data.unpack_uint())
    data.unpack_uint()
    data.unpack_opaque(MAX_AUTH)
    accept_stat = data.unpack_uint()
    if accept_stat == AcceptStat.PROG_MISMATCH:
        raise RpcError(accept_stat, low=data.unpack_uint(), high=data.unpack_uint())
    if accept_stat != AcceptStat.SUCCESS:
        raise RpcError(accept_stat)
    return xid, data.rest()


# struct rpc_relay_head of engine.h: serial, proto, family, port, addr[16], scope; native order, one machine.
_RELAY = struct.Struct("=IIHH16sI")


def pack_relay(serial: int, message: bytes, *, proto: int, family: int, port: int, address: bytes, scope: int = 0) -> bytes:
    """One packet of a RELAYED socket: where the call came from, and the call; `address` is packed, 4 or 16 bytes."""
    return _RELAY.pack(serial, proto, family, port, address.ljust(16, b"\0"), scope) + message


def unpack_relay_reply(packet: bytes) -> tuple[int, bytes]:
    """What comes back: the serial and the reply message."""
    if len(packet) < 16:
        raise XdrError(f"a relayed reply of {len(packet)} bytes")
    return int.from_bytes(packet[:4], "little" if struct.pack("=H", 1)[0] else "big"), packet[4:]
