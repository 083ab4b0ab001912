"""A running mountd with the server's end of its call socket, and clients of it.  Nothing is left after a test: it is checked."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.mount import MOUNT_PROGRAM, Proc
from oncrpc.client import Client
from oncrpc.xdr import Packer, Unpacker

from .peer import DEADLINE_S, Peer

TREE = Path(__file__).resolve().parents[2]


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


class Mountd:
    """One daemon in `directory`, with a Peer for its server unless told otherwise."""

    def __init__(self, directory: Path, *, own_server: bool = True) -> None:
        self.directory = directory
        self.exports = directory / "exports"
        self.socket = directory / "s"
        self.state = directory / "state"
        self.log_path = directory / "log"
        self.peer = Peer(self.socket) if own_server else None
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.prefix: tuple[str, ...] = ()  # what runs mountd, with less than root's rights
        self._children: set[int] = set()

    def command(self, *options: str) -> list[str]:
        return [*self.prefix, sys.executable, "-m", "mountd", "-d", "-v", "--socket", str(self.socket), "--statedir",
                str(self.state), *options, str(self.exports)]

    def start(self, text: str, *options: str, loopback: bool = True, register: bool = False) -> "Mountd":
        self.exports.write_text(text)
        words = [*(() if register else ("--no-portmap",)), *(("-h", "127.0.0.1", "-h", "::1") if loopback else ()), *options]
        read, write = os.pipe()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command("--ready-fd", str(write), *words), cwd=TREE, stderr=log,
                                            stdout=log, stdin=subprocess.DEVNULL, pass_fds=[write])
        os.close(write)
        try:
            ready = select.select([read], [], [], DEADLINE_S)[0] and os.read(read, 100)
        finally:
            os.close(read)
        if not ready:
            self.stop()
            raise RuntimeError(f"mountd is not ready:\n{self.log()}")
        self.port = int(ready.split()[1])
        self._children = set(children_of(self.pid))
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= count, f"{text!r} in the log:\n", self.log)

    def reload(self, text: str) -> None:
        self.exports.write_text(text)
        os.kill(self.pid, signal.SIGHUP)

    def child(self, name: str) -> int:
        """The pid of the child with that title."""
        found = [pid for pid in children_of(self.pid) if title(pid).endswith(name)]
        assert len(found) == 1, found
        return found[0]

    def stop(self) -> int:
        """TERM; the exit status.  Nothing of it may be left."""
        if self.process is None:
            return 0
        children = set(children_of(self.pid)) if self.process.poll() is None else set()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE_S)
        self.process = None
        for pid in children | self._children:
            assert not Path(f"/proc/{pid}").exists() or "mountd" not in title(pid), title(pid)
        return status

    def client(self, vers: int = 3, *, udp: bool = False, source: str = "", host: str = "127.0.0.1") -> Client:
        opener = Client.udp if udp else Client.tcp
        return opener((host, self.port), MOUNT_PROGRAM, vers, timeout_s=DEADLINE_S, source=source)

    def mnt(self, path: bytes, vers: int = 3, *, udp: bool = False, source: str = "",
            host: str = "127.0.0.1") -> tuple[int, bytes]:
        """Status and handle of MNT."""
        with self.client(vers, udp=udp, source=source, host=host) as client:
            u = Unpacker(client.call(Proc.MNT, string(path)))
        status = u.unpack_uint()
        if status:
            u.check_end()
            return status, b""
        return 0, u.unpack_opaque(64) if vers == 3 else u.unpack_fopaque(32)


def string(data: bytes) -> bytes:
    p = Packer()
    p.pack_string(data)
    return bytes(p)


def wait_until(what, name: str, detail=lambda: "") -> None:  # type: ignore[no-untyped-def]
    """Looks again each 10 ms: for what no descriptor tells, as a log file."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name}{detail()}")
        select.select([], [], [], 0.01)


@pytest.fixture
def mountd(tmp_path: Path) -> Iterator[Mountd]:
    daemon = Mountd(tmp_path)
    yield daemon
    daemon.stop()
    assert daemon.peer is not None
    daemon.peer.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories to export: a, a/sub, b, c."""
    root = tmp_path / "tree"
    for name in ("a/sub", "b", "c"):
        (root / name).mkdir(parents=True)
    return root
