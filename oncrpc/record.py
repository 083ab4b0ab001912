"""Record marking (RFC 5531 section 11), for clients: the server's is C (engine/record.c)."""
from __future__ import annotations

import struct
from collections.abc import Callable

from .xdr import XdrError

LAST_FRAGMENT = 0x80000000
MAX_FRAGMENTS = 2048  # of a reply; a peer that sends more, smaller ones means no good


def pack_record(message: bytes) -> bytes:
    """The message as one fragment."""
    if len(message) >= LAST_FRAGMENT:
        raise XdrError(f"a record of {len(message)} bytes")
    return struct.pack(">I", LAST_FRAGMENT | len(message)) + message


def read_record(exactly: Callable[[int], bytes], *, limit: int) -> bytes:
    """The next record.

    exactly  gives that many bytes, or raises
    limit    of the sum of all fragments, compared before anything is read
    """
    parts: list[bytes] = []
    size = 0
    for _ in range(MAX_FRAGMENTS):
        (mark,) = struct.unpack(">I", exactly(4))
        length = mark & ~LAST_FRAGMENT
        size += length
        if size > limit:
            raise XdrError(f"a record of {size} bytes where at most {limit} are allowed")
        parts.append(exactly(length))
        if mark & LAST_FRAGMENT:
            return b"".join(parts)
    raise XdrError(f"a record of more than {MAX_FRAGMENTS} fragments")
