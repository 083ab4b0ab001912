"""RPC messages (RFC 5531): vectors, every status, truncations; record marking; relays."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from oncrpc.message import (
    AcceptStat,
    Auth,
    AuthStat,
    RpcError,
    auth_sys,
    pack_call,
    pack_relay,
    unpack_relay_reply,
    unpack_reply,
)
from oncrpc.record import pack_record, read_record
from oncrpc.xdr import XdrError

ACCEPTED = "00000007 00000001 00000000 00000000 00000000 "


def test_call_vector() -> None:
    """NULL of NFS version 3 with an empty machine name; by hand from RFC 5531."""
    call = pack_call(7, 100003, 3, 0, b"", auth_sys(1, 2, (3,)))
    assert call.hex(" ", 4) == (
        "00000007 00000000 00000002 000186a3 00000003 00000000 00000001 00000018 00000000 00000000 00000001 "
        "00000002 00000001 00000003 00000000 00000000"
    )


@pytest.mark.parametrize(("gids", "machine"), [(tuple(range(17)), b""), ((), b"m" * 256)])
def test_auth_sys_that_does_not_fit_is_an_error(gids: tuple[int, ...], machine: bytes) -> None:
    with pytest.raises(XdrError):
        auth_sys(0, 0, gids, machine=machine)


def test_success_gives_xid_and_results() -> None:
    assert unpack_reply(bytes.fromhex(ACCEPTED + "00000000 61626364")) == (7, b"abcd")


@pytest.mark.parametrize(
    "stat", [AcceptStat.PROG_UNAVAIL, AcceptStat.PROC_UNAVAIL, AcceptStat.GARBAGE_ARGS, AcceptStat.SYSTEM_ERR, 99]
)
def test_accept_stat_is_raised(stat: int) -> None:
    with pytest.raises(RpcError) as caught:
        unpack_reply(bytes.fromhex(ACCEPTED) + stat.to_bytes(4, "big"))
    assert (caught.value.accept_stat, caught.value.auth_stat) == (stat, None)


def test_prog_mismatch_names_the_range() -> None:
    with pytest.raises(RpcError, match="versions 2 to 3"):
        unpack_reply(bytes.fromhex(ACCEPTED + "00000002 00000002 00000003"))


def test_denied_gives_auth_stat_or_rpc_range() -> None:
    with pytest.raises(RpcError) as caught:
        unpack_reply(struct.pack(">5I", 7, 1, 1, 1, AuthStat.AUTH_TOOWEAK))
    assert caught.value.auth_stat == AuthStat.AUTH_TOOWEAK
    with pytest.raises(RpcError) as caught:
        unpack_reply(struct.pack(">6I", 7, 1, 1, 0, 2, 2))
    assert (caught.value.low, caught.value.high) == (2, 2)


def test_every_truncation_of_a_reply_is_an_error() -> None:
    for whole in (
        bytes.fromhex(ACCEPTED + "00000000"),
        bytes.fromhex(ACCEPTED + "00000002 00000002 00000003"),
        struct.pack(">5I", 7, 1, 1, 1, 5),
    ):
        for size in range(len(whole)):
            with pytest.raises(XdrError):
                unpack_reply(whole[:size])


def test_call_is_no_reply() -> None:
    with pytest.raises(XdrError):
        unpack_reply(pack_call(7, 100003, 3, 0, b""))


def from_bytes(data: bytes) -> Callable[[int], bytes]:
    """Gives the bytes piece by piece, then EOFError."""
    position = 0

    def exactly(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + size]
        position += size
        if len(piece) < size:
            raise EOFError
        return piece

    return exactly


def test_record_in_fragments_is_joined() -> None:
    data = struct.pack(">I", 2) + b"ab" + struct.pack(">I", 0) + struct.pack(">I", 0x80000001) + b"c"
    assert read_record(from_bytes(data), limit=3) == b"abc"
    assert read_record(from_bytes(pack_record(b"abc")), limit=3) == b"abc"


def test_record_over_the_limit_or_of_endless_fragments_is_an_error() -> None:
    with pytest.raises(XdrError):
        read_record(from_bytes(struct.pack(">I", 0xFFFFFFFF)), limit=1000)
    with pytest.raises(XdrError):
        read_record(from_bytes(bytes(4 * 5000)), limit=1000)


def test_relay_packet_vector() -> None:
    packet = pack_relay(1, b"call", proto=6, family=socket.AF_INET, port=711, address=bytes([10, 1, 2, 3]))
    assert packet == struct.pack("=IIHH", 1, 6, socket.AF_INET, 711) + bytes([10, 1, 2, 3]) + bytes(12) + bytes(4) + b"call"
    assert unpack_relay_reply(struct.pack("=I", 9) + bytes(12)) == (9, bytes(12))
    with pytest.raises(XdrError):
        unpack_relay_reply(bytes(15))


def test_auth_default_is_none() -> None:
    assert pack_call(1, 2, 3, 4, b"")[24:40] == bytes(16)
    assert Auth() == Auth(0, b"")
