"""Bodies of the statistics calls: macOS' records (nfssvc(2), "Statistics"), native byte order, from the shared state.

Counters are sums over all slots less the base that ZEROSTATS set.  The sums stay right over the death of a worker, because the
slot's row goes on; rows of slots that do not run count too.  For one slot the base is what this control half saw at the last
ZEROSTATS; after its own restart a slot's row is shown whole.
"""
from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping

from nfssvc_shim.records import Export
from nfssvc_shim.state import (
    EXPORT_WORDS,
    H_USERS_LOST,
    H_ZEROED,
    N_COUNTERS,
    N_EXPORTS,
    N_SLOTS,
    N_USERS,
    OFF_DRC,
    OFF_EXPORTS,
    OFF_USERS,
    S_CONNECTIONS,
    S_COUNTERS,
    S_FDS_READ,
    S_FDS_WRITE,
    S_OBJECTS,
    SLOT_WORDS,
    U_ADDR_HIGH,
    U_ADDR_LOW,
    U_EXPID,
    U_FAMILY,
    U_FIRST,
    U_LAST,
    U_READ,
    U_REQUESTS,
    U_STATE,
    U_UID,
    U_WRITTEN,
    USER_WORDS,
    X_EXPID,
    X_READ,
    X_REQUESTS,
    X_WRITTEN,
    State,
)

from .slots import Slot

VERSION = 1
EXPORT_HEADER = struct.Struct("=IQ")
EXPORT_RECORD = struct.Struct("=1025sQQQ")
USER_HEADER = struct.Struct("=II")
USER_PATH = struct.Struct("=B1025s")
USER_RECORD = struct.Struct("=BI128sQQQqq")
SLOT_HEADER = struct.Struct("=4I")
_AF = {1: 2, 2: 30}          # our families -> macOS' AF_INET, AF_INET6
# What is a state, not a count: never less a base.
_GAUGES = frozenset((*range(8), S_FDS_READ, S_FDS_WRITE, S_OBJECTS))
_WRAP = (1 << 64) - 1
USER_IDLE_S = 7200           # as macOS: a user is active so long after his last call


class Stats:
    """Reads and zeroes the shared counters."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._bases: dict[int, list[int]] = {}

    def srvstats(self, slots: Iterable[Slot]) -> bytes:
        """488 bytes of nfsrvstats; then ours: u32 n, and for each running slot SLOT_HEADER and its SLOT_WORDS words."""
        span = slice(S_COUNTERS, S_COUNTERS + N_COUNTERS)
        counted = [self._state.slot(n)[span].tolist() for n in range(N_SLOTS)]
        base = self._state.slot(N_SLOTS)[span].tolist()
        counters = [(sum(column) - less) & _WRAP for less, *column in zip(base, *counted, strict=True)]
        rows = [self._slot(slot) for slot in slots]
        return struct.pack(f"={N_COUNTERS}Q", *counters) + struct.pack("=I", len(rows)) + b"".join(rows)

    def _slot(self, slot: Slot) -> bytes:
        row = self._state.slot(slot.number)
        base = self._bases.get(slot.number, [])
        head = SLOT_HEADER.pack(slot.number, slot.pid, slot.incarnation, row[S_CONNECTIONS])
        if not base:
            return head + bytes(row)
        words = [value if i in _GAUGES else (value - base[i]) & _WRAP for i, value in enumerate(row.tolist())]
        return head + struct.pack(f"={SLOT_WORDS}Q", *words)

    def _totals(self) -> list[int]:
        rows = [self._state.slot(n).tolist() for n in range(N_SLOTS)]
        return [sum(column) & _WRAP for column in zip(*rows, strict=True)]

    def zero(self) -> None:
        """ZEROSTATS: the rows stay the workers'; what they hold now becomes the base.  Exports and users begin anew."""
        base = self._state.slot(N_SLOTS)
        for index, value in enumerate(self._totals()):
            base[index] = 0 if index in _GAUGES else value
        self._bases = {n: self._state.slot(n).tolist() for n in range(N_SLOTS)}
        for number in range(N_EXPORTS):
            row = self._state.export(number)
            if row[X_EXPID]:
                row[X_REQUESTS] = row[X_READ] = row[X_WRITTEN] = 0
        for number in range(N_USERS):
            row = self._state.user(number)
            if row[U_STATE]:
                row[U_REQUESTS] = row[U_READ] = row[U_WRITTEN] = 0
        self._state.words[H_USERS_LOST] = 0
        self._state.words[H_ZEROED] = time.time_ns()

    def exportstats(self, table: Mapping[int, Export]) -> bytes:
        """Header and one record of 1049 bytes an export that is in the table."""
        ids = self._state.words[OFF_EXPORTS // 8:OFF_USERS // 8:EXPORT_WORDS].tolist()
        counts = {expid: self._state.export(number) for number, expid in enumerate(ids) if expid in table}
        records = []
        for expid, export in table.items():
            row = counts.get(expid)
            numbers = (row[X_REQUESTS], row[X_READ], row[X_WRITTEN]) if row is not None else (0, 0, 0)
            records.append(EXPORT_RECORD.pack(export.path[:1024], *numbers))
        return EXPORT_HEADER.pack(VERSION, len(records)) + b"".join(records)

    def users(self) -> list[memoryview]:
        """Rows of active users."""
        since = int(time.time()) - USER_IDLE_S
        states = self._state.words[OFF_USERS // 8:OFF_DRC // 8:USER_WORDS].tolist()
        rows = [self._state.user(number) for number, state in enumerate(states) if state]
        return [row for row in rows if row[U_LAST] >= since]

    def usercount(self) -> bytes:
        return struct.pack("=I", len(self.users()))

    def userstats(self, table: Mapping[int, Export]) -> bytes:
        """Header, then for each export with users its path record and their records; the header counts all records."""
        by_export: dict[int, list[bytes]] = {}
        for row in self.users():
            by_export.setdefault(row[U_EXPID], []).append(_user_record(row))
        records = []
        for expid, users in by_export.items():
            path = table[expid].path if expid in table else b""
            records += [USER_PATH.pack(1, path[:1024]), *users]
        return USER_HEADER.pack(VERSION, len(records)) + b"".join(records)


def _user_record(row: memoryview) -> bytes:
    address = struct.pack(">QQ", row[U_ADDR_HIGH], row[U_ADDR_LOW])
    return USER_RECORD.pack(0, row[U_UID] & 0xFFFFFFFF, sockaddr(row[U_FAMILY], address), row[U_REQUESTS], row[U_READ],
                            row[U_WRITTEN], row[U_FIRST], row[U_LAST])


def sockaddr(family: int, packed: bytes) -> bytes:
    """macOS' sockaddr_in or sockaddr_in6 (length byte, family byte) of a client without port; empty for a local one."""
    if family == 1:
        return struct.pack("=BBH4s", 16, _AF[1], 0, packed[:4])
    return struct.pack("=BBHI16sI", 28, _AF[2], 0, 0, packed, 0) if family == 2 else b""
