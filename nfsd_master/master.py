"""The master: keeps descriptors, starts and reaps the others; parses nothing.

Theory of operation.  The master bound everything before this begins.  It starts one control half and one worker a slot.

  worker dies        a new pair, a new worker in the same slot at once (kept UDP sockets, same state file); one that died before
                     it ever turned its loop is started again later and later, up to BACKOFF_MAX_S
  control dies       a new one gets the listeners, the call socket and the master's copy of each worker's channel: the workers
                     go on serving meanwhile; one that does not answer a question for CONTROL_S is killed (of the time in
                     which we run ourselves: patience.py)
  TERM, INT, QUIT    STOP to the control half, which drains; what is left after STOP_S is killed; exit 0.  A second one: at once
  HUP                "register again" to the control half.  USR1, USR2: log level up, down
  master dies        the control half sees EOF and exits, the workers see EOF on their channels and exit: the ports are free

Invariants: the master never waits for anybody; signals only wake the loop; a message that the control half sends is a number
or two, checked; what it cannot be is the end of that control half, not ours.
"""
from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.state import H_STARTED, H_VERIFIER, N_SLOTS, S_HEARTBEAT, S_PID, S_UNSYNCED, State

from . import log
from .children import spawn
from .nursery import Nursery
from .patience import Patience
from .sdnotify import Notifier
from .sockets import Sockets

STOP_S = 4.0             # of the 5 s in which TERM must have stopped everything
BACKOFF_MAX_S = 5.0
BACKOFF_S = 0.1
START_FAILURES = 5       # deaths before serving, of one slot or of the control half, until a start that never was ready gives up
ASK_S = 3.0              # how often the control half is asked whether it is there
CONTROL_S = 10.0         # as for a worker: attack table F04
MAX_CONTROL_MESSAGES = 64  # read a turn: a control half gone mad does not keep us from reaping


@dataclass(slots=True)
class Worker:
    """One slot.  pid 0: none runs.  channel: the master's copy of the control half's end."""

    number: int
    pid: int = 0
    incarnation: int = 0
    failures: int = 0
    started_ns: int = 0
    channel: socket.socket | None = None


@dataclass(slots=True)
class Config:
    """What the master was given: ready descriptors and the commands of its children."""

    sockets: Sockets
    state_fd: int
    call_socket: socket.socket
    control_fds: list[int]                        # further ones for the control half: exports.tab, the portmapper's socket
    control_argv: Callable[[int], list[str]]      # of the number of workers
    worker_argv: Callable[[int], list[str]]       # of the slot's number
    n_workers: int
    output: int                                   # stdout and stderr of the children; -1: ours
    on_ready: Callable[[], None] = field(default=lambda: None)
    notifier: Notifier = field(default_factory=Notifier)
    nursery: Nursery | None = None                # who forks the first workers; None: each is started by itself


class Master:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._state = State(config.state_fd)
        self._workers: dict[int, Worker] = {}
        self._n_workers = config.n_workers
        self._control: Channel | None = None
        self._control_pid = 0
        self._control_failures = 0
        self._patience = Patience(ASK_S)
        self._heard = 0.0            # when the control half said something last, by that clock
        self._asked = False          # what signals asked for is on its way to the control half
        self._register = False       # a HUP that it has not been told
        self._steps = 0              # of the log level that it has not been told
        self._ready = False
        self._stopping = 0           # TERMs seen
        self._deadline = 0.0         # of the stop
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._selector = selectors.DefaultSelector()
        self._status = 0

    # ---- life

    def run(self) -> int:
        """Starts everything, returns the exit status when nothing runs any more."""
        wake = self._catch_signals()
        if not self._state.words[H_STARTED]:
            self._state.words[H_STARTED] = time.time_ns()
        try:
            self._start_control()
            self._first_workers()
            self._watchdog()
            self._ask_control()
            while not self._finished():
                self._turn(wake)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)  # nothing can be hurried any more; the exit status stays ours
            self._kill_all()
        return self._status

    def _watchdog(self) -> None:
        """systemd hears from us at half its patience, as long as there is a control half."""
        interval_s = self._config.notifier.watchdog_s / 2
        if interval_s:
            if self._control_pid:
                self._config.notifier.tell("WATCHDOG=1")
            self._timers.append((time.monotonic() + interval_s, self._watchdog))

    def _catch_signals(self) -> socket.socket:
        """A socket that becomes readable with the numbers of the signals that came."""
        wake, write = socket.socketpair()
        wake.setblocking(False)
        write.setblocking(False)
        signal.set_wakeup_fd(write.detach(), warn_on_full_buffer=False)
        for number in _ACTIONS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1), or a front end that speaks for the terminal
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._selector.register(wake, selectors.EVENT_READ)
        return wake

    def _finished(self) -> bool:
        running = self._control_pid or any(w.pid for w in self._workers.values())
        return bool(self._stopping) and (not running or self._stopping > 1)

    def _turn(self, wake: socket.socket) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.fileobj is wake:
                for number in wake.recv(4096):
                    self._on_signal(number)
            elif self._control is not None and key.fd == self._control.fileno():
                self._read_control()
        self._run_timers()

    def _wait_s(self) -> float | None:
        times = [t for t, _ in self._timers] + ([self._deadline] if self._stopping else [])
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [callback for t, callback in self._timers if t <= now]
        self._timers = [(t, callback) for t, callback in self._timers if t > now]
        for callback in due:
            callback()
        if self._stopping and now >= self._deadline:
            log.logger.warning("not stopped within %.0f s: killed", STOP_S)
            self._stopping = 2

    # ---- signals

    def _on_signal(self, number: int) -> None:
        action = _ACTIONS.get(number)
        if action is not None:
            action(self)

    def stop(self) -> None:
        self._stopping += 1
        if self._stopping > 1:
            return
        log.notice("stopping")
        self._config.notifier.tell("STOPPING=1")
        self._config.sockets.close_tcp()
        self._deadline = time.monotonic() + STOP_S
        self._timers.clear()
        if self._control is None:  # it just died: nobody to drain the workers, so they see EOF
            self._close_channels()
        else:
            self._tell(Nfssvc.STOP)

    def _close_channels(self) -> None:
        for worker in self._workers.values():
            if worker.channel is not None:
                worker.channel.close()
                worker.channel = None

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._on_death(pid, status)

    def _on_death(self, pid: int, status: int) -> None:
        if pid == self._control_pid:
            self._control_died(status)
            return
        for worker in self._workers.values():
            if worker.pid == pid:
                self._worker_died(worker, status)

    # ---- workers

    def _first_workers(self) -> None:
        """All at once, by the nursery.  Raises StartError when that cannot be."""
        if self._config.nursery is None:
            for number in range(self._n_workers):
                self._start_worker(number)
            return
        ends = {number: self._open_slot(number) for number in range(self._n_workers)}
        try:
            pids = self._config.nursery.fork({number: theirs.fileno() for number, (_, theirs) in ends.items()},
                                             self._config.state_fd)
        finally:
            for _, theirs in ends.values():
                theirs.close()
        for number, (mine, _) in ends.items():
            self._started(number, pids[number], mine)

    def _start_worker(self, number: int) -> None:
        """One that is missing, by fork and exec: its addresses are its own (nursery.py)."""
        worker = self._workers.get(number)
        if (worker is not None and worker.pid) or self._stopping or number >= self._n_workers:
            return
        mine, theirs = self._open_slot(number)
        with theirs:
            pid = spawn(self._config.worker_argv(number), [theirs.fileno(), self._config.state_fd], output=self._config.output)
        self._started(number, pid, mine)

    def _open_slot(self, number: int) -> tuple[socket.socket, socket.socket]:
        """The slot's UDP sockets; both ends of a new channel, ours first."""
        try:
            self._config.sockets.slot(number)
        except OSError as exc:
            log.logger.error("slot %d: UDP socket: %s", number, exc.strerror)
        self._workers.setdefault(number, Worker(number)).started_ns = time.monotonic_ns()
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        return mine, theirs

    def _started(self, number: int, pid: int, mine: socket.socket) -> None:
        worker = self._workers[number]
        worker.pid, worker.channel, worker.incarnation = pid, mine, worker.incarnation + 1
        self._tell_slot(worker)

    def _tell_slot(self, worker: Worker) -> None:
        if worker.channel is not None:
            udp = [s.fileno() for s in self._config.sockets.udp.get(worker.number, ())]
            self._tell(Nfssvc.SLOT, struct.pack(">3I", worker.number, worker.incarnation, worker.pid),
                       [worker.channel.fileno(), *udp])

    def _worker_died(self, worker: Worker, status: int) -> None:
        served = self._served(worker)
        pid, worker.pid = worker.pid, 0
        if worker.channel is not None:
            worker.channel.close()
            worker.channel = None
        if self._state.slot(worker.number)[S_UNSYNCED] and status:
            # It may have taken an unread write error with it: clients must send what they have not committed again.
            self._state.words[H_VERIFIER] = int.from_bytes(os.urandom(8), "little")
        if self._stopping or worker.number >= self._n_workers:
            return
        log.logger.warning("worker %d (pid %d) ended: %s", worker.number, pid, _how(status))
        worker.failures = 0 if served else worker.failures + 1
        self._again(worker.failures, lambda: self._start_worker(worker.number))

    def _served(self, worker: Worker) -> bool:
        row = self._state.slot(worker.number)
        return bool(row[S_PID] == worker.pid and row[S_HEARTBEAT] >= worker.started_ns)

    def _again(self, failures: int, start: Callable[[], None]) -> None:
        """Starts once more: at once, or with back-off when it never served."""
        if failures >= START_FAILURES and not self._ready:
            log.logger.error("cannot start: a process ends %d times before it serves%s", failures,
                             "; nfsd -F shows why" if self._config.output >= 0 else "")
            self._status = 1
            self.stop()
        elif failures == 0:
            start()
        else:
            delay_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (failures - 1))
            self._timers.append((time.monotonic() + delay_s, start))

    # ---- control half

    def _start_control(self) -> None:
        if self._control_pid or self._stopping:
            return
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        with theirs:
            fds = [theirs.fileno(), self._config.state_fd, self._config.call_socket.fileno(), *self._config.control_fds]
            self._control_pid = spawn(self._config.control_argv(self._n_workers), fds, output=self._config.output)
        self._control, self._heard, self._asked = Channel(mine), self._patience.now(), False
        self._selector.register(mine, selectors.EVENT_READ)
        self._tell(Nfssvc.LISTEN, b"", [s.fileno() for s in self._config.sockets.tcp])
        for worker in self._workers.values():
            self._tell_slot(worker)

    def _control_died(self, status: int) -> None:
        self._read_control()  # a last READY counts
        self._drop_control()
        pid, self._control_pid = self._control_pid, 0
        if self._stopping:
            self._close_channels()
            return
        log.logger.warning("control half (pid %d) ended: %s", pid, _how(status))
        self._control_failures += 1
        self._again(self._control_failures - 1, self._start_control)

    def _ask_control(self) -> None:
        if self._control is not None:
            if self._patience.now() - self._heard > CONTROL_S:
                self._end_control("does not answer")
            else:
                self._tell(Nfssvc.STATUS)
        self._timers.append((time.monotonic() + ASK_S, self._ask_control))

    def _drop_control(self) -> None:
        if self._control is not None:
            self._selector.unregister(self._control.sock)
            self._control.close()
            self._control = None

    def _tell(self, flag: Nfssvc, body: bytes = b"", fds: list[int] | tuple[int, ...] = ()) -> None:
        if self._control is None:
            return
        try:
            self._control.send(Message(flag, 0, body), fds)
        except BlockingIOError:
            self._end_control("does not read its messages")
        except OSError as exc:
            log.logger.info("control half: %s", exc.strerror)  # it died; its death will be reaped

    def _end_control(self, why: str) -> None:
        log.logger.error("control half (pid %d) %s: killed", self._control_pid, why)
        _kill(self._control_pid)
        self._drop_control()

    def _read_control(self) -> None:
        for _ in range(MAX_CONTROL_MESSAGES):
            if self._control is None:
                return
            try:
                msg, fds = self._control.recv()
                for fd in fds:
                    os.close(fd)
                self._on_message(msg)
            except BlockingIOError:
                return
            except (EOFError, ConnectionError):
                self._drop_control()
            except (ProtocolError, struct.error, ValueError) as exc:
                self._end_control(f"breaks the protocol: {exc}")

    def _on_message(self, msg: Message) -> None:
        self._heard = self._patience.now()
        self._asked = False
        self._pass_on()
        if msg.flag == Nfssvc.READY:
            self._on_ready()
        elif msg.flag == Nfssvc.STATUS:
            pass  # it is there
        elif msg.flag == Nfssvc.WORKERS:
            self._set_workers(*struct.unpack(">I", msg.body))
        elif msg.flag == Nfssvc.SLOT:
            self._replace(*struct.unpack(">2I", msg.body))
        else:
            raise ValueError(f"message {msg.flag:#x}")

    def _on_ready(self) -> None:
        self._control_failures = 0
        if not self._ready and not self._stopping:
            self._ready = True
            self._config.on_ready()

    def _set_workers(self, number: int) -> None:
        """Slots below `number` run; the control half has told the others to drain."""
        if not 1 <= number <= N_SLOTS:
            raise ValueError(f"{number} workers")
        self._n_workers = number
        for slot in range(number, N_SLOTS):  # the drained worker closes the last copies when it has answered
            self._config.sockets.close_slot(slot)
        for slot in range(number):
            self._start_worker(slot)

    def _replace(self, number: int, incarnation: int) -> None:
        worker = self._workers.get(number)
        if worker is not None and worker.pid and worker.incarnation == incarnation:
            log.logger.error("worker %d (pid %d) does not answer: killed", number, worker.pid)
            _kill(worker.pid)

    def _kill_all(self) -> None:
        """Nothing is left behind, whatever brought us here."""
        pids = [pid for pid in (self._control_pid, *(w.pid for w in self._workers.values())) if pid]
        for pid in pids:
            _kill(pid)
        self._drop_control()
        self._close_channels()  # without CAP_KILL: they see EOF
        for pid in pids:
            os.waitpid(pid, 0)

    # What USR1, USR2 and HUP ask the control half to do.  One request is on its way at a time: a storm of signals must not fill
    # the socket of a control half that is busy and so look like one that hangs.

    def verbose_up(self) -> None:
        self._steps += 1
        self._pass_on()

    def verbose_down(self) -> None:
        self._steps -= 1
        self._pass_on()

    def register_again(self) -> None:
        self._register = True
        self._pass_on()

    def _pass_on(self) -> None:
        """Tells what signals asked for since the last time, when the control half has answered that one."""
        if self._control is None or self._asked or not (self._register or self._steps):
            return
        register, self._register = self._register, False
        steps, self._steps = self._steps, 0
        if register:
            self._tell(Nfssvc.READY)
        if steps:
            self._tell(Nfssvc.VERBOSE, struct.pack(">i", steps))
        self._tell(Nfssvc.STATUS)
        self._asked = True


def _kill(pid: int) -> None:
    """SIGKILL to a child of ours that is not reaped yet."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        log.logger.error("pid %d cannot be killed: CAP_KILL is missing", pid)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


_ACTIONS: dict[int, Callable[[Master], None]] = {
    signal.SIGTERM: Master.stop, signal.SIGINT: Master.stop, signal.SIGQUIT: Master.stop, signal.SIGCHLD: Master.reap,
    signal.SIGHUP: Master.register_again, signal.SIGUSR1: Master.verbose_up, signal.SIGUSR2: Master.verbose_down,
}
