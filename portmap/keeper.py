"""The process that stays root, so that nothing is left in directories of root's when portmap ends.

Theory of operation.  split() forks before any byte is read.  The parent has no capability, no socket and reads nothing: it waits
for the child, removes the files, and ends as the child did.  TERM and INT close its end of a pipe, whose other end tells the
child to stop; so does the parent's death.  Called by `__main__`, where root becomes another user.
"""
from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

import prctl


def split(paths: Sequence[str], close: Callable[[], None]) -> int:
    """Forks.  In the child: a descriptor that can be read when it is to stop.  The parent does not return.

    paths  files that the parent removes in the end
    close  in the parent: closes what is the child's only
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        return read
    os.close(read)
    close()
    _give_up()
    status = _wait(pid, write)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    os._exit(status)


def _give_up() -> None:
    """Every capability: what is removed lies in directories of root's own."""
    prctl.set_no_new_privs(1)
    prctl.set_proctitle("portmap: keeper")
    with contextlib.suppress(PermissionError):  # root of a container without CAP_SETPCAP: nothing is executed here anyhow
        prctl.capbset.limit()
    prctl.cap_effective.limit()
    prctl.cap_permitted.limit()


def _wait(pid: int, write: int) -> int:
    """The child's exit status; 128 and the number of a signal that killed it."""
    open_ends = [write]

    def stop(*_: object) -> None:
        while open_ends:
            os.close(open_ends.pop())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


__all__ = ["split"]
