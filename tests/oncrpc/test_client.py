"""The blocking client against the small server: transports, deadlines, retransmission, refusals."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

import pytest

from oncrpc.client import Client, RpcTimeout, bind_reserved
from oncrpc.message import AcceptStat, Auth, RpcError

from .conftest import BIG, DROP, ECHO, PROG, WHO, Small


def clients(small: Small) -> list[Client]:
    return [Client.tcp(small.address, PROG, 3), Client.udp(small.udp_address, PROG, 3), Client.unix(small.path, PROG, 3)]


def test_call_over_each_transport(small: Small) -> None:
    for client in clients(small):
        with client:
            client.call(0)
            assert client.call(ECHO, b"abcd") == b"abcd"
            assert len(client.call(BIG, struct.pack(">I", 60_000))) == 60_000


def test_refusal_is_raised_and_the_connection_goes_on(small: Small) -> None:
    for client in clients(small):
        with client:
            with pytest.raises(RpcError) as caught:
                client.call(99)
            assert caught.value.accept_stat == AcceptStat.PROC_UNAVAIL
            client.call(0)


def test_no_answer_is_a_timeout_not_later_than_asked(small: Small) -> None:
    for client in clients(small):
        with client:
            start = time.monotonic()
            with pytest.raises(RpcTimeout):
                client.call(DROP, timeout_s=0.2)
            assert time.monotonic() - start < 2
            assert client.call(ECHO, b"abcd") == b"abcd"


def test_udp_call_is_sent_again() -> None:
    """The first datagram is lost; the second, of the same xid, is answered."""
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    seen = []

    def answer() -> None:
        for _ in range(2):
            message, peer = server.recvfrom(1000)
            seen.append(message)
        server.sendto(message[:4] + struct.pack(">5I", 1, 0, 0, 0, 0), peer)

    thread = threading.Thread(target=answer)
    thread.start()
    with Client.udp(server.getsockname(), PROG, 3) as client:
        assert client.call(0) == b""
    thread.join()
    server.close()
    assert seen[0] == seen[1]


def test_default_credential_is_ours(small: Small) -> None:
    with Client.tcp(small.address, PROG, 3) as client:
        assert struct.unpack_from(">3I", client.call(WHO), 16) == (1, os.geteuid(), os.getegid())
    with Client.tcp(small.address, PROG, 3, cred=Auth()) as client:
        assert struct.unpack_from(">I", client.call(WHO), 16) == (0,)


@pytest.mark.root
def test_reserved_port(small: Small) -> None:
    with Client.tcp(small.address, PROG, 3, reserved=True) as client:
        assert struct.unpack_from(">I", client.call(WHO), 4)[0] < 1024
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        bind_reserved(sock, "127.0.0.1")
        assert 600 <= sock.getsockname()[1] < 1024


def test_nobody_there_is_an_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
        with pytest.raises(ConnectionRefusedError):
            Client.tcp(address, PROG, 3)
