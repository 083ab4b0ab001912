"""Exports files as a whole: which dialect, which files, and what only the lines together show.

Duty: `parse_text` chooses the parser by a first look; `load` reads the files (the only function here that does) and checks across
lines: one client twice in a directory with different options is an error that names both places.
"""
from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from . import exports_bsd, exports_linux
from .exports_model import MAX_FILE, Client, Dialect, Entry, Parsed, Where, printable

DEFAULT_FILE = "/etc/exports"
DEFAULT_DIRECTORY = "/etc/exports.d"

_ONLY_BSD = re.compile(r"^[ \t]*V4:|^[ \t]*/[^ \t]*[ \t]+/", re.M)
_DASH_GROUP = re.compile(r"(?<=[ \t])-([^ \t]+)")
_BSD_NAMES = frozenset((
    "maproot", "mapall", "root", "r", "o", "alldirs", "network", "net", "n", "mask", "m", "kerb", "k", "quiet", "public",
    "webnfs", "index", "32bitclients", "manglednames", "offline", "fspath", "fsuuid", "tls", "tlscert", "tlscertuser",
    "noresvport", "noresvmnt", "ro", "sec",
))


def guess_dialect(text: str) -> Dialect:
    """The dialect of a file, never of a line.

    A parenthesis, a lone `*` or `@group`: Linux.  A word that begins with "-" and names BSD options, two directories on a line,
    `V4:`: BSD.  None of these: Linux, where rights are fewer (ro, not rw).  Quotes: Linux, unless an option is BSD's alone (macOS
    has quotes too); what is in them tells nothing.
    """
    plain = re.sub(r"\\\n", "", text)
    plain = re.sub(r"^[ \t]*#.*$|[ \t]#.*$", "", plain, flags=re.M)
    bare = re.sub(r'"[^"\n]*"?', '""', plain)
    if re.search(r"\(|(?<=[ \t])(\*|@)", bare):
        return Dialect.LINUX
    names = {option.partition("=")[0] for group in _DASH_GROUP.findall(bare) for option in group.split(",")}
    if bare != plain or not names <= _BSD_NAMES:
        return Dialect.BSD if names & (_BSD_NAMES - {"ro", "sec"}) else Dialect.LINUX
    return Dialect.BSD if names or _ONLY_BSD.search(plain) else Dialect.LINUX


def parse_text(data: bytes, file: str, dialect: Dialect | None = None) -> Parsed:
    """The entries of one file; `dialect` None: guessed."""
    parsed = _parse_one(data, file, dialect)
    check_together(parsed)
    return parsed


def default_files() -> list[str]:
    """/etc/exports, and /etc/exports.d/*.exports in the order of their names, those that begin with a dot left out."""
    extra = Path(DEFAULT_DIRECTORY)
    try:
        names = sorted(name for name in os.listdir(extra) if name.endswith(".exports") and not name.startswith("."))
    except FileNotFoundError:
        names = []
    return [DEFAULT_FILE, *(str(extra / name) for name in names)]


def load(files: Sequence[str], dialect: Dialect | None = None) -> Parsed:
    """All entries of `files`.  A file that cannot be read is an error, but one missing file beside others is only a warning."""
    whole = Parsed()
    missing = [file for file in files if not os.path.lexists(file)]
    if len(missing) == len(files):
        whole.error(Where(files[0], 1), "no such file", "an exports file; an empty one exports nothing")
        return whole
    for file in files:
        try:
            whole.extend(_parse_one(_read(file), file, dialect))
        except FileNotFoundError:
            whole.warn(Where(file, 1), "no such file")
        except OSError as exc:
            whole.error(Where(file, 1), f"cannot be read: {exc.strerror}")
    check_together(whole)
    return whole


def _parse_one(data: bytes, file: str, dialect: Dialect | None) -> Parsed:
    chosen = dialect or guess_dialect(data[:MAX_FILE].decode("utf-8", "surrogateescape"))
    return exports_bsd.parse(data, file) if chosen is Dialect.BSD else exports_linux.parse(data, file)


def _read(file: str) -> bytes:
    """The file's bytes.  Only regular files: a fifo would block, a directory has none."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as stream:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "not a regular file")
        return stream.read(MAX_FILE + 1)


def check_together(parsed: Parsed) -> None:
    """Errors for one client twice in one directory with different options, and for options of a directory that contradict."""
    first: dict[tuple[bytes, object], tuple[Entry, int]] = {}
    passwords: dict[bytes, tuple[bytes, Where]] = {}
    for entry in parsed.entries:
        for index, client in enumerate(entry.clients):
            before = first.setdefault((entry.path, client.key), (entry, index))
            if before != (entry, index):
                _duplicate(parsed, entry, before[0].clients[before[1]], client)
            password = passwords.setdefault(entry.path, (client.options.password, client.where))
            if password[0] != client.options.password:
                parsed.error(client.where, f"{printable(entry.path)} has another password at {password[1]}",
                             "one password for all clients of a directory")


def _duplicate(parsed: Parsed, entry: Entry, before: Client, again: Client) -> None:
    what = f"{printable(again.text)} is already a client of {printable(entry.path)} at {before.where}"
    if before.options == again.options:
        parsed.warn(again.where, what)
    else:
        parsed.error(again.where, what + " with other options", "one entry for each client")
