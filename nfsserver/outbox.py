"""A worker's end of its channel: an answer that has no room now is sent later, in its turn.

The control half may send many requests before it reads an answer, and the socket has room for some 280.  An answer that was lost
would be waited for (slots.REQUEST_S), and the caller of nfssvc() told that the worker is gone.
"""
from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from nfssvc_shim.channel import Channel, Message

log = logging.getLogger("nfsd")

RETRY_S = 0.05           # as the control half does (slots.py)
MAX_WAITING = 4096       # answers; who has not read so many reads no more


class Outbox(Channel):
    """call_later(delay_s, callback) is the loop's; the socket does not block."""

    def __init__(self, sock: socket.socket, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        super().__init__(sock)
        self._call_later = call_later
        self._waiting: deque[tuple[Message, list[int]]] = deque()

    def send(self, msg: Message, fds: tuple[int, ...] | list[int] = ()) -> None:
        """At once, or when there is room; the descriptors stay the caller's.  Raises OSError when the peer is gone."""
        if not self._waiting:
            try:
                super().send(msg, fds)
                return
            except BlockingIOError:
                self._call_later(RETRY_S, self._flush)
        if len(self._waiting) >= MAX_WAITING:
            log.error("message %#x: %d answers are not read: this one is lost", msg.flag, MAX_WAITING)
            return
        self._waiting.append((msg, [os.dup(fd) for fd in fds]))

    def _flush(self) -> None:
        while self._waiting:
            msg, fds = self._waiting[0]
            try:
                super().send(msg, fds)
            except BlockingIOError:
                self._call_later(RETRY_S, self._flush)
                return
            except OSError as exc:  # the peer is gone, which the loop will read
                log.debug("answers to %#x and %d others: %s", msg.flag, len(self._waiting) - 1, exc.strerror)
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
