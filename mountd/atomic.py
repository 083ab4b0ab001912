"""Small state files: written beside and renamed, read with a limit; and how paths are written in them."""
from __future__ import annotations

import os
import re
from pathlib import Path

MAX_STATE = 32 << 20      # bytes read of a state file: 65,536 lines of 500
_UNSAFE = re.compile(rb"[\x00-\x20\\\x7f-\xff#]")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


def escape_path(path: bytes) -> bytes:
    """Blanks, controls, backslashes, '#' and non-ASCII as \\ooo: one word on one line."""
    return _UNSAFE.sub(lambda m: b"\\%03o" % m.group()[0], path)


def unescape_path(text: bytes) -> bytes:
    return _OCTAL.sub(lambda m: bytes([int(m.group(1), 8)]), text)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces `path` whole.  The directory must be the caller's own.  Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(fd)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_file(path: Path) -> bytes:
    """What is in `path`, b"" when there is no such file.  Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with os.fdopen(fd, "rb") as stream:
        return stream.read(MAX_STATE)
