"""MOUNT on the NFS port: calls of program 100005 are passed to mountd, and its replies back.

A worker decodes nothing of them.  The record and the peer go as one packet over a SOCK_SEQPACKET pair that the control half
made; mountd answers {serial, reply}.

Theory of operation.  Each call is kept with its packet until its reply comes.  Without a mountd (it is being restarted) calls
wait; those that an ended one has not answered wait again, for every procedure of MOUNT may be done twice; the next mountd gets
them all, oldest first.  After DEADLINE_S a call is dropped without an answer: its client asks again.  An error would end its
mount(8).
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
MAX_WAITING = 1024                  # calls that wait for mountd; at more the oldest is dropped, its client asks again
MAX_CALL = 4096                     # bytes: a MOUNT call has at most 40 + 2 * 408 + 1028
MAX_REPLY = 65536
DEADLINE_S = 20.0                   # mountd may look a name up, or be started again
_GARBAGE_ARGS, _SYSTEM_ERR = 4, 5


class MountRelay:
    """The rows for program 100005 of one worker."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sock: socket.socket | None = None
        self._conn = -1
        self._serials = itertools.count(1)
        self._waiting: dict[int, tuple[Call, bytes]] = {}   # serial -> call, packet; oldest first
        rows = {vers: [Procedure(f"MOUNT{vers}_{proc}", raw=self._pass_on) for proc in range(count)]
                for vers, count in PROCEDURES.items()}
        server.add(Program(MOUNT_PROGRAM, dict(rows)))

    def attach(self, sock: socket.socket) -> None:
        """A new mountd: it gets what the old one has not answered."""
        self._detach()
        sock.setblocking(False)
        self._sock = sock
        self._conn = self._server.on_readable(sock.fileno(), self._replies)
        for serial, (_, packet) in list(self._waiting.items()):
            if not self._send(packet):
                self._late(serial)

    def _detach(self) -> None:
        if self._sock is not None:
            self._server.close(self._conn)
            self._sock.close()
            self._sock = None

    def _pass_on(self, call: Call) -> None:
        message, size, head = ffi.new("const u8 **"), ffi.new("size_t *"), ffi.new("struct rpc_relay_head *")
        serial = next(self._serials) & 0xFFFFFFFF
        if rpc.rpc_message(call, message, size) < 0:
            rpc.rpc_deny(call, _SYSTEM_ERR)
            return
        if size[0] > MAX_CALL:
            rpc.rpc_deny(call, _GARBAGE_ARGS)
            return
        rpc.rpc_relay(call, serial, head)
        packet = ffi.buffer(head)[:] + ffi.buffer(message[0], size[0])[:]
        if len(self._waiting) >= MAX_WAITING:
            self._late(next(iter(self._waiting)))
        later = rpc.rpc_detach(call, MAX_REPLY) if self._sock is None or self._send(packet) else ffi.NULL
        if later == ffi.NULL:
            rpc.rpc_drop(call)
            return
        self._waiting[serial] = later, packet
        self._server.call_later(DEADLINE_S, lambda: self._late(serial))

    def _send(self, packet: bytes) -> bool:
        """False: mountd has no room for it.  One that ended counts as none."""
        try:
            if self._sock is not None:
                self._sock.send(packet, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as exc:
            log.info("mountd ended: %s", exc.strerror)
            self._detach()
        return True

    def _late(self, serial: int) -> None:
        call, _ = self._waiting.pop(serial, (None, b""))
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
            call, _ = self._waiting.pop(struct.unpack_from("=I", packet)[0], (None, b""))
            if call is not None:
                with contextlib.suppress(OSError):
                    rpc.rpc_reply_raw(call, packet[4:], len(packet) - 4)
