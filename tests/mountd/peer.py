"""The server's end of the call socket, for tests of mountd alone: it takes tables, gives handles, and relays calls.

It runs in threads of the test, on a real SOCK_SEQPACKET socket; what it saw is in `tables`.
"""
from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import Export, GetfhArgs, unpack_export_args, unpack_getfh_args
from oncrpc.xdr import Packer

DEADLINE_S = 15.0

Getfh = Callable[[GetfhArgs], tuple[int, bytes]]


def plain_handle(args: GetfhArgs) -> tuple[int, bytes]:
    """A handle that tells what it is of: 32 bytes of id and path."""
    return 0, (args.expid.to_bytes(4, "big") + args.path).ljust(32, b"\0")[:32]


class Peer:
    """Listens at `path` until close()."""

    def __init__(self, path: Path, getfh: Getfh = plain_handle) -> None:
        self.tables: list[tuple[Export, ...]] = []
        self.asked: list[GetfhArgs] = []
        self.getfh = getfh
        self.refuse = 0
        self.mountd: int | None = None    # who STATUS says is the server's mountd
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._path = path
        self._channel: Channel | None = None
        self._asking: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._asking.append(threading.Thread(target=self._connection, args=(sock,), daemon=True))
            self._asking[-1].start()

    def _connection(self, sock: socket.socket) -> None:
        channel = Channel(sock)
        try:
            while True:
                message, _ = channel.recv()
                self._answer(message, channel)
        except (EOFError, OSError):
            sock.close()

    def _answer(self, message: Message, channel: Channel) -> None:
        if message.flag == Nfssvc.STATUS:
            channel.reply(message, json.dumps({"mountd": self.mountd}).encode())
            return
        self._channel = channel
        if message.flag == Nfssvc.GETFH:
            args = unpack_getfh_args(message.body)
            self.asked.append(args)
            error, handle = self.getfh(args)
            p = Packer()
            p.pack_opaque(handle)
            self._channel.reply(message, b"" if error else bytes(p), errno=error)
            return
        if message.flag == Nfssvc.EXPORT and not self.refuse:
            table = unpack_export_args(message.body)
            with self._changed:
                self.tables.append(table.exports)
                self._changed.notify_all()
        self._channel.reply(message, errno=self.refuse if message.flag == Nfssvc.EXPORT else 0)

    def relay(self, slot: int = 0) -> socket.socket:
        """Gives mountd one end of a socket for relayed calls; returns the worker's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert self._channel is not None
        self._channel.send(Message(Nfssvc.RELAY, 0, slot.to_bytes(4, "big")), [theirs.fileno()])
        theirs.close()
        ours.settimeout(DEADLINE_S)
        return ours

    def wait_tables(self, count: int) -> tuple[Export, ...]:
        """The newest table, when `count` of them have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.tables) >= count, DEADLINE_S):
                raise TimeoutError(f"{len(self.tables)} tables came, {count} expected")
            return self.tables[-1]

    def close(self) -> None:
        """Ends as a server that dies: everything is gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._channel is not None:
            try:
                self._channel.sock.shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                assert exc.errno in (errno.ENOTCONN, errno.EBADF)
        for thread in (self._thread, *self._asking):
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        self._path.unlink()
