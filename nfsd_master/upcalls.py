"""Questions of workers to 4.4BSD's kind of nfsd (ENEEDAUTH): whose Kerberos ticket is this?

Theory of operation.  A caller of NFSD whose body says so can be asked; it is, one question at a time, by a NEEDAUTH message with
its NFSD call's serial, and answers AUTHIN with the question's number.  While all are busy questions wait.  Workers are told
when the first such caller comes and the last one goes (AUTHIN with 1, 0): without one they refuse such calls themselves.  A
worker's question ends with an answer, or EACCES when there is nobody left to ask; a worker that died has none.
"""
from __future__ import annotations

import dataclasses
import errno
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfssvc_shim.channel import Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import NeedAuth, pack_needauth, unpack_authin, unpack_needauth

from .callsock import Client
from .slots import Slot

if TYPE_CHECKING:
    from .control import Control

MAX_WAITING = 1024       # questions: 64 of each of 16 workers; those beyond are refused


@dataclass(slots=True)
class _Question:
    slot: Slot
    serial: int          # the worker's
    asked: NeedAuth


class Upcalls:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._daemons: dict[Client, tuple[Message, _Question | None]] = {}   # its NFSD call, what it holds
        self._waiting: deque[_Question] = deque()
        self._last = 0

    # ---- who can be asked

    def add(self, client: Client, msg: Message) -> None:
        """A caller of NFSD that can be asked."""
        self._daemons[client] = msg, None
        if len(self._daemons) == 1:
            self._tell_workers()
        self._give()

    def on_gone(self, client: Client) -> None:
        """What it held goes to another."""
        if client not in self._daemons:
            return
        _, question = self._daemons.pop(client)
        if question is not None:
            self._waiting.appendleft(question)
        if not self._daemons:
            self._tell_workers()
        self._give()

    def _tell_workers(self) -> None:
        for slot in list(self._control.slots.slots.values()):
            self._tell(slot)

    def joins(self, slot: Slot) -> None:
        """A worker came."""
        if self._daemons:
            self._tell(slot)

    def _tell(self, slot: Slot) -> None:
        self._control.slots.request(slot, Nfssvc.AUTHIN, struct.pack(">I", bool(self._daemons)), [], lambda msg, fds: None)

    # ---- questions and answers

    def ask(self, slot: Slot, msg: Message) -> None:
        """A worker's NEEDAUTH."""
        question = _Question(slot, msg.serial, unpack_needauth(msg.body))
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(question)
            self._give()
        else:
            self._answer(question, errno.EACCES)

    def _give(self) -> None:
        """Questions to those who hold none; to nobody when there is nobody."""
        while self._waiting and not self._daemons:
            self._answer(self._waiting.popleft(), errno.EACCES)
        for client, (nfsd, held) in list(self._daemons.items()):
            if held is None and self._waiting and client in self._daemons:
                question = self._waiting.popleft()
                self._last = self._last % 0xFFFFFFFF + 1
                question.asked = dataclasses.replace(question.asked, number=self._last)
                self._daemons[client] = nfsd, question
                self._control.call_socket.send(client, Message(Nfssvc.NEEDAUTH, nfsd.serial, pack_needauth(question.asked)), [])

    def answered(self, client: Client, msg: Message) -> None:
        """AUTHIN.  Raises OSError(EINVAL): it was not asked that."""
        answer = unpack_authin(msg.body)
        nfsd, question = self._daemons.get(client, (None, None))
        if nfsd is None or question is None or question.asked.number != answer.number:
            raise OSError(errno.EINVAL, f"no question {answer.number}")
        self._daemons[client] = nfsd, None
        self._answer(question, 0 if answer.ok else errno.EACCES, msg.body)
        self._give()

    def _answer(self, question: _Question, error: int, body: bytes = b"") -> None:
        self._control.slots.answer(question.slot, Message(Nfssvc.NEEDAUTH, question.serial, b"" if error else body, error))
