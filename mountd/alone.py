"""One mountd for a state directory, and one for a server: two would answer by two tables, and write over each other's files.

Duty: the lock, and the question to the server who answers for it now.  Called by `__main__` before anything is served.
"""
from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import time
from pathlib import Path

from nfssvc_shim.channel import Channel, ProtocolError
from nfssvc_shim.flags import Nfssvc

LOCK = "mountd.lock"
ASK_S = 2.0               # for the server's answer, and for a mountd that just ended to be gone from it
_AGAIN_S = 0.1


class Taken(Exception):
    """Another mountd is there; the text names it."""


def lock(path: Path) -> int:
    """A descriptor that keeps `path` locked until this process ends; the file has its pid.

    Raises Taken when another process holds it, OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise Taken(f"{path}: mountd runs already, pid {holder or 'unknown'}") from None
    os.ftruncate(fd, 0)
    return fd


def check_server(path: str) -> None:
    """Raises Taken when the server at the call socket `path` has a mountd.  A server that is not there yet has none."""
    end = time.monotonic() + ASK_S
    while True:
        pid = _mountd_of(path)
        if pid is None:
            return
        if time.monotonic() >= end:
            raise Taken(f"{path}: this nfsd has a mountd already, pid {pid}")
        select.select([], [], [], _AGAIN_S)


def _mountd_of(path: str) -> int | None:
    """The pid of the mountd that is connected to the server; None: there is none, or no server that says so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ASK_S)
        try:
            sock.connect(path)
            status = json.loads(Channel(sock).call(Nfssvc.STATUS)[0])
        except (OSError, EOFError, ProtocolError, ValueError):
            return None
        pid = status.get("mountd") if isinstance(status, dict) else None
        return pid if isinstance(pid, int) else None


__all__ = ["Taken", "check_server", "lock"]
