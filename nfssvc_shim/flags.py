"""Numbers of nfssvc(2): operations, NXA_* and NX_* of NFSSVC_EXPORT.

The macOS (12 and later) column is the default personality, a superset of OpenBSD's.  Bits from 0x10000 on are ours, for what BSD
does with another system call (getfh(2), fhopen(2)) or inside the kernel.
Source: nfssvc(2) of macOS, xnu bsd/nfs/nfs.h.
"""
from __future__ import annotations

from enum import IntEnum, IntFlag


class Nfssvc(IntEnum):
    NFSD = 0x004
    ADDSOCK = 0x008
    EXPORTSTATS = 0x010
    USERSTATS = 0x020
    USERCOUNT = 0x040
    ZEROSTATS = 0x080
    SRVSTATS = 0x100
    EXPORT = 0x200
    # Ours.
    GETFH = 0x10000       # getfh(2): {export id, path, peer, credential} -> file handle; root, the server's uid, _mountd
    FHOPEN = 0x20000      # fhopen(2): {handle, credential, peer, mode} -> descriptor; root, the server's uid, _lockd
    MOUNTD = 0x40000      # mountd: "I answer program 100005"; the channel then carries RELAY messages the other way
    RELAY = 0x80000       # control -> mountd, control -> worker: one end of a socket pair for relayed MOUNT calls
    STATUS = 0x100000     # what runs: JSON text with pids, slots, generation, addresses; any local user
    WORKERS = 0x200000    # change the number of workers (nfsd -n N update); root, the server's uid
    TRACE = 0x400000      # copies of calls and replies, while the caller's connection lasts; root, the server's uid
    SUSPEND = 0x800000    # FreeBSD SUSPENDNFSD / RESUMENFSD: body u32 1 or 0
    VERBOSE = 0x1000000   # change of the log level: body i32, added to it
    NEEDAUTH = 0x20000000  # 4.4BSD's ENEEDAUTH, server -> caller of NFSD: whose ticket is this?; worker -> control: the same
    AUTHIN = 0x40000000   # caller of NFSD -> server: his, or nobody's (AUTHINFAIL); control -> worker: are there such callers?
    # Inside the server only (master, control half, workers); refused on the call socket.
    SLOT = 0x2000000      # master -> control: a worker was started; descriptors: its channel, its UDP sockets
    STOP = 0x4000000      # master -> control, control -> worker: finish what runs, then end
    READY = 0x8000000     # control -> master, worker -> control: serving
    LISTEN = 0x10000000   # master -> control: a bound listening socket


class Nxa(IntFlag):
    """nxa_flags of nfs_export_args: what to do with the entry."""

    DELETE = 0x01
    ADD = 0x02
    REPLACE = 0x03
    DELETE_ALL = 0x04
    OFFLINE = 0x08
    CHECK = 0x10


class Nx(IntFlag):
    """nxna_flags of nfs_export_net_args; from 0x10000 on ours."""

    READONLY = 0x01
    DEFAULTEXPORT = 0x02
    MAPROOT = 0x04
    MAPALL = 0x08
    KERB = 0x10
    CLIENTS32 = 0x20
    OFFLINE = 0x40
    MANGLEDNAMES = 0x80
    SECURE = 0x10000      # calls must come from a source port below 1024
    DENY = 0x20000        # this network is listed but may do nothing (an entry that is pending or refused)


class Ex(IntFlag):
    """Flags of a whole export, ours: what nfs_export_args has no bit for."""

    ASYNC = 0x01          # metadata operations are answered before they are durable
    CROSSMNT = 0x02       # file systems mounted below are shown
    REMOVABLE = 0x04      # the medium may be absent: no open files kept, an empty directory instead
    SUBTREE = 0x08        # objects that were moved out of the exported directory are refused
    PUBLIC = 0x10         # WebNFS: the public file handle
    PATHFH = 0x20         # file handles by the path scheme although kernel handles would work
    NORDIRPLUS = 0x40     # READDIRPLUS answers NOTSUPP
    MANAGE_GIDS = 0x80    # groups are looked up here, not taken from the credential
    OFFLINE = 0x100       # JUKEBOX (v3), STALE (v2)
    NOACL = 0x200         # NFS_ACL calls are refused
    READABLE_EXEC = 0x400 # unfsd -r: executables look readable
    SINGLEUSER = 0x800    # unfsd -s: owners are shown as the caller
    FILEID32 = 0x1000     # unfsd -3: fileids and cookies fit 32 bits
    BRUTEFORCE = 0x2000   # unfsd -b: the path scheme searches the whole file system
    REGULAR = 0x4000      # the export may be a regular file
    CLUSTER = 0x8000      # unfsd -c: tags(7)
