"""The network half: MOUNT calls in, answers out.  No capability, no file system, no table.

Theory of operation.  It runs the RPC server with program 100005 and has one channel to the privileged half.  A call's arguments
are decoded here (GARBAGE_ARGS), the rest is asked for; replies come back by serial, in any order.  UMNT and UMNTALL are answered
at once: their result is void, and nobody has to wait.  Ends when the channel closes.
"""
from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.records import AF_LOCAL, Address, Cred
from oncrpc.message import AcceptStat, RpcError
from oncrpc.server import LATER, NULL, UDP, Limits, Pending, Procedure, Program, Request, Server, _Later

from .halves import ATTACH, CALL, SERVING, MountCall, pack_mount_call
from .mount import MAX_REPLY, MAX_REPLY_RELAYED, MAX_REPLY_UDP, MOUNT_PROGRAM, Proc, unpack_dirpath

log = logging.getLogger(__name__)

MAX_WAITING = 1024        # calls that the privileged half works on; the oldest is dropped beyond that
MAX_RECORD = 4096         # a MOUNT call has at most 40 + 2 * 408 + 1028 bytes
MAX_CONNS = 512           # a mount needs its connection for milliseconds
_REPLY_HEADER = 24        # bytes of an RPC reply before its results


class NetworkHalf:
    """One per process; `server` is its loop."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.server = Server([self.program()], limits=Limits(max_record=MAX_RECORD, max_conns=MAX_CONNS))
        self._waiting: dict[int, Pending] = {}
        channel.sock.setblocking(False)
        self.server.on_readable(channel.fileno(), self._from_privileged)

    def program(self) -> Program:
        """Procedures of the three versions in the order of their numbers."""
        path, plain, void = self._ask_path, self._ask_plain, self._void
        v1 = [NULL, Procedure("MNT", path), Procedure("DUMP", plain), Procedure("UMNT", self._void_path),
              Procedure("UMNTALL", void), Procedure("EXPORT", plain)]
        exportall = Procedure("EXPORTALL", plain)
        return Program(MOUNT_PROGRAM, {1: [*v1, exportall], 2: [*v1, exportall, Procedure("PATHCONF", path)], 3: v1})

    def listen(self, streams: Sequence[socket.socket], datagrams: Sequence[socket.socket]) -> None:
        for sock in streams:
            self.server.listen(sock)
        for sock in datagrams:
            self.server.datagram(sock)

    # ---- calls

    def _ask_path(self, request: Request) -> _Later | None:
        return self._forward(request, unpack_dirpath(request.args))

    def _ask_plain(self, request: Request) -> _Later | None:
        request.args.check_end()
        return self._forward(request, b"")

    def _void_path(self, request: Request) -> bytes:
        self._send(request, unpack_dirpath(request.args))
        return b""

    def _void(self, request: Request) -> bytes:
        request.args.check_end()
        self._send(request, b"")
        return b""

    def _forward(self, request: Request, path: bytes) -> _Later | None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.pop(next(iter(self._waiting))).drop()
        serial = self._send(request, path)
        if not serial:
            return None  # the privileged half is busy: as if the packet was lost, the client asks again
        self._waiting[serial] = request.later()
        return LATER

    def _send(self, request: Request, path: bytes) -> int:
        """The serial, 0 when the channel is full."""
        serial = self.channel.next_serial()
        try:
            self.channel.send(Message(CALL, serial, pack_mount_call(describe(request, path))))
        except BlockingIOError:
            return 0
        except OSError:
            self.server.stop()
            return 0
        return serial

    # ---- the channel

    def _from_privileged(self) -> None:
        try:
            while True:
                self._one(*self.channel.recv())
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self.server.stop()
        except ProtocolError as exc:
            log.error("the privileged half broke the protocol: %s", exc)
            self.server.stop()

    def _one(self, message: Message, fds: list[int]) -> None:
        if message.flag == ATTACH and len(fds) == 1:
            self.server.relayed(socket.socket(fileno=fds[0]))
            return
        for fd in fds:
            os.close(fd)
        pending = self._waiting.pop(message.serial, None)
        if pending is None:
            return
        if message.errno:
            pending.deny(message.errno)
        else:
            pending.reply(message.body)


def describe(request: Request, path: bytes) -> MountCall:
    """What the privileged half is told about a call."""
    cred = request.cred
    if cred.flavor > 1:
        raise RpcError(AcceptStat.SYSTEM_ERR)
    return MountCall(request.vers, Proc(request.proc), peer_of(request), cred.flavor, Cred(cred.uid, cred.gid, cred.gids), path,
                     is_local(request), reply_limit(request))


def reply_limit(request: Request) -> int:
    """Bytes that the results may have.  Over UDP nobody but this machine gets more bytes than he sent: whoever wants a list of
    exports uses TCP, whose address cannot be forged."""
    if request.proto == UDP:
        return MAX_REPLY_UDP if is_local(request) else max(0, request.size - _REPLY_HEADER)
    return MAX_REPLY_RELAYED if request.is_relayed else MAX_REPLY


def is_local(request: Request) -> bool:
    """It came from this machine.  A relayed call does not tell which of our addresses it came to; there the caller's decides: the
    kernel takes no packet with a loopback source from the net."""
    if request.is_local or not request.is_relayed:
        return request.is_local
    return ipaddress.ip_address(request.address.partition("%")[0] or "::1").is_loopback


def peer_of(request: Request) -> Address:
    if request.family == socket.AF_UNIX:
        return Address(AF_LOCAL)
    text, _, scope = request.address.partition("%")
    address = Address.of(text, request.port)
    return Address(address.family, address.packed, request.port, int(scope or 0))


def run(channel: Channel, streams: Sequence[socket.socket], datagrams: Sequence[socket.socket],
        drop: Callable[[], None]) -> None:
    """The whole life of the process.  drop: gives up all rights; called when everything is attached."""
    half = NetworkHalf(channel)
    half.listen(streams, datagrams)
    drop()
    channel.send(Message(SERVING))
    half.server.run()
