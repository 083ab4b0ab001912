"""manage-gids: the groups of a user as this server knows them, instead of the 16 that AUTH_SYS carries.

Theory of operation.  A uid is known (the answer is kept for KEEP_S), being asked for (calls wait, detached), or neither.
Questions go one at a time to a helper process (groupd.py), which may take its time.  After DEADLINE_S the helper is given up,
those who wait get JUKEBOX (they ask again), and the next question starts a new helper.  A user whom this server does not know
keeps the groups that he sent, as with Linux' mountd --manage-gids.
Used by: worker.py, when it decides what a caller may do.
"""
from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable

from oncrpc.server import Server, Timer

log = logging.getLogger("nfsd")

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "groupd.py")
KEEP_S = 300.0          # FreeBSD's nfsuserd: 60, Linux: 1800
DEADLINE_S = 5.0        # a kernel client asks again after 5 s of JUKEBOX
MAX_KNOWN = 16384       # users; with 16 groups each about 4 MB
MAX_ASKED = 4096        # users being asked for; more are answered JUKEBOX at once
_REPLY = 8 + 4 * 8192

Then = Callable[[bool], None]   # called once: True when known() has the answer


class Groups:
    """The users' groups.

    become_root  puts this thread into an identity that may execute our own interpreter
    on_old       the answers were thrown away: so must be what was decided from them
    """

    def __init__(self, server: Server, *, become_root: Callable[[], object], on_old: Callable[[], object]) -> None:
        self._server, self._become_root, self._on_old = server, become_root, on_old
        self._known: dict[int, tuple[int, ...] | None] = {}
        self._asked: dict[int, list[Then]] = {}     # in the order of the questions; the first is with the helper
        self._sock: socket.socket | None = None
        self._conn = -1
        self._deadline: Timer | None = None

    def known(self, uid: int) -> tuple[bool, tuple[int, ...] | None]:
        """Is there an answer, and which: the groups, or None for a user whom nobody knows here."""
        return uid in self._known, self._known.get(uid)

    def _old(self) -> None:
        self._known.clear()
        self._on_old()

    def ask(self, uid: int, then: Then) -> None:
        if len(self._asked) >= MAX_ASKED and uid not in self._asked:
            then(False)
            return
        waiting = self._asked.setdefault(uid, [])
        waiting.append(then)
        if len(self._asked) == 1 and len(waiting) == 1:
            self._send()

    def stop(self) -> None:
        """The helper ends; nobody is answered any more."""
        self._asked.clear()
        self._end()

    # ---- one question

    def _send(self) -> None:
        """The first question goes to the helper."""
        uid = next(iter(self._asked))
        try:
            if self._sock is None:
                self._start()
            assert self._sock is not None
            self._sock.send(struct.pack("=I", uid), socket.MSG_NOSIGNAL)
        except OSError as exc:
            self._refuse_all(exc)
            return
        self._deadline = self._server.call_later(DEADLINE_S, lambda: self._fail(f"no answer in {DEADLINE_S:g} s"))

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            reply = self._sock.recv(_REPLY)
        except BlockingIOError:
            return
        except OSError:
            reply = b""
        if len(reply) < 8 or len(reply) % 4 or not self._asked or struct.unpack_from("=I", reply)[0] != next(iter(self._asked)):
            self._fail("it ended")
            return
        words = struct.unpack(f"={len(reply) // 4}I", reply)
        self._answer(words[0], words[2:] if words[1] else None)

    def _answer(self, uid: int, gids: tuple[int, ...] | None) -> None:
        if not self._known:
            self._server.call_later(KEEP_S, self._old)
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[uid] = gids
        self._close_question(uid, True)

    def _close_question(self, uid: int, found: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        waiting = self._asked.pop(uid)
        if self._asked:
            self._send()
        for then in waiting:
            then(found)

    def _fail(self, why: str) -> None:
        log.warning("groups of users: %s; the helper starts again", why)
        self._end()
        if self._asked:
            self._close_question(next(iter(self._asked)), False)

    def _refuse_all(self, exc: OSError) -> None:
        """There is no helper, and for now there will be none."""
        log.warning("groups of users: %s", exc.strerror)
        self._end()
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            for then in waiting:
                then(False)

    # ---- the helper

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._become_root()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a helper's status
        with theirs:
            try:
                os.posix_spawn(sys.executable, [sys.executable, "-I", HELPER], {},
                               file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)])
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._sock = ours
        self._conn = self._server.on_readable(ours.fileno(), self._readable)

    def _end(self) -> None:
        """The helper sees the end of its socket, at the latest when its own time for a question is over: we may not kill it."""
        if self._sock is None:
            return
        self._server.close(self._conn)
        self._sock.close()
        self._sock = None
