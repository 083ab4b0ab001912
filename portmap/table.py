"""The registrations, and who may change them.

Duty: the rules of SET and UNSET, the searches of GETPORT and GETADDR.  No sockets, no XDR.  Called by service.py.
Source: RFC 1833 section 2.2; OpenBSD portmap(8) for the reserved port rule; rpcbind(8) for owners.

Rules.  Only local callers change anything.  Over the unix socket the kernel says who they are (SO_PEERCRED).  Over
loopback a source port that only root can bind makes a caller privileged; anyone else there is `unknown`, whatever its
AUTH_SYS credential says.

    SET     a port below 1024, 2049, or a program of GUARDED (when root started us): privileged callers only; a program of
            `services` the users named there too
            a taken (program, version, netid): refused, unless the address is the same
            100000 itself: never
    UNSET   privileged callers everything but 100000; a uid what it set; `unknown` what `unknown` set
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from oncrpc.pmap import NETIDS, PMAP_PROG, Rpcb, split_universal

MAX_ENTRIES = 1024         # of all; a machine with every service of RFC 1833's time has about 100
MAX_ENTRIES_OF_ONE = 64    # of one owner without privilege, `unknown` being one
MAX_NETID = 16
MAX_ADDR = 64              # the longest real one is an IPv6 address with a scope: 60 (CVE-2022-26937 was a longer one)
NFS_PORT = 2049
RESERVED_PORTS = 1024
# NFS, MOUNT, RQUOTA, NLM, NSM, NFS_ACL: who answers for them is trusted with handles and locks of all clients.
GUARDED = frozenset({100003, 100005, 100011, 100021, 100024, 100227})
SUPERUSER, UNKNOWN = "superuser", "unknown"
NETIDS_LOCAL = frozenset({"local", "ticlts", "ticots", "ticotsord"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.  uid: by SO_PEERCRED, None where there is none."""

    local: bool
    privileged: bool = False
    uid: int | None = None

    @property
    def owner(self) -> str:
        if self.privileged:
            return SUPERUSER
        return UNKNOWN if self.uid is None else str(self.uid)


class Table:
    """(program, version, netid) -> struct rpcb"""

    def __init__(self, *, guarded: bool = True, services: Mapping[int, frozenset[int]] | None = None) -> None:
        """guarded   the programs of GUARDED need privilege: when root started us
        services  program -> uids that may register it all the same: daemons that are not root when they do
        """
        self.guarded, self._services = guarded, services or {}
        self._entries: dict[tuple[int, int, str], Rpcb] = {}

    def __iter__(self) -> Iterator[Rpcb]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def add_own(self, entries: Iterable[Rpcb]) -> None:
        """Our own program, and what a warm start brings: no rule is asked but the bound."""
        for entry in entries:
            if len(self._entries) < MAX_ENTRIES:
                self._entries[entry.prog, entry.vers, entry.netid] = entry

    def set(self, caller: Caller, prog: int, vers: int, netid: str, addr: str) -> bool:
        """Registers; False: refused.  `addr` is a universal address, or a path for the local netids."""
        port = check_address(netid, addr)
        if not caller.local or prog == PMAP_PROG or port is None or not self._may_have(caller, prog, port):
            return False
        there = self._entries.get((prog, vers, netid))
        if there is not None:
            return there.addr == addr and self._owns(caller, there)
        if self._full(caller):
            return False
        self._entries[prog, vers, netid] = Rpcb(prog, vers, netid, addr, caller.owner)
        return True

    def _may_have(self, caller: Caller, prog: int, port: int) -> bool:
        if caller.privileged:
            return True
        if self.guarded and prog in GUARDED and caller.uid not in self._services.get(prog, ()):
            return False
        return port == 0 or (port >= RESERVED_PORTS and port != NFS_PORT)

    def _full(self, caller: Caller) -> bool:
        if len(self._entries) >= MAX_ENTRIES:
            return True
        mine = sum(1 for entry in self if entry.owner == caller.owner)
        return not caller.privileged and mine >= MAX_ENTRIES_OF_ONE

    def unset(self, caller: Caller, prog: int, vers: int, netid: str = "") -> bool:
        """Removes; netid "": all transports.  False: nothing was there, or something there is another's."""
        if not caller.local or prog == PMAP_PROG:
            return False
        found = [entry for entry in self if (entry.prog, entry.vers) == (prog, vers) and netid in ("", entry.netid)]
        mine = [entry for entry in found if self._owns(caller, entry)]
        for entry in mine:
            del self._entries[entry.prog, entry.vers, entry.netid]
        return bool(found) and len(mine) == len(found)

    @staticmethod
    def _owns(caller: Caller, entry: Rpcb) -> bool:
        return caller.privileged or caller.owner == entry.owner

    def find(self, prog: int, vers: int, netid: str, *, exactly: bool = False) -> Rpcb | None:
        """The registration.  Unless `exactly`: of the highest other version when `vers` is missing, so that the client
        asks there and learns the range from PROG_MISMATCH (all BSDs)."""
        there = self._entries.get((prog, vers, netid))
        if there is not None or exactly:
            return there
        others = [entry for entry in self if entry.prog == prog and entry.netid == netid]
        return max(others, key=lambda entry: entry.vers, default=None)


def check_address(netid: str, addr: str) -> int | None:
    """The port of an address that may be registered for `netid` (0 for local ones); None: not acceptable."""
    if len(addr) > MAX_ADDR or len(netid) > MAX_NETID or not addr.isascii() or not addr.isprintable():
        return None
    if netid in NETIDS_LOCAL:
        return 0 if addr else None
    if netid not in NETIDS:
        return None
    try:
        host, port = split_universal(addr)
    except (ValueError, OSError):
        return None
    return port if port and (":" in host) == netid.endswith("6") else None


def port_of(entry: Rpcb) -> int:
    """0 for local transports."""
    return 0 if entry.netid in NETIDS_LOCAL else split_universal(entry.addr)[1]
