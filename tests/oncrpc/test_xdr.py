"""XDR (RFC 4506): vectors, limits, truncations."""

from __future__ import annotations

import pytest

from oncrpc.xdr import Packer, Unpacker, XdrError


def everything() -> bytes:
    out = Packer()
    out.pack_uint(0xFFFFFFFF)
    out.pack_int(-2)
    out.pack_uhyper(1 << 63)
    out.pack_hyper(-1)
    out.pack_bool(True)
    out.pack_opaque(b"abcde")
    out.pack_fopaque(3, b"xyz")
    out.pack_string(b"")
    return bytes(out)


def read_everything(data: bytes) -> list[object]:
    unpacker = Unpacker(data)
    values: list[object] = [
        unpacker.unpack_uint(),
        unpacker.unpack_int(),
        unpacker.unpack_uhyper(),
        unpacker.unpack_hyper(),
        unpacker.unpack_bool(),
        unpacker.unpack_opaque(5),
        unpacker.unpack_fopaque(3),
        unpacker.unpack_string(0),
    ]
    unpacker.check_end()
    return values


def test_vector_of_every_type() -> None:
    """By hand from RFC 4506."""
    assert everything().hex(" ", 4) == (
        "ffffffff fffffffe 80000000 00000000 ffffffff ffffffff 00000001 00000005 61626364 65000000 78797a00 00000000"
    )


def test_what_was_packed_is_read_again() -> None:
    assert read_everything(everything()) == [0xFFFFFFFF, -2, 1 << 63, -1, True, b"abcde", b"xyz", b""]


def test_every_truncation_and_every_extension_is_an_error() -> None:
    data = everything()
    for size in range(len(data)):
        with pytest.raises(XdrError):
            read_everything(data[:size])
    with pytest.raises(XdrError):
        read_everything(data + b"\0")


def test_length_over_the_limit_is_an_error_before_the_bytes_are_looked_at() -> None:
    with pytest.raises(XdrError, match="at most 5"):
        Unpacker(b"\0\0\0\6abcdef\0\0").unpack_opaque(5)
    with pytest.raises(XdrError):
        Unpacker(b"\xff\xff\xff\xffabc").unpack_opaque()


def test_bool_2_is_an_error() -> None:
    with pytest.raises(XdrError):
        Unpacker(b"\0\0\0\2").unpack_bool()


def test_padding_is_not_looked_at() -> None:
    assert Unpacker(b"\0\0\0\1aXYZ").unpack_opaque() == b"a"


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_number_out_of_range_is_not_packed(value: int) -> None:
    with pytest.raises(XdrError):
        Packer().pack_uint(value)
