"""Questions for a helper process (lookupd.py), which may take its time.

Theory of operation.  Questions go to the helper one at a time; who asks what is being asked already waits for the same answer.
After DEADLINE_S the helper is given up, those who wait get no answer, and the next question starts a new helper.
Used by: groups.py, hosts.py.
"""
from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from oncrpc.server import Server, Timer

log = logging.getLogger("nfsd")

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lookupd.py")
DEADLINE_S = 5.0        # a kernel client asks again after 5 s of JUKEBOX
MAX_ASKED = 4096        # questions that wait; more get no answer at once
_REPLY = 16 + 4 * 8193  # the longest question and answer, lookupd.py

Then = Callable[[bytes | None], None]   # called once: the answer, or None when there is none for now


class Helper:
    """One helper of a kind.

    kind         what lookupd.py is told
    what         what its questions are about, for the log
    become_root  puts this thread into an identity that may execute our own interpreter
    """

    def __init__(self, server: Server, kind: str, what: str, *, become_root: Callable[[], object]) -> None:
        self._server, self._kind, self._what, self._become_root = server, kind, what, become_root
        self._asked: dict[bytes, list[Then]] = {}     # in the order of the questions; the first is with the helper
        self._sock: socket.socket | None = None
        self._conn = -1
        self._deadline: Timer | None = None

    def ask(self, question: bytes, then: Then) -> None:
        if len(self._asked) >= MAX_ASKED and question not in self._asked:
            then(None)
            return
        waiting = self._asked.setdefault(question, [])
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
        question = next(iter(self._asked))
        try:
            if self._sock is None:
                self._start()
            assert self._sock is not None
            self._sock.send(question, socket.MSG_NOSIGNAL)
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
        question = next(iter(self._asked), b"")
        if not question or not reply.startswith(question):
            self._fail("it ended")
            return
        self._close_question(question, reply[len(question):])

    def _close_question(self, question: bytes, answer: bytes | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        waiting = self._asked.pop(question)
        if self._asked:
            self._send()
        for then in waiting:
            then(answer)

    def _fail(self, why: str) -> None:
        log.warning("%s: %s; the helper starts again", self._what, why)
        self._end()
        if self._asked:
            self._close_question(next(iter(self._asked)), None)

    def _refuse_all(self, exc: OSError) -> None:
        """There is no helper, and for now there will be none."""
        log.warning("%s: %s", self._what, exc.strerror)
        self._end()
        asked, self._asked = self._asked, {}
        for waiting in asked.values():
            for then in waiting:
                then(None)

    # ---- the process

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._become_root()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a helper's status
        with theirs:
            try:
                os.posix_spawn(sys.executable, [sys.executable, "-I", PROGRAM, self._kind], {},
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
