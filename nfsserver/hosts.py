"""What clients are called, for the HOST= tags of cluster.c.

An address is known (the answer is kept for KEEP_S), or a helper process (helper.py) is asked while the calls wait, detached.
Where no name server answers, the client has no name for FAILED_S: its other tags hold, and it does not wait for each call.
Used by: worker.py.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from oncrpc.server import Server

from .helper import Helper

KEEP_S = 300.0          # name servers' answers hold from minutes to a day
FAILED_S = 60.0
MAX_KNOWN = 4096        # clients
MAX_NAME = 255          # RFC 1035 section 2.3.4


@dataclass(frozen=True, slots=True)
class Host:
    """name: b"" without one; until: CLOCK_MONOTONIC seconds."""

    name: bytes
    until: float


Then = Callable[[Host], None]


class Hosts:
    """Names of addresses (4 or 16 bytes)."""

    def __init__(self, server: Server, *, become_root: Callable[[], object]) -> None:
        self._helper = Helper(server, "hosts", "names of hosts", become_root=become_root)
        self._known: dict[bytes, Host] = {}

    def known(self, address: bytes) -> Host | None:
        host = self._known.get(address)
        return host if host and host.until > time.monotonic() else None

    def ask(self, address: bytes, then: Then) -> None:
        self._helper.ask(address, lambda answer: then(self._keep(address, answer)))

    def stop(self) -> None:
        self._helper.stop()

    def _keep(self, address: bytes, answer: bytes | None) -> Host:
        host = Host(_name(answer or b""), time.monotonic() + (FAILED_S if answer is None else KEEP_S))
        self._known.pop(address, None)
        if len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[address] = host
        return host


def _name(answer: bytes) -> bytes:
    """One that can be part of a file's name; what else a name server says is none."""
    return answer if len(answer) <= MAX_NAME and not set(answer) & set(b"/$\0") else b""
