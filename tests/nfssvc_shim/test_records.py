"""Records and channel: there and back, every truncation, every value that a hostile sender may choose."""
from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfssvc_shim.channel import HEADER, MAGIC, MAX_INLINE, VERSION, Channel, Message, ProtocolError
from nfssvc_shim.flags import Ex, Nx, Nxa
from nfssvc_shim.records import (
    AF_INET4,
    Address,
    Cred,
    Export,
    ExportArgs,
    FhopenArgs,
    GetfhArgs,
    Net,
    NfsdArgs,
    pack_export_args,
    pack_fhopen_args,
    pack_getfh_args,
    pack_nfsd_args,
    unpack_export_args,
    unpack_fhopen_args,
    unpack_getfh_args,
    unpack_nfsd_args,
)
from oncrpc.xdr import XdrError

HOST = Address.of("192.0.2.7", 700)
NET = Net(Nx.READONLY | Nx.MAPROOT, Address.of("2001:db8::"), 32, Cred(1, 2, (3, 4)), flavors=(1, 390003), line=12)
EXPORT = Export(7, b"/srv", b"a/b", Ex.ASYNC, b"12345678", b"secret", b"index.html", (NET, Net(Nx.DEFAULTEXPORT, Address(0), 0)))
SAMPLES: list[tuple[object, Callable[..., bytes], Callable[[bytes], object]]] = [
    (ExportArgs(Nxa.REPLACE, True, (EXPORT, Export(8, b"/")), 5), pack_export_args, unpack_export_args),
    (GetfhArgs(7, b"x/y", HOST, Cred(1, 2, (3,)), 1, 3), pack_getfh_args, unpack_getfh_args),
    (FhopenArgs(b"handle", HOST, Cred(0, 0), 3), pack_fhopen_args, unpack_fhopen_args),
    (NfsdArgs(HOST, 3), pack_nfsd_args, unpack_nfsd_args),
    (NfsdArgs(), pack_nfsd_args, unpack_nfsd_args),
]


@pytest.mark.parametrize(("record", "pack", "unpack"), SAMPLES)
def test_record_comes_back_as_it_went(record: object, pack: Callable[..., bytes], unpack: Callable[[bytes], object]) -> None:
    assert unpack(pack(record)) == record


@pytest.mark.parametrize(("record", "pack", "unpack"), SAMPLES)
def test_every_truncation_and_one_byte_more_is_refused(record: object, pack: Callable[..., bytes],
                                                       unpack: Callable[[bytes], object]) -> None:
    body = pack(record)
    for size in range(len(body)):
        with pytest.raises(XdrError):
            unpack(body[:size])
    with pytest.raises(XdrError):
        unpack(body + b"\0")


@given(st.sampled_from(SAMPLES), st.data())
def test_any_changed_word_is_refused_or_another_record(sample: tuple[object, Callable[..., bytes], Callable[[bytes], object]],
                                                       data: st.DataObject) -> None:
    """Never another exception than XdrError or ValueError, which the receiver answers with EINVAL."""
    record, pack, unpack = sample
    body = bytearray(pack(record))
    place = data.draw(st.integers(0, len(body) // 4 - 1)) * 4
    body[place:place + 4] = data.draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"../\0", b"/../"]))
    with contextlib.suppress(XdrError, ValueError):
        unpack(bytes(body))


@pytest.mark.parametrize("path", [b"relative", b"/a/../b", b"/nul\0", b"/..", b""])
def test_paths_that_lead_out_or_are_not_absolute_are_refused(path: bytes) -> None:
    with pytest.raises(XdrError):
        unpack_export_args(pack_export_args(ExportArgs(Nxa.ADD, False, (Export(1, path),))))


def test_v4_mapped_addresses_are_unwrapped() -> None:
    assert Address.of("::ffff:192.0.2.1") == Address(AF_INET4, bytes([192, 0, 2, 1]))


# ---- the channel

@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    yield Channel(ours), theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, MAX_INLINE, MAX_INLINE + 1, 1_000_000])
def test_body_of_any_size_arrives_whole(pair: tuple[Channel, socket.socket], size: int) -> None:
    channel, other = pair
    body = os.urandom(size)
    Channel(other).send(Message(0x200, 9, body))
    assert channel.recv() == (Message(0x200, 9, body), [])


def test_descriptors_arrive_close_on_exec_also_beside_a_memfd(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    with open("/dev/null") as null:
        Channel(other).send(Message(8, 1, bytes(MAX_INLINE + 4)), [null.fileno()])
    _, (fd,) = channel.recv()
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert os.fstat(fd).st_rdev == os.stat("/dev/null").st_rdev
    os.close(fd)


def head(*, magic: int = MAGIC, version: int = VERSION, flag: int = 8, length: int = 0) -> bytes:
    return HEADER.pack(magic, version, flag, 1, 0, length)


@pytest.mark.parametrize("packet", [
    b"short", head(magic=1), head(version=VERSION + 1), head(length=4), head() + b"more", head(flag=0x80000008, length=4),
    bytes(HEADER.size + MAX_INLINE + 9)])
def test_packet_that_is_no_message_is_a_protocol_error(pair: tuple[Channel, socket.socket], packet: bytes) -> None:
    channel, other = pair
    other.send(packet)
    with pytest.raises(ProtocolError):
        channel.recv()


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK])
def test_memfd_that_its_sender_can_still_change_is_refused_and_closed(pair: tuple[Channel, socket.socket], seals: int) -> None:
    channel, other = pair
    memfd = os.memfd_create("body", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 70000)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(other, [HEADER.pack(MAGIC, VERSION, 0x80000200, 1, 0, 70000)], [memfd])
    with pytest.raises(ProtocolError):
        channel.recv()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(memfd)


def test_end_of_the_peer_is_eof(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    other.close()
    with pytest.raises(EOFError):
        channel.recv()


def test_call_passes_over_replies_to_others_and_raises_the_errno(pair: tuple[Channel, socket.socket]) -> None:
    channel, other = pair
    answers = Channel(other)
    answers.send(Message(8, 99, b"late"))
    answers.send(Message(8, 1, b"", 17))
    with pytest.raises(FileExistsError):
        channel.call(8)
    assert struct.unpack_from(">3I", other.recv(100)) == (MAGIC, VERSION, 8)
