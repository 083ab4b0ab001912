"""nfsstat3 (RFC 1813 section 2.6) and the one table from Linux errno to it.

The numbers are BSD errnos, so a Linux errno must be mapped by name: 39 is ENOTEMPTY here and nothing there.
Used by: worker.py, which hands the table to C.
"""
from __future__ import annotations

import errno
from enum import IntEnum


class Nfsstat3(IntEnum):
    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    NXIO = 6
    ACCES = 13
    EXIST = 17
    XDEV = 18
    NODEV = 19
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    MLINK = 31
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    REMOTE = 71
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007
    JUKEBOX = 10008


_S = Nfsstat3
_BY_ERRNO = {
    errno.EPERM: _S.PERM, errno.ENOENT: _S.NOENT, errno.EIO: _S.IO, errno.ENXIO: _S.NXIO, errno.EACCES: _S.ACCES,
    errno.EEXIST: _S.EXIST, errno.EXDEV: _S.XDEV, errno.ENODEV: _S.NODEV, errno.ENOTDIR: _S.NOTDIR, errno.EISDIR: _S.ISDIR,
    errno.EINVAL: _S.INVAL, errno.EFBIG: _S.FBIG, errno.ENOSPC: _S.NOSPC, errno.EROFS: _S.ROFS, errno.EMLINK: _S.MLINK,
    errno.ENAMETOOLONG: _S.NAMETOOLONG, errno.ENOTEMPTY: _S.NOTEMPTY, errno.EDQUOT: _S.DQUOT, errno.ESTALE: _S.STALE,
    errno.EREMOTE: _S.REMOTE, errno.EOPNOTSUPP: _S.NOTSUPP, errno.ENOSYS: _S.NOTSUPP, errno.ENOTTY: _S.NOTSUPP,
    # No counterpart in the RFC: what a client can act on.
    errno.EAGAIN: _S.JUKEBOX, errno.ENOMEM: _S.JUKEBOX, errno.EMFILE: _S.JUKEBOX, errno.ENFILE: _S.JUKEBOX,
    errno.ETIMEDOUT: _S.JUKEBOX, errno.ENOBUFS: _S.JUKEBOX,
    errno.ELOOP: _S.ACCES,      # a symbolic link where O_NOFOLLOW expected none: somebody swapped the object
    errno.EOVERFLOW: _S.FBIG, errno.ENODATA: _S.INVAL, errno.EILSEQ: _S.INVAL, errno.ETXTBSY: _S.ACCES, errno.EBUSY: _S.ACCES,
    errno.EDOM: _S.INVAL, errno.ERANGE: _S.INVAL,
}


def errno_table() -> list[int]:
    """256 places: errno -> nfsstat3; what is not named is IO."""
    return [0] + [int(_BY_ERRNO.get(number, _S.IO)) for number in range(1, 256)]
