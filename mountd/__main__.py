"""mountd(8): serves MOUNT, and tells the server by nfssvc(2) what is exported to whom.

    mountd [-dnlTtv] [-p port] [-h bindip]... [-i pidfile] [--relay-only] [--no-portmap] ... [exportsfile ...]
    mountd why CLIENT PATH [USER] [exportsfile ...]
    mountd convert --to bsd|linux|json [exportsfile ...]

Exit status: 0 after TERM or INT; 1 when it cannot start (one line says why); 64 for a wrong option; -T: the number of errors.
"""
from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from . import alone, convert, exports, lint, logs, why
from .options import Options, parse
from .privsep import missing_rights, set_title, unprivileged_user
from .service import Service
from .sockets import Sockets, bind_all

log = logging.getLogger(__name__)


class StartError(Exception):
    """mountd cannot start; the text says what and where."""


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    verbs: dict[str, Callable[[list[str]], int]] = {"why": why.main, "convert": convert.main}
    if words and words[0] in verbs:
        return verbs[words[0]](words[1:])
    options = parse(words)
    if options.test:
        return lint.check(options)
    try:
        return _serve(options)
    except StartError as exc:
        print(f"mountd: {exc}", file=sys.stderr)
        return 1


def _serve(options: Options) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop takes it: HUP never kills
    parsed = exports.load(options.exports(), options.dialect)
    for diagnostic in parsed.diagnostics:
        print(f"mountd: {diagnostic}", file=sys.stderr)
    if len(parsed.errors) > 1:
        raise StartError(f"{len(parsed.errors)} errors in the exports; nothing is served")
    if parsed.errors:
        return 1
    _check_user()
    _make_statedir(options.statedir)
    locked = [_take(Path(options.pidfile) if options.pidfile else None), _take(options.statedir / alone.LOCK)]
    _check_server(options.socket)
    sockets = _bind(options)
    if not options.debug:
        _detach(options)
    logs.set_up(options.log, logging.DEBUG if options.verbose > 1 else logging.INFO)
    set_title("mountd: privileged")
    for line in missing_rights():
        logging.getLogger(__name__).warning("%s", line)
    for fd in locked:
        if fd >= 0:
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    for address in sorted(sockets.absent):
        log.warning("%s is no address of this machine now; it is served when it is", address)
    service = Service(options, sockets, parsed.entries)
    service.start()
    service.loop.run()
    service.end()
    if options.pidfile:
        Path(options.pidfile).unlink(missing_ok=True)
    return 0


def _check_user() -> None:
    """Root needs somebody to become: better not to start than to serve strangers as root."""
    if os.geteuid() == 0:
        try:
            unprivileged_user()
        except LookupError as exc:
            raise StartError(str(exc)) from None


def _bind(options: Options) -> Sockets:
    if not options.listen:
        return Sockets()
    try:
        return bind_all(options.port, options.hosts, options.transports)
    except OSError as exc:
        raise StartError(f"cannot bind {exc.strerror}") from None


def _make_statedir(path: Path) -> None:
    """The directory of the state files.  Another user who could write there could have us write anywhere."""
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}") from None
    if info.st_uid != os.geteuid() or info.st_mode & 0o002:
        raise StartError(f"{path}: must belong to uid {os.geteuid()} and not be writable for everyone")


def _take(path: Path | None) -> int:
    """The locked file `path`, -1 without one; StartError names who holds it."""
    try:
        return -1 if path is None else alone.lock(path)
    except alone.Taken as exc:
        raise StartError(str(exc)) from None
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}") from None


def _check_server(path: str) -> None:
    try:
        alone.check_server(path)
    except alone.Taken as exc:
        raise StartError(str(exc)) from None


def _detach(options: Options) -> None:
    """Into the background; what could go wrong at start has gone wrong before."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd != options.ready_fd:
            os.dup2(null, fd)
    os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
