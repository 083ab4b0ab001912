"""mountd's end of the call socket: NFSSVC_EXPORT, GETFH and MOUNTD to the server, RELAY from it.

Theory of operation.  While there is no connection one is tried again, each 10 ms at first, then each 100 ms; requests made in the
meantime fail at once (`request` returns False).  Replies come by serial.  When the connection ends every waiting request gets
ENOTCONN, and the owner's `on_up` runs again after the next connect.
"""
from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from oncrpc.server import Server

log = logging.getLogger(__name__)

RETRY_S = 0.1             # between two connects: a restarted server waits for its table
SOON_S = 0.01             # the same in the first GRACE_S: nfsd and mountd are started together, and one of them is first
GRACE_S = 5.0             # an nfsd that is not there for so long is worth a line; on a busy machine it starts in two
SYSTEM_SOCKET = "/run/nfsd/nfssvc.sock"

Done = Callable[[int, bytes], None]  # errno, body


def default_path() -> str:
    """NFSSVC_SOCKET, else the system's, else the user's.  The first that exists, of the last two."""
    named = os.environ.get("NFSSVC_SOCKET")
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and (os.geteuid() or not os.path.exists(SYSTEM_SOCKET)) and not os.access(SYSTEM_SOCKET, os.W_OK):
        return str(Path(runtime) / "nfsd" / "nfssvc.sock")
    return SYSTEM_SOCKET


class CallSocket:
    """on_up: connected; on_relay(slot, descriptor): a worker's end, the owner's from then on."""

    def __init__(self, loop: Server, path: str, *, on_up: Callable[[], None], on_relay: Callable[[int, int], None]) -> None:
        self.loop = loop
        self.path = path
        self.on_up = on_up
        self.on_relay = on_relay
        self._channel: Channel | None = None
        self._conn = 0
        self._waiting: dict[int, Done] = {}
        self._complained = ""
        self._since = 0.0         # when the connection that is missing was first tried; 0: none is missing

    @property
    def is_up(self) -> bool:
        return self._channel is not None

    def connect(self) -> None:
        """Tries now, and again until it works."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(self.path)
        except OSError as exc:
            sock.close()
            self._again(f"{self.path}: {exc.strerror}")
            return
        sock.setblocking(False)
        self._complained, self._since = "", 0.0
        self._channel = Channel(sock)
        self._conn = self.loop.on_readable(sock.fileno(), self._readable)
        self.on_up()

    def _again(self, what: str) -> None:
        """Another try, soon; a line once for each reason, not ten times a second."""
        now = time.monotonic()
        self._since = self._since or now
        late = now - self._since >= GRACE_S
        self.loop.call_later(RETRY_S if late else SOON_S, self.connect)
        if late and what != self._complained:
            self._complained = what
            log.warning("waiting for nfsd: %s", what)

    def request(self, flag: Nfssvc, body: bytes, done: Done) -> bool:
        """Sends; `done` runs once.  False, and `done` never runs: not connected, or the server takes nothing more now."""
        if self._channel is None:
            return False
        serial = self._channel.next_serial()
        try:
            self._channel.send(Message(int(flag), serial, body))
        except BlockingIOError:
            return False
        except OSError as exc:
            log.warning("%s: %s", self.path, exc.strerror)
            self.down()
            return False
        self._waiting[serial] = done
        return True

    def _readable(self) -> None:
        while self._channel is not None:
            try:
                message, fds = self._channel.recv()
            except BlockingIOError:
                return
            except (EOFError, OSError):
                log.warning("nfsd closed %s", self.path)
                self.down()
            except ProtocolError as exc:
                log.error("%s: %s", self.path, exc)
                self.down()
            else:
                self._one(message, fds)

    def _one(self, message: Message, fds: list[int]) -> None:
        if message.flag == Nfssvc.RELAY and len(fds) == 1 and len(message.body) == 4 and not message.errno:
            self.on_relay(int.from_bytes(message.body, "big"), fds[0])
            return
        for fd in fds:
            os.close(fd)
        done = self._waiting.pop(message.serial, None)
        if done is not None:
            done(message.errno, message.body)

    def down(self) -> None:
        """Gives the connection up and tries again."""
        if self._channel is None:
            return
        self.loop.close(self._conn)
        self._channel.close()
        self._channel = None
        waiting, self._waiting = self._waiting, {}
        self.loop.call_later(RETRY_S, self.connect)
        for done in waiting.values():
            done(errno.ENOTCONN, b"")
