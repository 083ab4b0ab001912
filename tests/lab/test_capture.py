"""The capture check itself: what is well formed passes, what is not is found."""
from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.capture import Capture, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FATTR3 = struct.pack(">IIIIIQQQQQIIIIII", 1, 0o644, 1, 0, 0, 5, 4096, 0, 1, 2, 1, 0, 1, 0, 1, 0)
FULL_PORT = 9   # discard: nobody listens, and loopback carries it all the same
HANDLE = struct.pack(">I", 8) + bytes(8)


def _record(body: bytes) -> bytes:
    return struct.pack(">I", 0x80000000 | len(body)) + body


@contextmanager
def one_answer(reply: bytes) -> Iterator[int]:
    """A TCP port that answers one GETATTR with `reply`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            conn, _ = listener.accept()
            with conn:
                conn.recv(4096)
                conn.sendall(_record(reply))
                conn.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(10)


def getattr_session(path: Path, results: bytes) -> Capture:
    """The capture of one GETATTR and its reply with these results."""
    with one_answer(struct.pack(">IIIIII", 7, 1, 0, 0, 0, 0) + results) as port, Capture(path, [port]) as capture, \
            socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(_record(struct.pack(">IIIIII", 7, 0, 2, 100003, 3, 1) + bytes(16) + HANDLE))
        client.recv(4096)
    return capture


def test_well_formed_getattr_has_no_faults(tmp_path: Path) -> None:
    capture = getattr_session(tmp_path / "x.pcapng", struct.pack(">I", 0) + FATTR3)
    assert capture.faults() == []
    assert (capture.decoded()["calls"], capture.decoded()["replies"]) == (1, 1)


def test_truncated_fattr3_is_a_fault(tmp_path: Path) -> None:
    capture = getattr_session(tmp_path / "x.pcapng", struct.pack(">I", 0) + FATTR3[:-6])
    assert capture.faults()


def test_silence_is_a_fault(tmp_path: Path) -> None:
    """A check that saw nothing must not pass."""
    with Capture(tmp_path / "x.pcapng", [1]) as capture:
        pass
    (fault,) = capture.faults()
    assert fault.startswith("0 calls, 0 replies")


def test_the_captures_own_datagrams_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in 230 of random bytes looks like another protocol to tshark: here each does, as a malformed RTCP sender report."""
    monkeypatch.setattr(Capture, "_token", staticmethod(lambda: b"\x80\xc8\xff\xff" + os.urandom(20)))
    capture = getattr_session(tmp_path / "x.pcapng", struct.pack(">I", 0) + FATTR3)
    assert capture.faults() == []


def test_what_was_dropped_is_not_taken_for_what_was_not_sent(tmp_path: Path) -> None:
    """A kernel buffer too small for what comes while dumpcap rests."""
    capture = Capture(tmp_path / "x.pcapng", [FULL_PORT], buffer_mib=1)
    with capture, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert capture.process is not None
        capture.process.send_signal(signal.SIGSTOP)
        for _ in range(400):
            sender.sendto(bytes(60_000), ("127.0.0.1", FULL_PORT))
        capture.process.send_signal(signal.SIGCONT)
    assert capture.dropped
    with pytest.raises(RuntimeError, match="packets were dropped"):
        capture.faults()
