"""The statistics of a running server, fetched by nfssvc() and unpacked.

Duty: bytes of SRVSTATS, EXPORTSTATS, USERSTATS, USERCOUNT in, records out; latency out of histograms.  Layouts of the first
488 bytes and of exports and users: nfssvc(2); of what follows SRVSTATS' 488 bytes: PROTOCOL.md, section 5.
"""
from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nfssvc_shim import state
from nfssvc_shim.call import nfssvc
from nfssvc_shim.flags import Nfssvc

_COUNTERS = struct.Struct(f"={state.N_COUNTERS}Q")
_COUNT = struct.Struct("=I")
_SLOT = struct.Struct("=4I")
_ROW = struct.Struct(f"={state.SLOT_WORDS}Q")
_EXPORT_HEAD, _EXPORT = struct.Struct("=IQ"), struct.Struct("=1025s3Q")
_USER_HEAD, _USER_PATH, _USER = struct.Struct("=II"), struct.Struct("=B1025s"), struct.Struct("=BI128s3Q2q")

Record = TypeVar("Record")


class BadStats(ValueError):
    """The server's reply is not in the layout that this nfsstat knows."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One worker: `words` is its row of the shared state."""

    slot: int
    pid: int
    incarnation: int
    connections: int
    words: Sequence[int]


@dataclass(frozen=True, slots=True)
class Server:
    """counters: the 61 words of struct nfsrvstats; words: all rows together, since the last ZEROSTATS."""

    counters: tuple[int, ...]
    slots: tuple[Slot, ...]
    words: Sequence[int]

    def calls(self, procedure: int) -> int:
        return self.counters[state.C_PROCS + procedure]

    @property
    def total(self) -> int:
        return sum(self.counters[:state.N_PROCS3])

    def histogram(self, procedure: int) -> Sequence[int]:
        start = state.S_HIST + procedure * state.HIST
        return self.words[start:start + state.HIST]


@dataclass(frozen=True, slots=True)
class ExportStat:
    path: str
    requests: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True)
class UserStat:
    """Times are seconds of CLOCK_REALTIME; address "" for a family that is none of ours."""

    path: str
    uid: int
    address: str
    requests: int
    read_bytes: int
    write_bytes: int
    first_s: int
    last_s: int


# ---- fetched

def fetch_server() -> Server:
    """Raises OSError (ENOSYS: no server runs), BadStats."""
    return unpack_server(nfssvc(Nfssvc.SRVSTATS))


def fetch_exports() -> list[ExportStat]:
    return unpack_exports(nfssvc(Nfssvc.EXPORTSTATS))


def fetch_users() -> list[UserStat]:
    return unpack_users(nfssvc(Nfssvc.USERSTATS))


def allowed(fetch: Callable[[], list[Record]]) -> list[Record] | None:
    """What `fetch` gives; None when that is not for this user (SRVSTATS, USERCOUNT and STATUS are for everyone)."""
    try:
        return fetch()
    except PermissionError:
        return None


def fetch_user_count() -> int:
    body = nfssvc(Nfssvc.USERCOUNT)
    if len(body) != _COUNT.size:
        raise BadStats(f"USERCOUNT of {len(body)} bytes")
    count: int = _COUNT.unpack(body)[0]
    return count


def fetch_status() -> dict[str, Any]:
    status = json.loads(nfssvc(Nfssvc.STATUS))
    if not isinstance(status, dict):
        raise BadStats("STATUS is no object")
    return status


# ---- unpacked

def unpack_server(body: bytes) -> Server:
    if len(body) < _COUNTERS.size:
        raise BadStats(f"SRVSTATS of {len(body)} bytes")
    slots = tuple(_unpack_slots(body, _COUNTERS.size))
    return Server(_COUNTERS.unpack_from(body), slots, _sum([slot.words for slot in slots]))


def _unpack_slots(body: bytes, at: int) -> list[Slot]:
    if at == len(body):
        return []  # a server without the longer record
    if len(body) < at + _COUNT.size:
        raise BadStats("SRVSTATS ends within a word")
    (count,) = _COUNT.unpack_from(body, at)
    at += _COUNT.size
    if count > state.N_SLOTS or len(body) != at + count * (_SLOT.size + _ROW.size):
        raise BadStats(f"SRVSTATS of {len(body)} bytes for {count} slots")
    step = _SLOT.size + _ROW.size
    return [_unpack_slot(body, start) for start in range(at, len(body), step)]


def _unpack_slot(body: bytes, at: int) -> Slot:
    slot, pid, incarnation, connections = _SLOT.unpack_from(body, at)
    return Slot(slot, pid, incarnation, connections, _ROW.unpack_from(body, at + _SLOT.size))


def _sum(rows: list[Sequence[int]]) -> Sequence[int]:
    return [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * state.SLOT_WORDS


def unpack_exports(body: bytes) -> list[ExportStat]:
    if len(body) < _EXPORT_HEAD.size:
        raise BadStats(f"EXPORTSTATS of {len(body)} bytes")
    version, count = _EXPORT_HEAD.unpack_from(body)
    if version != 1 or len(body) != _EXPORT_HEAD.size + count * _EXPORT.size:
        raise BadStats(f"EXPORTSTATS version {version}, {len(body)} bytes for {count} exports")
    return [ExportStat(_text(path), *numbers) for path, *numbers in _EXPORT.iter_unpack(body[_EXPORT_HEAD.size:])]


def unpack_users(body: bytes) -> list[UserStat]:
    """A path record, then the users of that export."""
    if len(body) < _USER_HEAD.size or _USER_HEAD.unpack_from(body)[0] != 1:
        raise BadStats(f"USERSTATS of {len(body)} bytes")
    users, path, at = [], "", _USER_HEAD.size
    while at < len(body):
        kind = _USER_PATH if body[at] else _USER
        if len(body) - at < kind.size:
            raise BadStats("USERSTATS ends within a record")
        fields = kind.unpack_from(body, at)
        at += kind.size
        if kind is _USER_PATH:
            path = _text(fields[1])
        else:
            users.append(UserStat(path, fields[1], _address(fields[2]), *fields[3:]))
    return users


def _text(path: bytes) -> str:
    return path.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _address(sockaddr: bytes) -> str:
    """macOS' sockaddr: a length byte, a family byte; there AF_INET is 2 and AF_INET6 is 30."""
    if sockaddr[1] == 2:
        return socket.inet_ntop(socket.AF_INET, sockaddr[4:8])
    if sockaddr[1] == 30:
        return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24])
    return ""


# ---- latency

def quantile_ns(histogram: Sequence[int], q: float) -> float:
    """The q-quantile of calls by log2 of ns, linear inside a bucket; 0.0 when there are none.

    Bucket i holds 2^i <= ns < 2^(i+1): the result is right within a factor of 2, mostly far better.
    """
    wanted, below = q * sum(histogram), 0
    for bucket, count in enumerate(histogram):
        if count and below + count >= wanted:
            return float((1 << bucket) * (1 + (wanted - below) / count))
        below += count
    return 0.0
