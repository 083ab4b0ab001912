"""The options of nfsd(8), read as BSD's and macOS' nfsd read them.

`nfsd [-46Fdrtuv] [-h bindip]... [-n num] [-p port] [-P pidfile] [num]`, long options beside them.  A bare number at the end is
the count, as in 4.4BSD (`nfsd -tun 4`).  -t and -u: either alone switches the other off; none or both: both (macOS, NetBSD).
"""
from __future__ import annotations

import getopt
import ipaddress
import os
from collections.abc import Container
from dataclasses import dataclass, replace

from nfssvc_shim.state import N_SLOTS
from oncrpc.logformat import FORMATS

NFS_PORT = 2049
DEFAULT_WORKERS = 4      # 4.4BSD, OpenBSD, NetBSD
MAX_BINDS = 32           # -h options: each costs a listener and a UDP socket for every worker
MAX_VERBOSE = 3          # debug, as macOS counts

USAGE = ("usage: nfsd [-46Fdrtuv] [-h bindip]... [-n num] [-p port] [-P pidfile] [-V 2] [--no-acl] [--statedir dir] "
         "[--socket path] "
         "[--key file] [--user name] [--ready-fd n] [--log syslog|stderr|json] [--no-portmap] [--conf file] [num]\n"
         "       nfsd [options] enable|disable|start|stop|restart|update|status|check|verbose up|down|checkexports [file]\n"
         "       nfsd [options] trace [--client addr[/bits]] [--export path] [--user uid] [-c count] [--seconds s] [-s snap]\n"
         "                            [--json | --pcapng file]\n"
         "       nfsd share dir... [--rw] [--to client] [--as user] [--port n]")

VERBS = ("status", "start", "stop", "restart", "update", "verbose", "checkexports", "enable", "disable", "check", "trace",
         "share")

_SHORT = "46Fadertuvh:n:p:P:V:"
_LONG = ["statedir=", "socket=", "key=", "ready-fd=", "user=", "log=", "no-portmap", "foreground", "debug", "help", "version",
         "portmap-port=", "conf=", "no-acl"]


class UsageError(Exception):
    """The command line cannot be understood; its text is one line."""


class ConfError(UsageError):
    """The configuration file cannot; its text names file and line."""


@dataclass(frozen=True, slots=True)
class Options:
    """What nfsd was asked to do.  None: the default place, worked out in paths.py; paths are absolute."""

    n_workers: int = DEFAULT_WORKERS
    binds: tuple[str, ...] = ()      # numeric addresses; empty: the wildcard of each family
    port: int = NFS_PORT             # 0: the kernel chooses
    tcp: bool = True
    udp: bool = True
    families: str = "46"
    foreground: bool = False
    register: bool = True            # with the portmapper
    action: str = "serve"            # or: register (-r), unregister (-d), help, version
    verbose: int = 0
    log: str = ""                    # syslog, stderr or json (to stderr); empty: stderr in the foreground, else syslog
    pidfile: str | None = None
    statedir: str | None = None
    socket: str | None = None
    key: str | None = None
    user: str | None = None
    ready_fd: int = -1
    portmap_port: int = 111
    v2: bool = False                 # NFS version 2 is answered, too
    acl: bool = True                 # NFS_ACL is answered
    given: frozenset[str] = frozenset()   # names of the options on the command line
    remarks: tuple[str, ...] = ()         # about the configuration file, for the log

    @property
    def log_where(self) -> str:
        return self.log or ("stderr" if self.foreground else "syslog")

    @property
    def log_verbose(self) -> int:
        """Somebody who watches in the foreground wants to see that it started; who waits on --ready-fd says so himself."""
        return min(self.verbose + (self.foreground and self.ready_fd < 0), MAX_VERBOSE)


def split(argv: list[str], verbs: Container[str]) -> tuple[list[str], list[str]]:
    """Words before the first that is no option, and from it on, when that one is a verb; else all and none."""
    try:
        _, rest = getopt.getopt(argv, _SHORT, _LONG)
    except getopt.GetoptError as exc:
        raise UsageError(str(exc)) from exc
    if rest and rest[0] in verbs:
        return argv[:len(argv) - len(rest)], rest
    return argv, []


def conf_of(argv: list[str]) -> str | None:
    """The last --conf; None: none is given.  The other options are not looked at."""
    pairs, _ = getopt.gnu_getopt(argv, _SHORT, _LONG)
    return dict(pairs).get("--conf")


def parse(argv: list[str], base: Options | None = None) -> Options:
    """`base` (the configuration file's) with the options of the words after the program's name.  Raises UsageError."""
    try:
        pairs, rest = getopt.gnu_getopt(argv, _SHORT, _LONG)
    except getopt.GetoptError as exc:
        raise UsageError(str(exc)) from exc
    options, only = base or Options(), set[str]()
    if any(name == "-h" for name, _ in pairs):
        options = replace(options, binds=())
    options = replace(options, given=frozenset(name for name, _ in pairs) | ({"-n"} if rest else set()))
    for name, value in pairs:
        if name in ("-t", "-u", "-4", "-6"):
            only.add(name[1])
        else:
            options = _set(options, name, value)
    if len(rest) > 1:
        raise UsageError(f"one count at the most, not {' '.join(rest)!r}")
    if rest:
        options = replace(options, n_workers=_count(rest[0]))
    return _with_only(options, only)


def _count(word: str) -> int:
    if not word.isdigit():
        raise UsageError(f"{word!r} is neither a verb nor a number of workers")
    return number(word, "count", 1, N_SLOTS)


def _with_only(options: Options, only: set[str]) -> Options:
    if only & {"t", "u"}:
        options = replace(options, tcp="t" in only, udp="u" in only)
    if not options.tcp and not options.udp:
        raise UsageError("neither TCP nor UDP is left")
    return replace(options, families="".join(sorted(only & {"4", "6"} or {"4", "6"})))


_PLAIN = {"--statedir": "statedir", "--socket": "socket", "--key": "key", "--user": "user", "-P": "pidfile"}
_SWITCH: dict[str, dict[str, object]] = {
    "-F": {"foreground": True}, "--foreground": {"foreground": True}, "--debug": {"foreground": True, "verbose": MAX_VERBOSE},
    "-r": {"action": "register"}, "-d": {"action": "unregister"}, "--help": {"action": "help"},
    "--version": {"action": "version"}, "--no-portmap": {"register": False},
    "--no-acl": {"acl": False}, "-a": {}, "-e": {},
}
_NUMBER = {"-n": ("n_workers", "count", 1, N_SLOTS), "-p": ("port", "port", 0, 65535),
           "--ready-fd": ("ready_fd", "descriptor", 0, 1 << 20), "--portmap-port": ("portmap_port", "port", 1, 65535)}


def _set(options: Options, name: str, value: str) -> Options:
    """`options` with one more option in force."""
    changes: dict[str, object]
    if name in _PLAIN:
        if not value or "\0" in value:
            raise UsageError(f"option {name} needs a value")
        changes = {_PLAIN[name]: value if name == "--user" else os.path.abspath(value)}
    elif name in _NUMBER:
        field, what, low, high = _NUMBER[name]
        changes = {field: number(value, f"{name} {what}", low, high)}
    elif name == "-h":
        changes = {"binds": (*options.binds, address(value))}
    elif name == "-v":
        changes = {"verbose": min(options.verbose + 1, MAX_VERBOSE)}
    elif name == "-V":
        changes = {"v2": options.v2 or _one_of(name, value, ("2", "3")) == "2"}
    elif name == "--log":
        changes = {"log": _one_of(name, value, FORMATS)}
    elif name == "--conf":
        changes = {}
    else:
        changes = _SWITCH[name]
    changed: Options = replace(options, **changes)  # type: ignore[arg-type]
    if len(changed.binds) > MAX_BINDS:
        raise UsageError(f"more than {MAX_BINDS} -h options")
    return changed


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{name} {value!r} is not {' or '.join(allowed)}")
    return value


def number(text: str, what: str, low: int, high: int) -> int:
    """A decimal number from `low` to `high`.  Raises UsageError."""
    if not text.isascii() or not text.isdigit() or not low <= int(text[:10]) <= high or len(text) > 9:
        raise UsageError(f"{what} {text!r} is not a number from {low} to {high}")
    return int(text)


def address(text: str) -> str:
    """A numeric IPv4 or IPv6 address; names are not looked up: what a name means may change, what was bound does not."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise UsageError(f"bind address {text!r} is not an IPv4 or IPv6 address") from exc
