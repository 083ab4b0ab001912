"""The control half's view of the workers: requests with deadlines, hand-over of connections, who is least loaded.

Theory of operation.  A slot is known from the SLOT message to the end of its channel.  Requests are answered in any order with
their serial; a request ends exactly once: with its reply, or with None when the worker died or the deadline passed.  Serials
start at a random number: after a control half died, a late answer to it is not taken for one to us.  A slot is `alive` from its
first message on.  What does not fit into the channel waits in a short queue; a worker that does not answer for REQUEST_S, of the
time in which we run ourselves (patience.py), is reported to the master.
"""
from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.state import S_CONNECTIONS, S_HEARTBEAT, S_PID, S_TCPCONN, State

from . import log
from .loop import Loop
from .patience import Patience

REQUEST_S = 10.0         # a worker that answers nothing for so long hangs (attack table: no heartbeat in 10 s)
PING_S = 3.0             # an idle worker is asked so often whether it is there
MAX_QUEUE = 1024         # messages that wait for a slow worker: more than the connections of one burst
MAX_HANDING = 256        # connections on their way to one worker; the kernel counts descriptors in flight against our limit
RETRY_S = 0.05           # after too many descriptors in flight
_FULL = (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM)

Answer = Callable[[Message | None, list[int]], None]


@dataclass(slots=True)
class _Request:
    flag: int
    deadline: float
    answer: Answer


@dataclass(slots=True, eq=False)
class Slot:
    number: int
    incarnation: int
    pid: int
    channel: Channel
    udp: list[int]
    alive: bool = False
    draining: bool = False
    handing: int = 0                     # connections handed over and not yet acknowledged
    handed: int = 0                      # connections handed over, but for those that it refused
    taken_before: int = 0                # by its predecessors, or from ours
    serial: int = field(default_factory=lambda: random.getrandbits(31))
    requests: dict[int, _Request] = field(default_factory=dict)
    queue: deque[tuple[Message, list[int]]] = field(default_factory=deque)
    heard: float = 0.0                   # when it said something last, by Slots' clock


class Slots:
    """All workers.  on_gone(slot) is called when a worker's channel has ended, on_alive(slot) at its first message,
    on_question(slot, message) when it asks something."""

    def __init__(self, loop: Loop, state: State, *, on_gone: Callable[[Slot], None], on_alive: Callable[[Slot], None],
                 on_hung: Callable[[Slot], None], on_question: Callable[[Slot, Message], None]) -> None:
        self._loop, self._state = loop, state
        self._on_gone, self._on_alive, self._on_hung, self._on_question = on_gone, on_alive, on_hung, on_question
        self._patience = Patience(PING_S)
        self.slots: dict[int, Slot] = {}
        loop.call_later(PING_S, self._ping)

    # ---- coming and going

    def add(self, slot: Slot) -> None:
        """A worker was started; its predecessor in the slot, if we still have it, is gone."""
        old = self.slots.get(slot.number)
        if old is not None:
            self._gone(old)
        slot.channel.sock.setblocking(False)
        slot.heard = self._patience.now()
        self.slots[slot.number] = slot
        slot.taken_before = self._state.slot(slot.number)[S_TCPCONN]
        self._loop.watch(slot.channel.fileno(), lambda: self._read(slot))

    def _gone(self, slot: Slot) -> None:
        if self.slots.get(slot.number) is not slot:
            return
        del self.slots[slot.number]
        self._loop.forget(slot.channel.fileno())
        slot.channel.close()
        for fd in [*slot.udp, *(fd for _, fds in slot.queue for fd in fds)]:
            os.close(fd)
        for request in list(slot.requests.values()):
            request.answer(None, [])
        self._on_gone(slot)

    # ---- choosing

    def load(self, slot: Slot) -> int:
        """Open connections: what the worker counts, and what was handed over and is not counted yet.  Its acknowledgement
        comes later than its count; by that one would be counted twice, and the next go elsewhere."""
        row = self._state.slot(slot.number)
        on_the_way = max(0, slot.handed - (row[S_TCPCONN] - slot.taken_before))
        return (row[S_CONNECTIONS] if row[S_PID] == slot.pid else 0) + on_the_way

    def least_loaded(self) -> Slot | None:
        """None: nobody can take one now."""
        ready = [s for s in self.slots.values()
                 if s.alive and not s.draining and len(s.queue) < MAX_QUEUE and s.handing < MAX_HANDING]
        return min(ready, key=lambda s: (self.load(s), s.number), default=None)

    def any_alive(self) -> Slot | None:
        """The least loaded worker for a question, which needs no place for a connection."""
        return min((s for s in self.slots.values() if s.alive and not s.draining), key=self.load, default=None)

    # ---- talking

    def request(self, slot: Slot, flag: int, body: bytes, fds: list[int], answer: Answer) -> None:
        """Sends; `fds` become ours and are closed.  `answer` is called once, later or, when the worker is gone, at once."""
        if self.slots.get(slot.number) is not slot:
            for fd in fds:
                os.close(fd)
            answer(None, [])
            return
        slot.serial = slot.serial % 0xFFFFFFFF + 1
        slot.requests[slot.serial] = _Request(flag, self._patience.now() + REQUEST_S, answer)
        slot.queue.append((Message(flag, slot.serial, body), fds))
        self._flush(slot)

    def answer(self, slot: Slot, msg: Message) -> None:
        """The answer to a question of a worker's, if it is still there."""
        if self.slots.get(slot.number) is slot:
            slot.queue.append((msg, []))
            self._flush(slot)

    def _flush(self, slot: Slot) -> None:
        while slot.queue:
            msg, fds = slot.queue[0]
            try:
                slot.channel.send(msg, fds)
            except OSError as exc:
                if exc.errno in _FULL:
                    break
                log.logger.info("worker %d: %s", slot.number, exc.strerror)
                self._gone(slot)
                return
            slot.queue.popleft()
            for fd in fds:
                os.close(fd)
        if slot.queue:
            self._loop.call_later(RETRY_S, lambda: self._flush_again(slot))

    def _flush_again(self, slot: Slot) -> None:
        if self.slots.get(slot.number) is slot:
            self._flush(slot)

    def _read(self, slot: Slot) -> None:
        try:
            msg, fds = slot.channel.recv()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._gone(slot)
            return
        except ProtocolError as exc:
            log.logger.error("worker %d breaks the protocol: %s", slot.number, exc)
            self._on_hung(slot)
            self._gone(slot)
            return
        slot.heard = self._patience.now()
        if not slot.alive:
            slot.alive = True
            self._on_alive(slot)
        self._answered(slot, msg, fds)

    def _answered(self, slot: Slot, msg: Message, fds: list[int]) -> None:
        if msg.flag == Nfssvc.NEEDAUTH:
            self._on_question(slot, msg)
            return
        request = slot.requests.get(msg.serial)
        if request is None or msg.flag != Nfssvc.FHOPEN:  # nobody asked for a descriptor
            for fd in fds:
                os.close(fd)
            fds = []
        if request is None or request.flag != msg.flag:  # READY, or an answer to a control half before us
            return
        del slot.requests[msg.serial]
        request.answer(msg, fds)

    def hand_over(self, slot: Slot, sock: socket.socket, body: bytes) -> None:
        """A connected socket to `slot`; ours is closed once it is sent."""
        slot.handing += 1
        slot.handed += 1

        def done(msg: Message | None, fds: list[int]) -> None:
            slot.handing -= 1
            for fd in fds:
                os.close(fd)
            if msg is None or msg.errno:
                slot.handed -= 1
            if msg is not None and msg.errno:
                log.logger.warning("worker %d refused a connection: %s", slot.number, os.strerror(msg.errno))

        self.request(slot, Nfssvc.ADDSOCK, body, [sock.detach()], done)

    # ---- watching

    def _ping(self) -> None:
        """Deadlines, and a harmless question (a log level changed by 0) to workers that were silent."""
        now = self._patience.now()
        for slot in list(self.slots.values()):
            self._expire(slot, now)
            beat_s = time.monotonic() - self._state.slot(slot.number)[S_HEARTBEAT] / 1e9
            if slot.alive and min(now - slot.heard, beat_s) > PING_S and not slot.requests:
                self.request(slot, Nfssvc.VERBOSE, b"\0\0\0\0", [], lambda msg, fds: None)
        self._loop.call_later(PING_S / 3, self._ping)

    def _expire(self, slot: Slot, now: float) -> None:
        late = [serial for serial, request in slot.requests.items() if request.deadline <= now]
        for serial in late:
            slot.requests.pop(serial).answer(None, [])
        if late and now - slot.heard >= REQUEST_S and not slot.draining:
            slot.alive = False  # no new connections until it says something
            self._on_hung(slot)
