"""mountdtab: who said to have mounted what.  A hint for administrators, as everywhere: clients that die never say UMNT.

One line a mount: `host directory`, both escaped (\\ooo), so that a blank in a path cannot make two words of it.
"""
from __future__ import annotations

from collections.abc import Iterator

from .atomic import escape_path, unescape_path

MAX_ENTRIES = 4096        # in all: what fits 8 KiB replies many times over
MAX_PER_HOST = 256        # so that one client cannot push the others out


class MountTab:
    """Entries (host, directory), oldest first.  `changed` says that text() should be written."""

    def __init__(self, data: bytes = b"") -> None:
        self._entries: dict[tuple[bytes, bytes], None] = {}
        self._per_host: dict[bytes, int] = {}
        for line in data.splitlines():
            host, _, directory = line.partition(b" ")
            if host and directory.startswith(b"/"):
                self.add(unescape_path(host), unescape_path(directory))
        self.changed = False

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def hosts(self) -> list[bytes]:
        return list(self._per_host)

    def add(self, host: bytes, directory: bytes) -> None:
        key = (host, directory)
        if key in self._entries:
            return
        if self._per_host.get(host, 0) >= MAX_PER_HOST:
            self.remove(*next(k for k in self._entries if k[0] == host))
        elif len(self._entries) >= MAX_ENTRIES:
            self.remove(*next(iter(self._entries)))
        self._entries[key] = None
        self._per_host[host] = self._per_host.get(host, 0) + 1
        self.changed = True

    def remove(self, host: bytes, directory: bytes) -> None:
        if (host, directory) not in self._entries:
            return
        del self._entries[host, directory]
        self._per_host[host] -= 1
        if not self._per_host[host]:
            del self._per_host[host]
        self.changed = True

    def remove_host(self, host: bytes) -> None:
        """UMNTALL of `host`, of nobody else's."""
        for key in [key for key in self._entries if key[0] == host]:
            self.remove(*key)

    def text(self) -> bytes:
        return b"".join(b"%s %s\n" % (escape_path(host), escape_path(directory)) for host, directory in self._entries)
