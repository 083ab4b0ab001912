"""The MOUNT protocol, versions 1, 2 and 3: its codecs and its decision, as pure functions.

Duty: bytes in, records out, and back; `decide` says what a table grants.  Sockets are in `network`, state in `broker`.
Source: RFC 1094 appendix A, RFC 1813 section 5 and appendix I; version 2 is version 1 with PATHCONF.
"""
from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from nfssvc_shim.flags import Nx
from nfssvc_shim.records import AF_LOCAL, Address
from oncrpc.xdr import Packer, Unpacker

from .exports_model import AUTH_NONE, AUTH_SYS, FLAVOR_NAMES, Kind, printable
from .passwords import otp_matches
from .table import Mountable, Rule, Table

MOUNT_PROGRAM = 100005
MNTPATHLEN = 1024
MNTNAMLEN = 255
FHSIZE = 32
MAX_REPLY = 1 << 20       # bytes of a DUMP or EXPORT reply over TCP: 16,384 exports of 64 bytes
MAX_REPLY_RELAYED = 60_000  # of a relayed one, which is one packet
MAX_REPLY_UDP = 8_192     # over UDP: the largest that every client takes

IPPORT_RESERVED = 1024


class Proc(IntEnum):
    NULL = 0
    MNT = 1
    DUMP = 2
    UMNT = 3
    UMNTALL = 4
    EXPORT = 5
    EXPORTALL = 6             # v1, v2
    PATHCONF = 7              # v2


class mountstat3(IntEnum):
    MNT3_OK = 0
    MNT3ERR_PERM = 1
    MNT3ERR_NOENT = 2
    MNT3ERR_IO = 5
    MNT3ERR_ACCES = 13
    MNT3ERR_NOTDIR = 20
    MNT3ERR_INVAL = 22
    MNT3ERR_NAMETOOLONG = 63
    MNT3ERR_NOTSUPP = 10004
    MNT3ERR_SERVERFAULT = 10006


# ---- codecs

def unpack_dirpath(u: Unpacker) -> bytes:
    """typedef string dirpath<MNTPATHLEN>; the whole argument of MNT, UMNT and PATHCONF."""
    path = u.unpack_string(MNTPATHLEN)
    u.check_end()
    return path


def pack_mnt_ok(vers: int, handle: bytes, flavors: Sequence[int]) -> bytes:
    """v3: mountres3_ok { fhandle3 fhandle; int auth_flavors<>; }; v1, v2: fhstatus { 0: opaque fhandle[32] }."""
    p = Packer()
    p.pack_uint(0)
    if vers < 3:
        p.pack_fopaque(FHSIZE, handle)
        return bytes(p)
    p.pack_opaque(handle)
    p.pack_uint(len(flavors))
    for flavor in flavors:
        p.pack_uint(flavor)
    return bytes(p)


def pack_mnt_fail(vers: int, status: int) -> bytes:
    """The status alone.  v1 and v2 have BSD's errno; those that MOUNT uses are the same numbers."""
    p = Packer()
    p.pack_uint(status if vers >= 3 or status < 10000 else mountstat3.MNT3ERR_IO)
    return bytes(p)


def pack_mountlist(entries: Iterable[tuple[bytes, bytes]], limit: int) -> bytes:
    """typedef struct mountbody *mountlist: { name ml_hostname; dirpath ml_directory; mountlist ml_next; }; up to `limit`."""
    p = Packer()
    size = 4
    for host, directory in entries:
        size += 12 + len(host) + 3 + len(directory) + 3
        if size > limit:
            break
        p.pack_bool(True)
        p.pack_string(host[:MNTNAMLEN])
        p.pack_string(directory[:MNTPATHLEN])
    p.pack_bool(False)
    return bytes(p)


def pack_exports(entries: Iterable[tuple[bytes, Sequence[bytes]]], limit: int) -> bytes:
    """typedef struct exportnode *exports: { dirpath ex_dir; groups ex_groups; exports ex_next; }; whole entries up to `limit`."""
    p = Packer()
    size = 4
    for directory, groups in entries:
        one = _exportnode(directory, groups)
        size += len(one)
        if size > limit:
            break
        p.pack_raw(one)
    p.pack_bool(False)
    return bytes(p)


def _exportnode(directory: bytes, groups: Sequence[bytes]) -> bytes:
    p = Packer()
    p.pack_bool(True)
    p.pack_string(directory[:MNTPATHLEN])
    for group in groups:
        p.pack_bool(True)
        p.pack_string(group[:MNTNAMLEN])
    p.pack_bool(False)
    return bytes(p)


@dataclass(frozen=True, slots=True)
class Pathconf:
    link_max: int = 0
    max_canon: int = 0
    max_input: int = 0
    name_max: int = 0
    path_max: int = 0
    pipe_buf: int = 0


def pack_pathconf(values: Pathconf | None) -> bytes:
    """struct ppathcnf { int link_max; short max_canon, max_input, name_max, path_max, pipe_buf; u_char vdisable; char xxx;
    short mask[2]; }, each in 4 bytes; None: mask says that nothing is known.  Source: rpcsvc/mount.x of SunOS."""
    p = Packer()
    v = values or Pathconf()
    for number in (v.link_max, v.max_canon, v.max_input, v.name_max, min(v.path_max, 0x7FFF), min(v.pipe_buf, 0x7FFF)):
        p.pack_int(number)
    p.pack_uint(0)
    p.pack_uint(0)
    p.pack_int(0 if values else 0x1FF)  # PC_ERROR and each value
    p.pack_int(0)
    return bytes(p)


# ---- decision

@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: address with source port, credential's flavor."""

    peer: Address
    flavor: int = AUTH_SYS


@dataclass(frozen=True, slots=True)
class Granted:
    """The directory `rest` ("" for the export itself) below `mountable` may be mounted."""

    mountable: Mountable
    rule: Rule
    rest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody outside learns the reason: it is for the log and for `mountd why`."""

    reason: str
    rule: Rule | None = None
    mountable: Mountable | None = None


def clean_path(path: bytes) -> bytes | None:
    """`path` with single slashes and none at the end; None when it can be no exported directory: relative, NUL, "." or ".."."""
    if not path.startswith(b"/") or b"\0" in path:
        return None
    parts = [part for part in path.split(b"/") if part]
    if b"." in parts or b".." in parts or any(len(part) > 255 for part in parts):
        return None
    return b"/" + b"/".join(parts)


def decide(table: Table, path: bytes, caller: Caller, *, reserved: bool = True, secret: bytes = b"",
           one_time: tuple[bytes, str] | None = None) -> Granted | Refused:
    """What `table` says to a MNT of `path`.

    The deepest exported directory that lists the caller decides (see `table`); when it refuses, no other is asked.
    reserved  whether entries may ask for a source port below 1024 (mountd without -n)
    secret    the password that came with the path; one_time: nonce and answer instead of it
    """
    clean = clean_path(path)
    if clean is None:
        return Refused("not the clean name of a directory")
    nearest: Mountable | None = None
    for mountable, rest in table.holding(clean):
        nearest = nearest or mountable
        rule = mountable.match(caller.peer)
        if rule is not None:
            refused = _refusal(mountable, rule, rest, caller, reserved) or _wrong_password(mountable, rule, secret, one_time)
            return refused or Granted(mountable, rule, rest)
    if nearest is None:
        return Refused("not exported")
    return Refused(f"no entry of {printable(nearest.written)} lists {caller.peer}", None, nearest)


def _refusal(mountable: Mountable, rule: Rule, rest: bytes, caller: Caller, reserved: bool) -> Refused | None:
    options = rule.client.options
    if rule.net.flags & Nx.DENY:
        return Refused(options.deny or "a user or group of the entry is not known", rule, mountable)
    if not {AUTH_NONE, AUTH_SYS} & set(rule.net.flavors):
        named = ":".join(FLAVOR_NAMES.get(f, str(f)) for f in rule.net.flavors)
        return Refused(f"sec={named}, which is not served", rule, mountable)
    if rest and not rule.alldirs:
        return Refused("a directory below one that is exported without -alldirs", rule, mountable)
    if reserved and options.secure_mount and caller.peer.port >= IPPORT_RESERVED and caller.peer.family != AF_LOCAL:
        return Refused(f"source port {caller.peer.port}, and the entry asks for one below {IPPORT_RESERVED}", rule, mountable)
    return None


def _wrong_password(mountable: Mountable, rule: Rule, secret: bytes, one_time: tuple[bytes, str] | None) -> Refused | None:
    wanted = mountable.export.password
    if not wanted:
        return None
    if one_time is not None:
        return None if otp_matches(one_time[0], wanted, one_time[1]) else Refused("wrong one-time password", rule, mountable)
    if hmac.compare_digest(wanted, secret):
        return None
    return Refused("wrong password" if secret else "no password", rule, mountable)


def served_flavors(rule: Rule) -> tuple[int, ...]:
    """The flavors of the entry that this server serves, best first: what a v3 MNT answers."""
    return tuple(f for f in rule.net.flavors if f in (AUTH_NONE, AUTH_SYS))


def export_list(table: Table, peer: Address | None) -> Iterable[tuple[bytes, list[bytes]]]:
    """Directories with their clients; only those that `peer` may mount, where it is given.  No clients: everyone."""
    for mountable in table.mountables.values():
        if peer is None or _may(mountable, peer):
            yield mountable.written, _groups(mountable)


def _may(mountable: Mountable, peer: Address) -> bool:
    rule = mountable.match(peer)
    return rule is not None and not rule.net.flags & Nx.DENY


def _groups(mountable: Mountable) -> list[bytes]:
    named = list(dict.fromkeys(c.text.encode("utf-8", "surrogateescape") for c in mountable.clients if c.kind is not Kind.WORLD))
    world = len(named) < len({c.text for c in mountable.clients})
    return [*named, b"(everyone)"] if named and world else named
