"""The procedures of NFS version 2 as rows of a table (RFC 1094 section 2.2); off unless the worker is started with --v2.

Each row: the arguments become those of version 3, then gate, policy and vnode call as there (procs.py); the result is written
back as version 2 at its end (v2.c).
"""
from __future__ import annotations

from collections.abc import Sequence

from oncrpc.server import NULL, Procedure, Raw

from ._vnode import lib
from .procs import Answer, Call, Op, change, query


def translated(inner: Raw, answer: Answer) -> Raw:
    """`inner` is what runs again when the gate had to ask for something: the arguments are translated once."""
    args = lib.vn2_args

    def row(call: Call) -> None:
        status = args(call)
        if status:
            answer(call, status, inner)
        else:
            inner(call)

    return row


def nfs2(answer: Answer) -> Sequence[Procedure | None]:
    """Version 2 in the order of the procedures' numbers; ROOT and WRITECACHE were never used: PROC_UNAVAIL."""
    def ask(name: str, op: Op, weight: int = 0) -> Procedure:
        return Procedure(name, raw=translated(query(op, answer), answer), weight=weight)

    def do(name: str, op: Op) -> Procedure:
        return Procedure(name, raw=translated(change(op, answer), answer))

    return [
        NULL,
        ask("GETATTR", lib.vn_getattr),
        do("SETATTR", lib.vn_setattr),
        None,
        ask("LOOKUP", lib.vn_lookup),
        ask("READLINK", lib.vn_readlink),
        ask("READ", lib.vn_read),
        None,
        do("WRITE", lib.vn2_write),
        do("CREATE", lib.vn2_create),
        do("REMOVE", lib.vn_remove),
        do("RENAME", lib.vn_rename),
        do("LINK", lib.vn_link),
        do("SYMLINK", lib.vn_symlink),
        do("MKDIR", lib.vn_mkdir),
        do("RMDIR", lib.vn_rmdir),
        ask("READDIR", lib.vn2_readdir),
        ask("STATFS", lib.vn2_statfs),
    ]
