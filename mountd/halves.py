"""The messages between mountd's two halves, on a SOCK_SEQPACKET pair of nfssvc channels.

    CALL     network -> privileged: a MountCall; the reply's errno is an accept_stat, its body the results
    ATTACH   privileged -> network: one descriptor, a worker's end for relayed calls
    SERVING  network -> privileged, once: it has given up its rights and serves

The network half holds no right: a MountCall is checked as if hostile, and can ask nothing but what a client could.
"""
from __future__ import annotations

from dataclasses import dataclass

from nfssvc_shim.records import AF_LOCAL, Address, Cred, pack_address, pack_cred, unpack_address, unpack_cred
from oncrpc.xdr import Packer, Unpacker, XdrError

from .mount import MAX_REPLY, MAX_REPLY_RELAYED, MNTPATHLEN, Proc

CALL, ATTACH, SERVING = 1, 2, 3


@dataclass(frozen=True, slots=True)
class MountCall:
    """One call of program 100005.

    local   it came from this machine
    limit   bytes that the results may have; more is PROC_UNAVAIL
    """

    vers: int
    proc: Proc
    peer: Address
    flavor: int
    cred: Cred
    path: bytes = b""
    local: bool = False
    limit: int = MAX_REPLY_RELAYED


def pack_mount_call(c: MountCall) -> bytes:
    p = Packer()
    p.pack_uint(c.vers)
    p.pack_uint(c.proc)
    pack_address(p, c.peer)
    p.pack_uint(c.flavor)
    pack_cred(p, c.cred)
    p.pack_string(c.path)
    p.pack_bool(c.local)
    p.pack_uint(c.limit)
    return bytes(p)


def unpack_mount_call(body: bytes) -> MountCall:
    u = Unpacker(body)
    vers, proc = u.unpack_uint(), u.unpack_uint()
    if not 1 <= vers <= 3 or not Proc.MNT <= proc <= Proc.PATHCONF:
        raise XdrError(f"version {vers}, procedure {proc}")
    call = MountCall(vers, Proc(proc), unpack_address(u), u.unpack_uint(), unpack_cred(u), u.unpack_string(MNTPATHLEN),
                     u.unpack_bool(), u.unpack_uint())
    u.check_end()
    if len(call.cred.gids) > 16 or call.flavor > 1 or call.limit > MAX_REPLY:
        raise XdrError(f"{len(call.cred.gids)} groups, flavor {call.flavor}")
    return call


__all__ = ["AF_LOCAL", "ATTACH", "CALL", "SERVING", "MountCall", "pack_mount_call", "unpack_mount_call"]
