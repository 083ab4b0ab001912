"""The connection that libnfssvc keeps for SRVSTATS and USERCOUNT: kept.c."""
from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfssvc_shim.channel import Channel
from nfssvc_shim.flags import Nfssvc

LIMIT_S = 30
TURNS = 1000  # calls until two of them were less than a second apart, on a machine that has much else to do


class Counting:
    """A call socket that answers USERCOUNT with 7 and anything else with nothing, on each connection as long as that lasts."""

    def __init__(self, path: Path) -> None:
        self.accepted: list[socket.socket] = []
        self.slow: socket.socket | None = None  # what is asked on it is answered when `go` is set
        self.asked, self.go = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._start(self._accept)

    def _start(self, *call: object) -> None:
        thread = threading.Thread(target=call[0], args=call[1:])  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted.append(sock)
            self._start(self._answer, sock)

    def _answer(self, sock: socket.socket) -> None:
        channel = Channel(sock)
        try:
            while True:
                msg, _ = channel.recv()
                if sock is self.slow:
                    self.asked.set()
                    self.go.wait(LIMIT_S)
                channel.reply(msg, struct.pack("=I", 7) if msg.flag == Nfssvc.USERCOUNT else b"")
        except (EOFError, OSError):
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # nobody is accepted any more
        for sock in self.accepted:
            sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [*self.accepted, self._listener]:
            sock.close()


class iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Library:
    """A copy of libnfssvc with a state of its own."""

    def __init__(self, path: Path) -> None:
        self._nfssvc = ctypes.CDLL(str(path), use_errno=True).nfssvc

    def count(self) -> int:
        """USERCOUNT; -errno when it fails."""
        answer = ctypes.c_uint32(0)
        iov = (iovec * 2)(iovec(ctypes.addressof(answer), 4), iovec(None, 0))
        return -ctypes.get_errno() if self._nfssvc(Nfssvc.USERCOUNT, iov) else answer.value

    def zero(self) -> int:
        return int(self._nfssvc(Nfssvc.ZEROSTATS, None))

    def keep(self) -> int:
        """The descriptor that is kept from now on."""
        for _ in range(TURNS):
            before = descriptors()
            assert self.count() == 7
            if (kept := kept_of(descriptors() - before)) >= 0:
                return kept
        raise AssertionError("no connection was kept")


def descriptors() -> set[int]:
    """Without the one that listdir() had."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def kept_of(fds: set[int]) -> int:
    """Of the new descriptors the client's end: it has a peer with a name.  The others are the server's."""
    for fd in fds:
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.family == socket.AF_UNIX and sock.getpeername() and not sock.getsockname():
                    return fd
        except OSError:
            continue
    return -1


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    path = tmp_path / "call"
    monkeypatch.setenv("NFSSVC_SOCKET", str(path))
    running = Counting(path)
    yield running
    running.close()


@pytest.fixture
def library(tree: Path, tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    mine = tmp_path / "libnfssvc.so"
    shutil.copy(tree / "lib/libnfssvc.so", mine)
    found = Library(mine)
    yield found
    monkeypatch.setenv("NFSSVC_SOCKET", str(tmp_path / "none"))
    assert found.count() == -errno.ENOSYS  # and nothing is kept


def test_who_asks_again_soon_keeps_the_connection(library: Library, counting: Counting) -> None:
    library.keep()
    before = len(counting.accepted)
    assert [library.count() for _ in range(5)] == [7] * 5
    assert len(counting.accepted) == before


def test_who_asks_once_leaves_nothing_behind(library: Library) -> None:
    before = descriptors()
    assert library.count() == 7
    assert kept_of(descriptors() - before) == -1


def test_calls_that_not_everybody_may_make_have_their_own(library: Library, counting: Counting) -> None:
    """The server takes a caller's rights from connect(2)."""
    library.keep()
    before = len(counting.accepted)
    assert [library.zero() for _ in range(3)] == [0] * 3
    assert len(counting.accepted) == before + 3


def test_a_connection_that_ended_is_replaced_and_no_call_fails(library: Library, counting: Counting) -> None:
    """As when the server was started anew."""
    library.keep()
    counting.accepted[-1].shutdown(socket.SHUT_RDWR)
    assert [library.count() for _ in range(5)] == [7] * 5


def test_without_a_server_it_is_enosys_again(library: Library, counting: Counting, tmp_path: Path) -> None:
    library.keep()
    counting.accepted[-1].shutdown(socket.SHUT_RDWR)
    os.unlink(tmp_path / "call")
    assert library.count() == -errno.ENOSYS


def test_a_child_has_a_connection_of_its_own(library: Library, counting: Counting) -> None:
    """Two processes on one socket would take each other's answers."""
    library.keep()
    before = len(counting.accepted)
    child = os.fork()
    if not child:
        os._exit(0 if library.count() == 7 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(counting.accepted) == before + 1
    assert library.count() == 7
    assert len(counting.accepted) == before + 1


def test_a_descriptor_that_was_closed_and_given_away_is_left_alone(library: Library) -> None:
    """closefrom(3), then open(2): the number is another's now."""
    fd = library.keep()
    out, into = os.pipe()
    os.dup2(out, fd)
    os.write(into, b"mine")
    assert library.count() == 7
    assert os.read(fd, 10) == b"mine"
    for mine in (fd, out, into):
        os.close(mine)


def test_the_environment_says_which_server_is_asked(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.keep()
    monkeypatch.setenv("NFSSVC_SOCKET", str(tmp_path / "other"))
    assert library.count() == -errno.ENOSYS


@pytest.mark.root
def test_another_effective_uid_asks_over_its_own(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which server is asked depends on it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "call")
        monkeypatch.setenv("NFSSVC_SOCKET", str(path))
        counting = Counting(path)
        for each, mode in ((path.parent, 0o755), (path, 0o666)):
            each.chmod(mode)
        library.keep()
        before = len(counting.accepted)
        try:
            os.seteuid(65534)
            assert library.count() == 7
        finally:
            os.seteuid(0)
        assert len(counting.accepted) == before + 1
        counting.close()


def test_a_thread_does_not_wait_for_another_ones_answer(library: Library, counting: Counting) -> None:
    library.keep()
    counting.slow = counting.accepted[-1]
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(library.count()))
    first.start()
    assert counting.asked.wait(LIMIT_S)
    second = threading.Thread(target=lambda: answers.append(library.count()))
    second.start()
    second.join(LIMIT_S)
    assert answers == [7]
    counting.go.set()
    first.join()
    assert answers == [7, 7]
