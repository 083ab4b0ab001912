"""A call socket with fixed answers: what the tests of the client half talk to.

Duty: accept on a SOCK_SEQPACKET socket in a thread, note every message with the kind of its descriptors, answer from a table.
"""
from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc

SRVSTATS = struct.pack("=61Q", *range(1000, 1061)) + b"our longer record"
EXPORT_RECORDS = [struct.pack("=1025s3Q", f"/export/{i}".encode(), i, i * 10, i * 100) for i in range(3)]
EXPORTSTATS = struct.pack("=IQ", 1, 3) + b"".join(EXPORT_RECORDS)
USER_RECORDS = [
    struct.pack("=B1025s", 1, b"/export/0"),
    struct.pack("=BI128s3Q2q", 0, 1000, b"\x10\2\0\0\x7f\0\0\1", 1, 2, 3, 4, 5),
]
USERSTATS = struct.pack("=II", 1, 2) + b"".join(USER_RECORDS)


@dataclass
class Seen:
    flag: int
    body: bytes
    kinds: list[int]


@dataclass
class CallServer:
    """`seen` has the messages in order; `answers` may be changed by a test: flag -> (errno, body, path of a file to send)."""

    path: Path
    seen: list[Seen] = field(default_factory=list)
    answers: dict[int, tuple[int, bytes, str | None]] = field(default_factory=dict)
    held: list[socket.socket] = field(default_factory=list)
    raw: Callable[[socket.socket, Message], None] | None = None  # instead of any answer
    holding: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers |= {
            Nfssvc.SRVSTATS: (0, SRVSTATS, None), Nfssvc.EXPORTSTATS: (0, EXPORTSTATS, None),
            Nfssvc.USERSTATS: (0, USERSTATS, None), Nfssvc.USERCOUNT: (0, struct.pack("=I", 7), None),
            Nfssvc.GETFH: (0, b"\0\0\0\4abcd", None), Nfssvc.FHOPEN: (0, b"", "/dev/null"),
        }
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.release()

    def release(self) -> None:
        """Ends the NFSD calls that are held."""
        for sock in self.held:
            sock.close()
        self.held.clear()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        channel = Channel(sock)
        try:
            msg, fds = channel.recv()
        except (EOFError, ProtocolError):
            sock.close()
            return
        self.seen.append(Seen(msg.flag, msg.body, [stat.S_IFMT(os.fstat(fd).st_mode) for fd in fds]))
        for fd in fds:
            os.close(fd)
        if self.raw:
            self.raw(sock, msg)
        elif msg.flag == Nfssvc.NFSD and msg.flag not in self.answers:
            self.held.append(sock)
            self.holding.set()
            return
        else:
            _reply(channel, msg, *self.answers.get(msg.flag, (0, b"", None)))
        sock.close()


def _reply(channel: Channel, msg: Message, err: int, body: bytes, path: str | None) -> None:
    fds = [os.open(path, os.O_RDONLY)] if path else []
    try:
        channel.reply(msg, body, errno=err, fds=fds)
    except BrokenPipeError as exc:  # the caller was ended by its test
        assert exc.errno == errno.EPIPE
    finally:
        for fd in fds:
            os.close(fd)
