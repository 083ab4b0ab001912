"""Where mountd's log lines go, and how often one source may cause them."""
from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from dataclasses import dataclass, field

from oncrpc import logformat

LINES_PER_S = 10          # refusals logged a second and source
MAX_SOURCES = 4096        # sources remembered


def set_up(where: str, level: int) -> None:
    """To syslog, facility daemon; where no syslog is, and for "stderr" and "json", to stderr."""
    handler: logging.Handler
    if where == "syslog" and os.path.exists("/dev/log"):
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(f"mountd[{os.getpid()}]: %(message)s"))
    else:
        handler = logformat.handler(where, "mountd", sys.stderr)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


@dataclass(slots=True)
class RateLimit:
    """At most LINES_PER_S lines a second for each source; what was left out is counted and told with the next line."""

    _windows: dict[str, list[float]] = field(default_factory=dict)

    def allow(self, source: str, now_s: float) -> str | None:
        """None: leave this line out.  Else a text to append to it, "" or how many were left out before."""
        window = self._windows.setdefault(source, [now_s, 0, 0])  # begin, lines, left out
        if len(self._windows) > MAX_SOURCES:
            del self._windows[next(iter(self._windows))]
        if now_s - window[0] >= 1.0:
            window[0], window[1] = now_s, 0
        if window[1] >= LINES_PER_S:
            window[2] += 1
            return None
        window[1] += 1
        left_out, window[2] = window[2], 0
        return f" ({left_out:.0f} like it left out)" if left_out else ""
