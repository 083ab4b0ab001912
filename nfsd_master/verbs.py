"""The verbs of macOS' nfsd(8): enable disable start stop restart update status checkexports verbose; and check, trace, share.

They find the running server by its call socket (STATUS names the master's pid), whatever pid file it was given; so they act
on the instance that the same options would start.  Exit status: 0 done, 1 not (not running, or cannot), 64 usage; status: 0 when
it runs; checkexports: the number of errors.
"""
from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import Any

from nfssvc_shim.channel import Channel
from nfssvc_shim.flags import Nfssvc
from oncrpc.client import Client
from oncrpc.xdr import XdrError

from . import rcconf
from .children import python
from .loop import Loop
from .options import Options, UsageError
from .paths import StartError, paths_of
from .register import Registrar, mappings_of, reserved_socket, served

CALL_S = 15.0            # workers that drain are waited for
STOP_S = 8.0             # nfsd promises 5
CHECK_S = 5.0
NFS_PROGRAM, MOUNT_PROGRAM, NFS_ACL_PROGRAM = 100003, 100005, 100227

Verb = Callable[[Options, list[str], list[str]], int]


def run_verb(options: Options, before: list[str], verb: list[str]) -> int:
    """`before`: the words before the verb, for verbs that start a server; `verb`: it and its words."""
    return _VERBS[verb[0]](options, before, verb[1:])


def _no_words(words: list[str]) -> None:
    if words:
        raise UsageError(f"unexpected {' '.join(words)!r}")


# ---- the running server

def call(options: Options, flag: Nfssvc, body: bytes = b"") -> bytes | None:
    """One call; None when no server runs.  Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(CALL_S)
        try:
            sock.connect(str(paths_of(options).socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as exc:
            raise StartError(f"{paths_of(options).socket}: {exc.strerror}") from exc
        try:
            return Channel(sock).call(flag, body)[0]
        except EOFError:
            return None


def status_of(options: Options) -> dict[str, Any] | None:
    body = call(options, Nfssvc.STATUS)
    return None if body is None else json.loads(body)


def _running(options: Options) -> dict[str, Any]:
    status = status_of(options)
    if status is None:
        raise StartError(f"not running: nobody answers on {paths_of(options).socket}")
    return status


def _signal(status: dict[str, Any], number: int) -> None:
    try:
        os.kill(status["pid"], number)
    except PermissionError as exc:
        raise StartError(f"pid {status['pid']}: {exc.strerror}") from exc


# ---- verbs

def _service() -> str:
    try:
        return f"nfsd service is {'enabled' if rcconf.is_enabled() else 'disabled'}"
    except OSError as exc:  # whether it runs can be said all the same
        return f"nfsd service: {rcconf.path()}: {exc.strerror}"


def do_status(options: Options, before: list[str], words: list[str]) -> int:
    """As macOS prints it; with -v each worker, and where it serves.  Exit status 0: it runs."""
    _no_words(words)
    print(_service())
    status = status_of(options)
    if status is None:
        print("nfsd is not running")
        return 1
    print(f"nfsd is running (pid {status['pid']}, {len(status['slots'])} workers)")
    if options.verbose:
        exports = "no export table yet" if status["exports"] is None else f"{status['exports']} exports"
        mountd = f"mountd pid {status['mountd']}" if status["mountd"] else "no mountd"
        print(f"port {status['port']}, {exports}, generation {status['generation']}, {mountd}")
        for slot in status["slots"]:
            state = "draining" if slot["draining"] else "serving" if slot["alive"] else "not answering"
            print(f"worker {slot['slot']}: pid {slot['pid']}, {slot['connections']} connections, {state}")
    return 0


def do_stop(options: Options, before: list[str], words: list[str]) -> int:
    _no_words(words)
    status = _running(options)
    fd = os.pidfd_open(status["pid"])
    try:
        _signal(status, signal.SIGTERM)
        if not select.select([fd], [], [], STOP_S)[0]:
            raise StartError(f"pid {status['pid']} does not stop")
    finally:
        os.close(fd)
    return 0


def do_start(options: Options, before: list[str], words: list[str]) -> int:
    """A server in the background with the options before the verb; 0 when it serves."""
    _no_words(words)
    if status_of(options) is not None:
        raise StartError(f"already running: pid {_running(options)['pid']}")
    return subprocess.run(python("nfsd_master.nfsd", *before), check=False).returncode


def do_restart(options: Options, before: list[str], words: list[str]) -> int:
    _no_words(words)
    if status_of(options) is not None:
        do_stop(options, before, [])
    return do_start(options, before, [])


def do_update(options: Options, before: list[str], words: list[str]) -> int:
    """Registers again; with -n changes the number of workers while it runs."""
    _no_words(words)
    return update(options)


def update(options: Options) -> int:
    status = _running(options)
    if "-n" in options.given:
        try:
            call(options, Nfssvc.WORKERS, struct.pack(">I", options.n_workers))
        except OSError as exc:
            raise StartError(f"{options.n_workers} workers: {exc.strerror}") from exc
    _signal(status, signal.SIGHUP)
    return 0


def do_verbose(options: Options, before: list[str], words: list[str]) -> int:
    """`verbose up|down ...`: USR1, USR2.  One call a word, for signals of one kind merge."""
    steps = {"up": 1, "down": -1}
    if not words or any(word not in steps for word in words):
        raise StartError(f"verbose: up or down, not {' '.join(words) or 'nothing'!r}")
    _running(options)
    try:
        call(options, Nfssvc.VERBOSE, struct.pack(">i", sum(steps[word] for word in words)))
    except OSError as exc:
        raise StartError(f"verbose: {exc.strerror}") from exc
    return 0


def do_checkexports(options: Options, before: list[str], words: list[str]) -> int:
    """mountd's own check; the exit status is the number of errors (125 at the most)."""
    files = [word for word in words if word != "-F"]
    if any(word.startswith("-") for word in files):
        raise UsageError(f"checkexports [-F] [file...], not {' '.join(words)!r}")
    return subprocess.run(python("mountd", "-T", *files), check=False).returncode


def do_enable(options: Options, before: list[str], words: list[str]) -> int:
    _no_words(words)
    return _mark(True)


def do_disable(options: Options, before: list[str], words: list[str]) -> int:
    _no_words(words)
    return _mark(False)


def _mark(enabled: bool) -> int:
    try:
        rcconf.set_enabled(enabled)
    except OSError as exc:
        raise StartError(f"{rcconf.path()}: {exc.strerror}") from exc
    return 0


def do_check(options: Options, before: list[str], words: list[str]) -> int:
    """Is it well?  The call socket, every worker, the export table, and NULL calls of NFS and MOUNT; a line each."""
    _no_words(words)
    status = _running(options)
    port, good = status["port"], True
    dead = [slot["slot"] for slot in status["slots"] if not slot["alive"]]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("workers", lambda: f"{dead} do not answer" if dead else ""),
        ("export table", lambda: "" if status["exports"] is not None else "none yet: is mountd running?"),
    ]
    host = _loopback_of(status["addresses"])
    if status["tcp"]:
        checks.append((f"NFS tcp {port}", lambda: _null(Client.tcp, host, port, NFS_PROGRAM)))
    if status["udp"]:
        checks.append((f"NFS udp {port}", lambda: _null(Client.udp, host, port, NFS_PROGRAM)))
    if status["tcp"] and status["mountd"]:
        checks.append((f"MOUNT tcp {port}", lambda: _null(Client.tcp, host, port, MOUNT_PROGRAM)))
    for name, check in checks:
        why = check()
        good = good and not why
        print(f"{'ok' if not why else 'BAD':4} {name}{': ' if why else ''}{why}")
    return 0 if good else 1


def _loopback_of(addresses: list[str]) -> str:
    """An address to ask: the first that is bound, the loopback for a wildcard."""
    host = addresses[0].rpartition(":")[0].strip("[]") if addresses else "127.0.0.1"
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _null(connect: Callable[..., Client], host: str, port: int, program: int) -> str:
    try:
        with connect((host, port), program, 3, timeout_s=CHECK_S) as client:
            client.call(0)
    except (OSError, XdrError, EOFError, ValueError) as exc:
        return str(exc) or type(exc).__name__
    return ""


def do_share(options: Options, before: list[str], words: list[str]) -> int:
    from .share import share  # noqa: PLC0415 loads the whole of unfsd
    return share(words)


def do_trace(options: Options, before: list[str], words: list[str]) -> int:
    from .trace import run  # noqa: PLC0415 loaded by nobody else
    return run(options, words)


def unregister(options: Options) -> int:
    """-d, as FreeBSD: takes our program out of the portmapper and exits; a running server registers again, so there is none."""
    status = status_of(options)
    if status is not None:
        raise StartError(f"pid {status['pid']} is running and would register again; stop it, which unregisters")
    loop = Loop()
    with reserved_socket(options.portmap_port) as sock:
        mappings = mappings_of(served(v2=options.v2, acl=options.acl), options.port, tcp=options.tcp, udp=options.udp,
                               families=options.families)
        registrar = Registrar(loop, sock, mappings)
        registrar.end(loop.stop)
        loop.run()
        if not registrar.heard:
            raise StartError(f"no port mapper answers at 127.0.0.1 port {options.portmap_port}")
    return 0


_VERBS: dict[str, Verb] = {
    "status": do_status, "start": do_start, "stop": do_stop, "restart": do_restart, "update": do_update, "verbose": do_verbose,
    "checkexports": do_checkexports, "enable": do_enable, "disable": do_disable, "check": do_check, "share": do_share,
    "trace": do_trace,
}
