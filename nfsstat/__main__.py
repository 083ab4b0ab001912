"""nfsstat(1): reads its options, asks the server, prints in the layout that was asked for.

Exit status: 0; 1 the server does not answer; 2 what this nfsstat cannot show; 64 usage.  Source: nfsstat(1) of macOS (the
default layout), 4.4BSD, FreeBSD, Linux.
"""
from __future__ import annotations

import errno
import getopt
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nfssvc_shim.call import nfssvc, places
from nfssvc_shim.flags import Nfssvc

from . import bsd, linux, macos, stats

USAGE = """usage: nfsstat [-s] [-e | -u | -E | -W | -L] [-3] [-n net | user] [-f JSON] [-w interval] [-z]
       nfsstat [--bsd | --freebsd | --linux | -l | --proc | --libxo json] [-o all]
       nfsstat top [-w interval] [-n net | user] [--rounds n]
       nfsstat prom | serve [--listen address:port] | check [--deadline seconds]"""
HEADER_EVERY = 20        # lines of -w
MAX_INTERVAL_S = 86_400
EX_USAGE = 64            # sysexits.h, as all our commands
DEFAULT_LISTEN = "127.0.0.1:9649"


class UsageError(Exception):
    """One line."""


@dataclass(frozen=True, slots=True)
class Options:
    """mode: server, exports, users, errors, workers, latency; layout: macos, bsd, freebsd, linux, list, proc."""

    mode: str = "server"
    layout: str = "macos"
    json: bool = False
    libxo: bool = False
    interval_s: int = 0
    rounds: int = 0
    zero: bool = False
    client: bool = False
    everything: bool = False
    listen: str = DEFAULT_LISTEN
    deadline_s: int = 5
    help: bool = False
    naming: macos.Naming = macos.Naming()  # noqa: RUF009 frozen


_MODES = {"-e": "exports", "-u": "users", "-E": "errors", "-W": "workers", "-L": "latency"}
_LAYOUTS = {"--bsd": "bsd", "--freebsd": "freebsd", "--linux": "linux", "-l": "list", "--proc": "proc", "--macos": "macos"}
_LONG = ["bsd", "freebsd", "linux", "proc", "macos", "libxo=", "listen=", "rounds=", "deadline=", "help"]


def parse(argv: list[str]) -> Options:
    """Raises UsageError.  As in macOS the last of -e -u -E wins."""
    try:
        pairs, rest = getopt.gnu_getopt(argv, "scEeuWL3vlzqw:n:f:o:", _LONG)
    except getopt.GetoptError as exc:
        raise UsageError(str(exc)) from exc
    if rest:
        raise UsageError(f"unexpected {rest[0]!r}")
    options = Options()
    for name, value in pairs:
        options = _set(options, name, value)
    return options


def _set(options: Options, name: str, value: str) -> Options:
    if name in _MODES:
        return replace(options, mode=_MODES[name])
    if name in _LAYOUTS:
        return replace(options, layout=_LAYOUTS[name])
    if name in _VALUES:
        return _VALUES[name](options, value)
    switches: dict[str, dict[str, bool]] = {"-z": {"zero": True}, "-c": {"client": True}, "-v": {"everything": True}}
    if name == "--help":
        return replace(options, help=True)
    return replace(options, **switches.get(name, {}))  # type: ignore[arg-type]


def _number(name: str, value: str, low: int, high: int) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not low <= int(value) <= high:
        raise UsageError(f"{name} {value!r} is not a number from {low} to {high}")
    return int(value)


def _naming(options: Options, value: str) -> Options:
    if value not in ("net", "user"):
        raise UsageError(f"-n {value!r} is not net or user")
    changed = {"net_numbers": True} if value == "net" else {"user_numbers": True}
    return replace(options, naming=replace(options.naming, **changed))  # type: ignore[arg-type]


def _format(options: Options, value: str) -> Options:
    if value.lower() != "json":
        raise UsageError(f"-f {value!r} is not JSON, the only format")
    return replace(options, json=True)


def _libxo(options: Options, value: str) -> Options:
    if value.split(",", 1)[0] != "json":
        raise UsageError(f"--libxo {value!r} is not json")
    return replace(options, libxo=True)


_VALUES: dict[str, Callable[[Options, str], Options]] = {
    "-w": lambda o, v: replace(o, interval_s=_number("-w", v, 1, MAX_INTERVAL_S)),
    "--rounds": lambda o, v: replace(o, rounds=_number("--rounds", v, 1, 1_000_000)),
    "--deadline": lambda o, v: replace(o, deadline_s=_number("--deadline", v, 1, 3600)),
    "--listen": lambda o, v: replace(o, listen=v),
    "-o": lambda o, v: replace(o, everything=o.everything or v == "all"),
    "-n": _naming, "-f": _format, "--libxo": _libxo,
}


# ---- one look

def show(options: Options) -> str:
    """Raises OSError, BadStats."""
    if options.mode == "exports":
        exports = stats.fetch_exports()
        return _json(macos.exports_object(exports)) if options.json else macos.exports_text(exports)
    if options.mode == "users":
        users = stats.fetch_users()
        return _json(macos.users_object(users, options.naming)) if options.json else macos.users_text(users, options.naming)
    return _show_server(options, stats.fetch_server())


def _show_server(options: Options, server: stats.Server) -> str:
    if options.libxo:
        return _json(bsd.libxo_object(server))
    objects: dict[str, Callable[[stats.Server], Any]] = {
        "server": macos.server_object, "errors": macos.errors_object,
        "workers": lambda s: {"Worker Info": macos.workers(s)}, "latency": lambda s: {"Latency": macos.latency(s)}}
    if options.json:
        return _json(objects[options.mode](server))
    texts: dict[str, Callable[[stats.Server], str]] = {
        "errors": macos.errors_text, "workers": macos.workers_text, "latency": macos.latency_text}
    layouts: dict[str, Callable[[stats.Server], str]] = {
        "macos": macos.server_text, "bsd": lambda s: bsd.server_text(s, freebsd=False),
        "freebsd": lambda s: bsd.server_text(s, freebsd=True), "list": linux.list_text, "proc": linux.proc_text,
        "linux": lambda s: linux.server_text(s, everything=options.everything)}
    return texts.get(options.mode, layouts[options.layout])(server)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


# ---- every N seconds

def watch(options: Options) -> None:
    """-w: the first line cumulative, then what came since; with -f JSON one object a line."""
    before: stats.Server | None = None
    for line in _count(options.rounds):
        server = stats.fetch_server()
        values = macos.interval_values(server, before)
        if options.json:
            print(json.dumps({"Server v3": values}))
        else:
            if line % HEADER_EVERY == 0:
                print(macos.interval_header())
            print(macos.interval_line(values))
        sys.stdout.flush()
        before = server
        if line + 1 != options.rounds:
            time.sleep(options.interval_s)


def watch_text(options: Options) -> None:
    """-w with another table: the table again."""
    for line in _count(options.rounds):
        print(show(options), flush=True)
        if line + 1 != options.rounds:
            time.sleep(options.interval_s)


def _count(rounds: int) -> range:
    return range(rounds or sys.maxsize)


# ---- words after nfsstat

def run_top(options: Options) -> None:
    from . import top  # noqa: PLC0415 rich is an extra, and slow to load

    top.run(options.interval_s or 2, options.naming, options.rounds)


def run_prom(options: Options) -> None:
    from . import prom  # noqa: PLC0415 prometheus-client is an extra

    sys.stdout.buffer.write(prom.exposition())


def run_serve(options: Options) -> None:
    from . import prom  # noqa: PLC0415

    host, _, port = options.listen.rpartition(":")
    listener = prom.make_listener(host.strip("[]") or "127.0.0.1", _number("--listen", port, 0, 65535))
    print(f"nfsstat: http://{options.listen.rpartition(':')[0]}:{listener.server_port}/metrics", flush=True)
    listener.serve_forever()


def run_check(options: Options) -> None:
    from . import check  # noqa: PLC0415

    print(check.check_all(options.deadline_s))


WORDS: dict[str, Callable[[Options], None]] = {"top": run_top, "prom": run_prom, "serve": run_serve, "check": run_check}


def run(argv: list[str]) -> int:
    """The exit status.  Raises OSError, UsageError."""
    if argv and argv[0] in WORDS:
        options = parse(argv[1:])
        print(USAGE) if options.help else WORDS[argv[0]](options)
        return 0
    options = parse(argv)
    if options.help:
        print(USAGE)
        return 0
    if options.client:
        print("nfsstat: this host's NFS client belongs to its kernel: see /proc/net/rpc/nfs", file=sys.stderr)
        return 2
    if options.zero:
        nfssvc(Nfssvc.ZEROSTATS)
        return 0
    if options.interval_s:
        (watch if options.mode == "server" else watch_text)(options)
        return 0
    print(show(options))
    return 0


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        return run(sys.argv[1:])
    except UsageError as exc:
        print(f"nfsstat: {exc}; see nfsstat --help", file=sys.stderr)
        return EX_USAGE
    except KeyboardInterrupt:
        return 0
    except stats.BadStats as exc:
        print(f"nfsstat: {exc}", file=sys.stderr)
    except ImportError as exc:
        print(f"nfsstat: {exc.name} is not installed (extras: screen, prometheus)", file=sys.stderr)
    except OSError as exc:
        print(f"nfsstat: {why(exc)}", file=sys.stderr)
    return 1


def why(exc: OSError) -> str:
    """What a person can do about it."""
    if exc.errno == errno.ENOSYS and os.environ.get("NFSSVC_SOCKET"):
        return f"no server answers at {places()[0]} ($NFSSVC_SOCKET)"
    if exc.errno == errno.ENOSYS:
        return (f"no server answers at {' or '.join(places())}; "
                "NFSSVC_SOCKET=DIR/nfssvc.sock asks the one of nfsd --statedir DIR")
    if exc.errno == errno.EPERM:
        return f"{exc.strerror}: that is for root and the user the server runs as"
    return str(exc.strerror or exc)


if __name__ == "__main__":
    sys.exit(main())
