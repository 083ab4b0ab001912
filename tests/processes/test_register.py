"""Registration with a real portmap on a port of its own (attack table F10, F11)."""
from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from nfsd_master.register import Mapping, pack_call
from oncrpc.xdr import Unpacker
from tests.tools.servers import free_port

from .conftest import DEADLINE_S, wait_until

NFS, TCP, UDP = 100003, 6, 17


class Portmap:
    def __init__(self, port: int) -> None:
        read, write = os.pipe()
        self.process = subprocess.Popen([sys.executable, "-m", "portmap", "-f", "-h", "127.0.0.1", "-p", str(port), "-s", "none",
                                         "--ready-fd", str(write)], pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        assert select.select([read], [], [], DEADLINE_S)[0], "portmap is not ready"
        assert os.read(read, 64).startswith(b"READY")
        os.close(read)
        self.port = port

    def getport(self, proto: int) -> int:
        """0: not registered, also while there is no portmap."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect(("127.0.0.1", self.port))
            try:
                sock.send(pack_call(7, Mapping(NFS, 3, proto, 0), 3))
                return Unpacker(sock.recv(512), 24).unpack_uint()
            except (TimeoutError, ConnectionRefusedError):
                return 0

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def portmap() -> Iterator[Callable[[int], Portmap]]:
    started: list[Portmap] = []

    def make(port: int) -> Portmap:
        started.append(Portmap(port))
        return started[-1]

    yield make
    for each in started:
        each.end()


def test_registers_at_start_and_unregisters_at_the_end(start, portmap):
    pm = portmap(free_port())
    nfsd = start("-n", "1", "--portmap-port", str(pm.port), portmap=True)
    wait_until(lambda: (pm.getport(TCP), pm.getport(UDP)) == (nfsd.port, nfsd.port), "both transports are registered")
    assert nfsd.stop() == 0
    assert (pm.getport(TCP), pm.getport(UDP)) == (0, 0)


def test_registers_again_with_a_portmap_that_was_killed_and_started(start, portmap):
    port = free_port()
    first = portmap(port)
    nfsd = start("-n", "1", "--portmap-port", str(port), portmap=True)
    wait_until(lambda: first.getport(TCP) == nfsd.port, "registered")
    first.end()
    second = portmap(port)
    wait_until(lambda: second.getport(TCP) == nfsd.port, "registered again within 5 s", deadline_s=5)


def test_serves_without_a_portmap_and_registers_when_it_comes(start, portmap):
    port = free_port()
    nfsd = start("-n", "1", "--portmap-port", str(port), portmap=True)
    with nfsd.tcp() as sock:
        nfsd.ask(sock)
    pm = portmap(port)
    wait_until(lambda: pm.getport(UDP) == nfsd.port, "registered")


def test_registration_of_another_server_is_left_alone(start, portmap):
    """Two servers side by side: the first is registered, says the second, and the second takes its place when it went."""
    pm = portmap(free_port())
    first = start("-n", "1", "--portmap-port", str(pm.port), portmap=True)
    wait_until(lambda: pm.getport(TCP) == first.port, "the first is registered")
    second = start("-n", "1", "--portmap-port", str(pm.port), statedir="second", portmap=True)
    line = second.process.stderr.readline()
    while "another server is registered" not in line:
        line = second.process.stderr.readline()
        assert line, "it ended without a word about the other"
    assert str(first.port) in line
    assert (pm.getport(TCP), pm.getport(UDP)) == (first.port, first.port)
    second.signal(signal.SIGHUP)
    second.status()
    assert pm.getport(TCP) == first.port
    first.stop()
    wait_until(lambda: pm.getport(TCP) == second.port, "the second is registered")


def test_registration_that_a_killed_server_left_is_replaced(start, portmap):
    pm = portmap(free_port())
    first = start("-n", "1", "--portmap-port", str(pm.port), portmap=True)
    wait_until(lambda: pm.getport(TCP) == first.port, "the first is registered")
    first.signal(signal.SIGKILL)
    first.wait()
    second = start("-n", "1", "--portmap-port", str(pm.port), statedir="second", portmap=True)
    wait_until(lambda: pm.getport(TCP) == second.port, "the second is registered")


def test_hup_registers_again(start, portmap):
    pm = portmap(free_port())
    nfsd = start("-n", "1", "--portmap-port", str(pm.port), portmap=True)
    wait_until(lambda: pm.getport(TCP) == nfsd.port, "registered")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(("127.0.0.1", pm.port))
        sock.send(pack_call(9, Mapping(NFS, 3, TCP, 0), 2))
        sock.recv(512)
    nfsd.signal(signal.SIGHUP)
    wait_until(lambda: pm.getport(TCP) == nfsd.port, "registered again")
