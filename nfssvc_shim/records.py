"""Records that travel in nfssvc messages, with their XDR.

Duty: dataclasses, pack_* and unpack_*; each unpack_* checks as if the sender were hostile (limits, families, masks, paths without
NUL or ".." component).  XDR of each stands above it.  Source: nfssvc(2), section 4 of PROTOCOL.md.
"""
from __future__ import annotations

import contextlib
import gc
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from oncrpc.xdr import Packer, Unpacker, XdrError

from .flags import Ex, Nx, Nxa

MAX_PATH = 4095          # PATH_MAX less its NUL
MAX_GROUPS = 65536       # NGROUPS_MAX of Linux
MAX_SENT_GROUPS = 16     # of one credential: gids<16> of RFC 5531 appendix A
MAX_NETS = 65536         # entries of one export; a netgroup can be large
MAX_EXPORTS = 16384      # places in the shared statistics table
MAX_FLAVORS = 5          # NX_MAXSECFLAVORS
MAX_FH = 64              # NFS3_FHSIZE
MAX_SNAP = 65536         # TRACE_SNAP_MAX of oncrpc/trace.h: two messages and a path fit into one packet

AF_NONE = 0              # families on this wire are our own numbers, not the host's
AF_INET4 = 1
AF_INET6 = 2
AF_LOCAL = 3


@dataclass(frozen=True, slots=True)
class Address:
    """A client's address: packed (4 or 16 bytes, empty for a unix socket), port in host order, scope of a link-local one.

    struct address { unsigned family; opaque addr<16>; unsigned port; unsigned scope; };
    """

    family: int
    packed: bytes = b""
    port: int = 0
    scope: int = 0

    @classmethod
    def of(cls, text: str, port: int = 0) -> "Address":
        """From "192.0.2.1" or "2001:db8::1"; v4-mapped addresses are unwrapped.  Raises OSError when it is neither."""
        if ":" not in text:
            return cls(AF_INET4, socket.inet_pton(socket.AF_INET, text), port)
        packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
        if packed.startswith(b"\0" * 10 + b"\xff\xff"):
            return cls(AF_INET4, packed[12:], port)
        return cls(AF_INET6, packed, port)

    def __str__(self) -> str:
        if self.family == AF_INET4:
            return socket.inet_ntop(socket.AF_INET, self.packed)
        if self.family == AF_INET6:
            return socket.inet_ntop(socket.AF_INET6, self.packed)
        return "local"


_SIZES = {AF_NONE: 0, AF_INET4: 4, AF_INET6: 16, AF_LOCAL: 0}


def pack_address(p: Packer, a: Address) -> None:
    p.pack_uint(a.family)
    p.pack_opaque(a.packed)
    p.pack_uint(a.port)
    p.pack_uint(a.scope)


def unpack_address(u: Unpacker) -> Address:
    family, packed = u.unpack_uint(), u.unpack_opaque(16)
    if _SIZES.get(family) != len(packed):
        raise XdrError(f"address family {family} with {len(packed)} bytes")
    port, scope = u.unpack_uint(), u.unpack_uint()
    if port > 0xFFFF:
        raise XdrError(f"port {port}")
    return Address(family, packed, port, scope)


@dataclass(frozen=True, slots=True)
class Cred:
    """uid, gid and further groups, as the kernel takes them.  struct ucred { unsigned uid, gid; unsigned gids<>; };"""

    uid: int
    gid: int
    gids: tuple[int, ...] = ()


def pack_cred(p: Packer, c: Cred) -> None:
    p.pack_uint(c.uid)
    p.pack_uint(c.gid)
    p.pack_uint(len(c.gids))
    for gid in c.gids:
        p.pack_uint(gid)


def unpack_cred(u: Unpacker) -> Cred:
    uid, gid = u.unpack_uint(), u.unpack_uint()
    return Cred(uid, gid, tuple(u.unpack_uint() for _ in range(u.unpack_count(MAX_GROUPS))))


@dataclass(frozen=True, slots=True)
class Net:
    """One client network of an export, after nfs_export_net_args.

    flags     Nx bits; DEFAULTEXPORT: everyone, `address` is AF_NONE
    prefix    leading one bits of the mask, 0 to 32 or 128
    maproot   credential for root (Nx.MAPROOT); mapall for everyone (Nx.MAPALL); anon for AUTH_NONE and ids of -1
    mapall root is squashed with its gid 0 and any gid 0 in the group list when MAPROOT is set (design: root_squash)
    flavors   auth flavors that are accepted, best first; AUTH_SYS alone by default
    order     place in the file (0 first), tells equal prefixes apart; `line` is its line, for `why`
    struct net { unsigned flags; address addr; unsigned prefix; ucred maproot, mapall, anon; unsigned flavors<5>;
                 unsigned line; };
    """

    flags: Nx
    address: Address
    prefix: int
    maproot: Cred = Cred(65534, 65534)
    mapall: Cred = Cred(65534, 65534)
    anon: Cred = Cred(65534, 65534)
    flavors: tuple[int, ...] = (1,)
    line: int = 0


# An IPv4 entry whose credentials have no further groups and that has one flavor: 19 words.  Tables have tens of thousands of
# them, many the same: word by word each costs 18 us in every process of the server, in one piece 4, one that was seen 0.2.
_NET4 = struct.Struct(">19I")
MAX_SEEN = 65536         # entries remembered by their bytes: as many as one export may have
_nx_of, _ex_of = lru_cache(maxsize=256)(Nx), lru_cache(maxsize=256)(Ex)
_cred_of = lru_cache(maxsize=4096)(Cred)


def _raw_net4(n: Net) -> bytes:
    """The encoding of `n` when it is a _NET4, else b""."""
    a, r, e, o = n.address, n.maproot, n.mapall, n.anon
    if a.family != AF_INET4 or len(a.packed) != 4 or r.gids or e.gids or o.gids or len(n.flavors) != 1:
        return b""
    return _NET4.pack(int(n.flags), AF_INET4, 4, int.from_bytes(a.packed, "big"), a.port, a.scope, n.prefix,
                      r.uid, r.gid, 0, e.uid, e.gid, 0, o.uid, o.gid, 0, 1, n.flavors[0], n.line)


@lru_cache(maxsize=MAX_SEEN)
def _net4_of(raw: bytes) -> Net | None:
    """The entry that `raw` begins with when it is a _NET4, checked as unpack_net() does; None for another or a wrong one."""
    if len(raw) < _NET4.size:
        return None
    (flags, family, size, address, port, scope, prefix, ru, rg, rn, eu, eg, en, ou, og, on, n_flavors, flavor,
     line) = _NET4.unpack(raw)
    if family != AF_INET4 or size != 4 or rn or en or on or n_flavors != 1 or port > 0xFFFF or prefix > 32:
        return None
    if flags & Nx.DEFAULTEXPORT:
        return None
    peer = Address(AF_INET4, address.to_bytes(4, "big"), port, scope)
    return Net(_nx_of(flags), peer, prefix, _cred_of(ru, rg), _cred_of(eu, eg), _cred_of(ou, og), (flavor,), line)


def pack_net(p: Packer, n: Net) -> None:
    p.pack_raw(_raw_net(n))


def _raw_net(n: Net) -> bytes:
    short = _raw_net4(n)
    if short:
        return short
    p = Packer()
    p.pack_uint(int(n.flags))
    pack_address(p, n.address)
    p.pack_uint(n.prefix)
    for cred in (n.maproot, n.mapall, n.anon):
        pack_cred(p, cred)
    p.pack_uint(len(n.flavors))
    for flavor in n.flavors:
        p.pack_uint(flavor)
    p.pack_uint(n.line)
    return bytes(p)


def unpack_net(u: Unpacker) -> Net:
    short = _net4_of(u.peek(_NET4.size))
    if short is not None:
        u.skip(_NET4.size)
        return short
    flags, address, prefix = Nx(u.unpack_uint()), unpack_address(u), u.unpack_uint()
    if prefix > len(address.packed) * 8:
        raise XdrError(f"prefix /{prefix} of {address}")
    if (address.family == AF_NONE) != bool(flags & Nx.DEFAULTEXPORT):
        raise XdrError("the world entry has no address, every other one has")
    maproot, mapall, anon = unpack_cred(u), unpack_cred(u), unpack_cred(u)
    flavors = tuple(u.unpack_uint() for _ in range(u.unpack_count(MAX_FLAVORS)))
    return Net(flags, address, prefix, maproot, mapall, anon, flavors, u.unpack_uint())


NO_FLAGS = Ex(0)


@dataclass(frozen=True, slots=True)
class Export:
    """One exported directory with its clients.

    expid     id of mountd, 32 bits, never 0; in every handle, stable over restarts
    fsid      8 bytes, a hash of the file system's UUID or what fsid= said; b"" lets the worker work it out
    fspath    root of the file system (absolute, bytes); exppath below it, b"" for the root itself (nxa_fspath, nxa_exppath)
    flags     Ex bits
    password  secret of `password=`, part of the handle's MAC; b"" for none
    index     WebNFS -index file
    """

    expid: int
    fspath: bytes
    exppath: bytes = b""
    flags: Ex = NO_FLAGS
    fsid: bytes = b""
    password: bytes = b""
    index: bytes = b""
    nets: tuple[Net, ...] = field(default=())

    @property
    def path(self) -> bytes:
        """The exported directory: fspath + "/" + exppath."""
        return self.fspath.rstrip(b"/") + b"/" + self.exppath if self.exppath else self.fspath


def check_path(path: bytes, *, absolute: bool) -> bytes:
    """`path`, or XdrError when it has a NUL, a ".." component, or is (not) absolute against `absolute`."""
    if b"\0" in path or (b".." in path and b".." in path.split(b"/")):
        raise XdrError(f"path {path!r}")
    if path.startswith(b"/") != absolute and (absolute or path):
        raise XdrError(f"path {path!r} is {'not ' if absolute else ''}absolute")
    return path


def pack_export(p: Packer, e: Export, known: dict[int, bytes] | None = None) -> None:
    """known: encodings by id() of entries that live as long as it does; exports share most of theirs."""
    p.pack_uint(e.expid)
    for data in (e.fsid, e.fspath, e.exppath):
        p.pack_opaque(data)
    p.pack_uint(int(e.flags))
    p.pack_opaque(e.password)
    p.pack_opaque(e.index)
    p.pack_uint(len(e.nets))
    known = {} if known is None else known
    for net in e.nets:
        raw = known.get(id(net))
        if raw is None:
            raw = known[id(net)] = _raw_net(net)
        p.pack_raw(raw)


def unpack_export(u: Unpacker) -> Export:
    expid, fsid = u.unpack_uint(), u.unpack_opaque(8)
    if not expid or len(fsid) not in (0, 8):
        raise XdrError(f"export id {expid}, fsid of {len(fsid)} bytes")
    fspath = check_path(u.unpack_string(MAX_PATH), absolute=True)
    exppath = check_path(u.unpack_string(MAX_PATH), absolute=False)
    flags, password, index = _ex_of(u.unpack_uint()), u.unpack_opaque(64), u.unpack_string(255)
    nets = tuple(unpack_net(u) for _ in range(u.unpack_count(MAX_NETS)))
    return Export(expid, fspath, exppath, flags, fsid, password, index, nets)


@dataclass(frozen=True, slots=True)
class ExportArgs:
    """Body of NFSSVC_EXPORT: op is an Nxa value; for REPLACE with whole=True, `exports` is the whole new table."""

    op: Nxa
    whole: bool
    exports: tuple[Export, ...] = ()
    generation: int = 0      # set by the control half on the way to the workers; 0 from a caller


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """The collector of cycles rests: while ten thousand exports are made it would look through them again and again, for as long
    as the making takes, and a table has no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def pack_export_args(a: ExportArgs) -> bytes:
    p = Packer()
    p.pack_uint(int(a.op))
    p.pack_bool(a.whole)
    p.pack_uhyper(a.generation)
    p.pack_uint(len(a.exports))
    known: dict[int, bytes] = {}
    for export in a.exports:
        pack_export(p, export, known)
    return bytes(p)


@without_gc()
def unpack_export_args(body: bytes) -> ExportArgs:
    u = Unpacker(body)
    op, whole, generation = Nxa(u.unpack_uint()), u.unpack_bool(), u.unpack_uhyper()
    exports = tuple(unpack_export(u) for _ in range(u.unpack_count(MAX_EXPORTS)))
    u.check_end()
    return ExportArgs(op, whole, exports, generation)


@dataclass(frozen=True, slots=True)
class GetfhArgs:
    """Body of GETFH: the directory `path` below the export's root, walked as `cred` after squashing for `peer`.

    The reply's body is the handle: opaque fh<64>.  vers 2 asks for a handle of exactly 32 bytes.
    errno: ENOENT, ENOTDIR, EACCES (also: no such export for this peer), ESTALE.
    """

    expid: int
    path: bytes
    peer: Address
    cred: Cred
    flavor: int = 1
    vers: int = 3


def pack_getfh_args(a: GetfhArgs) -> bytes:
    p = Packer()
    p.pack_uint(a.expid)
    p.pack_string(a.path)
    pack_address(p, a.peer)
    pack_cred(p, a.cred)
    p.pack_uint(a.flavor)
    p.pack_uint(a.vers)
    return bytes(p)


def unpack_getfh_args(body: bytes) -> GetfhArgs:
    u = Unpacker(body)
    args = GetfhArgs(u.unpack_uint(), check_path(u.unpack_string(MAX_PATH), absolute=False), unpack_address(u),
                     unpack_cred(u), u.unpack_uint(), u.unpack_uint())
    u.check_end()
    return args


@dataclass(frozen=True, slots=True)
class FhopenArgs:
    """Body of FHOPEN: a handle opened as `cred` from `peer`; mode 1 read, 2 write, 3 both.  The descriptor rides on the reply."""

    handle: bytes
    peer: Address
    cred: Cred
    mode: int


def pack_fhopen_args(a: FhopenArgs) -> bytes:
    p = Packer()
    p.pack_opaque(a.handle)
    pack_address(p, a.peer)
    pack_cred(p, a.cred)
    p.pack_uint(a.mode)
    return bytes(p)


def unpack_fhopen_args(body: bytes) -> FhopenArgs:
    u = Unpacker(body)
    args = FhopenArgs(u.unpack_opaque(MAX_FH), unpack_address(u), unpack_cred(u), u.unpack_uint())
    u.check_end()
    if not 1 <= args.mode <= 3:
        raise XdrError(f"mode {args.mode}")
    return args


@dataclass(frozen=True, slots=True)
class NfsdArgs:
    """struct nfsd_args of ADDSOCK: `name` is the peer of a connected stream socket, None for a datagram socket.

    The socket rides along.

    slot  which worker gets it; -1: the server chooses (TCP: least loaded; UDP: all).
    """

    name: Address | None = None
    slot: int = -1


def pack_nfsd_args(a: NfsdArgs) -> bytes:
    p = Packer()
    pack_address(p, a.name or Address(AF_NONE))
    p.pack_int(a.slot)
    return bytes(p)


def unpack_nfsd_args(body: bytes) -> NfsdArgs:
    u = Unpacker(body)
    name, slot = unpack_address(u), u.unpack_int()
    u.check_end()
    return NfsdArgs(None if name.family == AF_NONE else name, slot)


@dataclass(frozen=True, slots=True)
class TraceArgs:
    """Body of TRACE: whose calls are copied to the socket (one end of a SOCK_SEQPACKET pair) that rides along.

    client, prefix   a network; AF_NONE: every client
    uid              as the client sent it; None: every one
    export           path of an exported directory; b"": all
    snap             bytes of each message that are copied, 1 to 65536
    number, expid    set by the control half on the way to the workers; 0 from a caller.  Without a socket: trace `number` ends

    struct trace_args { address client; unsigned prefix; bool by_uid; unsigned uid; string export<4095>; unsigned snap;
                        unsigned number; unsigned expid; };
    """

    client: Address = Address(AF_NONE)
    prefix: int = 0
    uid: int | None = None
    export: bytes = b""
    snap: int = 1024
    number: int = 0
    expid: int = 0


def pack_trace_args(a: TraceArgs) -> bytes:
    p = Packer()
    pack_address(p, a.client)
    p.pack_uint(a.prefix)
    p.pack_bool(a.uid is not None)
    p.pack_uint(a.uid or 0)
    p.pack_string(a.export)
    for number in (a.snap, a.number, a.expid):
        p.pack_uint(number)
    return bytes(p)


def unpack_trace_args(body: bytes) -> TraceArgs:
    u = Unpacker(body)
    client, prefix = unpack_address(u), u.unpack_uint()
    if prefix > len(client.packed) * 8:
        raise XdrError(f"prefix /{prefix} of {client}")
    by_uid, uid = u.unpack_bool(), u.unpack_uint()
    export = u.unpack_string(MAX_PATH)
    snap, number, expid = u.unpack_uint(), u.unpack_uint(), u.unpack_uint()
    u.check_end()
    if not 1 <= snap <= MAX_SNAP:
        raise XdrError(f"{snap} bytes of each message")
    return TraceArgs(client, prefix, uid if by_uid else None, check_path(export, absolute=bool(export)), snap, number, expid)


MAX_AUTH = 400           # RPCAUTH_MAXSIZ


@dataclass(frozen=True, slots=True)
class NeedAuth:
    """Body of NEEDAUTH: a call came with a Kerberos 4 ticket; who is that?

    number   of the question; the control half's, 0 from a worker
    client   who sent it; uid: what its credential says (0 with a full name, as in 4.4BSD)
    auth     nsd_authstr: length, ticket and window as they stood in the credential; verf nsd_verfstr: 12 encrypted bytes

    struct needauth { unsigned number; address client; unsigned uid; opaque auth<400>; opaque verf<400>; };
    """

    client: Address
    auth: bytes
    verf: bytes
    uid: int = 0
    number: int = 0


def pack_needauth(a: NeedAuth) -> bytes:
    p = Packer()
    p.pack_uint(a.number)
    pack_address(p, a.client)
    p.pack_uint(a.uid)
    p.pack_opaque(a.auth)
    p.pack_opaque(a.verf)
    return bytes(p)


def unpack_needauth(body: bytes) -> NeedAuth:
    u = Unpacker(body)
    number, client, uid = u.unpack_uint(), unpack_address(u), u.unpack_uint()
    auth, verf = u.unpack_opaque(MAX_AUTH), u.unpack_opaque(MAX_AUTH)
    u.check_end()
    return NeedAuth(client, auth, verf, uid, number)


@dataclass(frozen=True, slots=True)
class AuthIn:
    """Body of AUTHIN: the answer to question `number`: `cred` (at most 16 groups), or nobody (ok False, 4.4BSD's AUTHINFAIL).

    struct authin { unsigned number; bool ok; ucred cred; };
    """

    number: int
    ok: bool
    cred: Cred


def pack_authin(a: AuthIn) -> bytes:
    p = Packer()
    p.pack_uint(a.number)
    p.pack_bool(a.ok)
    pack_cred(p, a.cred)
    return bytes(p)


def unpack_authin(body: bytes) -> AuthIn:
    u = Unpacker(body)
    args = AuthIn(u.unpack_uint(), u.unpack_bool(), unpack_cred(u))
    u.check_end()
    if len(args.cred.gids) > MAX_SENT_GROUPS:
        raise XdrError(f"{len(args.cred.gids)} groups")
    return args
