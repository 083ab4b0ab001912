"""mountdexptab: which export id a directory has, kept so that file handles survive restarts.

One line an export: `id(8 hex digits) uuid-or-- path`, blanks and control characters of the path escaped as \\ooo.  The id is a
32-bit hash of (UUID of the file system, path); only where two directories have the same hash does the file decide.
"""
from __future__ import annotations

import hashlib
import re

from .atomic import escape_path, unescape_path

MAX_KEPT = 65_536         # ids of exports that once were: four full tables
_LINE = re.compile(rb"([0-9a-f]{8}) (-|[0-9a-f-]{4,36}) (/[^ ]*)")


class ExportIds:
    """The ids given so far.  `changed` says that text() should be written."""

    def __init__(self, data: bytes = b"") -> None:
        """Lines that are none are skipped: a hash is stable without them."""
        self._ids: dict[tuple[str, bytes], int] = {}
        self._taken: dict[int, tuple[str, bytes]] = {}
        self.changed = False
        for line in data.splitlines()[:MAX_KEPT]:
            match = _LINE.fullmatch(line)
            if match:
                uuid = match.group(2).decode()
                self._put(int(match.group(1), 16), ("" if uuid == "-" else uuid, unescape_path(match.group(3))))

    def _put(self, number: int, key: tuple[str, bytes]) -> None:
        if number and number not in self._taken and key not in self._ids:
            self._ids[key] = number
            self._taken[number] = key

    def id_of(self, uuid: str, path: bytes) -> int:
        """The id of `path` in the file system `uuid`; never 0, never that of another directory."""
        key = (uuid, path)
        known = self._ids.get(key)
        if known:
            return known
        round_ = 0
        while True:
            number = hash_of(uuid, path, round_)
            if number and number not in self._taken:
                break
            round_ += 1
        self._forget_oldest()
        self._put(number, key)
        self.changed = True
        return number

    def _forget_oldest(self) -> None:
        if len(self._ids) >= MAX_KEPT:
            key = next(iter(self._ids))
            del self._taken[self._ids.pop(key)]

    def text(self) -> bytes:
        return b"".join(b"%08x %s %s\n" % (number, (uuid or "-").encode(), escape_path(path))
                        for (uuid, path), number in self._ids.items())


def hash_of(uuid: str, path: bytes, round_: int = 0) -> int:
    data = uuid.encode() + b"\0" + path + b"\0" + bytes([round_ & 0xFF]) * round_
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "big")
