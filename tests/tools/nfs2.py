"""A plain synchronous NFSv2 client for tests (RFC 1094): every procedure, each answer decoded to its last byte."""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from oncrpc.xdr import Packer, Unpacker

from .rpc import ROOT, Auth, Call, RpcFailed, Transport, exchange

NFS, V2 = 100003, 2
FHSIZE, MAXDATA = 32, 8192
UNSET = 0xFFFFFFFF


class Nfsstat(IntEnum):
    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    WFLUSH = 99


class Proc(IntEnum):
    NULL = 0
    GETATTR = 1
    SETATTR = 2
    ROOT = 3
    LOOKUP = 4
    READLINK = 5
    READ = 6
    WRITECACHE = 7
    WRITE = 8
    CREATE = 9
    REMOVE = 10
    RENAME = 11
    LINK = 12
    SYMLINK = 13
    MKDIR = 14
    RMDIR = 15
    READDIR = 16
    STATFS = 17


NFNON, NFREG, NFDIR, NFBLK, NFCHR, NFLNK = range(6)


@dataclass(frozen=True, slots=True)
class Fattr:
    type: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocksize: int
    rdev: int
    blocks: int
    fsid: int
    fileid: int
    atime: tuple[int, int]
    mtime: tuple[int, int]
    ctime: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sattr:
    """-1 (UNSET) leaves a field."""

    mode: int = UNSET
    uid: int = UNSET
    gid: int = UNSET
    size: int = UNSET
    atime: tuple[int, int] = (UNSET, UNSET)
    mtime: tuple[int, int] = (UNSET, UNSET)

    def pack(self) -> bytes:
        out = Packer()
        for word in (self.mode, self.uid, self.gid, self.size, *self.atime, *self.mtime):
            out.pack_uint(word)
        return bytes(out)


LEAVE = Sattr()
FILE, DIRECTORY = Sattr(mode=0o100644), Sattr(mode=0o755)


@dataclass(frozen=True, slots=True)
class Entry:
    fileid: int
    name: bytes
    cookie: int


@dataclass(frozen=True, slots=True)
class Res:
    """Any result: what its arm has."""

    status: Nfsstat
    attr: Fattr | None = None
    fh: bytes = b""
    data: bytes = b""
    entries: tuple[Entry, ...] = ()
    eof: bool = False
    info: tuple[int, ...] = ()
    size_bytes: int = 0

    def must(self) -> Res:
        assert self.status == Nfsstat.OK, f"{self.status!r}"
        return self

    @property
    def a(self) -> Fattr:
        assert self.attr is not None
        return self.attr


def unpack_fattr(data: Unpacker) -> Fattr:
    one = data.unpack_uint
    type_, mode, nlink, uid, gid, size, blocksize, rdev, blocks, fsid, fileid = [one() for _ in range(11)]
    atime, mtime, ctime = (one(), one()), (one(), one()), (one(), one())
    return Fattr(type_, mode, nlink, uid, gid, size, blocksize, rdev, blocks, fsid, fileid, atime, mtime, ctime)


def _entries(data: Unpacker) -> tuple[Entry, ...]:
    found = []
    while data.unpack_bool():
        found.append(Entry(data.unpack_uint(), data.unpack_opaque(), data.unpack_uint()))
    return tuple(found)


def unpack_result(proc: Proc, body: bytes) -> Res:
    data = Unpacker(body)
    status = Nfsstat(data.unpack_uint())
    res = Res(status, size_bytes=len(body)) if status else _success(proc, data, len(body))
    data.check_end()
    return res


def _success(proc: Proc, data: Unpacker, size: int) -> Res:
    ok = Nfsstat.OK
    if proc in (Proc.GETATTR, Proc.SETATTR, Proc.WRITE):
        return Res(ok, unpack_fattr(data))
    if proc in (Proc.LOOKUP, Proc.CREATE, Proc.MKDIR):
        fh = data.unpack_fopaque(FHSIZE)
        return Res(ok, unpack_fattr(data), fh=fh)
    if proc == Proc.READ:
        attr = unpack_fattr(data)
        return Res(ok, attr, data=data.unpack_opaque(MAXDATA))
    if proc == Proc.READLINK:
        return Res(ok, data=data.unpack_opaque(1024))
    if proc == Proc.READDIR:
        entries = _entries(data)
        return Res(ok, entries=entries, eof=data.unpack_bool(), size_bytes=size)
    if proc == Proc.STATFS:
        return Res(ok, info=tuple(data.unpack_uint() for _ in range(5)))
    return Res(ok)


def pack_diropargs(fh: bytes, name: bytes) -> bytes:
    out = Packer()
    out.pack_fopaque(FHSIZE, fh)
    out.pack_opaque(name)
    return bytes(out)


def words(*values: int) -> bytes:
    out = Packer()
    for value in values:
        out.pack_uint(value)
    return bytes(out)


def opaque(data: bytes) -> bytes:
    out = Packer()
    out.pack_opaque(data)
    return bytes(out)


class Nfs2:
    """One connection and credential."""

    def __init__(self, transport: Transport, cred: Auth = ROOT) -> None:
        self.transport, self.cred = transport, cred

    def as_(self, cred: Auth) -> Nfs2:
        return Nfs2(self.transport, cred)

    def close(self) -> None:
        self.transport.close()

    def raw(self, proc: int, args: bytes = b"") -> bytes:
        reply = exchange(self.transport, Call(NFS, V2, proc, args, self.cred))
        if not reply.ok:
            raise RpcFailed(reply)
        return reply.body

    def call(self, proc: Proc, args: bytes) -> Res:
        return unpack_result(proc, self.raw(proc, args))

    def null(self) -> None:
        assert self.raw(Proc.NULL) == b""

    def getattr(self, fh: bytes) -> Res:
        return self.call(Proc.GETATTR, fh)

    def setattr(self, fh: bytes, sattr: Sattr) -> Res:
        return self.call(Proc.SETATTR, fh + sattr.pack())

    def lookup(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.LOOKUP, pack_diropargs(fh, name))

    def readlink(self, fh: bytes) -> Res:
        return self.call(Proc.READLINK, fh)

    def read(self, fh: bytes, offset: int = 0, count: int = MAXDATA) -> Res:
        return self.call(Proc.READ, fh + words(offset, count, 0))

    def write(self, fh: bytes, data: bytes, offset: int = 0) -> Res:
        return self.call(Proc.WRITE, fh + words(0, offset, 0) + opaque(data))

    def create(self, fh: bytes, name: bytes, sattr: Sattr = FILE) -> Res:
        return self.call(Proc.CREATE, pack_diropargs(fh, name) + sattr.pack())

    def remove(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.REMOVE, pack_diropargs(fh, name))

    def rename(self, fh: bytes, name: bytes, to_fh: bytes, to_name: bytes) -> Res:
        return self.call(Proc.RENAME, pack_diropargs(fh, name) + pack_diropargs(to_fh, to_name))

    def link(self, fh: bytes, to_fh: bytes, to_name: bytes) -> Res:
        return self.call(Proc.LINK, fh + pack_diropargs(to_fh, to_name))

    def symlink(self, fh: bytes, name: bytes, target: bytes, sattr: Sattr = LEAVE) -> Res:
        return self.call(Proc.SYMLINK, pack_diropargs(fh, name) + opaque(target) + sattr.pack())

    def mkdir(self, fh: bytes, name: bytes, sattr: Sattr = DIRECTORY) -> Res:
        return self.call(Proc.MKDIR, pack_diropargs(fh, name) + sattr.pack())

    def rmdir(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.RMDIR, pack_diropargs(fh, name))

    def readdir(self, fh: bytes, cookie: int = 0, count: int = MAXDATA) -> Res:
        return self.call(Proc.READDIR, fh + words(cookie, count))

    def statfs(self, fh: bytes) -> Res:
        return self.call(Proc.STATFS, fh)
