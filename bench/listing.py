"""Whole directories by READDIR and READDIRPLUS, and handles by path: what curves asks with, one call at a time."""
from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field

import nfsload

READDIR_BYTES = 32 << 10
PLUS_DIRCOUNT, PLUS_MAXCOUNT = 8 << 10, 32 << 10  # what Linux asks for first


@dataclass(slots=True)
class Walk:
    """One listing from the start to the end."""
    entries: int = 0
    calls: int = 0
    seconds: float = 0
    names: list[bytes] = field(default_factory=list)


def padded(n: int) -> int:
    return n + 3 & ~3


def after_attributes(reply: bytes, at: int) -> int:
    """Past a post_op_attr: 84 bytes of fattr3 when they follow."""
    return at + (88 if reply[at + 3] else 4)


def entries(reply: bytes, at: int, plus: bool) -> tuple[list[bytes], int, bool]:
    """Names, last cookie (0 without entries) and eof of a dirlist3 or dirlistplus3 at `at`."""
    names, cookie = [], 0
    while reply[at + 3]:
        size, = struct.unpack_from(">I", reply, at + 12)
        names.append(reply[at + 16:at + 16 + size])
        at += 16 + padded(size)
        cookie, = struct.unpack_from(">Q", reply, at)
        at += 8
        if plus:
            at = after_attributes(reply, at)
            at += 8 + padded(struct.unpack_from(">I", reply, at + 4)[0]) if reply[at + 3] else 4
    return names, cookie, bool(reply[at + 7])


def walk(c: nfsload.Conn, cred: bytes, folder: bytes, *, plus: bool, keep: bool = False) -> Walk:
    """The whole directory; `keep` also keeps the names.

    raises  RuntimeError when the server refuses, or ends a reply without an entry and without eof
    """
    proc = nfsload.READDIRPLUS if plus else nfsload.READDIR
    sizes = struct.pack(">II", PLUS_DIRCOUNT, PLUS_MAXCOUNT) if plus else struct.pack(">I", READDIR_BYTES)
    done, cookie, verf, eof = Walk(), 0, bytes(8), False
    while not eof:
        begun = time.perf_counter()
        status, reply = c.nfs(proc, cred, nfsload.opaque(folder) + nfsload.u64(cookie) + verf + sizes)
        done.seconds += time.perf_counter() - begun
        if status:
            raise RuntimeError(f"listing: nfsstat3 {status}")
        at = after_attributes(reply, 0)
        verf = reply[at:at + 8]
        names, cookie, eof = entries(reply, at + 8, plus)
        if not names and not eof:
            raise RuntimeError("listing: a reply without entries that is not the last")
        done.calls += 1
        done.entries += len(names)
        if keep:
            done.names += names
    return done


def handle(c: nfsload.Conn, cred: bytes, start: bytes, *path: str) -> bytes:
    """raises RuntimeError naming what is not there"""
    for name in path:
        found = nfsload.lookup(c, cred, start, name)
        if found is None:
            raise RuntimeError(f"{'/'.join(path)}: {name} is not there")
        start = found
    return start
