"""Where an exported directory lies: its real path, the root of its file system, and the file system's UUID.

Duty: the only look at the disk that making a table needs.  Called by `table` through `locate`, at load only: a symbolic link
that changes later has no effect until the next load.
"""
from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_BY_UUID = Path("/dev/disk/by-uuid")


@dataclass(frozen=True, slots=True)
class Place:
    """path is real and absolute; fspath is the mount point it lies in; uuid "" where the file system has none that udev knows."""

    path: bytes
    fspath: bytes
    uuid: str = ""
    mode: int = 0

    @property
    def exppath(self) -> bytes:
        return self.path[len(self.fspath.rstrip(b"/")) + 1:]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class FileSystems:
    """The mount points and UUIDs of one moment."""

    def __init__(self, mounts: Mapping[bytes, str], uuids: Mapping[str, str]) -> None:
        """mounts: mount point -> "major:minor"; uuids: "major:minor" -> UUID."""
        self._mounts = mounts
        self._uuids = uuids
        self._real: dict[bytes, bytes] = {}    # real paths of directories that exports lie in: there are few
        self._roots: dict[bytes, bytes] = {}   # and the roots of their file systems

    @classmethod
    def now(cls) -> "FileSystems":
        """Raises OSError when /proc is not there."""
        return cls(read_mounts(Path("/proc/self/mountinfo").read_bytes()), _read_uuids())

    def _root_of(self, path: bytes) -> bytes:
        while path != b"/" and path not in self._mounts:
            path = os.path.dirname(path)
        return path

    def is_mount_point(self, path: bytes) -> bool:
        return path in self._mounts

    def locate(self, path: bytes) -> Place:
        """Raises OSError when `path` does not exist or may not be looked at."""
        head, slash, name = path.rpartition(b"/")
        parent = self._real.get(head)
        if parent is None:
            parent = self._real[head] = os.path.realpath(head or b"/", strict=True)
        real = parent.rstrip(b"/") + slash + name if name else parent
        mode = os.lstat(real).st_mode
        if stat.S_ISLNK(mode):
            real = os.path.realpath(real, strict=True)
            mode = os.lstat(real).st_mode
        return self.place(real, mode)

    def place(self, real: bytes, mode: int) -> Place:
        """Where `real`, a path without symbolic links, lies."""
        fspath = real
        if real not in self._mounts:
            parent = os.path.dirname(real)
            fspath = self._roots.get(parent) or self._roots.setdefault(parent, self._root_of(parent))
        return Place(real, fspath, self._uuids.get(self._mounts.get(fspath, ""), ""), mode)


def read_mounts(mountinfo: bytes) -> dict[bytes, str]:
    """Mount points of /proc/self/mountinfo with their devices; later mounts hide earlier ones.  Source: proc(5)."""
    mounts: dict[bytes, str] = {}
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        if len(fields) > 5:
            mounts[_OCTAL.sub(lambda m: bytes([int(m.group(1), 8)]), fields[4])] = fields[2].decode("ascii", "replace")
    return mounts


def _read_uuids() -> dict[str, str]:
    uuids: dict[str, str] = {}
    try:
        links = list(_BY_UUID.iterdir())
    except OSError:  # no udev here, as in containers
        return uuids
    for link in links:
        try:
            device = link.stat().st_rdev
        except OSError:  # the disk went away between the two calls
            continue
        uuids[f"{os.major(device)}:{os.minor(device)}"] = link.name.lower()
    return uuids
