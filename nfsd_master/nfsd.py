"""nfsd(8): reads the command line, opens everything, detaches, and becomes the master.

Exit status: 0 stopped by a signal; 1 cannot start; 2 another nfsd runs here, or a port is taken; 64 usage (sysexits.h).
Started by the administrator, rc.d/nfsd, systemd, or unfsd(8).
"""
from __future__ import annotations

import errno
import os
import pwd
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import prctl

from nfssvc_shim.state import N_SLOTS, S_PID, State, open_state

from . import VERSION, capability, conf, log
from .children import python
from .detach import Detached, detach
from .master import Config, Master
from .nursery import Nursery
from .options import USAGE, VERBS, ConfError, Options, UsageError, conf_of, parse, split
from .paths import Paths, StartError, check_parent, make_private, paths_of
from .pidfile import PidFile
from .register import reserved_socket
from .sdnotify import Notifier, inherited_sockets
from .settings import Settings
from .sockets import Sockets, adopt_sockets, open_sockets

EX_USAGE = 64
ORPHANS_S = 3.0          # workers of a master that was killed finish the request in hand within 2 s
CALL_BACKLOG = 128
MAX_DESCRIPTORS = 1 << 18  # of a process: some containers allow 10^9, and who closes all of them waits
CONTROL_USERS = ("_nfsd", "daemon")

WorkerCommand = Callable[[int], list[str]]


def main(argv: Sequence[str] | None = None, *, worker: WorkerCommand | None = None) -> int:
    """worker: the command of a slot's worker, for tests that bring their own."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        before, verb = split(words, VERBS)
        if "--help" in verb and verb[0] != "share":  # which has a text of its own
            print(USAGE)
            return 0
        options = options_of(before)
        return _run_verb(options, before, verb) if verb else _run(options, worker)
    except UsageError as exc:
        print(f"nfsd: {exc}{'' if isinstance(exc, ConfError) else '; see nfsd --help'}", file=sys.stderr)
        return EX_USAGE
    except StartError as exc:
        if str(exc):
            print(f"nfsd: {exc}", file=sys.stderr)
        return exc.status


def _run_verb(options: Options, before: list[str], verb: list[str]) -> int:
    from .verbs import run_verb  # noqa: PLC0415 nothing of it is needed to serve, and a start should be quick
    return run_verb(options, before, verb)


def options_of(words: list[str]) -> Options:
    """The configuration file's, then the command line's: flags win.  Raises UsageError."""
    parse(words)  # a wrong word is wrong whatever the file says
    named = conf_of(words)
    fields, remarks = conf.load(named or conf.DEFAULT, must_exist=named is not None)
    return parse(words, replace(Options(), remarks=remarks, **fields))  # type: ignore[arg-type]


def _run(options: Options, worker: WorkerCommand | None) -> int:
    if options.action == "help":
        print(USAGE)
        return 0
    if options.action == "version":
        print(f"nfsd {VERSION}")
        return 0
    if options.action in ("register", "unregister"):
        from . import verbs  # noqa: PLC0415 as above
        return verbs.update(options) if options.action == "register" else verbs.unregister(options)
    return serve(options, worker)


def serve(options: Options, worker: WorkerCommand | None = None) -> int:
    """Starts and runs until stopped; returns the exit status.  Raises StartError with nothing left behind."""
    _check(options)
    notifier, given = Notifier(), inherited_sockets()
    detached = None if options.foreground or given else detach()
    _raise_descriptor_limit()
    _end_early()
    log.setup(options.log or "stderr", options.log_verbose, ident="nfsd: master")
    for remark in options.remarks:
        log.logger.warning("%s", remark)
    paths = paths_of(options)
    make_private(paths.statedir, mode=0o755 if os.geteuid() == 0 else 0o700)
    pidfile = PidFile(paths.pidfile)
    try:
        output = -1 if detached is None else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        with ExitStack() as undo:
            nursery = None if worker else _start_nursery(options, paths, output, undo)
            opened = _open_all(options, paths, given, undo)
            config = _config(options, paths, opened, worker)
            config.output, config.nursery = output, nursery
            config.on_ready = lambda: _ready(options, opened.sockets.port, detached, notifier)
            config.notifier = notifier
            prctl.set_proctitle("nfsd: master")
            prctl.set_name("nfsd: master")
            return Master(config).run()
    finally:
        pidfile.remove()


def _check(options: Options) -> None:
    """What can be seen to be wrong before anything is made.  Raises StartError, UsageError."""
    stuck = capability.identity_is_stuck()
    if stuck:
        raise StartError(f"{stuck} missing: root needs it to run each call as its caller; an ordinary user does not")
    try:
        pwd.getpwnam(options.user or control_user())
    except KeyError:
        raise StartError(f"--user: no user {options.user!r}") from None
    try:
        if options.ready_fd >= 0:
            os.fstat(options.ready_fd)
    except OSError:
        raise UsageError(f"--ready-fd: descriptor {options.ready_fd} is not open") from None


def _start_nursery(options: Options, paths: Paths, output: int, undo: ExitStack) -> Nursery:
    """First of all: it loads what workers need while we bind."""
    try:
        paths.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        nursery = Nursery(nursery_command(options, paths), output=output)
    except OSError as exc:
        raise StartError(f"key {paths.key}: {exc.strerror}") from exc
    undo.callback(nursery.end)
    return nursery


def _end_early() -> None:
    """TERM before the master listens to signals: what is open is closed and removed on the way out."""
    def end(number: int, frame: object) -> None:
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What ends us early waits: between a file and the promise to remove it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_descriptor_limit() -> None:
    """What we may have, for the workers: a connection, a handle kept open and a directory listing each cost one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@dataclass(frozen=True, slots=True)
class _Opened:
    """Everything that is open before the first child starts."""

    sockets: Sockets
    state_fd: int
    call_socket: socket.socket
    exports_fd: int
    pmap: socket.socket


def _open_all(options: Options, paths: Paths, given: list[socket.socket], undo: ExitStack) -> _Opened:
    """`undo` closes and removes it again; `given` sockets take the place of our own.  Raises StartError."""
    state_fd = _open_state(paths.state)
    undo.callback(os.close, state_fd)
    end_orphans(state_fd)
    sockets = adopt_sockets(given) if given else open_sockets(options)
    undo.callback(sockets.close)
    with _undisturbed():
        call_socket = undo.enter_context(open_call_socket(paths.socket))
        undo.callback(paths.socket.unlink, missing_ok=True)
    exports_fd = _open_exports(paths.exports)
    undo.callback(os.close, exports_fd)
    return _Opened(sockets, state_fd, call_socket, exports_fd, undo.enter_context(reserved_socket(options.portmap_port)))


def _config(options: Options, paths: Paths, opened: _Opened, worker: WorkerCommand | None) -> Config:
    user = options.user or control_user()
    return Config(
        sockets=opened.sockets, state_fd=opened.state_fd, call_socket=opened.call_socket,
        control_fds=[opened.exports_fd, opened.pmap.fileno()], n_workers=options.n_workers, output=-1,
        control_argv=lambda n: control_command(options, paths, user=user, port=opened.sockets.port, n_workers=n),
        worker_argv=worker or (lambda n: worker_command(options, paths, n)))


def _ready(options: Options, port: int, detached: Detached | None, notifier: Notifier) -> None:
    log.setup(options.log_where, options.log_verbose, ident="nfsd: master")
    log.notice("serving on port %d, %d workers", port, options.n_workers)
    lost = capability.missing()
    if lost:
        log.notice("as uid %d; %s", os.geteuid(), "; ".join(lost))
    notifier.tell(f"READY=1\nSTATUS=serving on port {port}, {options.n_workers} workers\nMAINPID={os.getpid()}")
    if options.ready_fd >= 0:
        os.write(options.ready_fd, f"READY {port}\n".encode())
        os.close(options.ready_fd)
    if detached is not None:
        detached.ready()


# ---- commands of the children

def control_command(options: Options, paths: Paths, *, user: str, port: int, n_workers: int) -> list[str]:
    settings = Settings(workers=n_workers, port=port, server_uid=os.geteuid(), master_pid=os.getpid(), families=options.families,
                        user=user, log=options.log_where, verbose=options.log_verbose, statedir=str(paths.statedir),
                        tcp=options.tcp, udp=options.udp, register=options.register, v2=options.v2, acl=options.acl)
    return python("nfsd_master.control", settings.word())


def control_user() -> str:
    """The user of the control half when we are root."""
    for name in CONTROL_USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StartError(f"no user {' or '.join(CONTROL_USERS)} for the control half; name one with --user")


def worker_command(options: Options, paths: Paths, slot: int) -> list[str]:
    return python("nfsserver", "--slot", str(slot), "--channel-fd", "3", "--state-fd", "4", *_worker_words(options, paths))


def nursery_command(options: Options, paths: Paths) -> list[str]:
    return python("nfsserver", "--nursery", "3", *_worker_words(options, paths))


def _worker_words(options: Options, paths: Paths) -> list[str]:
    words = ["--key", str(paths.key), "--log", options.log_where]
    return words + ["--v2"] * options.v2 + ["--no-acl"] * (not options.acl) + ["-v"] * options.verbose


# ---- what is opened before anything starts

def _open_state(path: Path) -> int:
    try:
        return open_state(path)
    except OSError as exc:
        raise StartError(f"state file {path}: {exc.strerror or exc}") from exc


def _open_exports(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}") from exc


def end_orphans(state_fd: int) -> None:
    """Waits for workers whose master was killed: they hold the ports for the request in hand.  What hangs is killed.

    We hold the pid file, so no living master owns them.  Only processes that are our workers by their command are touched.
    """
    state = State(state_fd)
    try:
        fds = [fd for fd in (_worker_pidfd(int(state.slot(n)[S_PID])) for n in range(N_SLOTS)) if fd >= 0]
    finally:
        state.close()
    for fd in fds:
        if not select.select([fd], [], [], ORPHANS_S)[0]:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], ORPHANS_S)
        os.close(fd)


def _worker_pidfd(pid: int) -> int:
    """A pidfd of `pid` when it is one of our workers; -1."""
    if pid <= 1 or pid > 1 << 22:
        return -1
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return -1
    command = _command(pid)
    if b"nfsd: worker" in command or b"\0nfsserver\0" in command:
        return fd
    os.close(fd)
    return -1


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def open_call_socket(path: Path) -> socket.socket:
    """The call socket, for every local user to connect; a dead predecessor's is replaced, a living one's is not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_parent(path)
    except OSError as exc:
        raise StartError(f"call socket {path}: {exc.strerror}") from exc
    _remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(CALL_BACKLOG)
    except OSError as exc:
        sock.close()
        raise StartError(f"call socket {path}: {exc.strerror or exc}") from exc
    return sock


def _remove_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno == errno.ECONNREFUSED:
                if not path.is_socket():  # connect(2) says the same of any file
                    raise StartError(f"call socket {path}: a file that is no socket is in its place") from exc
                path.unlink(missing_ok=True)
                return
            if exc.errno != errno.EAGAIN:  # EAGAIN: its backlog is full, so it lives
                raise StartError(f"call socket {path}: {exc.strerror or exc}") from exc
    raise StartError(f"another nfsd answers on {path}", 2)


if __name__ == "__main__":
    sys.exit(main())
