"""NFS_ACL (program 100227) as rows of a table; off where the worker is started with --no-acl.

Version 2 is there when NFS version 2 is, so its range of versions is its own.  See acl.c.
"""
from __future__ import annotations

from oncrpc.server import NULL, Procedure, Program

from ._vnode import lib
from .procs import Answer, commit, query, row_in_c
from .procs2 import translated

ACL_PROGRAM = 100227


def nfs_acl(answer: Answer, *, v2: bool) -> Program:
    """SETACL may run twice, but not on a read-only export."""
    get, set_ = query(lib.vn_getacl, answer), commit(lib.vn_setacl, answer)
    version3 = [NULL, row_in_c(query, "GETACL", answer), row_in_c(commit, "SETACL", answer)]
    version2 = [
        NULL,
        Procedure("GETACL", raw=translated(get, answer)),
        Procedure("SETACL", raw=translated(set_, answer)),
        Procedure("GETATTR", raw=translated(query(lib.vn_getattr, answer), answer)),
        Procedure("ACCESS", raw=translated(query(lib.vn_access, answer), answer)),
    ]
    return Program(ACL_PROGRAM, {2: version2, 3: version3} if v2 else {3: version3})
