"""How log lines look that do not go to syslog: plain, in colour for a person at a terminal, or one JSON object each.

Called by every daemon where it sets up its logging.
"""
from __future__ import annotations

import logging
import os
import time
from typing import TextIO

FORMATS = ("syslog", "stderr", "json")   # what --log takes
_COLOURS = ((logging.ERROR, "\033[1;31m"), (logging.WARNING, "\033[33m"), (logging.INFO + 1, "\033[32m"), (logging.INFO, ""),
            (0, "\033[2m"))              # errors red, warnings yellow, notices green, debugging faint
_PRIORITIES = ((logging.CRITICAL, "crit"), (logging.ERROR, "err"), (logging.WARNING, "warning"), (logging.INFO + 1, "notice"),
               (logging.INFO, "info"), (0, "debug"))   # the names of syslog(3)


def in_colour(stream: TextIO) -> bool:
    """For a terminal that has them, unless $NO_COLOR says no (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def handler(where: str, ident: str, stream: TextIO, *, pid: bool = False) -> logging.Handler:
    """To `stream`.  where: stderr or json; ident: the program's name in each line; pid: with its number."""
    made = logging.StreamHandler(stream)
    if where == "json":
        made.setFormatter(_Json(ident))
    else:
        made.setFormatter(_Text(f"{ident}{'[%(process)d]' if pid else ''}: %(message)s", in_colour(stream)))
    return made


class _Text(logging.Formatter):
    def __init__(self, layout: str, colour: bool) -> None:
        super().__init__(layout)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = _of_level(_COLOURS, record.levelno) if self._colour else ""
        return f"{colour}{text}\033[0m" if colour else text


class _Json(logging.Formatter):
    """{"time": RFC 3339 in UTC, "priority": syslog's word, "program", "pid", "message"}; a traceback is part of the message."""

    def __init__(self, ident: str) -> None:
        super().__init__("%(message)s")
        import json  # noqa: PLC0415 only for who asks for it, and now: without rights it may not be readable
        self._ident, self._dumps = ident, json.dumps

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        return self._dumps({"time": when, "priority": _of_level(_PRIORITIES, record.levelno), "program": self._ident,
                            "pid": record.process, "message": super().format(record)})


def _of_level(table: tuple[tuple[int, str], ...], level: int) -> str:
    return next(text for least, text in table if level >= least)
