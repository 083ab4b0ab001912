"""unfsd(8): one command that serves an exports file: nfsd, its workers and mountd, MOUNT and NFS on one port.

Option for option the front end of the unfsd manual of 2008; see docs/unfsd.md for what is deliberately better.

Theory of operation.  This process starts nfsd and mountd, waits until nfsd serves and mountd's table is in force, and is
ready.  Then it only waits: TERM, INT, QUIT stop both (exit 0), HUP makes mountd read its files again, USR1 logs the caches, and
a child that died is started again.  A child gets TERM when this process dies, however it dies.  In the background what the
children say comes through a pipe: to the terminal until all is ready, to syslog from then on.
"""
from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import prctl

from . import capability, log
from .children import python, spawn
from .detach import Detached, detach
from .options import UsageError
from .paths import StartError, make_private
from .pidfile import ALREADY_RUNS, PidFile
from .sdnotify import Notifier
from .unfsd_options import USAGE, Options, parse
from .unfsd_places import cache_counts, is_free, places

START_S = 60.0           # of one child on a machine that is busy booting; names in the exports file may need DNS
STOP_S = 6.0             # nfsd promises 5
QUICK_S = 1.0            # a child that lived shorter has failed
FAILURES = 5             # quick deaths in a row until we give up

def main(argv: Sequence[str] | None = None) -> int:
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.help:
            print(USAGE)
            return 0
        return check(options) if options.test else serve(options)
    except (UsageError, StartError) as exc:
        if str(exc):
            print(f"unfsd: {exc}", file=sys.stderr)
        return 1


def check(options: Options) -> int:
    """-T: 0 or 1, with the errors on stderr."""
    return 1 if subprocess.run(python("mountd", "-T", options.exports), check=False).returncode else 0


def serve(options: Options) -> int:
    """Until stopped; the exit status.  Raises StartError with nothing left running."""
    detached = None if options.debug else detach()
    if options.debug:
        os.dup2(1, 2)  # "all messages that would go to the system log go to stdout instead"
    log.setup(options.log, 1 + options.verbose, ident="unfsd")
    pidfile = _pidfile(options.pidfile)
    try:
        return Unfsd(options).run(detached)
    finally:
        if pidfile is not None:
            pidfile.remove()


def _pidfile(path: str) -> PidFile | None:
    """Failure to create it is not fatal and only reported, says the manual; another unfsd that holds it is."""
    if not path:
        return None
    try:
        return PidFile(Path(path))
    except StartError as exc:
        if exc.status == ALREADY_RUNS:
            raise
        log.logger.warning("%s", exc)
        return None


@dataclass(slots=True, eq=False)
class Child:
    """nfsd or mountd.  end: exit status of the one before, negative: the signal."""

    name: str
    pid: int = 0
    end: int = 0
    started: float = 0.0
    failures: int = 0


class Unfsd:
    def __init__(self, options: Options) -> None:
        self._o = options
        self._nfsd, self._mountd = Child("nfsd"), Child("mountd")
        self._port = options.nfs_port
        self._statedir, self._socket, self._throwaway = places(options)
        self._stopping = 0
        self._deadline = 0.0
        self._restarts: list[tuple[float, Child]] = []
        self._wake: socket.socket | None = None
        self._output, self._output_end = (-1, -1) if options.debug else os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._said = b""
        self._in_background = False
        self._serving = False        # both did, once
        self._notifier = Notifier()
        self._status = 0

    # ---- life

    def run(self, detached: Detached | None, *, on_ready: Callable[[int], None] | None = None) -> int:
        """Exit status.  on_ready(port) is called when it serves.  Raises StartError."""
        self._wake = _catch_signals()
        make_private(self._statedir, mode=0o755 if os.geteuid() == 0 else 0o700)
        prctl.set_name("unfsd")
        try:
            self._start_all()
            if not self._stopping:
                self._ready(detached)
                if on_ready is not None:
                    on_ready(self._port)
            while not self._finished():
                self._turn()
        finally:
            for late in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(late, signal.SIG_IGN)
            self._end_all()
            self._pass_on()
            self._remove_state()
        return self._status

    def _start_all(self) -> None:
        """Both at once when mountd can be told the port; else nfsd first, which finds one."""
        pipes = {child: self._spawn(child) for child in ((self._nfsd, self._mountd) if self._port else (self._nfsd,))}
        for child in (self._nfsd, self._mountd):
            if not self._stopping:
                self._await(child, pipes.pop(child) if child in pipes else self._spawn(child))
        for fd in pipes.values():
            os.close(fd)

    def _ready(self, detached: Detached | None) -> None:
        self._serving = True
        self._say_what_is_missing()
        if detached is not None:
            self._pass_on()
            log.setup("syslog", self._o.verbose, ident="unfsd")
            self._say_what_is_missing()
            detached.ready()
            self._in_background = True
        log.notice("serving %s on port %d, %d workers; call socket %s",
                   self._o.exports, self._port, self._o.workers, self._socket)
        self._notifier.tell(f"READY=1\nSTATUS=serving {self._o.exports} on port {self._port}")

    @staticmethod
    def _say_what_is_missing() -> None:
        lost = capability.missing()
        if lost:
            log.logger.warning("as uid %d; %s", os.geteuid(), "; ".join(lost))

    def _finished(self) -> bool:
        return bool(self._stopping) and (self._stopping > 1 or not (self._nfsd.pid or self._mountd.pid)
                                         or time.monotonic() >= self._deadline)

    def _turn(self) -> None:
        times = [t for t, _ in self._restarts] + ([self._deadline] if self._stopping else [])
        self._wait(max(0.0, min(times) - time.monotonic()) if times else None)
        now = time.monotonic()
        due = [child for t, child in self._restarts if t <= now]
        self._restarts = [(t, child) for t, child in self._restarts if t > now]
        for child in due:
            if not self._stopping:
                self._restart(child)

    def _restart(self, child: Child) -> None:
        try:
            self._start(child)
        except StartError as exc:
            log.logger.error("%s", exc)

    # ---- children

    def _command(self, child: Child) -> list[str]:
        words = ["--socket", str(self._socket), "--statedir", str(self._statedir), "--ready-fd", "3", *["-v"] * self._o.verbose]
        words += ["-h", self._o.address] if self._o.address else []
        words += [] if self._o.portmap else ["--no-portmap"]
        if child is self._nfsd:
            words += ["--key", self._o.key] if self._o.key else []
            words += ["-V", "2"] * self._o.v2 + ["--no-acl"] * (not self._o.acl)
            return python("nfsd_master.nfsd", *words, "-F", "-n", str(self._o.workers), "-p", str(self._port),
                          "-t" if self._o.tcp_only else "-tu", "--log", self._o.log if self._o.debug else "syslog")
        words += ["-t"] if self._o.tcp_only else []
        one_port = self._o.mount_port == self._o.nfs_port
        words += ["-p", str(self._port), "--relay-only"] if one_port else ["-p", str(self._o.mount_port)]
        flags = [flag for flag in self._o.export_flags if not (flag == "cluster" and self._o.cluster)]
        words += ["--cluster", self._o.cluster] if self._o.cluster else []
        return python("mountd", *words, "-d", "--log", self._o.log, "--set", ",".join(flags), self._o.exports)

    def _start(self, child: Child) -> None:
        """Starts it and waits until it serves, or until we are to stop.  Raises StartError when it ends instead."""
        self._await(child, self._spawn(child))

    def _spawn(self, child: Child) -> int:
        """The descriptor on which it will say that it serves."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            child.started = time.monotonic()
            child.pid = spawn(self._command(child), [write], ignore=(signal.SIGINT, signal.SIGQUIT), tie=True,
                              output=self._output_end)
        finally:
            os.close(write)
        return read

    def _await(self, child: Child, read: int) -> None:
        """Closes `read`."""
        try:
            line = self._first_line(read, child)
        finally:
            os.close(read)
        if line and child is self._nfsd:
            self._port = int(line.split()[1])
        elif not line and not self._stopping:
            raise StartError("" if child.end > 0 else f"{child.name} did not start: {_how(child)}")  # > 0: it said why

    def _first_line(self, fd: int, child: Child) -> bytes:
        """What the child writes when it serves; b"": it ended, took too long, or a signal told us to stop."""
        end = time.monotonic() + START_S
        while not self._stopping and child.pid and time.monotonic() < end:
            if self._wait(end - time.monotonic(), fd):
                line = os.read(fd, 64)
                if line:
                    return line
                end = min(end, time.monotonic() + QUICK_S)  # it closed its end: its death comes, and what it said
                fd = -1
        return b""

    def _wait(self, timeout_s: float | None, fd: int = -1) -> bool:
        """Signals are acted on, what the children say is passed on; whether `fd` can be read."""
        assert self._wake is not None
        watched = [each for each in (self._wake.fileno(), self._output, fd) if each >= 0]
        readable, _, _ = select.select(watched, [], [], timeout_s)
        if self._output in readable:
            self._pass_on()
        if self._wake.fileno() in readable:
            self._take_signals()
        return fd in readable

    def _pass_on(self) -> None:
        """Whole lines that the children said."""
        try:
            self._said += os.read(self._output, 65536) if self._output >= 0 else b""
        except BlockingIOError:
            return
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if self._in_background:
                log.logger.warning("%s", text)
            else:
                print(text, file=sys.stderr)

    def _reap(self) -> None:
        for child in (self._nfsd, self._mountd):
            pid, status = os.waitpid(child.pid, os.WNOHANG) if child.pid else (0, 0)
            if pid:
                child.pid, child.end = 0, os.waitstatus_to_exitcode(status)
                self._died(child)

    def _died(self, child: Child) -> None:
        if self._stopping or not self._serving:
            return
        lived = time.monotonic() - child.started
        child.failures = child.failures + 1 if lived < QUICK_S else 0
        log.logger.error("%s ended after %.1f s", child.name, lived)
        if child.failures >= FAILURES:
            self._status = 1
            self.stop()
        else:
            self._restarts.append((time.monotonic() + (QUICK_S if child.failures else 0.0), child))

    def _end_all(self) -> None:
        for child in (self._mountd, self._nfsd):
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)  # one that started while we failed; a second TERM is "at once"
        end = time.monotonic() + STOP_S
        for child in (self._mountd, self._nfsd):
            if child.pid:
                _wait_or_kill(child.pid, end)

    # ---- signals

    def _take_signals(self) -> None:
        """Those that came; what stops us goes before the deaths that it caused."""
        assert self._wake is not None
        for came in sorted(self._wake.recv(4096), key=lambda n: n == signal.SIGCHLD):
            if came in _ACTIONS:
                _ACTIONS[came](self)

    def stop(self) -> None:
        self._stopping += 1
        self._notifier.tell("STOPPING=1")
        self._deadline = time.monotonic() + STOP_S
        for child in (self._mountd, self._nfsd):
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)

    def reload(self) -> None:
        for child in (self._mountd, self._nfsd):
            if child.pid:
                os.kill(child.pid, signal.SIGHUP)

    def log_caches(self) -> None:
        """USR1, in unfs3's words."""
        objects, hits, misses, reads, writes = cache_counts(self._statedir / "state")
        log.logger.warning("fh entries %d access %d hit %d miss %d", objects, hits + misses, hits, misses)
        log.logger.warning("Open file descriptors: read %d, write %d", reads, writes)

    # ---- what it leaves

    def _remove_state(self) -> None:
        """The socket of an nfsd that was killed and had no successor goes, and a directory under a name that cannot come again;
        one that is named by its port keeps verifier and reply cache."""
        if self._socket.is_socket() and is_free(self._socket):
            self._socket.unlink()
        if not self._throwaway:
            return
        for path in self._statedir.iterdir():
            if stat.S_ISREG(path.lstat().st_mode) or path.is_socket():
                path.unlink()
            else:
                path.rmdir()
        self._statedir.rmdir()


_ACTIONS: dict[int, Callable[[Unfsd], None]] = {
    signal.SIGTERM: Unfsd.stop, signal.SIGINT: Unfsd.stop, signal.SIGQUIT: Unfsd.stop, signal.SIGHUP: Unfsd.reload,
    signal.SIGUSR1: Unfsd.log_caches, signal.SIGCHLD: Unfsd._reap,
}


def _catch_signals() -> socket.socket:
    wake, write = socket.socketpair()
    wake.setblocking(False)
    write.setblocking(False)
    signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
    for caught in _ACTIONS:
        signal.signal(caught, lambda *_: None)
    for ignored in (signal.SIGPIPE, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(ignored, signal.SIG_IGN)
    return wake


def _how(child: Child) -> str:
    if child.pid:
        return f"it does not serve after {START_S:.0f} s"
    return f"signal {signal.Signals(-child.end).name}" if child.end < 0 else "it ended"


def _wait_or_kill(pid: int, end: float) -> None:
    fd = os.pidfd_open(pid)
    try:
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
