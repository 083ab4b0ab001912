"""The clock by which we wait for another process's answer: it stands still while we do not run ourselves.

Who was stopped, frozen or paused with his machine for a minute would else take all the others, which were too, for hung when he
goes on, and kill them before they had a turn.  Who is not run does not ask the time: what lies between two questions beyond the
longest wait that he plans is that.
"""
from __future__ import annotations

import time


class Patience:
    """longest_s: it is asked so often when all is well; of a longer gap only that much counts."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s, self._last, self._lost = longest_s, time.monotonic(), 0.0

    def now(self) -> float:
        """Seconds, comparable with one another only."""
        asked = time.monotonic()
        self._lost += max(0.0, asked - self._last - self._longest_s)
        self._last = asked
        return asked - self._lost
