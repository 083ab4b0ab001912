"""The helper process that keeps program 100005 registered with the port mapper.

It registers, says so to its parent (one byte: "1" done, "0" nobody answers), and looks each 2 s whether the mapping still stands:
a port mapper that was restarted has it again within 5 s.  When the parent's end closes it unregisters, and ends.  A process,
because every one of these steps may wait for somebody else.
"""
from __future__ import annotations

import logging
import select
import socket
from dataclasses import dataclass

from oncrpc.message import RpcError
from oncrpc.pmap import NETIDS, PMAP_PORT, Mapping, Pmap, register, reserved_socket, unregister
from oncrpc.xdr import XdrError

from .mount import MOUNT_PROGRAM

log = logging.getLogger(__name__)

LOOK_S = 2.0              # 2 s and one time-out of the port mapper make 5 s at the most
TIMEOUT_S = 1.0
VERSIONS = (1, 2, 3)
_FAILURES = (OSError, RpcError, XdrError)


@dataclass(frozen=True, slots=True)
class Registration:
    """netid -> port; portmap_port other than 111 in tests."""

    ports: dict[str, int]
    portmap_port: int = PMAP_PORT

    def services(self) -> list[tuple[int, int, str, int]]:
        return [(MOUNT_PROGRAM, vers, netid, port) for vers in VERSIONS for netid, port in self.ports.items()]


def serve(sock: socket.socket, wanted: Registration) -> None:
    """The whole life of the process."""
    source = reserved_socket()
    was_there = True
    while True:
        there = stands(wanted)
        if not there:
            there = _register(wanted, source, quiet=not was_there)
        sock.send(b"1" if there else b"0")
        was_there = there
        if select.select([sock], [], [], LOOK_S)[0] and not sock.recv(1):
            break
    try:
        unregister([(MOUNT_PROGRAM, vers) for vers in VERSIONS], port=wanted.portmap_port, sock=source)
    except _FAILURES as exc:
        log.info("unregistering: %s", exc)


def stands(wanted: Registration) -> bool:
    """Whether the port mapper knows each of our ports."""
    try:
        with Pmap(port=wanted.portmap_port, timeout_s=TIMEOUT_S) as mapper:
            found = set(mapper.dump())
    except _FAILURES:
        return False
    return {Mapping(prog, vers, NETIDS[netid][1], port) for prog, vers, netid, port in wanted.services()
            if not netid.endswith("6")} <= found


def _register(wanted: Registration, source: socket.socket, *, quiet: bool) -> bool:
    try:
        refused = register(wanted.services(), port=wanted.portmap_port, sock=source)
    except _FAILURES as exc:
        if not quiet:
            log.warning("the port mapper does not answer (%s); trying on", exc)
        return False
    if refused and not quiet:
        log.warning("the port mapper refused %s", ", ".join(f"version {vers} {netid}" for _, vers, netid, _ in refused))
    return not refused
