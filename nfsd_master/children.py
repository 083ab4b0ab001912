"""fork+exec of the control half and the workers, with descriptors at fixed numbers from 3 on."""
from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

import prctl

FIRST_FD = 3
_SAFE_FD = 64        # above every target, so that no dup2 hits a source
EXEC_FAILED = 127
# A terminal sends these to the whole foreground group.  Only the master acts on them; it tells the others.
MASTER_ONLY = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def spawn(argv: Sequence[str], fds: Sequence[int], *, ignore: Collection[int] = MASTER_ONLY, tie: bool = False,
          output: int = -1) -> int:
    """Pid of a child that runs `argv` with `fds` as its descriptors 3, 4, ...; every other one of ours is close-on-exec.

    ignore  signals that the child starts with ignored
    output  what the child has as 1 and 2, with /dev/null as 0; -1: ours.  A daemon's child must not hold the terminal or the
            pipe that the daemon was started on
    tie     the child gets TERM when we die; not for one that changes its uid, which clears this
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        if output >= 0:
            _redirect(output)
        _become(argv, fds, ignore, parent if tie else 0)
    return pid


def _redirect(output: int) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for target, fd in ((0, null), (1, output), (2, output)):
        os.dup2(fd, target)


def _become(argv: Sequence[str], fds: Sequence[int], ignore: Collection[int], parent: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)  # a signal to the child must not wake the parent
        for number in (*MASTER_ONLY, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number in ignore else signal.SIG_DFL)
        if parent:
            prctl.set_pdeathsig(signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(EXEC_FAILED)
        safe = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SAFE_FD) for fd in fds]
        for target, fd in enumerate(safe, FIRST_FD):
            os.dup2(fd, target, inheritable=True)
        os.execv(argv[0], list(argv))  # noqa: S606 our own interpreter, no shell
    except OSError as exc:
        os.write(2, f"{' '.join(argv)}: {exc.strerror}\n".encode())
    finally:
        os._exit(EXEC_FAILED)


def python(module: str, *arguments: str) -> list[str]:
    """Command that runs a module of ours; -I: nothing from the environment or the working directory."""
    return [sys.executable, "-I", "-m", module, *arguments]
