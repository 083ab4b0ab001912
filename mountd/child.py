"""The processes that mountd starts, each with one end of a socket pair, and what keeps them running."""
from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable

from oncrpc.server import Server

from .privsep import fork_child, kill_child

log = logging.getLogger(__name__)

RESPAWN_S = 1.0
END_S = 4.0  # children that have not ended by themselves by then are killed


class Child:
    """One process and our end of its socket pair, which the loop reads.

    It ends when our end closes; start() again replaces it.
    """

    def __init__(self, loop: Server, title: str, on_readable: Callable[[], None]) -> None:
        self.loop = loop
        self.title = title
        self.on_readable = on_readable
        self.pid = 0
        self.sock: socket.socket | None = None
        self._conn = 0

    def start(self, work: Callable[[socket.socket], None], *, keep: Iterable[int] = (),
              kind: int = socket.SOCK_SEQPACKET) -> None:
        """Runs work(its end) in a new process that has the descriptors `keep` besides."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        ours.setblocking(False)
        self.pid = fork_child(self.title, [theirs.fileno(), *keep], lambda: work(theirs))
        theirs.close()
        self.sock = ours
        self._conn = self.loop.on_readable(ours.fileno(), self.on_readable)

    def recv(self, size_bytes: int) -> bytes | None:
        """What it sent; b"" once it is gone, and then our end is closed; None: nothing more is there."""
        if self.sock is None:
            return None
        try:
            packet = self.sock.recv(size_bytes)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            self.close()
        return packet

    def close(self) -> None:
        if self.sock is not None:
            self.loop.close(self._conn)
            self.sock.close()
            self.sock = None


class Children:
    """Those that must run: one that ends is started again after RESPAWN_S, until end()."""

    def __init__(self, loop: Server) -> None:
        self.loop = loop
        self.ending = False
        self._again: dict[int, Callable[[], None]] = {}

    def add(self, child: Child, again: Callable[[], None]) -> None:
        self._again[child.pid] = again

    def reap(self) -> None:
        """After SIGCHLD."""
        for pid in list(self._again):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                again = self._again.pop(pid)
                if not self.ending:
                    log.error("a child ended (pid %d, status %d); starting another", pid, os.waitstatus_to_exitcode(status))
                    self.loop.call_later(RESPAWN_S, again)

    def end(self) -> None:
        """Waits for them, whose sockets are closed by now."""
        self.ending = True
        deadline = time.monotonic() + END_S
        while self._again and time.monotonic() < deadline:
            # SIGCHLD writes to the loop's wakeup descriptor, so a turn ends when a child does.
            self.loop.turn(max(1, int((deadline - time.monotonic()) * 1000)))
            self.reap()
        for pid in self._again:
            if kill_child(pid):
                os.waitpid(pid, 0)
            else:
                log.error("a child (pid %d) does not end, and cannot be ended without CAP_KILL", pid)
