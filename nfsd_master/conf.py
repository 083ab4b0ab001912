"""nfs.conf(5): macOS' `nfs.server.key = value` lines, and the [nfsd] section of Linux' nfs-utils; one file may hold both.

Only what nfsd itself decides is read; keys of other daemons are left alone, for the file is shared.  A value that cannot be, and
a key that is set twice to different values, is an error with file and line: a server must not start as something else than its
file says.  A key that no nfsd has is told in the log: it is a slip of the pen, or of a later version.
macOS: a key without value means 1, numbers in C notation; unlike there a 0 is a 0.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nfssvc_shim.state import N_SLOTS

from .options import MAX_VERBOSE, ConfError, UsageError, address

DEFAULT = "/etc/nfs.conf"
MAX_SIZE = 1 << 20       # bytes: nobody's configuration, and read before anything is checked
MAX_REMARKS = 10         # of a file that is something else altogether
MAX_SHOWN = 80           # characters of a key in a message

Value = int | bool | tuple[str, ...]


def load(path: str, *, must_exist: bool) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Fields of Options that the file sets, and remarks for the log.  Raises ConfError "file:line: what"."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError as exc:
        if must_exist:
            raise ConfError(f"{path}: {exc.strerror}") from exc
        return {}, ()
    except OSError as exc:
        raise ConfError(f"{path}: {exc.strerror}") from exc
    if len(data) > MAX_SIZE:
        raise ConfError(f"{path}: more than {MAX_SIZE} bytes")
    reader = _Reader(path)
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        reader.line(number, line)
    return reader.fields, tuple(reader.remarks[:MAX_REMARKS])


class _Reader:
    """What the lines so far say."""

    def __init__(self, path: str) -> None:
        self.fields: dict[str, Value] = {}
        self.remarks: list[str] = []
        self._path, self._section = path, ""
        self._lines: dict[str, int] = {}        # where each field was set

    def line(self, number: int, line: str) -> None:
        text = line.partition("#")[0].strip()
        if text.startswith("[") and text.endswith("]"):
            self._section = text[1:-1].strip().partition(" ")[0].lower()
        elif text and not text.startswith(";"):
            key, equals, value = (part.strip() for part in text.partition("="))
            try:
                self._set(number, key.lower(), value if equals else "1")
            except (ValueError, UsageError) as exc:
                raise ConfError(f"{self._path}:{number}: {_printable(key)}: {exc}") from exc

    def _set(self, number: int, key: str, value: str) -> None:
        found = _MACOS.get(key) if not self._section else _LINUX.get(key) if self._section == "nfsd" else None
        if found is None:
            self._remark(number, key)
            return
        field, read = found
        new = read(value)
        if self.fields.get(field, new) != new:
            raise ValueError(f"line {self._lines[field]} says something else")
        self.fields[field], self._lines[field] = new, number

    def _remark(self, number: int, key: str) -> None:
        ours = self._section == "nfsd" and key not in _LINUX_OTHERS
        if ours or (not self._section and not key.startswith(_OTHER_DAEMONS) and key not in _MACOS_OTHERS):
            self.remarks.append(f"{self._path}:{number}: {_printable(key)}: no such key; left alone")


def _printable(key: str) -> str:
    return ascii(key[:MAX_SHOWN])[1:-1]


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        number = int(value, 8 if value.startswith("0") and value.isdigit() and value != "0" else 0)
        if not low <= number <= high:
            raise ValueError(f"{value} is not from {low} to {high}")
        return number
    return read


def _flag(value: str) -> bool:
    word = value.lower()
    if word in ("1", "y", "yes", "true", "t", "on"):
        return True
    if word in ("0", "n", "no", "false", "f", "off"):
        return False
    raise ValueError(f"{value!r} is neither yes nor no")


def _hosts(value: str) -> tuple[str, ...]:
    return tuple(address(word) for word in value.replace(",", " ").split())


_MACOS: dict[str, tuple[str, Callable[[str], Value]]] = {
    "nfs.server.nfsd_threads": ("n_workers", _number(1, N_SLOTS)), "nfs.server.port": ("port", _number(0, 65535)),
    "nfs.server.tcp": ("tcp", _flag), "nfs.server.udp": ("udp", _flag),
    "nfs.server.verbose": ("verbose", _number(0, MAX_VERBOSE)),
}
_LINUX: dict[str, tuple[str, Callable[[str], Value]]] = {
    "threads": ("n_workers", _number(1, N_SLOTS)), "port": ("port", _number(0, 65535)), "tcp": ("tcp", _flag),
    "udp": ("udp", _flag), "host": ("binds", _hosts), "vers2": ("v2", _flag),
}
# Keys that others' nfsd have and ours has not, or that belong to daemons that read the same file.
_OTHER_DAEMONS = ("nfs.client.", "nfs.lockd.", "nfs.statd.", "nfs.server.mount.", "nfs.server.rquota.", "nfs.server.bonjour")
_MACOS_OTHERS = frozenset(f"nfs.server.{name}" for name in (
    "async", "reqcache_size", "request_queue_length", "require_resv_port", "export_hash_size", "fsevents", "user_stats",
    "wg_delay", "wg_delay_v3", "materialize_dataless_files"))
_LINUX_OTHERS = frozenset((
    "debug", "grace-time", "lease-time", "scope", "vers3", "vers4", "vers4.0", "vers4.1", "vers4.2", "rdma", "rdma-port",
    "min-threads", "pool-mode", "nfsdctl"))
