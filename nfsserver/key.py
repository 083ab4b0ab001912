"""The key of the file handles' MAC: made once, read by workers only.

24 bytes in a 0600 file: "NFSKEY1\\n" and 16 random bytes.  A new file gets its name by link(2) after fsync, so that two
makers cannot make two keys, and no reader sees half of one.
"""
from __future__ import annotations

import os
import stat

_MAGIC = b"NFSKEY1\n"
_SIZE = 16


def make_key(path: str) -> None:
    """Makes the key unless it is there.  Raises OSError."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, 0o700, exist_ok=True)
    if os.path.exists(path):
        read_key(path)
        return
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(fd, _MAGIC + os.urandom(_SIZE))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(temporary, path)
        except FileExistsError:
            read_key(path)
    finally:
        os.unlink(temporary)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_key(path: str) -> bytes:
    """The 16 bytes.  Raises OSError, or ValueError: not a key, or others may read it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        data = os.read(fd, 64)
    finally:
        os.close(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o077 or info.st_uid != os.geteuid():
        raise ValueError(f"{path}: must be a file of this user that nobody else may read (mode 0600)")
    if len(data) != len(_MAGIC) + _SIZE or not data.startswith(_MAGIC):
        raise ValueError(f"{path}: not a key file of nfsd")
    return data[len(_MAGIC):]
