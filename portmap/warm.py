"""The warm start file: registrations that outlive a restart (rpcbind(8) -w).

Opened before rights are dropped, written through the same descriptor after each change.  One line an entry; the last line
counts them, so that a file cut short is seen.  Its directory must not be writable for others: whoever can put a file there
could register anything (CVE-2019-3689).
"""
from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from oncrpc.pmap import Rpcb

from .table import MAX_ENTRIES, check_address

MAX_FILE = 256 * MAX_ENTRIES  # bytes; a line has at most 150


class WarmStart:
    """One open file."""

    def __init__(self, path: str) -> None:
        """Raises OSError; PermissionError when others could have put the file there."""
        directory = os.stat(os.path.dirname(os.path.abspath(path)))
        if directory.st_uid not in (0, os.geteuid()) or directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(1, "its directory belongs to, or can be written by, others", path)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        about = os.fstat(self.fd)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
            os.close(self.fd)
            raise PermissionError(1, "no file of ours", path)

    def read(self) -> list[Rpcb]:
        """The entries; none when the file is new.  Raises ValueError when it is not whole."""
        lines = os.pread(self.fd, MAX_FILE, 0).decode("ascii").splitlines()
        if not lines:
            return []
        if lines[-1] != f"end {len(lines) - 1}":
            raise ValueError("the file ends early")
        return [_parse(line) for line in lines[:-1]]

    def write(self, entries: Iterable[Rpcb]) -> None:
        lines = [f"{e.prog} {e.vers} {e.netid} {e.addr} {e.owner}" for e in entries if " " not in e.addr]
        data = "\n".join([*lines, f"end {len(lines)}", ""]).encode("ascii")
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)

    def close(self) -> None:
        os.close(self.fd)


def _parse(line: str) -> Rpcb:
    prog, vers, netid, addr, owner = line.split(" ")
    if check_address(netid, addr) is None or not (owner.isdigit() or owner in ("superuser", "unknown")):
        raise ValueError(f"no entry: {line!r}")
    if not (0 <= int(prog) <= 0xFFFFFFFF and 0 <= int(vers) <= 0xFFFFFFFF):
        raise ValueError(f"no entry: {line!r}")
    return Rpcb(int(prog), int(vers), netid, addr, owner)
