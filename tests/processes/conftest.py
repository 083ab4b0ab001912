"""A real nfsd in a directory of its own, on a port of its own; nothing of it is left after the test."""
from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfssvc_shim.channel import Channel
from nfssvc_shim.flags import Nfssvc

RUN = str(Path(__file__).with_name("run_nfsd.py"))
RUN_HASTY = str(Path(__file__).with_name("run_hasty.py"))   # its master gives a control half two seconds to answer
DEADLINE_S = 20.0   # for what takes well under one second on an idle machine


def wait_until(what: Callable[[], object], why: str, deadline_s: float = DEADLINE_S) -> object:
    """The first true value of `what`; the test fails when there is none in time."""
    poll, end = select.poll(), time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        poll.poll(5)  # ms
    raise AssertionError(f"not within {deadline_s} s: {why}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Nfsd:
    """One instance in the foreground with the stand-in worker."""

    def __init__(self, directory: Path, *options: str, behaviour: str = "serve", statedir: str = "state",
                 wait: bool = True, portmap: bool = False, run: str = RUN) -> None:
        self.statedir = directory / statedir
        self.socket = self.statedir / "nfssvc.sock"
        read, write = os.pipe()
        words = [*options, *([] if portmap else ["--no-portmap"])]
        if not any(word == "-p" for word in words):
            words += ["-p", "0"]
        self.process = subprocess.Popen([sys.executable, run, behaviour, "-F", "--statedir", str(self.statedir), *words,
                                         "--ready-fd", str(write)], pass_fds=[write], stderr=subprocess.PIPE, text=True)
        os.close(write)
        self._ready = read
        self.port = 0
        self.pids: set[int] = {self.process.pid}
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert select.select([self._ready], [], [], DEADLINE_S)[0], "nfsd is not ready in time"
        line = os.read(self._ready, 64).decode()
        assert line.startswith("READY "), f"nfsd did not start: {self.process.communicate(timeout=DEADLINE_S)[1]}"
        self.port = int(line.split()[1])
        self.status()

    def connect(self) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A connect(2) that does not block fails while the backlog is full; this one waits.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(DEADLINE_S), 0))
        sock.connect(str(self.socket))
        sock.settimeout(DEADLINE_S)
        return Channel(sock)

    def call(self, flag: int, body: bytes = b"", fds: tuple[int, ...] = ()) -> bytes:
        channel = self.connect()
        try:
            return channel.call(flag, body, fds)[0]
        finally:
            channel.close()

    def status(self) -> dict:
        status = json.loads(self.call(Nfssvc.STATUS))
        self.pids |= {status["control"], *(s["pid"] for s in status["slots"])}
        return status

    def tcp(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def ask(self, sock: socket.socket) -> tuple[int, int]:
        """Slot and pid of the worker behind a connection."""
        sock.sendall(b"?")
        slot, pid = sock.recv(64).split()
        return int(slot), int(pid)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        return self.process.wait(deadline_s)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
        self.process.stderr.close()
        os.close(self._ready)
        wait_until(lambda: not any(alive(pid) for pid in self.pids), f"processes are left over: {self.pids}")


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="nfsd"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Nfsd]]:
    started: list[Nfsd] = []

    def make(*options: str, **keywords: object) -> Nfsd:
        nfsd = Nfsd(directory, *options, **keywords)
        started.append(nfsd)
        return nfsd

    yield make
    for nfsd in started:
        nfsd.close()
