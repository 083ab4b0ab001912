"""nfssvc(): the call itself, for Python, through the same C code as libnfssvc.

Duty: pack the record that belongs to a flag, one request and one reply, errno as OSError.  Blocks; other threads run on.
A process that holds a channel open (mountd) uses channel.py instead.  Source: nfssvc(2), PROTOCOL.md section 4.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from ._nfssvc import ffi as _ffi
from ._nfssvc import lib as _lib
from .flags import Nfssvc
from .records import (
    ExportArgs,
    FhopenArgs,
    GetfhArgs,
    NfsdArgs,
    pack_export_args,
    pack_fhopen_args,
    pack_getfh_args,
    pack_nfsd_args,
)

Record = ExportArgs | FhopenArgs | GetfhArgs | NfsdArgs


def nfssvc(flags: int, args: Record | bytes | int | None = None, *, fds: Sequence[int] = (),
           socket_path: str | os.PathLike[str] | None = None) -> bytes:
    """One nfssvc(2) call.

    flags        one Nfssvc value; the bits are operations, not modifiers
    args         its record; an int for WORKERS, SUSPEND and VERBOSE; bytes for a body that is encoded already
    fds          ADDSOCK: the socket; the server takes a copy, the caller closes its own
    socket_path  the call socket; None: $NFSSVC_SOCKET, /run/nfsd/nfssvc.sock, $XDG_RUNTIME_DIR/nfsd/nfssvc.sock
                 (without that variable: /tmp/nfsd-UID/nfsd/nfssvc.sock, when the folder is this user's)
    returns      the reply's body: statistics as nfssvc(2) lays them out, the text of STATUS; else b""
    raises       OSError: EPERM, EINVAL, EEXIST, ... as nfssvc(2); ENOSYS: no server; ETIMEDOUT: none that answers
    """
    body, received = _exchange(flags, _pack(flags, args), fds, socket_path)
    for fd in received:
        os.close(fd)
    return body


def places() -> list[str]:
    """Where nfssvc() looks for a call socket, in its order (channel.c: connect_default)."""
    if named := os.environ.get("NFSSVC_SOCKET"):
        return [named]
    own = f"/tmp/nfsd-{os.geteuid()}"  # noqa: S108 the C code believes it only when it is this user's
    return ["/run/nfsd/nfssvc.sock", f"{os.environ.get('XDG_RUNTIME_DIR') or own}/nfsd/nfssvc.sock"]


def getfh(args: GetfhArgs, *, socket_path: str | os.PathLike[str] | None = None) -> bytes:
    """getfh(2): the file handle.  Raises OSError (ENOENT, ENOTDIR, EACCES, ESTALE, EPERM)."""
    return nfssvc(Nfssvc.GETFH, args, socket_path=socket_path)


def fhopen(args: FhopenArgs, *, socket_path: str | os.PathLike[str] | None = None) -> int:
    """fhopen(2): a descriptor, the caller's to close.  Raises OSError (ESTALE, EACCES, EPERM)."""
    _, received = _exchange(Nfssvc.FHOPEN, pack_fhopen_args(args), (), socket_path)
    if len(received) != 1:
        for fd in received:
            os.close(fd)
        raise OSError(71, "FHOPEN answered without a descriptor")  # EPROTO
    return received[0]


def _pack(flags: int, args: Record | bytes | int | None) -> bytes:
    if args is None:
        return pack_nfsd_args(NfsdArgs()) if flags == Nfssvc.ADDSOCK else b""
    if isinstance(args, bytes):
        return args
    if isinstance(args, int):
        return struct.pack(">i" if flags == Nfssvc.VERBOSE else ">I", args)
    if isinstance(args, NfsdArgs):
        return pack_nfsd_args(args)
    if isinstance(args, ExportArgs):
        return pack_export_args(args)
    return pack_getfh_args(args) if isinstance(args, GetfhArgs) else pack_fhopen_args(args)


def _exchange(flags: int, body: bytes, fds: Sequence[int], path: str | os.PathLike[str] | None) -> tuple[bytes, list[int]]:
    msg = _ffi.new("struct nfssvc_msg *")
    kept = _ffi.from_buffer(body), _ffi.new("int[]", list(fds))  # what msg points to lives as long as the call
    msg.body, msg.body_len, msg.fds, msg.n_fds = kept[0], len(body), kept[1], len(fds)
    where = _ffi.NULL if path is None else _ffi.new("char[]", os.fsencode(path))
    if _lib.nfssvc_message(where, int(flags), msg):
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    reply = bytes(_ffi.buffer(msg.reply, msg.reply_len)) if msg.reply_len else b""
    _lib.free(msg.reply)
    return reply, list(msg.reply_fds[0:msg.n_reply_fds])
