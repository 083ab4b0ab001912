"""A plain client of NFS_ACL (program 100227) versions 2 and 3 for tests."""
from __future__ import annotations

from dataclasses import dataclass

from oncrpc.xdr import Packer, Unpacker

from .nfs2 import Fattr, unpack_fattr
from .nfs3 import Fattr3, unpack_post_op_attr
from .rpc import ROOT, Auth, Call, RpcFailed, Transport, exchange

ACL_PROGRAM = 100227
GETACL, SETACL, GETATTR, ACCESS = 1, 2, 3, 4
ACL, COUNT, DEFAULT, DEFAULT_COUNT = 1, 2, 4, 8
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER, IS_DEFAULT = 1, 2, 4, 8, 0x10, 0x20, 0x1000

Ace = tuple[int, int, int]   # type, id, perm


@dataclass(frozen=True, slots=True)
class AclRes:
    status: int
    attr: Fattr3 | Fattr | None = None
    mask: int = 0
    count: int = 0
    acl: tuple[Ace, ...] = ()
    default_count: int = 0
    default: tuple[Ace, ...] = ()
    access: int = 0


def pack_acl(entries: tuple[Ace, ...], count: int | None = None) -> bytes:
    out = Packer()
    out.pack_uint(len(entries) if count is None else count)
    out.pack_uint(len(entries))
    for ace in entries:
        for word in ace:
            out.pack_uint(word)
    return bytes(out)


def pack_SETACLargs(mask: int, acl: tuple[Ace, ...], default: tuple[Ace, ...]) -> bytes:
    out = Packer()
    out.pack_uint(mask)
    return bytes(out) + pack_acl(acl) + pack_acl(default)


def _unpack_acl(data: Unpacker) -> tuple[int, tuple[Ace, ...]]:
    count, n = data.unpack_uint(), data.unpack_uint()
    return count, tuple((data.unpack_uint(), data.unpack_uint(), data.unpack_uint()) for _ in range(n))


class NfsAcl:
    """One connection, credential and version."""

    def __init__(self, transport: Transport, cred: Auth = ROOT, vers: int = 3) -> None:
        self.transport, self.cred, self.vers = transport, cred, vers

    def as_(self, cred: Auth) -> NfsAcl:
        return NfsAcl(self.transport, cred, self.vers)

    def raw(self, proc: int, args: bytes = b"") -> bytes:
        reply = exchange(self.transport, Call(ACL_PROGRAM, self.vers, proc, args, self.cred))
        if not reply.ok:
            raise RpcFailed(reply)
        return reply.body

    def fh(self, fh: bytes) -> bytes:
        out = Packer()
        if self.vers == 2:
            out.pack_fopaque(32, fh)
        else:
            out.pack_opaque(fh)
        return bytes(out)

    def _attr(self, data: Unpacker, status: int) -> Fattr3 | Fattr | None:
        if self.vers == 3:
            return unpack_post_op_attr(data)
        return None if status else unpack_fattr(data)

    def getacl(self, fh: bytes, mask: int = 15) -> AclRes:
        data = Unpacker(self.raw(GETACL, self.fh(fh) + mask.to_bytes(4, "big")))
        status = data.unpack_uint()
        attr = self._attr(data, status)
        if status:
            data.check_end()
            return AclRes(status, attr)
        got = data.unpack_uint()
        (count, acl), (default_count, default) = _unpack_acl(data), _unpack_acl(data)
        data.check_end()
        return AclRes(status, attr, got, count, acl, default_count, default)

    def setacl(self, fh: bytes, mask: int, acl: tuple[Ace, ...] = (), default: tuple[Ace, ...] = ()) -> AclRes:
        return self.setacl_raw(fh, pack_SETACLargs(mask, acl, default))

    def setacl_raw(self, fh: bytes, args: bytes) -> AclRes:
        data = Unpacker(self.raw(SETACL, self.fh(fh) + args))
        status = data.unpack_uint()
        attr = self._attr(data, status)
        data.check_end()
        return AclRes(status, attr)

    def getattr2(self, fh: bytes) -> AclRes:
        data = Unpacker(self.raw(GETATTR, fh))
        status = data.unpack_uint()
        attr = self._attr(data, status)
        data.check_end()
        return AclRes(status, attr)

    def access2(self, fh: bytes, want: int) -> AclRes:
        data = Unpacker(self.raw(ACCESS, fh + want.to_bytes(4, "big")))
        status = data.unpack_uint()
        attr = self._attr(data, status)
        access = 0 if status else data.unpack_uint()
        data.check_end()
        return AclRes(status, attr, access=access)
