"""A pcap-ng file of RPC messages, as if they had been caught on the wire, for Wireshark and its kin.

Each message becomes IP packets of link type RAW: UDP datagrams, or TCP segments of one stream a connection, with the record mark
in front.  Addresses, ports, times and message bytes are the real ones; sequence numbers and checksums are not.  A message that
was cut is a packet whose captured length is less than its length, as by a snap length.  Each worker is an interface, the name of
the object a comment.  Source: draft-ietf-opsawg-pcapng.
"""
from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import BinaryIO

from .trace_record import TCP, Record
from .trace_words import text

LINKTYPE_RAW = 101
SEGMENT = 32768           # bytes of a TCP segment: with its headers it fits into an IP packet, as a large offload's does
_SHB, _IDB, _EPB, _ISB = 0x0A0D0D0A, 1, 6, 5
_COMMENT, _IF_NAME, _IF_TSRESOL, _USERAPPL, _ISB_IFDROP = 1, 2, 9, 4, 5
_NANOSECONDS = 9          # of if_tsresol: 10^-9 s

Endpoint = tuple[int, bytes, int]


@dataclass(frozen=True, slots=True)
class _Message:
    """A call or a reply on its way from the first of `ends` to the second."""

    record: Record
    interface: int
    is_reply: bool
    ends: tuple[Endpoint, Endpoint]
    kept: bytes
    length: int
    options: bytes = b""


class PcapNg:
    """Writes to `file`, which stays the caller's.  `offset_ns`: what is added to a record's times to make them Unix time."""

    def __init__(self, file: BinaryIO, offset_ns: int) -> None:
        self._file, self._offset_ns = file, offset_ns
        self._interfaces: dict[int, int] = {}                  # slot -> number
        self._lost: dict[int, int] = {}                        # slot -> records
        self._sequence: dict[tuple[tuple[int, int, int], bool], int] = {}
        self._now_ns = 0
        self._block(_SHB, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(_USERAPPL, b"nfsd trace") + _END)

    def add(self, record: Record) -> None:
        """The packets of a call and of its reply."""
        self._lost[record.slot] = self._lost.get(record.slot, 0) + record.lost
        interface = self._interface(record.slot)
        if not record.call_len:
            return
        client, server = _complete(record.client, record.local)
        comment = _option(_COMMENT, text(record.path).encode()) + _END if record.path else b""
        self._message(_Message(record, interface, False, (client, server), record.call, record.call_len, comment))
        if record.replied:
            self._message(_Message(record, interface, True, (server, client), record.reply, record.reply_len))

    def end(self) -> None:
        """Writes what was lost."""
        for slot, interface in self._interfaces.items():
            options = _option(_ISB_IFDROP, struct.pack("=Q", self._lost[slot])) + _END
            self._block(_ISB, struct.pack("=3I", interface, *_high_low(self._now_ns)) + options)

    def _interface(self, slot: int) -> int:
        if slot not in self._interfaces:
            self._interfaces[slot] = len(self._interfaces)
            options = _option(_IF_NAME, b"worker %d" % slot) + _option(_IF_TSRESOL, bytes([_NANOSECONDS])) + _END
            self._block(_IDB, struct.pack("=HHI", LINKTYPE_RAW, 0, 0) + options)
        return self._interfaces[slot]

    def _message(self, m: _Message) -> None:
        self._now_ns = (m.record.t_reply if m.is_reply else m.record.t_call) + self._offset_ns
        if m.record.proto != TCP:
            header = _udp(m.ends, m.length)
            self._packet(m, header + m.kept, len(header) + m.length)
            return
        stream, length = struct.pack(">I", 0x80000000 | m.length) + m.kept, m.length + 4
        back = self._sequence.setdefault((m.record.conn, not m.is_reply), 1)
        sequence = self._sequence.setdefault((m.record.conn, m.is_reply), 1)
        for at in range(0, length, SEGMENT):
            n = min(SEGMENT, length - at)
            header = _tcp(m.ends, n, (sequence + at) & 0xFFFFFFFF, back, last=at + n == length)
            self._packet(m, header + stream[at:at + n], len(header) + n)
        self._sequence[m.record.conn, m.is_reply] = (sequence + length) & 0xFFFFFFFF

    def _packet(self, m: _Message, data: bytes, length: int) -> None:
        head = struct.pack("=5I", m.interface, *_high_low(self._now_ns), len(data), length)
        self._block(_EPB, head + data + bytes(-len(data) % 4) + m.options)

    def _block(self, kind: int, body: bytes) -> None:
        size = struct.pack("=I", len(body) + 12)
        self._file.write(struct.pack("=I", kind) + size + body + size)


_END = struct.pack("=HH", 0, 0)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def _high_low(t_ns: int) -> tuple[int, int]:
    return t_ns >> 32, t_ns & 0xFFFFFFFF


def _complete(client: Endpoint, server: Endpoint) -> tuple[Endpoint, Endpoint]:
    """Two ends of one family: what is not known (the connection has gone, a unix socket) is the unspecified address."""
    if client[0] not in (socket.AF_INET, socket.AF_INET6):
        client = (socket.AF_INET, bytes(4), client[2])
    if server[0] != client[0]:
        server = (client[0], bytes(len(client[1])), server[2])
    return client, server


def _ip(ends: tuple[Endpoint, Endpoint], protocol: int, length: int) -> bytes:
    """An IP header in front of `length` bytes."""
    (family, source, _), (_, target, _) = ends
    if family == socket.AF_INET6:
        return struct.pack(">IHBB", 6 << 28, length, protocol, 64) + source + target
    head = struct.pack(">BBHHHBBH", 0x45, 0, length + 20, 0, 0x4000, 64, protocol, 0) + source + target
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:]


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _udp(ends: tuple[Endpoint, Endpoint], length: int) -> bytes:
    return _ip(ends, socket.IPPROTO_UDP, length + 8) + struct.pack(">HHHH", ends[0][2], ends[1][2], length + 8, 0)


def _tcp(ends: tuple[Endpoint, Endpoint], length: int, sequence: int, acknowledged: int, *, last: bool) -> bytes:
    flags = 0x18 if last else 0x10   # ACK, and PSH at the end of a message
    return _ip(ends, socket.IPPROTO_TCP, length + 20) + struct.pack(">HHIIBBHHH", ends[0][2], ends[1][2], sequence, acknowledged,
                                                                    5 << 4, flags, 65535, 0, 0)
