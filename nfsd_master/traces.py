"""The control half's list of running traces (NFSSVC_TRACE): who watches, and what each worker was told.

Theory of operation.  A caller brings one end of a SOCK_SEQPACKET pair and a filter.  Every worker gets a duplicate of that end
with the trace's number, later ones too, and writes its records into it; the caller reads the other end.  A trace lasts as long as
the connection it was asked on.  A worker whose reader is gone stops by itself; telling it again does no harm.
"""
from __future__ import annotations

import dataclasses
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfssvc_shim.channel import Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import TraceArgs, pack_trace_args, unpack_trace_args

from . import log
from .callsock import Client
from .slots import Slot

if TYPE_CHECKING:
    from .control import Control

MAX_TRACES = 4           # each costs every worker a copy of what it answers


@dataclass(frozen=True, slots=True, eq=False)
class _Trace:
    client: Client
    args: TraceArgs
    fd: int


class Traces:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._traces: list[_Trace] = []
        self._last = 0

    def start(self, client: Client, msg: Message, fds: list[int]) -> None:
        """Answers when every worker copies.  EINVAL no such descriptor, ENOENT no such export, EBUSY enough are running."""
        args = unpack_trace_args(msg.body)
        if len(fds) != 1 or args.number or args.expid or not _is_pair(fds[0]):
            raise OSError(errno.EINVAL, "TRACE takes one end of a SOCK_SEQPACKET pair")
        if len(self._traces) >= MAX_TRACES:
            raise OSError(errno.EBUSY, f"{MAX_TRACES} traces run")
        self._last += 1
        args = dataclasses.replace(args, number=self._last, expid=self._expid(args.export) if args.export else 0)
        trace = _Trace(client, args, os.dup(fds[0]))
        self._traces.append(trace)
        log.notice("trace %d: pid %d of uid %d watches", args.number, client.pid, client.uid)
        self._tell_all(client, msg, trace)

    def _tell_all(self, client: Client, msg: Message, trace: _Trace) -> None:
        waiting = set(self._control.slots.slots.values())

        def answered(slot: Slot) -> None:
            waiting.discard(slot)
            if not waiting:
                self._control.call_socket.reply(client, msg)

        if not waiting:
            self._control.call_socket.reply(client, msg)
        for slot in list(waiting):
            self._control.slots.request(slot, Nfssvc.TRACE, pack_trace_args(trace.args), [os.dup(trace.fd)],
                                        lambda answer, fds, slot=slot: answered(slot))  # type: ignore[misc]

    def _expid(self, path: bytes) -> int:
        wanted = path.rstrip(b"/") or b"/"
        for export in (self._control.table or {}).values():
            if (export.path.rstrip(b"/") or b"/") == wanted:
                return export.expid
        raise OSError(errno.ENOENT, f"{path!r} is not exported")

    def to_slot(self, slot: Slot) -> None:
        """A worker came: it joins in."""
        for trace in self._traces:
            self._control.slots.request(slot, Nfssvc.TRACE, pack_trace_args(trace.args), [os.dup(trace.fd)], _nothing)

    def on_gone(self, client: Client) -> None:
        """The traces of this connection end."""
        ending = [trace for trace in self._traces if trace.client is client]
        self._traces = [trace for trace in self._traces if trace.client is not client]
        for trace in ending:
            log.notice("trace %d has ended", trace.args.number)
            for slot in list(self._control.slots.slots.values()):
                self._control.slots.request(slot, Nfssvc.TRACE, pack_trace_args(trace.args), [], _nothing)
            os.close(trace.fd)


def _nothing(answer: Message | None, fds: list[int]) -> None:
    """A worker that could not start a trace has logged it."""


def _is_pair(fd: int) -> bool:
    """One end of a connected unix SOCK_SEQPACKET pair."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            sock.getpeername()
        except OSError:
            return False
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET
