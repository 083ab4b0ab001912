"""The control half of nfsd: accepts connections, answers the call socket, holds the export table.  No privilege.

Theory of operation.  One process, one loop, nothing blocks.  The master hands it listeners (LISTEN) and, for each worker that it
started, the worker's channel and UDP sockets (SLOT); the same again when this process is the successor of one that died.

  connection     accepted, and handed to the worker with the fewest; while no worker is alive the listeners rest, and the
                 kernel's backlog holds the newcomers
  export table   a change raises the generation in the shared state first: a worker that has an older table serves nothing under
                 it.  Then the table is sent to all, and the caller is answered when each worker acknowledged or is fenced
                 (dead, or silent for slots.REQUEST_S)
  mountd         for each worker a socket pair, one end to each side: MOUNT calls that arrive at the NFS port
  stop           listeners closed, unregistered, workers drained, lent slots returned; exit 0
  master's end   EOF: exit at once, so that the workers see EOF too and every port is free

Descriptors: 3 the master, 4 the state file, 5 the call socket, 6 exports.tab, 7 the portmapper's socket.
"""
from __future__ import annotations

import dataclasses
import errno
import os
import pwd
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable

import prctl

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import AF_INET6, Address, Export, NfsdArgs, pack_nfsd_args
from nfssvc_shim.state import H_GENERATION, H_SUSPENDED, State

from . import exptab, log
from .calls import Calls
from .callsock import CallSocket, Client
from .loop import Loop
from .register import Registrar, mappings_of, served
from .settings import Settings
from .slots import Slot, Slots
from .stats import Stats
from .traces import Traces
from .upcalls import Upcalls

ACCEPTS = 64             # connections a listener and turn
RETRY_S = 0.1            # after a lack of descriptors
RELAY_BUFFER = 1 << 20   # bytes of MOUNT calls that wait for mountd, a worker
MASTER_FD, STATE_FD, CALL_FD, EXPORTS_FD, PMAP_FD = 3, 4, 5, 6, 7

Done = Callable[[int, bytes], None]  # errno, what the first worker said about single exports


class Control:
    """Life of the control half; what the call socket's clients ask is in calls.py."""

    def __init__(self, options: Settings) -> None:
        self.options = options
        self.loop = Loop()
        self.state = State(STATE_FD)
        self.stats = Stats(self.state)
        self.slots = Slots(self.loop, self.state, on_gone=self._slot_gone, on_alive=self._slot_alive, on_hung=self._slot_hung,
                           on_question=self._slot_asks)
        self.table: dict[int, Export] | None = exptab.load(EXPORTS_FD)
        self._encoded = -1, b""                 # generation, and the table of it
        self.n_workers: int = options.workers   # without lent slots
        self._total = self.n_workers            # with them
        self.verbose: int = options.verbose
        self.addresses: list[str] = []
        self.traces = Traces(self)
        self.upcalls = Upcalls(self)
        self.calls = Calls(self)
        self.call_socket = CallSocket(self.loop, socket.socket(fileno=CALL_FD), options.server_uid, self.state,
                                      on_call=self.calls.on_call, on_gone=self.calls.on_gone)
        self.mountd: Client | None = None
        self.stopping = False
        self._master = Channel(socket.socket(fileno=MASTER_FD))
        self._master.sock.setblocking(False)
        self._listeners: list[socket.socket] = []
        self._resting = True
        self._ready = False
        self._registrar = self._make_registrar()
        self.loop.watch(MASTER_FD, self._read_master)
        self._status = 0

    def run(self) -> int:
        if self.table is not None:
            self.raise_generation()
        self.loop.run()
        return self._status

    def _make_registrar(self) -> Registrar | None:
        if not self.options.register:
            return None
        sock = socket.socket(fileno=PMAP_FD)
        o = self.options
        mappings = mappings_of(served(v2=o.v2, acl=o.acl), o.port, tcp=o.tcp, udp=o.udp, families=o.families)
        return Registrar(self.loop, sock, mappings) if mappings else None

    # ---- the master

    def tell_master(self, flag: Nfssvc, body: bytes = b"") -> None:
        try:
            self._master.send(Message(flag, 0, body))
        except OSError as exc:
            log.logger.error("master: %s", exc.strerror)

    def _read_master(self) -> None:
        try:
            msg, fds = self._master.recv()
        except BlockingIOError:
            return
        except (EOFError, ConnectionError, ProtocolError) as exc:
            log.logger.error("the master is gone: %s", exc)
            self._status = 1
            self.loop.stop()
            return
        self._on_master(msg, fds)

    def _on_master(self, msg: Message, fds: list[int]) -> None:
        if msg.flag == Nfssvc.LISTEN:
            self._listen(fds)
        elif msg.flag == Nfssvc.SLOT:
            self._add_slot(msg, fds)
        elif msg.flag == Nfssvc.STOP:
            self._stop()
        elif msg.flag == Nfssvc.STATUS:
            self.tell_master(Nfssvc.STATUS)  # "are you there?"
        elif msg.flag == Nfssvc.VERBOSE:
            self.change_verbose(struct.unpack(">i", msg.body)[0])
        elif msg.flag == Nfssvc.READY and self._registrar is not None and not self.stopping:
            self._registrar.start()

    def _listen(self, fds: list[int]) -> None:
        self._listeners = [socket.socket(fileno=fd) for fd in fds]
        for listener in self._listeners:
            listener.setblocking(False)
        self.addresses = [_name(sock) for sock in self._listeners]

    # ---- workers

    def _add_slot(self, msg: Message, fds: list[int]) -> None:
        number, incarnation, pid = struct.unpack(">3I", msg.body)
        channel = Channel(socket.socket(fileno=fds[0]))
        slot = Slot(number, incarnation, pid, channel, [])
        self.slots.add(slot)
        self.slots.request(slot, Nfssvc.VERBOSE, b"\0\0\0\0", [], lambda msg, fds: None)  # its answer shows that it lives
        if self.table is not None:
            self._send_table(slot, lambda error, body: None)
        if self.state.words[H_SUSPENDED]:
            self.slots.request(slot, Nfssvc.SUSPEND, b"\0\0\0\1", [], lambda msg, fds: None)
        self.traces.to_slot(slot)
        self.upcalls.joins(slot)
        for fd in fds[1:]:
            self.slots.request(slot, Nfssvc.ADDSOCK, pack_nfsd_args(NfsdArgs(None, number)), [fd],
                               lambda msg, fds: _warn(msg, f"worker {number}: UDP socket", expected=errno.EEXIST))
        self.calls.foreign_udp_to(slot)
        if self.mountd is not None:
            self.relay(slot, self.mountd)
        if number >= self._total or self.stopping:  # no longer wanted when it was started
            self._drain(slot)

    def _slot_alive(self, slot: Slot) -> None:
        self._arm_listeners()
        self.calls.workers_changed()
        if not self._ready and len([s for s in self.slots.slots.values() if s.alive]) >= self.options.workers:
            self._ready = True
            if self._registrar is not None:
                self._registrar.start()
            self.tell_master(Nfssvc.READY)

    def _slot_gone(self, slot: Slot) -> None:
        self.calls.workers_changed()
        if self.stopping and not self.slots.slots:
            self._maybe_end()

    def _slot_asks(self, slot: Slot, msg: Message) -> None:
        self.upcalls.ask(slot, msg)

    def _slot_hung(self, slot: Slot) -> None:
        self.tell_master(Nfssvc.SLOT, struct.pack(">2I", slot.number, slot.incarnation))

    def set_workers(self, total: int) -> None:
        """`total` slots, lent ones counted; those above are drained."""
        self._total = total
        self.tell_master(Nfssvc.WORKERS, struct.pack(">I", total))
        for slot in list(self.slots.slots.values()):
            if slot.number >= total:
                self._drain(slot)

    def _drain(self, slot: Slot) -> None:
        slot.draining = True
        self.slots.request(slot, Nfssvc.STOP, b"", [], lambda msg, fds: None)

    # ---- exports

    def raise_generation(self) -> int:
        self.state.words[H_GENERATION] += 1
        return int(self.state.words[H_GENERATION])

    def install(self, table: dict[int, Export], done: Done) -> None:
        """`table` in force everywhere, then done(0, ...); done(errno, b"") when a worker refused it and the last one is back."""
        old, self.table = self.table, table
        generation = self.raise_generation()
        try:
            exptab.save(EXPORTS_FD, self._encoded_table())
        except OSError as exc:
            log.logger.error("exports.tab: %s", exc.strerror)
        waiting, answers = set(self.slots.slots.values()), list[tuple[int, bytes]]()

        def answered(slot: Slot, error: int, body: bytes) -> None:
            waiting.discard(slot)
            answers.append((error, body))
            if not waiting:
                self._installed(generation, old, answers, done)

        if not waiting:
            done(0, b"")
        for slot in list(waiting):
            self._send_table(slot, lambda error, body, slot=slot: answered(slot, error, body))  # type: ignore[misc]

    def _installed(self, generation: int, old: dict[int, Export] | None, answers: list[tuple[int, bytes]], done: Done) -> None:
        error = max(error for error, _ in answers)
        if error and self.state.words[H_GENERATION] == generation and old is not None:
            log.logger.error("a worker refused the export table (%s): the last one stays", os.strerror(error))
            self.install(old, lambda error, body: None)
        done(error, b"" if error else next((body for _, body in answers if body), b""))

    def _encoded_table(self) -> bytes:
        """Encoded once for the file and all workers."""
        generation = int(self.state.words[H_GENERATION])
        if self._encoded[0] != generation:
            self._encoded = generation, exptab.encode(self.table or {}, generation)
        return self._encoded[1]

    def _send_table(self, slot: Slot, done: Done) -> None:
        """done(0, ...): acknowledged, or fenced by the generation (dead or silent)."""
        self.slots.request(slot, Nfssvc.EXPORT, self._encoded_table(), [],
                           lambda msg, fds: done(msg.errno, msg.body) if msg else done(0, b""))

    # ---- mountd

    def relay(self, slot: Slot, mountd: Client) -> None:
        """A socket pair between the worker and mountd, for MOUNT calls that arrive at the NFS port."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RELAY_BUFFER)
        self.slots.request(slot, Nfssvc.RELAY, b"", [ours.detach()],
                           lambda msg, fds: _warn(msg, f"worker {slot.number}: relay"))
        self.call_socket.send(mountd, Message(Nfssvc.RELAY, 0, struct.pack(">I", slot.number)), [theirs.detach()])

    def change_verbose(self, step: int) -> None:
        self.verbose = log.set_verbose(self.verbose + step)
        log.notice("verbose %d", self.verbose)
        for slot in list(self.slots.slots.values()):
            self.slots.request(slot, Nfssvc.VERBOSE, struct.pack(">i", step), [], lambda msg, fds: None)

    # ---- connections

    def _arm_listeners(self) -> None:
        if self.stopping or not self._resting or self.slots.least_loaded() is None:
            return
        self._resting = False
        for listener in self._listeners:
            self.loop.watch(listener.fileno(), lambda listener=listener: self._accept(listener))  # type: ignore[misc]

    def _rest(self) -> None:
        self._resting = True
        for listener in self._listeners:
            self.loop.forget(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            slot = self.slots.least_loaded()
            if slot is None:
                self._rest()
                self.loop.call_later(RETRY_S, self._arm_listeners)
                return
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:  # EMFILE, ENFILE, ENOBUFS, ENOMEM: overload
                log.logger.error("accept: %s", exc.strerror)
                self._rest()
                self.loop.call_later(RETRY_S, self._arm_listeners)
                return
            self.hand_over(slot, sock, peer_of(peer))

    def hand_over(self, slot: Slot, sock: socket.socket, name: Address) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.slots.hand_over(slot, sock, pack_nfsd_args(NfsdArgs(name, slot.number)))

    # ---- the end

    def _stop(self) -> None:
        if self.stopping:
            return
        self.stopping = True
        self._rest()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.call_socket.stop_accepting()
        for slot in list(self.slots.slots.values()):
            self._drain(slot)
        if self._registrar is not None:
            self._registrar.end(self._unregistered)
        self._maybe_end()

    def _unregistered(self) -> None:
        self._registrar = None
        self._maybe_end()

    def _maybe_end(self) -> None:
        if not self.slots.slots and self._registrar is None:
            self.calls.return_lent()
            self.loop.stop()


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_of(peer: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """The address of accept(2)."""
    address = Address.of(peer[0], peer[1])
    if address.family == AF_INET6 and len(peer) == 4:
        return dataclasses.replace(address, scope=peer[3])
    return address


def _warn(msg: Message | None, what: str, *, expected: int = 0) -> None:
    if msg is not None and msg.errno not in (0, expected):
        log.logger.warning("%s: %s", what, os.strerror(msg.errno))


# ---- the process

def drop_privilege(user: str) -> None:
    """From root to `user`, without a way back; in a user namespace that maps only root, root without capabilities."""
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # 0 does not stop a core pipe
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        try:
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        except OSError as exc:
            log.logger.warning("control half stays root without capabilities: %s: %s", user, exc.strerror)
            prctl.cap_effective.limit()
            prctl.cap_permitted.limit()
    prctl.set_no_new_privs(1)


def main() -> int:
    options = Settings.of(sys.argv[1])
    prctl.set_proctitle("nfsd: control")
    prctl.set_name("nfsd: control")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the master says when: a group's TERM must not keep us from draining
    log.setup(options.log, options.verbose, ident="nfsd: control")
    drop_privilege(options.user)
    return Control(options).run()


if __name__ == "__main__":
    sys.exit(main())
