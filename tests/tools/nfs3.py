"""A plain synchronous NFSv3 and MOUNT client for tests (RFC 1813).

Duty: every procedure of NFS version 3 and MOUNT versions 1 and 3; each answer is decoded strictly (no byte may be left over) into
one record named like the RFC's result, whose fields are None where the arm of the union does not have them.  The packers of
arguments are public, so that a test can cut and change the bytes.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from oncrpc.xdr import Packer, Unpacker

from .rpc import ROOT, Auth, Call, Reply, RpcFailed, Tcp, Transport, Udp, exchange, next_xid

NFS, MOUNT = 100003, 100005
NFS3_FHSIZE = 64
V3 = 3


class Nfs3Stat(IntEnum):
    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    XDEV = 18
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    MLINK = 31
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    REMOTE = 71
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007
    JUKEBOX = 10008


(OK, PERM, NOENT, IO, NXIO, ACCES, EXIST, XDEV, NODEV, NOTDIR, ISDIR, INVAL, FBIG, NOSPC, ROFS, MLINK, NAMETOOLONG, NOTEMPTY,
 DQUOT, STALE, REMOTE, BADHANDLE, NOT_SYNC, BAD_COOKIE, NOTSUPP, TOOSMALL, SERVERFAULT, BADTYPE, JUKEBOX) = Nfs3Stat


class Proc(IntEnum):
    NULL = 0
    GETATTR = 1
    SETATTR = 2
    LOOKUP = 3
    ACCESS = 4
    READLINK = 5
    READ = 6
    WRITE = 7
    CREATE = 8
    MKDIR = 9
    SYMLINK = 10
    MKNOD = 11
    REMOVE = 12
    RMDIR = 13
    RENAME = 14
    LINK = 15
    READDIR = 16
    READDIRPLUS = 17
    FSSTAT = 18
    FSINFO = 19
    PATHCONF = 20
    COMMIT = 21


NF3REG, NF3DIR, NF3BLK, NF3CHR, NF3LNK, NF3SOCK, NF3FIFO = range(1, 8)
UNSTABLE, DATA_SYNC, FILE_SYNC = range(3)
UNCHECKED, GUARDED, EXCLUSIVE = range(3)
DONT_CHANGE, SET_TO_SERVER_TIME, SET_TO_CLIENT_TIME = range(3)
ACCESS_READ, ACCESS_LOOKUP, ACCESS_MODIFY, ACCESS_EXTEND, ACCESS_DELETE, ACCESS_EXECUTE = 1, 2, 4, 8, 0x10, 0x20
ACCESS_ALL = 0x3F
FSF3_LINK, FSF3_SYMLINK, FSF3_HOMOGENEOUS, FSF3_CANSETTIME = 1, 2, 8, 0x10

Time = tuple[int, int]  # seconds, nanoseconds


# --- Attributes -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Fattr3:
    type: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    used: int
    rdev: tuple[int, int]
    fsid: int
    fileid: int
    atime: Time
    mtime: Time
    ctime: Time


@dataclass(frozen=True, slots=True)
class WccAttr:
    size: int
    mtime: Time
    ctime: Time


@dataclass(frozen=True, slots=True)
class WccData:
    before: WccAttr | None
    after: Fattr3 | None


@dataclass(frozen=True, slots=True)
class Sattr3:
    """atime, mtime: None leaves it, "server" sets the server's clock, a pair sets that time; an int is sent as time_how alone."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: Time | str | int | None = None
    mtime: Time | str | int | None = None


NOTHING = Sattr3()
FILE, DIRECTORY = Sattr3(mode=0o644), Sattr3(mode=0o755)   # real clients send a mode


def unpack_nfstime3(data: Unpacker) -> Time:
    return data.unpack_uint(), data.unpack_uint()


def unpack_fattr3(data: Unpacker) -> Fattr3:
    kind = data.unpack_uint()
    assert NF3REG <= kind <= NF3FIFO, f"ftype3 {kind}"
    numbers = [data.unpack_uint() for _ in range(4)]
    size, used = data.unpack_uhyper(), data.unpack_uhyper()
    rdev = data.unpack_uint(), data.unpack_uint()
    fsid, fileid = data.unpack_uhyper(), data.unpack_uhyper()
    times = [unpack_nfstime3(data) for _ in range(3)]
    assert all(nseconds < 10**9 for _, nseconds in times), f"nseconds {times}"
    mode, nlink, uid, gid = numbers
    return Fattr3(kind, mode, nlink, uid, gid, size, used, rdev, fsid, fileid, times[0], times[1], times[2])


Value = TypeVar("Value")


def optional(data: Unpacker, unpack: Callable[[Unpacker], Value]) -> Value | None:
    return unpack(data) if data.unpack_bool() else None


def unpack_post_op_attr(data: Unpacker) -> Fattr3 | None:
    return optional(data, unpack_fattr3)


def unpack_wcc_attr(data: Unpacker) -> WccAttr:
    return WccAttr(data.unpack_uhyper(), unpack_nfstime3(data), unpack_nfstime3(data))


def unpack_wcc_data(data: Unpacker) -> WccData:
    return WccData(optional(data, unpack_wcc_attr), unpack_post_op_attr(data))


def unpack_nfs_fh3(data: Unpacker) -> bytes:
    return data.unpack_opaque(NFS3_FHSIZE)


# --- Arguments ------------------------------------------------------------------------------------------------------------

def pack_sattr3(attr: Sattr3) -> bytes:
    out = Packer()
    for value in (attr.mode, attr.uid, attr.gid):
        out.pack_bool(value is not None)
        if value is not None:
            out.pack_uint(value)
    out.pack_bool(attr.size is not None)
    if attr.size is not None:
        out.pack_uhyper(attr.size)
    for time in (attr.atime, attr.mtime):
        _pack_set_time(out, time)
    return bytes(out)


def _pack_set_time(out: Packer, time: Time | str | int | None) -> None:
    if time is None:
        out.pack_uint(DONT_CHANGE)
    elif isinstance(time, int):
        out.pack_uint(time)
    elif isinstance(time, str):
        out.pack_uint(SET_TO_SERVER_TIME)
    else:
        out.pack_uint(SET_TO_CLIENT_TIME)
        out.pack_uint(time[0])
        out.pack_uint(time[1])


def pack_opaque(data: bytes) -> bytes:
    out = Packer()
    out.pack_opaque(data)
    return bytes(out)


def pack_uints(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def pack_uhyper(value: int) -> bytes:
    return struct.pack(">Q", value)


def pack_diropargs3(fh: bytes, name: bytes) -> bytes:
    return pack_opaque(fh) + pack_opaque(name)


def pack_SETATTR3args(fh: bytes, attr: Sattr3, guard: Time | None) -> bytes:
    return pack_opaque(fh) + pack_sattr3(attr) + (pack_uints(0) if guard is None else pack_uints(1, *guard))


def pack_ACCESS3args(fh: bytes, access: int) -> bytes:
    return pack_opaque(fh) + pack_uints(access)


def pack_READ3args(fh: bytes, offset: int, count: int) -> bytes:
    return pack_opaque(fh) + pack_uhyper(offset) + pack_uints(count)


def pack_WRITE3args(fh: bytes, offset: int, data: bytes, stable: int, count: int | None = None) -> bytes:
    size = len(data) if count is None else count
    return pack_opaque(fh) + pack_uhyper(offset) + pack_uints(size, stable) + pack_opaque(data)


def pack_CREATE3args(fh: bytes, name: bytes, mode: int, how: Sattr3 | bytes) -> bytes:
    body = pack_sattr3(how) if isinstance(how, Sattr3) else how
    return pack_diropargs3(fh, name) + pack_uints(mode) + body


def pack_MKDIR3args(fh: bytes, name: bytes, attr: Sattr3) -> bytes:
    return pack_diropargs3(fh, name) + pack_sattr3(attr)


def pack_SYMLINK3args(fh: bytes, name: bytes, attr: Sattr3, target: bytes) -> bytes:
    return pack_diropargs3(fh, name) + pack_sattr3(attr) + pack_opaque(target)


def pack_MKNOD3args(fh: bytes, name: bytes, kind: int, attr: Sattr3, rdev: tuple[int, int]) -> bytes:
    what = pack_uints(kind)
    if kind in (NF3BLK, NF3CHR, NF3SOCK, NF3FIFO):
        what += pack_sattr3(attr)
    if kind in (NF3BLK, NF3CHR):
        what += pack_uints(*rdev)
    return pack_diropargs3(fh, name) + what


def pack_RENAME3args(fh: bytes, name: bytes, to_fh: bytes, to_name: bytes) -> bytes:
    return pack_diropargs3(fh, name) + pack_diropargs3(to_fh, to_name)


def pack_LINK3args(fh: bytes, to_fh: bytes, to_name: bytes) -> bytes:
    return pack_opaque(fh) + pack_diropargs3(to_fh, to_name)


def pack_READDIR3args(fh: bytes, cookie: int, cookieverf: bytes, count: int) -> bytes:
    return pack_opaque(fh) + pack_uhyper(cookie) + cookieverf + pack_uints(count)


def pack_READDIRPLUS3args(fh: bytes, cookie: int, cookieverf: bytes, dircount: int, maxcount: int) -> bytes:
    return pack_opaque(fh) + pack_uhyper(cookie) + cookieverf + pack_uints(dircount, maxcount)


def pack_COMMIT3args(fh: bytes, offset: int, count: int) -> bytes:
    return pack_READ3args(fh, offset, count)


# --- Results --------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Entry:
    fileid: int
    name: bytes
    cookie: int
    attr: Fattr3 | None = None
    fh: bytes | None = None


@dataclass(frozen=True, slots=True)
class Res:
    """Any result: status, and what the arm of its union has.

    attr      obj_attributes or file_attributes; dir_attr: dir_attributes; wcc: file_wcc, dir_wcc, obj_wcc; wcc2: todir_wcc
    fh        the object's handle; verf: write or cookie verifier; size_bytes: of the whole result as XDR
    """

    status: Nfs3Stat
    size_bytes: int = 0
    attr: Fattr3 | None = None
    dir_attr: Fattr3 | None = None
    wcc: WccData | None = None
    wcc2: WccData | None = None
    fh: bytes | None = None
    access: int | None = None
    data: bytes = b""
    count: int = 0
    eof: bool = False
    committed: int | None = None
    verf: bytes = b""
    entries: tuple[Entry, ...] = ()
    info: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        return self.status == OK

    def must(self) -> Res:
        """Itself; an error is a failed test."""
        assert self.status == OK, f"{self.status!r}"
        return self

    @property
    def a(self) -> Fattr3:
        """attr, which must be there."""
        assert self.attr is not None, "no attributes"
        return self.attr

    @property
    def h(self) -> bytes:
        """fh, which must be there."""
        assert self.fh is not None, "no handle"
        return self.fh


Fields = dict[str, object]


def _getattr(data: Unpacker, ok: bool) -> Fields:
    return {"attr": unpack_fattr3(data)} if ok else {}


def _wcc_only(data: Unpacker, ok: bool) -> Fields:
    return {"wcc": unpack_wcc_data(data)}


def _lookup(data: Unpacker, ok: bool) -> Fields:
    if not ok:
        return {"dir_attr": unpack_post_op_attr(data)}
    return {"fh": unpack_nfs_fh3(data), "attr": unpack_post_op_attr(data), "dir_attr": unpack_post_op_attr(data)}


def _access(data: Unpacker, ok: bool) -> Fields:
    attr = unpack_post_op_attr(data)
    return {"attr": attr, "access": data.unpack_uint()} if ok else {"attr": attr}


def _readlink(data: Unpacker, ok: bool) -> Fields:
    attr = unpack_post_op_attr(data)
    return {"attr": attr, "data": data.unpack_opaque()} if ok else {"attr": attr}


def _read(data: Unpacker, ok: bool) -> Fields:
    attr = unpack_post_op_attr(data)
    if not ok:
        return {"attr": attr}
    count, eof, content = data.unpack_uint(), data.unpack_bool(), data.unpack_opaque()
    assert count == len(content), f"count {count} of {len(content)} bytes"
    return {"attr": attr, "count": count, "eof": eof, "data": content}


def _write(data: Unpacker, ok: bool) -> Fields:
    wcc = unpack_wcc_data(data)
    if not ok:
        return {"wcc": wcc}
    return {"wcc": wcc, "count": data.unpack_uint(), "committed": data.unpack_uint(), "verf": data.unpack_fopaque(8)}


def _create(data: Unpacker, ok: bool) -> Fields:
    if not ok:
        return {"wcc": unpack_wcc_data(data)}
    return {"fh": optional(data, unpack_nfs_fh3), "attr": unpack_post_op_attr(data), "wcc": unpack_wcc_data(data)}


def _rename(data: Unpacker, ok: bool) -> Fields:
    return {"wcc": unpack_wcc_data(data), "wcc2": unpack_wcc_data(data)}


def _link(data: Unpacker, ok: bool) -> Fields:
    return {"attr": unpack_post_op_attr(data), "wcc": unpack_wcc_data(data)}


def _readdir(data: Unpacker, ok: bool) -> Fields:
    return _dirlist(data, ok, lambda: Entry(data.unpack_uhyper(), data.unpack_opaque(), data.unpack_uhyper()))


def _readdirplus(data: Unpacker, ok: bool) -> Fields:
    return _dirlist(data, ok, lambda: Entry(data.unpack_uhyper(), data.unpack_opaque(), data.unpack_uhyper(),
                                            unpack_post_op_attr(data), optional(data, unpack_nfs_fh3)))


def _dirlist(data: Unpacker, ok: bool, entry: Callable[[], Entry]) -> Fields:
    dir_attr = unpack_post_op_attr(data)
    if not ok:
        return {"dir_attr": dir_attr}
    verf, entries = data.unpack_fopaque(8), []
    while data.unpack_bool():
        entries.append(entry())
    return {"dir_attr": dir_attr, "verf": verf, "entries": tuple(entries), "eof": data.unpack_bool()}


def _info(names: str) -> Callable[[Unpacker, bool], Fields]:
    """A result of attributes and numbers; a name ends in /8 where it is a hyper, /b where it is a bool."""
    def unpack(data: Unpacker, ok: bool) -> Fields:
        attr = unpack_post_op_attr(data)
        if not ok:
            return {"attr": attr}
        kinds = {"8": data.unpack_uhyper, "b": lambda: int(data.unpack_bool()), "": data.unpack_uint}
        fields = [name.partition("/") for name in names.split()]
        return {"attr": attr, "info": {name: kinds[kind]() for name, _, kind in fields}}
    return unpack


def _commit(data: Unpacker, ok: bool) -> Fields:
    wcc = unpack_wcc_data(data)
    return {"wcc": wcc, "verf": data.unpack_fopaque(8)} if ok else {"wcc": wcc}


UNPACK: dict[Proc, Callable[[Unpacker, bool], Fields]] = {
    Proc.GETATTR: _getattr, Proc.SETATTR: _wcc_only, Proc.LOOKUP: _lookup, Proc.ACCESS: _access, Proc.READLINK: _readlink,
    Proc.READ: _read, Proc.WRITE: _write, Proc.CREATE: _create, Proc.MKDIR: _create, Proc.SYMLINK: _create, Proc.MKNOD: _create,
    Proc.REMOVE: _wcc_only, Proc.RMDIR: _wcc_only, Proc.RENAME: _rename, Proc.LINK: _link, Proc.READDIR: _readdir,
    Proc.READDIRPLUS: _readdirplus,
    Proc.FSSTAT: _info("tbytes/8 fbytes/8 abytes/8 tfiles/8 ffiles/8 afiles/8 invarsec"),
    Proc.FSINFO: _info("rtmax rtpref rtmult wtmax wtpref wtmult dtpref maxfilesize/8 delta_s delta_ns properties"),
    Proc.PATHCONF: _info("linkmax name_max no_trunc/b chown_restricted/b case_insensitive/b case_preserving/b"),
    Proc.COMMIT: _commit,
}


def unpack_result(proc: Proc, body: bytes) -> Res:
    """The result of `proc`.  Raises XdrError when the bytes are not exactly one, ValueError when RFC 1813 has no such status."""
    data = Unpacker(body)
    status = Nfs3Stat(data.unpack_uint())
    fields = UNPACK[proc](data, status == OK)
    data.check_end()
    return Res(status, len(body), **fields)  # type: ignore[arg-type]


# --- The client -----------------------------------------------------------------------------------------------------------

class Nfs3:
    """NFSv3 calls over one transport, as one caller; `as_` gives the same connection to another caller."""

    def __init__(self, transport: Transport, cred: Auth = ROOT) -> None:
        self.transport = transport
        self.cred = cred

    def as_(self, cred: Auth) -> Nfs3:
        return Nfs3(self.transport, cred)

    def close(self) -> None:
        self.transport.close()

    def message(self, proc: int, args: bytes, **changes: int) -> Call:
        """The call that `raw` would send, for tests that send it themselves."""
        return Call(changes.get("prog", NFS), changes.get("vers", V3), proc, args, self.cred, xid=changes.get("xid", next_xid()))

    def raw(self, proc: int, args: bytes, **changes: int) -> Reply:
        return exchange(self.transport, self.message(proc, args, **changes))

    def call(self, proc: Proc, args: bytes) -> Res:
        reply = self.raw(proc, args)
        if not reply.ok:
            raise RpcFailed(reply)
        return unpack_result(proc, reply.body)

    def null(self) -> None:
        reply = self.raw(Proc.NULL, b"")
        if not reply.ok or reply.body:
            raise RpcFailed(reply)

    def getattr(self, fh: bytes) -> Res:
        return self.call(Proc.GETATTR, pack_opaque(fh))

    def setattr(self, fh: bytes, attr: Sattr3 = NOTHING, *, guard: Time | None = None) -> Res:
        return self.call(Proc.SETATTR, pack_SETATTR3args(fh, attr, guard))

    def lookup(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.LOOKUP, pack_diropargs3(fh, name))

    def access(self, fh: bytes, access: int = ACCESS_ALL) -> Res:
        return self.call(Proc.ACCESS, pack_ACCESS3args(fh, access))

    def readlink(self, fh: bytes) -> Res:
        return self.call(Proc.READLINK, pack_opaque(fh))

    def read(self, fh: bytes, offset: int = 0, count: int = 65536) -> Res:
        return self.call(Proc.READ, pack_READ3args(fh, offset, count))

    def write(self, fh: bytes, data: bytes, offset: int = 0, *, stable: int = FILE_SYNC, count: int | None = None) -> Res:
        return self.call(Proc.WRITE, pack_WRITE3args(fh, offset, data, stable, count))

    def create(self, fh: bytes, name: bytes, attr: Sattr3 = FILE, *, mode: int = UNCHECKED, verf: bytes = b"") -> Res:
        return self.call(Proc.CREATE, pack_CREATE3args(fh, name, mode, verf if mode == EXCLUSIVE else attr))

    def mkdir(self, fh: bytes, name: bytes, attr: Sattr3 = DIRECTORY) -> Res:
        return self.call(Proc.MKDIR, pack_MKDIR3args(fh, name, attr))

    def symlink(self, fh: bytes, name: bytes, target: bytes, attr: Sattr3 = NOTHING) -> Res:
        return self.call(Proc.SYMLINK, pack_SYMLINK3args(fh, name, attr, target))

    def mknod(self, fh: bytes, name: bytes, kind: int, attr: Sattr3 = FILE, *, rdev: tuple[int, int] = (0, 0)) -> Res:
        return self.call(Proc.MKNOD, pack_MKNOD3args(fh, name, kind, attr, rdev))

    def remove(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.REMOVE, pack_diropargs3(fh, name))

    def rmdir(self, fh: bytes, name: bytes) -> Res:
        return self.call(Proc.RMDIR, pack_diropargs3(fh, name))

    def rename(self, fh: bytes, name: bytes, to_fh: bytes, to_name: bytes) -> Res:
        return self.call(Proc.RENAME, pack_RENAME3args(fh, name, to_fh, to_name))

    def link(self, fh: bytes, to_fh: bytes, to_name: bytes) -> Res:
        return self.call(Proc.LINK, pack_LINK3args(fh, to_fh, to_name))

    def readdir(self, fh: bytes, cookie: int = 0, verf: bytes = bytes(8), *, count: int = 8192) -> Res:
        return self.call(Proc.READDIR, pack_READDIR3args(fh, cookie, verf, count))

    def readdirplus(self, fh: bytes, cookie: int = 0, verf: bytes = bytes(8), *, dircount: int = 8192,
                    maxcount: int = 32768) -> Res:
        return self.call(Proc.READDIRPLUS, pack_READDIRPLUS3args(fh, cookie, verf, dircount, maxcount))

    def fsstat(self, fh: bytes) -> Res:
        return self.call(Proc.FSSTAT, pack_opaque(fh))

    def fsinfo(self, fh: bytes) -> Res:
        return self.call(Proc.FSINFO, pack_opaque(fh))

    def pathconf(self, fh: bytes) -> Res:
        return self.call(Proc.PATHCONF, pack_opaque(fh))

    def commit(self, fh: bytes, offset: int = 0, count: int = 0) -> Res:
        return self.call(Proc.COMMIT, pack_COMMIT3args(fh, offset, count))

    def walk(self, fh: bytes, path: bytes) -> bytes:
        """The handle of `path` below `fh`, one LOOKUP a component."""
        for name in path.split(b"/"):
            fh = self.lookup(fh, name).must().h
        return fh

    def list(self, fh: bytes, *, plus: bool = False, count: int = 8192) -> Iterator[Entry]:
        """All entries, page after page."""
        cookie, verf, eof = 0, bytes(8), False
        while not eof:
            res = self.readdirplus(fh, cookie, verf, maxcount=count) if plus else self.readdir(fh, cookie, verf, count=count)
            res.must()
            assert res.entries or res.eof, "a page without entries that is not the last"
            yield from res.entries
            verf, eof = res.verf, res.eof
            cookie = res.entries[-1].cookie if res.entries else cookie


# --- MOUNT ----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class MountRes:
    status: int
    fh: bytes = b""
    flavors: tuple[int, ...] = ()


class Mount:
    """MOUNT calls over one transport (RFC 1813 section 5.2; version 1: RFC 1094 appendix A)."""

    MNT, DUMP, UMNT, UMNTALL, EXPORT = range(1, 6)

    def __init__(self, transport: Transport, cred: Auth = ROOT, *, vers: int = V3) -> None:
        self.transport, self.cred, self.vers = transport, cred, vers

    def raw(self, proc: int, args: bytes = b"") -> Reply:
        return exchange(self.transport, Call(MOUNT, self.vers, proc, args, self.cred))

    def call(self, proc: int, args: bytes = b"") -> Unpacker:
        reply = self.raw(proc, args)
        if not reply.ok:
            raise RpcFailed(reply)
        return Unpacker(reply.body)

    def mnt(self, path: bytes) -> MountRes:
        data = self.call(self.MNT, pack_opaque(path))
        status = data.unpack_uint()
        if status:
            res = MountRes(status)
        elif self.vers < V3:
            res = MountRes(0, data.unpack_fopaque(32))
        else:
            res = MountRes(0, unpack_nfs_fh3(data), tuple(data.unpack_uint() for _ in range(data.unpack_count(64))))
        data.check_end()
        return res

    def umnt(self, path: bytes) -> None:
        self.call(self.UMNT, pack_opaque(path)).check_end()

    def umntall(self) -> None:
        self.call(self.UMNTALL).check_end()

    def dump(self) -> list[tuple[bytes, bytes]]:
        data, rows = self.call(self.DUMP), []
        while data.unpack_bool():
            rows.append((data.unpack_opaque(255), data.unpack_opaque(1024)))
        data.check_end()
        return rows

    def export(self) -> list[tuple[bytes, list[bytes]]]:
        data, rows = self.call(self.EXPORT), []
        while data.unpack_bool():
            path, groups = data.unpack_opaque(1024), []
            while data.unpack_bool():
                groups.append(data.unpack_opaque(255))
            rows.append((path, groups))
        data.check_end()
        return rows


def connect(server: tuple[str, int], *, proto: str = "tcp", source: str = "", source_port: int = 0) -> Transport:
    return (Tcp if proto == "tcp" else Udp)(server, source=source, source_port=source_port)


def sample_args(fh: bytes) -> dict[Proc, bytes]:
    """Well-formed arguments of every procedure, all on the object `fh`; for tests that cut and change them."""
    attr = Sattr3(0o644, 0, 0, 0, (1, 2), (3, 4))
    return {
        Proc.GETATTR: pack_opaque(fh), Proc.SETATTR: pack_SETATTR3args(fh, attr, (1, 1)),
        Proc.LOOKUP: pack_diropargs3(fh, b"name"),
        Proc.ACCESS: pack_ACCESS3args(fh, ACCESS_ALL), Proc.READLINK: pack_opaque(fh), Proc.READ: pack_READ3args(fh, 0, 10),
        Proc.WRITE: pack_WRITE3args(fh, 0, b"datum", FILE_SYNC), Proc.CREATE: pack_CREATE3args(fh, b"name", GUARDED, attr),
        Proc.MKDIR: pack_MKDIR3args(fh, b"name", attr), Proc.SYMLINK: pack_SYMLINK3args(fh, b"name", attr, b"target"),
        Proc.MKNOD: pack_MKNOD3args(fh, b"name", NF3CHR, attr, (1, 3)), Proc.REMOVE: pack_diropargs3(fh, b"name"),
        Proc.RMDIR: pack_diropargs3(fh, b"name"), Proc.RENAME: pack_RENAME3args(fh, b"name", fh, b"other"),
        Proc.LINK: pack_LINK3args(fh, fh, b"name"), Proc.READDIR: pack_READDIR3args(fh, 0, bytes(8), 4096),
        Proc.READDIRPLUS: pack_READDIRPLUS3args(fh, 0, bytes(8), 4096, 4096), Proc.FSSTAT: pack_opaque(fh),
        Proc.FSINFO: pack_opaque(fh), Proc.PATHCONF: pack_opaque(fh), Proc.COMMIT: pack_COMMIT3args(fh, 0, 0),
    }
