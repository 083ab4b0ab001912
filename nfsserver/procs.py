"""The procedures of NFS version 3 as rows of a table (RFC 1813 section 3.3).

Each row: the gate (handle, export, host, squash), the policy that its kind calls for, one vnode call.  A query may be
repeated without harm.  A change is refused on a read-only export and goes through the duplicate request cache, which has
its entry before the first system call.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from oncrpc.server import NULL, Procedure, Raw

from ._vnode import lib
from .exports import READONLY
from .status import Nfsstat3

NFS_PROGRAM = 100003
Call = Any
Op = Callable[[Call], int]
Answer = Callable[[Call, int, Raw], None]   # ends a call that the row could not: status or V_* of vnode.h

_ROFS = int(Nfsstat3.ROFS)


def query(op: Op, answer: Answer) -> Raw:
    """A procedure that changes nothing."""
    gate = lib.vn_gate

    def row(call: Call) -> None:
        status = gate(call) or op(call)
        if status:
            answer(call, status, row)

    return row


def change(op: Op, answer: Answer) -> Raw:
    """A procedure that must not run twice."""
    gate, begin = lib.vn_gate, lib.drc_begin

    def row(call: Call) -> None:
        status = gate(call) or (_ROFS if call.rights & READONLY else begin(call) or op(call))
        if status:
            answer(call, status, row)

    return row


def commit(op: Op, answer: Answer) -> Raw:
    """COMMIT may run twice, but not on a read-only export."""
    gate = lib.vn_gate

    def row(call: Call) -> None:
        status = gate(call) or (_ROFS if call.rights & READONLY else op(call))
        if status:
            answer(call, status, row)

    return row


def nfs3(answer: Answer) -> Sequence[Procedure | None]:
    """Version 3 of program 100003, in the order of the procedures' numbers."""
    return [
        NULL,
        Procedure("GETATTR", raw=query(lib.vn_getattr, answer)),
        Procedure("SETATTR", raw=change(lib.vn_setattr, answer)),
        Procedure("LOOKUP", raw=query(lib.vn_lookup, answer)),
        Procedure("ACCESS", raw=query(lib.vn_access, answer)),
        Procedure("READLINK", raw=query(lib.vn_readlink, answer)),
        Procedure("READ", raw=query(lib.vn_read, answer), weight=4),
        Procedure("WRITE", raw=change(lib.vn_write, answer)),
        Procedure("CREATE", raw=change(lib.vn_create, answer)),
        Procedure("MKDIR", raw=change(lib.vn_mkdir, answer)),
        Procedure("SYMLINK", raw=change(lib.vn_symlink, answer)),
        Procedure("MKNOD", raw=change(lib.vn_mknod, answer)),
        Procedure("REMOVE", raw=change(lib.vn_remove, answer)),
        Procedure("RMDIR", raw=change(lib.vn_rmdir, answer)),
        Procedure("RENAME", raw=change(lib.vn_rename, answer)),
        Procedure("LINK", raw=change(lib.vn_link, answer)),
        Procedure("READDIR", raw=query(lib.vn_readdir, answer), weight=4),
        Procedure("READDIRPLUS", raw=query(lib.vn_readdirplus, answer), weight=4),
        Procedure("FSSTAT", raw=query(lib.vn_fsstat, answer)),
        Procedure("FSINFO", raw=query(lib.vn_fsinfo, answer)),
        Procedure("PATHCONF", raw=query(lib.vn_pathconf, answer)),
        Procedure("COMMIT", raw=commit(lib.vn_commit, answer)),
    ]
