"""Who holds a port: /proc/net/{tcp,udp}[6] for the socket's inode, /proc/<pid>/fd for its process.  For messages only."""
from __future__ import annotations

import os
from pathlib import Path

_LISTEN = {"tcp": "0A", "udp": "07"}  # column st: TCP_LISTEN, and TCP_CLOSE, which is what an unconnected UDP socket shows


def who_holds(kind: str, port: int) -> str:
    """"pid 123 (nfsd: master)" for the process with `port` bound; "" when it cannot be found (another user's, to a user).

    kind  "tcp" or "udp"
    """
    inodes = {f"socket:[{inode}]" for inode in _inodes(kind, port)}
    for entry in Path("/proc").iterdir() if inodes else ():
        if entry.name.isdigit() and _has(entry, inodes):
            return f"pid {entry.name} ({_name(entry)})"
    return ""


def _inodes(kind: str, port: int) -> list[str]:
    found = []
    for name in (kind, kind + "6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6
        rows = [line.split() for line in lines]
        found += [row[9] for row in rows if row[3] == _LISTEN[kind] and int(row[1].rpartition(":")[2], 16) == port]
    return found


def _has(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir())
    except OSError:
        return False  # ended meanwhile, or another user's


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
