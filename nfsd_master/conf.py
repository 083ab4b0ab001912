"""nfs.conf(5): macOS' `nfs.server.key = value` lines, and the [nfsd] section of Linux' nfs-utils; one file may hold both.

Only what nfsd itself decides is read; keys of other daemons and unknown ones are left alone, for the file is shared.  A value
that cannot be is an error with file and line: a server must not start as something else than its file says.
macOS: a key without value means 1, numbers in C notation; unlike there a 0 is a 0.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from nfssvc_shim.state import N_SLOTS

from .options import MAX_VERBOSE, UsageError, address

DEFAULT = "/etc/nfs.conf"
MAX_SIZE = 1 << 20       # bytes: nobody's configuration, and read before anything is checked

Value = int | bool | tuple[str, ...]


def load(path: str, *, must_exist: bool) -> dict[str, Value]:
    """Fields of Options that the file sets.  Raises UsageError "file:line: what"."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError as exc:
        if must_exist:
            raise UsageError(f"{path}: {exc.strerror}") from exc
        return {}
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    if len(data) > MAX_SIZE:
        raise UsageError(f"{path}: more than {MAX_SIZE} bytes")
    return parse(data.decode("utf-8", "surrogateescape").splitlines(), path)


def parse(lines: Iterable[str], path: str) -> dict[str, Value]:
    fields: dict[str, Value] = {}
    section = ""
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1].strip().partition(" ")[0].lower()
        elif text and not text.startswith(";"):
            key, equals, value = (part.strip() for part in text.partition("="))
            try:
                _set(fields, section, key.lower(), value if equals else "1")
            except (ValueError, UsageError) as exc:
                raise UsageError(f"{path}:{number}: {key}: {exc}") from exc
    return fields


def _set(fields: dict[str, Value], section: str, key: str, value: str) -> None:
    found = _MACOS.get(key) if not section else _LINUX.get(key) if section == "nfsd" else None
    if found is not None:
        field, read = found
        fields[field] = read(value)


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
