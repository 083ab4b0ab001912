"""Logging of nfsd's two halves: syslog facility daemon, or stderr in the foreground; one event, one line.

Levels as macOS' nfsd has them: warnings always, verbose 1 adds NOTICE, 2 INFO, 3 DEBUG.
"""
from __future__ import annotations

import logging
import sys
import syslog

from oncrpc import logformat

NOTICE = 25
LEVELS = (logging.WARNING, NOTICE, logging.INFO, logging.DEBUG)
_PRIORITY = {logging.DEBUG: syslog.LOG_DEBUG, logging.INFO: syslog.LOG_INFO, NOTICE: syslog.LOG_NOTICE,
             logging.WARNING: syslog.LOG_WARNING, logging.ERROR: syslog.LOG_ERR, logging.CRITICAL: syslog.LOG_CRIT}

logger = logging.getLogger("nfsd")


class _Syslog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            syslog.syslog(_PRIORITY.get(record.levelno, syslog.LOG_NOTICE), line)


def setup(where: str, verbose: int, *, ident: str) -> None:
    """Sends what `logger` gets to "syslog", or to standard error as text ("stderr") or "json"."""
    handler: logging.Handler
    if where == "syslog":
        syslog.openlog(ident, syslog.LOG_PID, syslog.LOG_DAEMON)
        handler = _Syslog()
    else:
        handler = logformat.handler(where, ident, sys.stderr, pid=True)
    logging.addLevelName(NOTICE, "NOTICE")
    logger.handlers[:] = [handler]
    logger.propagate = False
    set_verbose(verbose)


def set_verbose(verbose: int) -> int:
    """Clips to what there is, and returns it."""
    verbose = max(0, min(verbose, len(LEVELS) - 1))
    logger.setLevel(LEVELS[verbose])
    return verbose


def notice(text: str, *args: object) -> None:
    logger.log(NOTICE, text, *args)
