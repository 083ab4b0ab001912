"""Into the background, and saying when: the parent waits until the daemon serves, and ends with its status."""
from __future__ import annotations

import os
import sys


class Detached:
    """The daemon's side after detach(): ready() lets the parent end with 0 and gives up the terminal."""

    def __init__(self, write_fd: int) -> None:
        self._fd = write_fd

    def ready(self) -> None:
        os.write(self._fd, b"0")
        os.close(self._fd)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)


def detach() -> Detached:
    """Returns in the daemon, in a session of its own.  The parent exits: 0 when the daemon is ready, else as the daemon did."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        os.setsid()
        os.chdir("/")
        return Detached(write_fd)
    os.close(write_fd)
    if os.read(read_fd, 1):
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    sys.exit(max(1, os.waitstatus_to_exitcode(status)))
