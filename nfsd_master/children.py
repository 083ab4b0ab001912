"""fork+exec of the control half and the workers, with descriptors at fixed numbers from 3 on."""
from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

FIRST_FD = 3
_SAFE_FD = 64        # above every target, so that no dup2 hits a source
EXEC_FAILED = 127
# A terminal sends these to the whole foreground group.  Only the master acts on them; it tells the others.
_MASTER_ONLY = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def spawn(argv: Sequence[str], fds: Sequence[int]) -> int:
    """Pid of a child that runs `argv` with `fds` as its descriptors 3, 4, ...; every other one of ours is close-on-exec."""
    pid = os.fork()
    if pid == 0:
        _become(argv, fds)
    return pid


def _become(argv: Sequence[str], fds: Sequence[int]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)  # a signal to the child must not wake the parent
        for number in _MASTER_ONLY:
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
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
