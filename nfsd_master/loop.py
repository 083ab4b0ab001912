"""The event loop of the control half: readable descriptors, writable descriptors, timers.  One thread, nothing blocks.

It may wait in another's hands: wait_in().
"""
from __future__ import annotations

import heapq
import itertools
import math
import selectors
import time
from collections.abc import Callable

Callback = Callable[[], None]


class Timer:
    """Runs once unless cancelled."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._wait_in: Callable[[int], None] | None = None
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = True

    def watch(self, fd: int, on_read: Callback | None, on_write: Callback | None = None) -> None:
        """Callbacks of `fd` from now on; both None: it is no longer watched."""
        events = (selectors.EVENT_READ if on_read else 0) | (selectors.EVENT_WRITE if on_write else 0)
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, (on_read, on_write))
        else:
            self._selector.register(fd, events, (on_read, on_write))

    def forget(self, fd: int) -> None:
        self.watch(fd, None)

    def fileno(self) -> int:
        """Readable when there is something to do here but timers."""
        return self._selector.fileno()

    def wait_in(self, wait: Callable[[int], None] | None) -> None:
        """wait(timeout_ms) waits from now on, -1 for ever: until fileno() is readable, or shorter.  None: as before."""
        self._wait_in = wait

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until stop().  What a callback raises ends the loop: callbacks handle what they can decide about."""
        while self._running:
            timeout = self._until_timer()
            if self._wait_in is not None:
                self._wait_in(-1 if timeout is None else math.ceil(timeout * 1000))
                timeout = 0.0
            for key, events in self._selector.select(timeout):
                self._dispatch(key, events)
            self._run_timers()

    def _dispatch(self, key: selectors.SelectorKey, events: int) -> None:
        for bit, place in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
            # An earlier callback of this turn may have closed or changed this descriptor.
            current = self._selector.get_map().get(key.fd)
            if events & bit and current is not None and current.data[place] is not None and current.data is key.data:
                current.data[place]()

    def _until_timer(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()
