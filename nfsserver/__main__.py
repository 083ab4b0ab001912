"""python -I -m nfsserver: a worker of nfsd, started by the master; the nursery of the first ones; the maker of the handles' key.

    --slot N --channel-fd FD --state-fd FD --key FILE [--log syslog|stderr] [-v]...
    --nursery FD --key FILE [--log syslog|stderr] [-v]...
    --make-key FILE
"""
from __future__ import annotations

import logging
import os
import socket
import sys

from nfssvc_shim.channel import Channel
from oncrpc import logformat

from . import nursery
from ._vnode import lib
from .key import make_key, read_key
from .worker import MAX_OBJECTS, Worker

_MODES = {"--make-key": set[str](), "--nursery": {"--key"}, "--slot": {"--channel-fd", "--state-fd", "--key"}}  # and their needs
_WORDS = {"--make-key", "--nursery", "--slot", "--channel-fd", "--state-fd", "--key", "--log"}
_SWITCHES = {"--v2", "--no-acl"}   # answer NFS version 2, too; do not answer NFS_ACL
_NUMBERS = {"--slot", "--channel-fd", "--state-fd", "--nursery"}


class Options:
    """What the master asked for.  (argparse would cost each worker 8 ms and 1 MB.)"""

    def __init__(self, words: list[str]) -> None:
        self.words: dict[str, str] = {}
        self.switches: set[str] = set()
        self.verbose, self.harden = 0, True
        rest = iter(words)
        for word in rest:
            if word in _WORDS:
                self.words[word] = next(rest, "")
            elif word in _SWITCHES:
                self.switches.add(word)
            elif word == "--no-harden":  # keep privileges and core dumps, for debuggers
                self.harden = False
            elif word.startswith("-v") and not word.strip("-v"):
                self.verbose += len(word) - 1
            else:
                raise ValueError(f"unknown option {word!r}")
        missing = _MODES[next((mode for mode in _MODES if mode in self.words), "--slot")] - self.words.keys()
        if missing or not _MODES.keys() & self.words.keys():
            raise ValueError(f"{' '.join(sorted(missing)) or '--slot'} missing; workers are started by nfsd(8), not by hand")
        for word in _NUMBERS & self.words.keys():
            if not self.words[word].isdigit():
                raise ValueError(f"{word} needs a number, not {self.words[word]!r}")

    def number(self, word: str) -> int:
        return int(self.words[word])


def _set_title(title: str) -> None:
    """The name that ps(1) shows: the thread's, and the process's arguments (proc(5): arg_start, arg_end)."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(title[:15])
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split()
    lib.vn_set_title(int(fields[45]), int(fields[46]), title.encode())


class _Syslog(logging.Handler):
    """The system log, facility daemon.  Never waits: a log that is full loses lines, and says how many when it takes one again.

    (logging.handlers would bring pickle, queue and threads into each worker.)
    """

    _LEVELS = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))

    def __init__(self) -> None:
        super().__init__()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        severity = next(number for level, number in self._LEVELS if record.levelno >= level)
        lost = f" ({self._lost} lines lost before this)" if self._lost else ""
        text = f"<{3 << 3 | severity}>{self.format(record)}{lost}"
        try:
            self._sock.sendto(text.encode(), "/dev/log")
            self._lost = 0
        except OSError:
            self._lost += 1


def _log_to(where: str, slot: int, verbose: int) -> None:
    handler = _Syslog() if where == "syslog" else logformat.handler(where, f"nfsd: worker {slot}", sys.stderr)
    if where == "syslog":
        handler.setFormatter(logging.Formatter(f"nfsd: worker {slot}: %(message)s"))
    logging.basicConfig(handlers=[handler], level=max(logging.DEBUG, logging.WARNING - 10 * verbose))


def main() -> int:
    try:
        options = Options(sys.argv[1:])
        if "--make-key" in options.words:
            make_key(options.words["--make-key"])
            return 0
        if "--nursery" in options.words:
            channel = Channel(socket.socket(fileno=options.number("--nursery")))
            return nursery.serve(channel, options.words["--key"], lambda *born: _work(options, *born))
        return _work(options, *(options.number(word) for word in ("--slot", "--channel-fd", "--state-fd")))
    except (OSError, ValueError) as exc:
        print(f"nfsd: worker: {exc}", file=sys.stderr)
        return 1


def _may_setgroups() -> bool:
    """False for root of a user namespace with nobody else in it (user_namespaces(7)): it serves as itself, as a user does."""
    try:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            return file.read().strip() != "deny"
    except OSError:
        return True


def _work(options: Options, slot: int, channel_fd: int, state_fd: int) -> int:
    """A worker, until it is told to stop; the exit status."""
    key = read_key(options.words["--key"])
    _set_title(f"nfsd: worker {slot}")
    _log_to(options.words.get("--log", "syslog"), slot, options.verbose)
    channel = Channel(socket.socket(fileno=channel_fd))
    root = os.geteuid() == 0 and _may_setgroups()
    error = lib.vn_init(state_fd, slot, key, MAX_OBJECTS, root, options.harden)
    if error:
        print(f"nfsd: worker {slot}: start: {os.strerror(error)}", file=sys.stderr)
        return 1
    Worker(slot, channel, root=root, v2="--v2" in options.switches, acl="--no-acl" not in options.switches).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
