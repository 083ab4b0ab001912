"""Bodies of the statistics calls: macOS' records (nfssvc(2), "Statistics"), native byte order, from the shared state.

Counters are sums over all slots less the base that ZEROSTATS set (nfssvc_shim/stats.c).  They stay right over the death of a
worker, because the slot's row goes on, and of the control half, because the bases lie beside the rows.
"""
from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping

from nfssvc_shim._nfssvc import ffi as _ffi
from nfssvc_shim._nfssvc import lib as _lib

from nfssvc_shim.records import Export
from nfssvc_shim.state import (
    N_COUNTERS,
    N_EXPORTS,
    OFF_DRC,
    OFF_USERS,
    S_CONNECTIONS,
    SLOT_WORDS,
    U_ADDR_HIGH,
    U_ADDR_LOW,
    U_EXPID,
    U_FAMILY,
    U_FIRST,
    U_LAST,
    U_READ,
    U_REQUESTS,
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
_COUNT = struct.Struct("=I")
_AF = {1: 2, 2: 30}          # our families -> macOS' AF_INET, AF_INET6
USER_IDLE_S = int(_lib.USER_IDLE_S)


class Stats:
    """Reads and zeroes the shared counters."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._words = _ffi.from_buffer("uint64_t[]", state.map)

    def srvstats(self, slots: Iterable[Slot]) -> bytes:
        """488 bytes of nfsrvstats; then ours: u32 n, and for each running slot SLOT_HEADER and its SLOT_WORDS words."""
        rows = [self._slot(slot) for slot in slots]
        return b"".join((self.sums(), _COUNT.pack(len(rows)), *rows))

    def sums(self) -> bytes:
        """The 488 bytes of nfsrvstats alone."""
        sums = _ffi.new("uint64_t[]", N_COUNTERS)
        _lib.stats_sums(self._words, sums)
        return bytes(_ffi.buffer(sums))

    def _slot(self, slot: Slot) -> bytes:
        words = _ffi.new("uint64_t[]", SLOT_WORDS)
        _lib.stats_row(self._words, slot.number, words)
        return SLOT_HEADER.pack(slot.number, slot.pid, slot.incarnation, words[S_CONNECTIONS]) + bytes(_ffi.buffer(words))

    def zero(self) -> None:
        """ZEROSTATS: the rows stay the workers'; what they hold now becomes the base.  Exports and users begin anew."""
        _lib.stats_zero(self._words, time.time_ns())

    def exportstats(self, table: Mapping[int, Export]) -> bytes:
        """Header and one record of 1049 bytes an export that is in the table."""
        records = [EXPORT_RECORD.pack(export.path[:1024], *self._export(expid)) for expid, export in table.items()]
        return EXPORT_HEADER.pack(VERSION, len(records)) + b"".join(records)

    def _export(self, expid: int) -> tuple[int, int, int]:
        """Requests, bytes read, bytes written: where the workers' exp_row puts them; zeros before the first call."""
        for place in range(N_EXPORTS - 1):
            row = self._state.export((expid + place) % (N_EXPORTS - 1))
            if row[X_EXPID] == expid:
                return row[X_REQUESTS], row[X_READ], row[X_WRITTEN]
            if not row[X_EXPID]:
                break
        return 0, 0, 0

    def users(self) -> list[memoryview]:
        """Rows of active users."""
        since = int(time.time()) - USER_IDLE_S
        states = self._state.words[OFF_USERS // 8:OFF_DRC // 8:USER_WORDS].tolist()
        rows = [self._state.user(number) for number, state in enumerate(states) if state]
        return [row for row in rows if row[U_LAST] >= since]

    def usercount(self) -> bytes:
        return _COUNT.pack(_lib.stats_usercount(self._words, int(time.time()) - USER_IDLE_S))

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
