"""The export table of the control half: changes by NFSSVC_EXPORT, and its copy on tmpfs for a control half that starts again.

Pure functions over a dict expid -> Export, and one small file.  Errno of changes as macOS (nfssvc(2), "EXPORT").

exports.tab     8 bytes magic, 16 bytes boot id, 32 bytes SHA-256 of the rest, then ExportArgs in XDR.  The control half has only
                its descriptor (no right in the directory), so it writes in place: a copy that was cut short does not match its
                digest and counts as none; mountd, which reconnects, then sends the table again.
"""
from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from nfssvc_shim.channel import MAX_BODY
from nfssvc_shim.flags import Ex, Nx, Nxa
from nfssvc_shim.records import MAX_EXPORTS, Export, ExportArgs, Net, pack_export_args, unpack_export_args
from oncrpc.xdr import XdrError

MAGIC = b"NFSDEXP1"
HEAD = len(MAGIC) + 16 + 32

Table = Mapping[int, Export]


def changed(table: Table, args: ExportArgs) -> dict[int, Export]:
    """The table after `args`.  Raises OSError with the errno of the call; `table` is not touched."""
    if args.whole:
        if args.op != Nxa.REPLACE:
            raise OSError(errno.EINVAL, "a whole table can only be replaced")
        return _insert({}, args, known_ok=False)
    new = dict(table)
    if args.op & Nxa.OFFLINE:
        return _offline(new, args)
    if args.op == Nxa.DELETE_ALL:
        return {}
    if args.op == Nxa.DELETE:
        return _delete(new, args)
    if args.op in (Nxa.ADD, Nxa.REPLACE):
        return _insert(new, args, known_ok=args.op == Nxa.REPLACE)
    raise OSError(errno.EINVAL, f"operation {int(args.op):#x}")


def _insert(new: dict[int, Export], args: ExportArgs, *, known_ok: bool) -> dict[int, Export]:
    for export in args.exports:
        if not args.whole:
            _check_nets(export)
        old = new.get(export.expid)
        if old is not None and (not known_ok or old.path != export.path):
            raise OSError(errno.EEXIST, f"export id {export.expid:#x}")
        new[export.expid] = export
    if len(new) > MAX_EXPORTS:
        raise OSError(errno.ENOBUFS, f"more than {MAX_EXPORTS} exports")
    return new


def _check_nets(export: Export) -> None:
    """As macOS: one entry for everyone (EEXIST), one a network unless the second says the same (EPERM)."""
    seen: dict[tuple[bytes, int], Net] = {}
    for net in export.nets:
        if net.flags & Nx.DEFAULTEXPORT and any(n.flags & Nx.DEFAULTEXPORT for n in seen.values()):
            raise OSError(errno.EEXIST, "a second entry for everyone")
        if seen.setdefault((net.address.packed, net.prefix), net) != net:
            raise OSError(errno.EPERM, f"{net.address}/{net.prefix} twice, with other options")


def refused(body: bytes) -> dict[int, int]:
    """What a worker said about single exports: expid -> errno."""
    words = struct.unpack(f">{len(body) // 8 * 2}I", body[:len(body) // 8 * 8])
    return dict(zip(words[::2], words[1::2], strict=True))


def without(table: Table, args: ExportArgs, before: Table) -> dict[int, Export]:
    """`table` with the exports of `args` as they were in `before`."""
    new = dict(table)
    for export in args.exports:
        new.pop(export.expid, None)
        if export.expid in before:
            new[export.expid] = before[export.expid]
    return new


def _delete(new: dict[int, Export], args: ExportArgs) -> dict[int, Export]:
    for export in args.exports:
        if new.pop(export.expid, None) is None:
            raise OSError(errno.ENOENT, f"export id {export.expid:#x}")
    return new


def _offline(new: dict[int, Export], args: ExportArgs) -> dict[int, Export]:
    """ADD|OFFLINE (or OFFLINE alone): the exports answer JUKEBOX; DELETE|OFFLINE: they are back."""
    back = args.op & Nxa.REPLACE == Nxa.DELETE
    for export in args.exports:
        old = new.get(export.expid)
        if old is None:
            raise OSError(errno.ENOENT, f"export id {export.expid:#x}")
        flags = old.flags & ~Ex.OFFLINE if back else old.flags | Ex.OFFLINE
        new[export.expid] = Export(old.expid, old.fspath, old.exppath, flags, old.fsid, old.password, old.index, old.nets)
    return new


def check(args: ExportArgs) -> None:
    """CHECK: could this be exported?  Raises OSError; what we may not see is left to the worker that will open it."""
    for export in args.exports:
        try:
            info = os.stat(export.path)
        except PermissionError:
            continue
        if not stat.S_ISDIR(info.st_mode) and not export.flags & Ex.REGULAR:
            raise OSError(errno.EINVAL, "not a directory")


# ---- the copy

def encode(table: Table, generation: int) -> bytes:
    """`table` as workers get it and as it is saved."""
    return pack_export_args(ExportArgs(Nxa.REPLACE, True, tuple(table.values()), generation))


def save(fd: int, body: bytes) -> None:
    """body: of encode().  Raises OSError."""
    data = memoryview(MAGIC + _boot_id() + hashlib.sha256(body).digest() + body)
    os.ftruncate(fd, 0)
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], done)


def load(fd: int) -> dict[int, Export] | None:
    """The saved table, None when there is none of this boot that is whole."""
    size = os.fstat(fd).st_size
    if not HEAD <= size <= HEAD + MAX_BODY:
        return None
    data = os.pread(fd, size, 0)
    body = data[HEAD:]
    if data[:HEAD] != MAGIC + _boot_id() + hashlib.sha256(body).digest():
        return None
    try:
        return {export.expid: export for export in unpack_export_args(body).exports}
    except (XdrError, ValueError):
        return None  # written by another version


def _boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))
