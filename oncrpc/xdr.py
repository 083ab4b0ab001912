"""XDR (RFC 4506): bounded unpacking and packing of the few types that RPC programs use.

Duty: bytes in, values out, and back; no sockets, no files.  Every length is checked against its limit and against the
bytes that are there before anything is made from it.  Padding is written as zeros and not looked at when read (RFC 4506
says zeros; clients exist that send others).
"""
from __future__ import annotations

import struct

_UINT = struct.Struct(">I")
_INT = struct.Struct(">i")
_UHYPER = struct.Struct(">Q")
_HYPER = struct.Struct(">q")

UINT_MAX = 0xFFFFFFFF


class XdrError(ValueError):
    """The bytes are not the XDR that was expected: too short, too long, or a value out of range."""


class Packer:
    """Collects XDR; `bytes()` of it is the encoding."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)

    def pack_uint(self, value: int) -> None:
        try:
            self._parts.append(_UINT.pack(value))
        except struct.error as exc:
            raise XdrError(f"unsigned int out of range: {value!r}") from exc

    def pack_int(self, value: int) -> None:
        try:
            self._parts.append(_INT.pack(value))
        except struct.error as exc:
            raise XdrError(f"int out of range: {value!r}") from exc

    def pack_uhyper(self, value: int) -> None:
        try:
            self._parts.append(_UHYPER.pack(value))
        except struct.error as exc:
            raise XdrError(f"unsigned hyper out of range: {value!r}") from exc

    def pack_hyper(self, value: int) -> None:
        try:
            self._parts.append(_HYPER.pack(value))
        except struct.error as exc:
            raise XdrError(f"hyper out of range: {value!r}") from exc

    def pack_bool(self, value: bool) -> None:
        self.pack_uint(1 if value else 0)

    def pack_fopaque(self, size: int, data: bytes) -> None:
        """opaque data[size]"""
        if len(data) != size:
            raise XdrError(f"opaque[{size}] got {len(data)} bytes")
        self._parts.append(data + b"\0" * (-size % 4))

    def pack_opaque(self, data: bytes) -> None:
        """opaque data<>, string data<>"""
        self.pack_uint(len(data))
        self._parts.append(data + b"\0" * (-len(data) % 4))

    pack_string = pack_opaque

    def pack_raw(self, data: bytes) -> None:
        """XDR that is already encoded."""
        self._parts.append(data)


class Unpacker:
    """Reads XDR from `data`.  Each method raises XdrError when the bytes are not there."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self._data = bytes(data)
        self._pos = pos

    def _take(self, size: int) -> bytes:
        end = self._pos + size
        if end > len(self._data):
            raise XdrError(f"{size} bytes expected at {self._pos}, {len(self._data) - self._pos} left")
        piece = self._data[self._pos:end]
        self._pos = end
        return piece

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end; they stay to be read."""
        return self._data[self._pos:self._pos + size]

    def skip(self, size: int) -> None:
        """Past bytes that peek() gave."""
        self._take(size)

    def unpack_uint(self) -> int:
        value: int = _UINT.unpack(self._take(4))[0]
        return value

    def unpack_int(self) -> int:
        value: int = _INT.unpack(self._take(4))[0]
        return value

    def unpack_uhyper(self) -> int:
        value: int = _UHYPER.unpack(self._take(8))[0]
        return value

    def unpack_hyper(self) -> int:
        value: int = _HYPER.unpack(self._take(8))[0]
        return value

    def unpack_bool(self) -> bool:
        value = self.unpack_uint()
        if value > 1:  # RFC 4506 section 4.4: an enum of 0 and 1
            raise XdrError(f"bool {value}")
        return bool(value)

    def unpack_fopaque(self, size: int) -> bytes:
        """opaque data[size]"""
        data = self._take(size)
        if size % 4:
            self._take(-size % 4)
        return data

    def unpack_opaque(self, limit: int = UINT_MAX) -> bytes:
        """opaque data<limit>"""
        size = self.unpack_uint()
        if size > limit:
            raise XdrError(f"{size} bytes where at most {limit} are allowed")
        return self.unpack_fopaque(size) if size else b""

    unpack_string = unpack_opaque

    def unpack_count(self, limit: int) -> int:
        """The length of an array<limit>."""
        count = self.unpack_uint()
        if count > limit:
            raise XdrError(f"{count} elements where at most {limit} are allowed")
        return count

    def rest(self) -> bytes:
        """Everything not read yet; nothing is left then."""
        return self._take(len(self._data) - self._pos)

    def check_end(self) -> None:
        if self._pos != len(self._data):
            raise XdrError(f"{len(self._data) - self._pos} bytes too many")
