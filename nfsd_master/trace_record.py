"""One record of a trace as workers write it: struct rpc_trace_head of oncrpc/trace.h, then path, call and reply."""
from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

TCP, UDP = 6, 17          # RPC_TCP, RPC_UDP
REPLIED = 1               # TRACE_REPLIED
_HEAD = struct.Struct("=2I2Q6I4H16s16s6I")


@dataclass(frozen=True, slots=True)
class Record:
    """t_call, t_reply: CLOCK_MONOTONIC ns.  call, reply: RPC messages, cut to what was asked for; *_len: their real lengths.

    client, local: family, packed address (4 or 16 bytes), port; family 0: not known, AF_UNIX: no address.
    lost: records of this worker that the reader had no room for before this one.  call_len 0: there is no call, only that number.
    """

    slot: int
    lost: int
    t_call: int
    t_reply: int
    replied: bool
    conn: tuple[int, int, int]
    proto: int
    expid: int
    client: tuple[int, bytes, int]
    local: tuple[int, bytes, int]
    call_len: int
    reply_len: int
    path: bytes
    call: bytes
    reply: bytes


def records_of(packet: bytes) -> Iterator[Record]:
    """The records of one packet.  Raises ValueError when it is none."""
    at = 0
    while at < len(packet):
        if len(packet) - at < _HEAD.size:
            raise ValueError(f"trace packet ends after {len(packet) - at} bytes of a record")
        size, record = _record(packet, at)
        yield record
        at += size


def _record(packet: bytes, at: int) -> tuple[int, Record]:
    (size, flags, t_call, t_reply, slot, lost, conn, gen, proto, expid, family, port, local_family, local_port, address,
     local_address, call_len, call_kept, reply_len, reply_kept, path_len, _) = _HEAD.unpack_from(packet, at)
    p = at + _HEAD.size
    c = p + path_len
    r = c + call_kept
    if r + reply_kept > at + size or at + size > len(packet):
        raise ValueError(f"trace record of {size} bytes does not hold what it says")
    return size, Record(slot, lost, t_call, t_reply, bool(flags & REPLIED), (slot, conn, gen), proto, expid,
                        _endpoint(family, address, port), _endpoint(local_family, local_address, local_port), call_len, reply_len,
                        packet[p:c], packet[c:r], packet[r:r + reply_kept])


def _endpoint(family: int, address: bytes, port: int) -> tuple[int, bytes, int]:
    return family, address[:4] if family == socket.AF_INET else address, port


def address_text(endpoint: tuple[int, bytes, int]) -> str:
    """ "192.0.2.1:700", "[2001:db8::1]:700", or "local"."""
    family, address, port = endpoint
    if family not in (socket.AF_INET, socket.AF_INET6):
        return "local"
    text = socket.inet_ntop(family, address)
    return f"[{text}]:{port}" if family == socket.AF_INET6 else f"{text}:{port}"
