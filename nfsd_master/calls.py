"""What nfssvc(2) asks the control half: one function a flag, rights first, one operation a call (OpenBSD's rule: else EINVAL).

Answers are errno values of nfssvc(2): EPERM not yours to ask, EINVAL no such call or a body that is none, EAGAIN no worker to
ask.  A call that a worker answers is forwarded under our own serial; the worker's errno goes back.
"""
from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfssvc_shim.channel import Message
from nfssvc_shim.flags import Nfssvc, Nxa
from nfssvc_shim.records import (
    NfsdArgs,
    pack_nfsd_args,
    unpack_export_args,
    unpack_fhopen_args,
    unpack_getfh_args,
    unpack_nfsd_args,
)
from nfssvc_shim.state import H_GENERATION, H_SUSPENDED, N_SLOTS
from oncrpc.xdr import XdrError

from . import VERSION, exptab
from .callsock import Client
from .slots import REQUEST_S, Slot

if TYPE_CHECKING:
    from .control import Control

RESIZE_S = 8.0           # until `nfsd -n N update` is told that workers are still coming or draining
AGAIN_S = 0.05           # while no worker lives
TRIES = 2                # a worker that dies over a question is not the only one


@dataclass(slots=True)
class _Resize:
    client: Client
    msg: Message
    total: int
    deadline: float


class Calls:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._lenders: list[Client] = []        # one entry a lent slot
        self._foreign_udp: dict[int, int] = {}  # address family -> descriptor, for workers to come
        self._resizes: list[_Resize] = []

    # ---- dispatch

    def on_call(self, client: Client, msg: Message, fds: list[int]) -> None:
        """Answers, now or later.  `fds` are closed here unless the call takes them out of the list."""
        try:
            self._checked(client, msg, fds)
        except (XdrError, struct.error, ValueError):
            self._reply(client, msg, errno=errno.EINVAL)
        except OSError as exc:
            self._reply(client, msg, errno=exc.errno or errno.EIO)
        finally:
            for fd in fds:
                os.close(fd)

    def _checked(self, client: Client, msg: Message, fds: list[int]) -> None:
        call = _CALLS.get(msg.flag)
        if call is None:
            raise OSError(errno.EINVAL, f"flag {msg.flag:#x}")
        if not self._control.call_socket.may(client, msg.flag):
            raise OSError(errno.EPERM, f"flag {msg.flag:#x} for uid {client.uid}")
        if not _body_fits(msg):
            raise OSError(errno.EINVAL, f"{len(msg.body)} bytes with flag {msg.flag:#x}")
        if self._control.stopping and msg.flag not in (Nfssvc.SRVSTATS, Nfssvc.STATUS):
            raise OSError(errno.ESHUTDOWN, "stopping")
        call(self, client, msg, fds)

    def _reply(self, client: Client, msg: Message, body: bytes = b"", *, errno: int = 0, fds: list[int] | None = None) -> None:
        self._control.call_socket.reply(client, msg, body, errno=errno, fds=fds)

    def on_gone(self, client: Client) -> None:
        """Hanging up ends what the connection lent and relayed."""
        self._control.traces.on_gone(client)
        self._control.upcalls.on_gone(client)
        if self._control.mountd is client:
            self._control.mountd = None
        if client in self._lenders:
            self._lenders = [c for c in self._lenders if c is not client]
            self._apply_total()

    # ---- exports and handles

    def call_export(self, client: Client, msg: Message, fds: list[int]) -> None:
        args = unpack_export_args(msg.body)
        if args.op == Nxa.CHECK:
            exptab.check(args)
            self._reply(client, msg)
            return
        before = self._control.table or {}

        def installed(error: int, body: bytes) -> None:
            """One export that no worker can open is not exported: it goes again, and its caller is told why."""
            said = exptab.refused(body) if not args.whole and not error else {}
            failed = next((said[export.expid] for export in args.exports if said.get(export.expid)), 0)
            if not failed:
                self._reply(client, msg, body, errno=error)
                return
            self._control.install(exptab.without(self._control.table or {}, args, before),
                                  lambda error, body: self._reply(client, msg, errno=failed))

        self._control.install(exptab.changed(before, args), installed)

    def call_getfh(self, client: Client, msg: Message, fds: list[int]) -> None:
        unpack_getfh_args(msg.body)
        self._forward(client, msg, TRIES)

    def call_fhopen(self, client: Client, msg: Message, fds: list[int]) -> None:
        unpack_fhopen_args(msg.body)
        self._forward(client, msg, TRIES)

    def _forward(self, client: Client, msg: Message, tries: int, deadline: float = 0.0) -> None:
        """To a worker; its answer goes back, with its descriptors.  While none lives the question waits: one is on its way."""
        deadline = deadline or time.monotonic() + REQUEST_S
        slot = self._control.slots.any_alive()
        if slot is None and client.open and time.monotonic() < deadline:
            self._control.loop.call_later(AGAIN_S, lambda: self._forward(client, msg, tries, deadline))
            return
        if slot is None or not tries:
            self._reply(client, msg, errno=errno.EAGAIN)
            return

        def answered(answer: Message | None, fds: list[int]) -> None:
            if answer is None:
                self._forward(client, msg, tries - 1, deadline)
            else:
                self._reply(client, msg, answer.body, errno=answer.errno, fds=fds)

        self._control.slots.request(slot, msg.flag, msg.body, [], answered)

    # ---- sockets and slots

    def call_addsock(self, client: Client, msg: Message, fds: list[int]) -> None:
        """A foreign socket: TCP, connected, to one slot; UDP, one a family, duplicated to all."""
        args = unpack_nfsd_args(msg.body)
        if len(fds) != 1:
            raise OSError(errno.EBADF, f"{len(fds)} descriptors")
        if not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
            raise OSError(errno.ENOTSOCK, "not a socket")
        with socket.socket(fileno=os.dup(fds[0])) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                raise OSError(errno.EINVAL, "neither IPv4 nor IPv6")
            if sock.type == socket.SOCK_DGRAM and args.name is None:
                self._add_udp(sock)
                self._reply(client, msg)
            elif sock.type == socket.SOCK_STREAM:
                self._add_tcp(client, msg, args, sock)
            else:
                raise OSError(errno.EINVAL, "neither a stream with a peer nor a datagram socket")

    def _add_tcp(self, client: Client, msg: Message, args: NfsdArgs, sock: socket.socket) -> None:
        if args.name is None:
            raise OSError(errno.EACCES, "a stream without its peer's name")  # as macOS
        sock.getpeername()  # ENOTCONN
        slots = self._control.slots
        slot = slots.least_loaded() if args.slot < 0 else slots.slots.get(args.slot)
        if slot is None:
            raise OSError(errno.EAGAIN if args.slot < 0 else errno.EINVAL, f"slot {args.slot}")

        def answered(answer: Message | None, fds: list[int]) -> None:
            self._reply(client, msg, errno=errno.EAGAIN if answer is None else answer.errno)

        slots.request(slot, Nfssvc.ADDSOCK, msg.body, [os.dup(sock.fileno())], answered)

    def _add_udp(self, sock: socket.socket) -> None:
        if self._control.options.udp or sock.family in self._foreign_udp:
            raise OSError(errno.EEXIST, "a UDP socket of this family is served")
        self._foreign_udp[sock.family] = os.dup(sock.fileno())
        for slot in list(self._control.slots.slots.values()):
            self.foreign_udp_to(slot)

    def foreign_udp_to(self, slot: Slot) -> None:
        for fd in self._foreign_udp.values():
            self._control.slots.request(slot, Nfssvc.ADDSOCK, pack_nfsd_args(NfsdArgs(None, slot.number)), [os.dup(fd)],
                                        lambda msg, fds: None)

    def call_nfsd(self, client: Client, msg: Message, fds: list[int]) -> None:
        """The caller lends one slot; it is answered when the slot or the server ends."""
        if self._control.n_workers + len(self._lenders) >= N_SLOTS:
            raise OSError(errno.EBUSY, f"{N_SLOTS} slots run")
        (can_be_asked,) = struct.unpack(">I", msg.body) if msg.body else (0,)
        if can_be_asked > 1:
            raise OSError(errno.EINVAL, f"NFSD with {can_be_asked}")
        client.lent.append(msg)
        self._lenders.append(client)
        self._apply_total()
        if can_be_asked:
            self._control.upcalls.add(client, msg)

    def call_authin(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._control.upcalls.answered(client, msg)

    def return_lent(self) -> None:
        for client in dict.fromkeys(self._lenders):
            for msg in client.lent:
                self._reply(client, msg)

    def _total(self) -> int:
        return min(self._control.n_workers + len(self._lenders), N_SLOTS)

    def _apply_total(self) -> None:
        if not self._control.stopping:
            self._control.set_workers(self._total())

    def call_workers(self, client: Client, msg: Message, fds: list[int]) -> None:
        (number,) = struct.unpack(">I", msg.body)
        if not 1 <= number <= N_SLOTS:
            raise OSError(errno.EINVAL, f"{number} workers")
        self._control.n_workers = number
        self._resizes.append(_Resize(client, msg, self._total(), time.monotonic() + RESIZE_S))
        self._control.loop.call_later(RESIZE_S, self.workers_changed)
        self._apply_total()
        self.workers_changed()

    def workers_changed(self) -> None:
        """Answers WORKERS calls whose number of workers now runs; ETIMEDOUT for those that waited too long."""
        numbers = {s.number for s in self._control.slots.slots.values() if s.alive}
        now, left = time.monotonic(), []
        for resize in self._resizes:
            if numbers == set(range(resize.total)):
                self._reply(resize.client, resize.msg)
            elif now >= resize.deadline:
                self._reply(resize.client, resize.msg, errno=errno.ETIMEDOUT)
            else:
                left.append(resize)
        self._resizes = left

    def call_mountd(self, client: Client, msg: Message, fds: list[int]) -> None:
        """From now on `client` answers program 100005; the newest one does."""
        self._reply(client, msg)
        self._control.mountd = client
        for slot in list(self._control.slots.slots.values()):
            self._control.relay(slot, client)

    def call_suspend(self, client: Client, msg: Message, fds: list[int]) -> None:
        (on,) = struct.unpack(">I", msg.body)
        if on > 1:
            raise OSError(errno.EINVAL, f"suspend {on}")
        self._control.state.words[H_SUSPENDED] = on
        waiting = set(self._control.slots.slots.values())

        def answered(slot: Slot) -> None:
            waiting.discard(slot)
            if not waiting:
                self._reply(client, msg)

        if not waiting:
            self._reply(client, msg)
        for slot in list(waiting):
            self._control.slots.request(slot, Nfssvc.SUSPEND, msg.body, [],
                                        lambda answer, fds, slot=slot: answered(slot))  # type: ignore[misc]

    def call_trace(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._control.traces.start(client, msg, fds)

    def call_verbose(self, client: Client, msg: Message, fds: list[int]) -> None:
        (step,) = struct.unpack(">i", msg.body)
        self._control.change_verbose(step)
        self._reply(client, msg)

    # ---- statistics

    def call_srvstats(self, client: Client, msg: Message, fds: list[int]) -> None:
        if msg.body:
            self._reply(client, msg, self._control.stats.sums())
            return
        slots = sorted(self._control.slots.slots.values(), key=lambda s: s.number)
        self._reply(client, msg, self._control.stats.srvstats(slots))

    def call_exportstats(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._reply(client, msg, self._control.stats.exportstats(self._control.table or {}))

    def call_userstats(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._reply(client, msg, self._control.stats.userstats(self._control.table or {}))

    def call_usercount(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._reply(client, msg, self._control.stats.usercount())

    def call_zerostats(self, client: Client, msg: Message, fds: list[int]) -> None:
        self._control.stats.zero()
        self._reply(client, msg)

    def call_status(self, client: Client, msg: Message, fds: list[int]) -> None:
        control = self._control
        slots = [{"slot": s.number, "pid": s.pid, "incarnation": s.incarnation, "connections": control.slots.load(s),
                  "alive": s.alive, "draining": s.draining}
                 for s in sorted(control.slots.slots.values(), key=lambda s: s.number)]
        status = {"version": VERSION, "pid": control.options.master_pid, "control": os.getpid(), "slots": slots,
                  "workers": control.n_workers, "lent": len(self._lenders), "uid": control.options.server_uid,
                  "generation": int(control.state.words[H_GENERATION]), "suspended": bool(control.state.words[H_SUSPENDED]),
                  "exports": None if control.table is None else len(control.table), "addresses": control.addresses,
                  "port": control.options.port, "tcp": control.options.tcp, "udp": control.options.udp,
                  "mountd": control.mountd.pid if control.mountd else None, "verbose": control.verbose,
                  "statedir": control.options.statedir}
        self._reply(client, msg, json.dumps(status).encode())


_CALLS: dict[int, Callable[[Calls, Client, Message, list[int]], None]] = {
    Nfssvc.NFSD: Calls.call_nfsd, Nfssvc.ADDSOCK: Calls.call_addsock, Nfssvc.EXPORT: Calls.call_export,
    Nfssvc.EXPORTSTATS: Calls.call_exportstats, Nfssvc.USERSTATS: Calls.call_userstats, Nfssvc.USERCOUNT: Calls.call_usercount,
    Nfssvc.ZEROSTATS: Calls.call_zerostats, Nfssvc.SRVSTATS: Calls.call_srvstats, Nfssvc.GETFH: Calls.call_getfh,
    Nfssvc.FHOPEN: Calls.call_fhopen, Nfssvc.MOUNTD: Calls.call_mountd, Nfssvc.STATUS: Calls.call_status,
    Nfssvc.WORKERS: Calls.call_workers, Nfssvc.SUSPEND: Calls.call_suspend, Nfssvc.VERBOSE: Calls.call_verbose,
    Nfssvc.TRACE: Calls.call_trace, Nfssvc.AUTHIN: Calls.call_authin,
}

_WITHOUT_BODY = frozenset((Nfssvc.EXPORTSTATS, Nfssvc.USERSTATS, Nfssvc.USERCOUNT, Nfssvc.ZEROSTATS, Nfssvc.MOUNTD,
                           Nfssvc.STATUS))
_SUMS_ALONE = struct.pack(">I", 1)  # SRVSTATS without the workers' rows


def _body_fits(msg: Message) -> bool:
    """False: there is a body where the call takes none.  The calls that take one look at it themselves."""
    if msg.flag == Nfssvc.SRVSTATS:
        return msg.body in (b"", _SUMS_ALONE)
    return not msg.body or msg.flag not in _WITHOUT_BODY
