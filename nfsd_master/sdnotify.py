"""systemd: readiness, status and watchdog (sd_notify(3)), and sockets that it opened for us (sd_listen_fds(3)).

Nothing happens when the variables are not there.  They are taken out of the environment: no child may speak for us.
"""
from __future__ import annotations

import os
import socket

LISTEN_FDS_START = 3
MAX_LISTEN_FDS = 64


class Notifier:
    """Speaks to $NOTIFY_SOCKET.  watchdog_s: how often it must hear from us; 0: never."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        wanted = usec.isdigit() and (not pid or pid == str(os.getpid())) and bool(self._address)
        self.watchdog_s = int(usec) / 1e6 if wanted else 0.0

    def tell(self, text: str) -> None:
        """Lines such as READY=1.  A manager that does not listen is not our trouble."""
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(text.encode(), address)
            except OSError:
                return


def inherited_sockets() -> list[socket.socket]:
    """The sockets of socket activation, close-on-exec; none when they are another process's."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) > MAX_LISTEN_FDS:
        return []
    found = []
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
