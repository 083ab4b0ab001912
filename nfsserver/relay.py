"""MOUNT on the NFS port: calls of program 100005 are passed to mountd, and its replies back.

A worker decodes nothing of them.  The record and the peer go as one packet over a SOCK_SEQPACKET pair that the control half
made; mountd answers {serial, reply}.  Without mountd a call gets SYSTEM_ERR (TCP) or no answer (UDP: the client asks again).
"""
from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import struct

from oncrpc._rpc import lib as rpc

from oncrpc.server import Procedure, Program, Server

from ._vnode import ffi
from .procs import Call

log = logging.getLogger("nfsd")

MOUNT_PROGRAM = 100005
PROCEDURES = {1: 6, 2: 8, 3: 6}     # MOUNT v1: EXPORTALL (6) is EXPORT by another name, and not answered
MAX_WAITING = 1024                  # calls in mountd's hands; more are dropped, clients ask again
MAX_REPLY = 65536
DEADLINE_S = 20.0                   # mountd may look a name up
_SYSTEM_ERR = 5


class MountRelay:
    """The rows for program 100005 of one worker."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sock: socket.socket | None = None
        self._conn = -1
        self._serials = itertools.count(1)
        self._waiting: dict[int, Call] = {}
        rows = {vers: [Procedure(f"MOUNT{vers}_{proc}", raw=self._pass_on) for proc in range(count)]
                for vers, count in PROCEDURES.items()}
        server.add(Program(MOUNT_PROGRAM, dict(rows)))

    def attach(self, sock: socket.socket) -> None:
        """A new mountd; what the old one had is not answered any more."""
        self._detach()
        sock.setblocking(False)
        self._sock = sock
        self._conn = self._server.on_readable(sock.fileno(), self._replies)

    def _detach(self) -> None:
        if self._sock is not None:
            self._server.close(self._conn)
            self._sock.close()
            self._sock = None
        for call in self._waiting.values():
            rpc.rpc_drop(call)
        self._waiting.clear()

    def _pass_on(self, call: Call) -> None:
        if self._sock is None or len(self._waiting) >= MAX_WAITING:
            self._refuse(call)
            return
        message, size, head = ffi.new("const u8 **"), ffi.new("size_t *"), ffi.new("struct rpc_relay_head *")
        serial = next(self._serials) & 0xFFFFFFFF
        if rpc.rpc_message(call, message, size) < 0:
            rpc.rpc_deny(call, _SYSTEM_ERR)
            return
        rpc.rpc_relay(call, serial, head)
        packet = ffi.buffer(head)[:] + ffi.buffer(message[0], size[0])[:]
        try:
            self._sock.send(packet, socket.MSG_NOSIGNAL)
        except OSError as exc:
            log.warning("mountd does not take calls: %s", exc.strerror)
            self._refuse(call)
            return
        later = rpc.rpc_detach(call, MAX_REPLY)
        if later == ffi.NULL:
            self._refuse(call)
            return
        self._waiting[serial] = later
        self._server.call_later(DEADLINE_S, lambda: self._late(serial))

    @staticmethod
    def _refuse(call: Call) -> None:
        if call.proto == 17:
            rpc.rpc_drop(call)
        else:
            rpc.rpc_deny(call, _SYSTEM_ERR)

    def _late(self, serial: int) -> None:
        call = self._waiting.pop(serial, None)
        if call is not None:
            rpc.rpc_drop(call)

    def _replies(self) -> None:
        while self._sock is not None:
            try:
                packet = self._sock.recv(MAX_REPLY + 4)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if len(packet) < 4:
                self._detach()
                return
            call = self._waiting.pop(struct.unpack_from("=I", packet)[0], None)
            if call is not None:
                with contextlib.suppress(OSError):
                    rpc.rpc_reply_raw(call, packet[4:], len(packet) - 4)
