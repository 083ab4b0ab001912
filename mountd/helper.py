"""The privileged half's side of the resolver process: questions out, answers in, a new process when one hangs."""
from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable

from oncrpc.server import Server

from . import resolver
from .child import Child
from .names import Ask, Question
from .privsep import drop_rights, kill_child

log = logging.getLogger(__name__)

HANG_S = 60.0             # a question older than that: all threads may hang, the process is replaced
MAX_OPEN = 16_384         # questions on the way; more wait for their next turn

OnAnswer = Callable[[Question, tuple[str, ...], bool], None]  # the bool: () is definite, there is no such name


class Helper:
    """Start with start(); ask() as often as needed; each question gets at most one on_answer()."""

    def __init__(self, loop: Server, on_answer: OnAnswer) -> None:
        self.on_answer = on_answer
        self.child = Child(loop, "mountd: resolver", self._readable)
        self._open: dict[int, tuple[Question, float]] = {}
        self._unsent: list[Question] = []
        self._serial = 0

    def start(self) -> None:
        self.child.start(_work)

    def stop(self) -> None:
        """Ends the process; what it was asked counts as unanswered."""
        self.child.close()
        failed, self._open = [q for q, _ in self._open.values()], {}
        for question in failed:
            self.on_answer(question, (), False)

    def ask(self, question: Question) -> None:
        self._unsent.append(question)
        self.flush()

    def flush(self) -> None:
        """Sends what could not be sent before."""
        while self._unsent and len(self._open) < MAX_OPEN and self.child.sock is not None:
            question = self._unsent[0]
            self._serial += 1
            try:
                self.child.sock.send(json.dumps({"id": self._serial, "ask": question.ask.value, "name": question.name}).encode())
            except BlockingIOError:
                return
            except OSError:  # it died; SIGCHLD starts another
                return
            self._open[self._serial] = question, time.monotonic()
            del self._unsent[0]

    def _readable(self) -> None:
        while packet := self.child.recv(resolver.MAX_PACKET):
            self._answer(packet)
        if packet == b"":
            self.stop()
        else:
            self.flush()

    def _answer(self, packet: bytes) -> None:
        serial, found, definite = parse_reply(packet)
        question, _ = self._open.pop(serial, (None, 0.0))
        if question is not None:
            self.on_answer(question, found, definite)

    def replace_if_hanging(self) -> None:
        """Called now and then: kills a process whose oldest question is too old; the parent's SIGCHLD starts another."""
        oldest = min((since for _, since in self._open.values()), default=time.monotonic())
        if self.child.pid and time.monotonic() - oldest > HANG_S:
            ended = kill_child(self.child.pid)
            log.warning("the resolver hangs since %.0f s; %s", time.monotonic() - oldest,
                        "replacing it" if ended else "it cannot be ended without CAP_KILL")


def parse_reply(packet: bytes) -> tuple[int, tuple[str, ...], bool]:
    """Serial, answer, and whether () is definite; (0, (), False) for a packet that is none.

    The process has read strangers' DNS: it is not believed.
    """
    try:
        reply = json.loads(packet)
        found = tuple(reply["answer"])
        serial = int(reply["id"])
        definite = reply.get("definite") is True
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, (), False
    ok = len(found) <= 65_536 and all(isinstance(text, str) and 0 < len(text) <= 255 for text in found)
    return (serial, found, definite) if ok else (serial, (), False)


def _work(sock: socket.socket) -> None:
    drop_rights(None)  # it reads /etc/hosts, nsswitch.conf and the accounts: no empty root directory
    resolver.serve(sock)


def ask_all(questions: set[Question], timeout_s: float) -> dict[Question, tuple[str, ...]]:
    """Answers of a helper of its own, for tools that may wait; those that came in `timeout_s`."""
    loop = Server()
    found: dict[Question, tuple[str, ...]] = {}
    waiting = set(questions)

    def on_answer(question: Question, answer: tuple[str, ...], _definite: bool) -> None:
        found[question] = answer
        waiting.discard(question)

    helper = Helper(loop, on_answer)
    helper.start()
    for question in questions:
        helper.ask(question)
    deadline = time.monotonic() + timeout_s
    while waiting and time.monotonic() < deadline:
        loop.turn(max(1, int((deadline - time.monotonic()) * 1000)))
    answers = {q: a for q, a in found.items() if a}
    helper.stop()
    if kill_child(helper.child.pid):
        os.waitpid(helper.child.pid, 0)
    loop.free()
    return answers


__all__ = ["Ask", "Helper", "ask_all", "parse_reply"]
