"""The procedures of NFS version 3 as rows of a table (RFC 1813 section 3.3).

Each row: the gate (handle, export, host, squash), the policy that its kind calls for, one vnode call.  A query may be
repeated without harm.  A change is refused on a read-only export and goes through the duplicate request cache, which has
its entry before the first system call.  rows.c does the same for calls that need no decision; these rows are for what it leaves.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from oncrpc.server import NULL, Procedure, Raw

from ._vnode import ffi, lib
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


def row_in_c(kind: Callable[[Op, Answer], Raw], name: str, answer: Answer, weight: int = 0) -> Procedure:
    """The row in C (rows.c), and the one in Python, `kind`, for what that leaves over."""
    raw = kind(getattr(lib, f"vn_{name.lower()}"), answer)
    return Procedure(name, raw=raw, weight=weight, direct=ffi.addressof(lib, f"row_{name.lower()}"),
                     left=lambda call, status: answer(call, status, raw))


def nfs3(answer: Answer) -> Sequence[Procedure | None]:
    """Version 3 of program 100003, in the order of the procedures' numbers."""
    return [
        NULL,
        row_in_c(query, "GETATTR", answer),
        row_in_c(change, "SETATTR", answer),
        row_in_c(query, "LOOKUP", answer),
        row_in_c(query, "ACCESS", answer),
        row_in_c(query, "READLINK", answer),
        row_in_c(query, "READ", answer, weight=4),
        row_in_c(change, "WRITE", answer),
        row_in_c(change, "CREATE", answer),
        row_in_c(change, "MKDIR", answer),
        row_in_c(change, "SYMLINK", answer),
        row_in_c(change, "MKNOD", answer),
        row_in_c(change, "REMOVE", answer),
        row_in_c(change, "RMDIR", answer),
        row_in_c(change, "RENAME", answer),
        row_in_c(change, "LINK", answer),
        row_in_c(query, "READDIR", answer, weight=4),
        row_in_c(query, "READDIRPLUS", answer, weight=4),
        row_in_c(query, "FSSTAT", answer),
        row_in_c(query, "FSINFO", answer),
        row_in_c(query, "PATHCONF", answer),
        row_in_c(commit, "COMMIT", answer),
    ]
