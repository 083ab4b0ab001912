"""The one server loop, and the program tables, that every daemon runs.

Theory of operation.  C (engine/) polls, receives, finds records, decodes call headers, answers what no procedure needs to
see (unknown program, version, procedure; malformed headers and credentials) and hands over batches of calls.  Each call
names a row of one table; a row is a Python callable:

    raw     row(call): gets the C call and ends it itself, by one of the ways that rpc.h lists.  NFS procedures.
    plain   handler(request): returns the results (bytes), None (no answer), or LATER (request.later() was called).
            XdrError becomes GARBAGE_ARGS, RpcError its own status, anything else SYSTEM_ERR, a traceback in the log and
            one more in `mistakes`; the server goes on.

One thread.  Signals are noted when they come and handled at the end of the turn, one after another, never inside a
handler or a callback; a wakeup descriptor ends the wait, so that none is late.
Called by: every daemon; workers (nfsserver) use raw rows, stop_reading() and on_finished.
"""
from __future__ import annotations

import errno
import heapq
import itertools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ._rpc import ffi, lib
from .message import AcceptStat, RpcError
from .xdr import Unpacker, XdrError

log = logging.getLogger(__name__)

BACKLOG = 1024         # of listening sockets: a burst of mounting clients
TCP, UDP, LOCAL, RELAY = 6, 17, 1, 2  # Request.proto; RPC_TCP ... of rpc.h

Call = Any             # `struct call *`
Raw = Callable[[Call], object]


class _Later:
    """The type of LATER."""


LATER: Final = _Later()
_MORE: Final = lib.RPC_MORE
_CALLS: Final = _MORE - 1          # of what rpc_poll() returns
Handler = Callable[["Request"], "bytes | _Later | None"]


@dataclass(frozen=True, slots=True)
class Procedure:
    """A row of a program: exactly one of `handler` and `raw`.

    direct  a C function `int (*)(struct call *)` that the loop calls without Python; what it returns but 0 goes to `left`
    left    gets a call that `direct` did not end, and what it returned
    weight  > 0: the reply may be as long as the number that stands so many bytes before the end of the arguments (READ's
            count); the loop then takes fewer calls of one connection at a time
    """

    name: str
    handler: Handler | None = None
    raw: Raw | None = None
    weight: int = 0
    direct: Any = None
    left: Callable[[Call, int], object] | None = None


NULL = Procedure("NULL", raw=lib.rpc_null, direct=ffi.addressof(lib, "rpc_null"), left=lambda call, status: None)


@dataclass(frozen=True, slots=True)
class Program:
    """A program: for each version its procedures in the order of their numbers; None: PROC_UNAVAIL."""

    number: int
    versions: Mapping[int, Sequence[Procedure | None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """0: the default of engine/engine.c."""

    max_conns: int = 0
    max_record: int = 0
    quota: int = 0
    record_s: int = 0
    stall_s: int = 0
    max_detached: int = 0
    in_budget: int = 0
    out_budget: int = 0
    detached_budget: int = 0


@dataclass(frozen=True, slots=True)
class Cred:
    """What the caller says it is; AUTH_NONE: uid and gid 0xffffffff."""

    flavor: int
    uid: int
    gid: int
    gids: tuple[int, ...]


class Pending:
    """A call that is answered later: one of reply, deny, drop, once, from the loop's thread."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    def _take(self) -> Call:
        call, self._call = self._call, None
        if call is None:
            raise RuntimeError("this call was answered before")
        return call

    def reply(self, results: bytes) -> None:
        lib.rpc_reply(self._take(), results, len(results))

    def reply_raw(self, message: bytes) -> None:
        """A whole RPC reply that another process made; its xid becomes this call's."""
        lib.rpc_reply_raw(self._take(), message, len(message))

    def deny(self, accept_stat: int) -> None:
        lib.rpc_deny(self._take(), accept_stat)

    def drop(self) -> None:
        lib.rpc_drop(self._take())


class Request:
    """What a plain handler sees of a call; valid until the handler returns."""

    __slots__ = ("args", "call", "proc", "prog", "vers")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.prog: int = call.prog
        self.vers: int = call.vers
        self.proc: int = call.proc
        self.args = Unpacker(ffi.buffer(call.arg, call.end - call.arg)[:])

    @property
    def xid(self) -> int:
        return int(self.call.xid)

    @property
    def cred(self) -> Cred:
        cred = self.call.eng.creds[self.call.cred]
        return Cred(cred.flavor, cred.uid, cred.gid, tuple(cred.gids[0:cred.ngids]))

    @property
    def family(self) -> int:
        """AF_INET, AF_INET6 or AF_UNIX; v4-mapped addresses are AF_INET."""
        return int(self.call.eng.peers[self.call.peer].family)

    @property
    def address(self) -> str:
        """The client's, as text, with %scope where it has one; "" over a unix socket."""
        peer = self.call.eng.peers[self.call.peer]
        text = address_text(peer.family, ffi.buffer(peer.addr)[:])
        return f"{text}%{peer.scope}" if peer.scope else text

    @property
    def port(self) -> int:
        """The client's."""
        return int(self.call.port)

    @property
    def proto(self) -> int:
        """TCP, UDP or LOCAL; of a relayed call how the client reached the other process."""
        return int(lib.rpc_transport(self.call))

    @property
    def is_relayed(self) -> bool:
        return bool(self.call.proto == RELAY)

    @property
    def is_local(self) -> bool:
        """It came to a loopback address of ours or over a unix socket: nobody can send that from outside."""
        return bool(lib.rpc_is_local(self.call))

    @property
    def unix_uid(self) -> int | None:
        """The uid that called connect(2), over a unix socket."""
        uid = int(lib.rpc_unix_uid(self.call))
        return None if uid < 0 else uid

    @property
    def local_address(self) -> tuple[int, bytes] | None:
        """Which of our addresses the client asked: family and packed address; None: not known, or a unix socket."""
        place = ffi.new("u8[16]")
        family = lib.rpc_local_addr(self.call, place)
        if not family:
            return None
        return family, ffi.buffer(place)[:4 if family == socket.AF_INET else 16]

    @property
    def size(self) -> int:
        """Bytes of the whole message: over UDP a stranger must not get more."""
        return int(lib.rpc_message_size(self.call))

    def later(self, room: int = 1024) -> Pending:
        """Detaches the call; the handler then returns LATER.  Raises RpcError(SYSTEM_ERR) when too many wait."""
        call = lib.rpc_detach(self.call, room)
        if call == ffi.NULL:
            raise RpcError(AcceptStat.SYSTEM_ERR)
        return Pending(call)


def address_text(family: int, address: bytes) -> str:
    """A packed address (16 bytes, IPv4: the first four) as text; "" for a unix socket."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    return socket.inet_ntop(socket.AF_INET6, address) if family == socket.AF_INET6 else ""


class Timer:
    """A call_later(); cancel() may be called at any time."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Server:
    """One loop.  Use: programs, then listen()/datagram()/connection(), then run()."""

    def __init__(self, programs: Sequence[Program] = (), *, limits: Limits = Limits()) -> None:
        wanted = ffi.new("struct rpc_limits *")
        for name in Limits.__slots__:
            setattr(wanted, name, getattr(limits, name))
        self.engine = lib.rpc_new(wanted)
        if self.engine == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self.calls: list[Call] = [lib.rpc_call_at(self.engine, i) for i in range(lib.RPC_BATCH)]
        self.rows: list[Raw] = []
        self.names: list[str] = []
        self.mistakes = 0                             # exceptions that only a bug explains
        self.on_finished: Callable[[Call], object] | None = None  # gets each completed detached call and ends it
        self.on_mistake: Callable[[Call], object] | None = None   # gets a call that raised, before it is answered SYSTEM_ERR
        self._left: dict[int, Callable[[Call, int], object]] = {}
        self._readable: dict[int, Callable[[], None]] = {}
        self._closed: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = True
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._signals: deque[int] = deque()
        self._on_signal: dict[int, Callable[[], None]] = {}
        for program in programs:
            self.add(program)

    # ---- set-up

    def add(self, program: Program) -> None:
        """Its calls are served from now on."""
        for vers, procedures in program.versions.items():
            first = len(self.rows)
            _check(lib.rpc_program(self.engine, program.number, vers, len(procedures), first))
            for proc, procedure in enumerate(procedures):
                self.names.append(procedure.name if procedure else "")
                self.rows.append(self._row(procedure))
                if procedure is None:
                    lib.rpc_hole(self.engine, program.number, vers, proc)
                    continue
                if procedure.weight:
                    _check(lib.rpc_weight(self.engine, first + proc, procedure.weight))
                if procedure.direct is not None and procedure.left is not None:
                    _check(lib.rpc_direct(self.engine, first + proc, procedure.direct))
                    self._left[first + proc] = procedure.left

    def _row(self, procedure: Procedure | None) -> Raw:
        if procedure is None:
            return lambda call: lib.rpc_deny(call, AcceptStat.PROC_UNAVAIL)  # C answers; this keeps the numbers
        if procedure.raw is not None:
            return procedure.raw
        handler = procedure.handler
        if handler is None:
            raise ValueError(f"procedure {procedure.name} has neither handler nor raw row")
        return lambda call: self._plain(handler, call)

    def listen(self, sock: socket.socket) -> int:
        """Accepts on a bound stream socket, TCP or unix; the socket is the server's from now on."""
        sock.listen(BACKLOG)
        return self._attach(sock, lib.RPC_LISTEN)

    def connection(self, sock: socket.socket) -> int:
        """Serves a connected stream socket, which is the server's from now on."""
        return self._attach(sock, lib.RPC_CONN)

    def connection_fd(self, fd: int, sockaddr: bytes = b"") -> int:
        """The same, for a descriptor that another process accepted; `sockaddr`: its peer, if known."""
        place = ffi.from_buffer(sockaddr) if sockaddr else ffi.NULL
        return _check(lib.rpc_attach(self.engine, fd, lib.RPC_CONN, place, len(sockaddr)))

    def datagram(self, sock: socket.socket) -> int:
        """Serves a bound UDP socket, which is the server's from now on."""
        return self._attach(sock, lib.RPC_DGRAM)

    def kerb4(self, handler: Raw | None) -> None:
        """Calls with AUTH_KERB4 go to `handler` (rpc_kerb4 in engine.h); None: they are refused."""
        if handler is not None and handler not in self.rows:
            self.rows.append(handler)
            self.names.append("AUTH_KERB4")
        lib.rpc_kerb4(self.engine, -1 if handler is None else self.rows.index(handler))

    def resume(self, call: Call, row: int) -> None:
        """Serves a detached call that waited, from now on as `row` of the table; a mistake is answered SYSTEM_ERR."""
        call.row = row
        try:
            self.rows[row](call)
        except Exception:
            self._mistake(call)

    def relayed(self, sock: socket.socket, on_closed: Callable[[], None] | None = None) -> int:
        """Serves calls that another process received (struct rpc_relay_head), on a SOCK_SEQPACKET socket."""
        conn = self._attach(sock, lib.RPC_RELAYED)
        if on_closed is not None:
            self._closed[conn] = on_closed
        return conn

    def _attach(self, sock: socket.socket, kind: int) -> int:
        conn = _check(lib.rpc_attach(self.engine, sock.fileno(), kind, ffi.NULL, 0))
        sock.detach()
        return conn

    def on_readable(self, fd: int, callback: Callable[[], None]) -> int:
        """Calls back while `fd` is readable (or hung up); the descriptor stays the caller's.  Returns an id for close()."""
        conn = _check(lib.rpc_attach(self.engine, fd, lib.RPC_EVENT, ffi.NULL, 0))
        self._readable[conn] = callback
        return conn

    def close(self, conn: int) -> None:
        """Ends what listen(), connection(), ... returned; of on_readable(): before the caller closes the descriptor."""
        self._readable.pop(conn, None)
        self._closed.pop(conn, None)
        lib.rpc_close(self.engine, conn)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Calls back after `delay_s`.  The loop's thread only, or before run(): nothing guards the deadline the loop waits by."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        self._set_deadline()
        return timer

    def _set_deadline(self) -> None:
        lib.rpc_deadline(self.engine, int(self._timers[0][0] * 1e9) + 1 if self._timers else 0)

    def stop_reading(self, on: bool) -> None:
        """While on, no call is read from connections and UDP sockets; what was read before stays."""
        lib.rpc_stop_reading(self.engine, on)

    def catch(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """Installs signal handlers, which run at the end of a turn.  Main thread only."""
        if self._wakeup is None:
            reader, writer = self._wakeup = socket.socketpair()
            reader.setblocking(False)
            writer.setblocking(False)
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            self.on_readable(reader.fileno(), lambda: _empty(reader))
        self._on_signal.update(handlers)
        for number in handlers:
            signal.signal(number, lambda number, _frame: self._signals.append(number))

    # ---- running

    def stop(self) -> None:
        """run() returns after this batch.  From handlers, callbacks and signal handlers."""
        self._running = False
        lib.rpc_wake(self.engine)

    def wake(self) -> None:
        """Ends the wait; any thread."""
        lib.rpc_wake(self.engine)

    def run(self) -> None:
        """Serves until stop()."""
        while self._running:
            self.turn()
        lib.rpc_flush(self.engine)

    def turn(self, wait_ms: int = -1) -> int:
        """One poll and what it brought; returns the number of calls, from the first on that is for Python."""
        n = _check(lib.rpc_poll(self.engine, wait_ms))
        if n & _CALLS:
            self._batch()
        if n & _MORE:
            self._finish()
            self._events()
            self._run_timers()
        while self._signals:
            self._guarded(self._on_signal[self._signals.popleft()])
        return int(n & _CALLS)

    def _batch(self) -> None:
        engine, calls, rows, following = self.engine, self.calls, self.rows, lib.rpc_next
        while (at := following(engine)) >= 0:
            call = calls[at]
            try:
                if call.status:
                    self._left[call.row](call, call.status)
                else:
                    rows[call.row](call)
            except Exception:
                self._mistake(call)

    def _finish(self) -> None:
        for i in range(lib.rpc_n_finished(self.engine)):
            call = lib.rpc_finished_at(self.engine, i)
            if call == ffi.NULL:  # ended in C
                continue
            try:
                if self.on_finished is None:
                    raise RuntimeError("a call was completed, and nobody is there to end it")
                self.on_finished(call)
            except Exception:
                self._mistake(lib.rpc_finished_at(self.engine, i))

    def _events(self) -> None:
        events = lib.rpc_events(self.engine)
        for conn, what in [(events[i].id, events[i].what) for i in range(lib.rpc_n_events(self.engine))]:
            callback = self._closed.pop(conn, None) if what == lib.RPC_EV_CLOSED else self._readable.get(conn)
            if callback is not None:
                self._guarded(callback)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)
        self._set_deadline()

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            self.mistakes += 1
            log.exception("a callback failed")

    def _mistake(self, call: Call) -> None:
        self.mistakes += 1
        if call == ffi.NULL:
            log.exception("a call failed after its answer")
            return
        log.exception("program %d version %d procedure %d failed", call.prog, call.vers, call.proc)
        if self.on_mistake is not None:
            self.on_mistake(call)
        lib.rpc_deny(call, AcceptStat.SYSTEM_ERR)

    def _plain(self, handler: Handler, call: Call) -> None:
        try:
            results = handler(Request(call))
        except XdrError:
            lib.rpc_deny(call, AcceptStat.GARBAGE_ARGS)
        except RpcError as refused:
            if refused.auth_stat is not None:
                lib.rpc_deny_auth(call, refused.auth_stat)
            else:
                lib.rpc_deny(call, refused.accept_stat)
        else:
            if isinstance(results, bytes):
                lib.rpc_reply(call, results, len(results))
            elif results is None:
                lib.rpc_drop(call)

    # ---- looking

    def counters(self) -> dict[str, int]:
        """struct rpc_counters, and `mistakes`."""
        count = lib.rpc_count(self.engine)
        names = [name for name, _ in ffi.typeof("struct rpc_counters").fields]
        return {**{name: int(getattr(count, name)) for name in names}, "mistakes": self.mistakes}

    def free(self) -> None:
        """Closes everything that was attached.  No thread may hold a detached call any more."""
        if self.engine is not None:
            if self._wakeup is not None:
                signal.set_wakeup_fd(-1)
                for sock in self._wakeup:
                    sock.close()
                self._wakeup = None
            lib.rpc_free(self.engine)
            self.engine = None
            self.calls = []


def _empty(sock: socket.socket) -> None:
    try:
        while sock.recv(512):
            pass
    except BlockingIOError:
        pass


def _check(result: int) -> int:
    """A result of C: negative errno becomes OSError."""
    if result < 0:
        text = "all serial numbers are used" if result == -errno.EOVERFLOW else os.strerror(-result)
        raise OSError(-result, text)
    return int(result)
