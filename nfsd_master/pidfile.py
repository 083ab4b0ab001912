"""The pid file: written and locked by the master for as long as it lives.

The lock is a POSIX record lock: it goes with the process whatever its end, is not inherited by the workers, and tells who holds
it.  A file without a lock is left over from a death and taken over.  Source: macOS nfsd, /var/run/nfsd.pid.
"""
from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from .paths import StartError

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux, 64-bit: l_type, l_whence, l_start, l_len, l_pid
ALREADY_RUNS = 2                   # exit status of macOS' nfsd when another one holds the pid file


class PidFile:
    """A pid file that this process holds.  Its fd is the lock: nobody here may open and close the same file again."""

    def __init__(self, path: Path) -> None:
        """Takes the file.  Raises StartError(status 2) when a living process holds it, StartError when it cannot be made."""
        self.path = path
        self._fd = _take(path)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """The file goes first, then the lock: a successor never loses its own file."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


def _take(path: Path) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as exc:
            raise StartError(f"pid file {path}: {exc.strerror}") from exc
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = holder_pid(fd)
            os.close(fd)
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise StartError(f"pid file {path}: {exc.strerror}") from exc
            raise StartError(f"already running: pid {holder} holds {path}", ALREADY_RUNS) from exc
        if _is(path, fd):
            return fd
        os.close(fd)  # its last holder removed it between our open and our lock


def _is(path: Path, fd: int) -> bool:
    try:
        info, mine = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (info.st_dev, info.st_ino) == (mine.st_dev, mine.st_ino)


def holder_pid(fd: int) -> int:
    """Who holds a lock on the file; 0: nobody."""
    answer = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)))
    return 0 if answer[0] == fcntl.F_UNLCK else int(answer[4])


def running_pid(path: Path) -> int:
    """The pid of the process that holds `path`; 0 when none does.  Not for the holder itself."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        return holder_pid(fd)
    finally:
        os.close(fd)
