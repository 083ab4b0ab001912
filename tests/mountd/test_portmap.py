"""mountd and the port mapper: registering, registering again, unregistering; showmount through it."""
from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oncrpc.client import RpcTimeout
from oncrpc.pmap import IPPROTO_TCP, IPPROTO_UDP, Mapping, Pmap

from .conftest import TREE, Mountd, wait_until
from .peer import DEADLINE_S

AGAIN_S = 5.0  # issue: registered again within 5 s


@contextmanager
def portmap(port: int, *options: str) -> Iterator[int]:
    """A portmap of ours on 127.0.0.1; yields its port."""
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "portmap", "-d", "-h", "127.0.0.1", "-p", str(port), "-s", "none",
                                "--ready-fd", str(write), *options], cwd=TREE, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        assert select.select([read], [], [], DEADLINE_S)[0]
        yield int(os.read(read, 100).split()[1])
    finally:
        os.close(read)
        process.terminate()
        process.wait(DEADLINE_S)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def mappings(port: int) -> set[Mapping]:
    try:
        with Pmap(port=port) as mapper:
            return {m for m in mapper.dump() if m.prog == 100005}
    except (OSError, RpcTimeout):
        return set()


def test_mountd_registers_and_unregisters_all_versions(mountd: Mountd, tree: Path) -> None:
    with portmap(0) as port:
        mountd.start(f"{tree}/a *(ro)\n", "--portmap-port", str(port), register=True)
        expected = {Mapping(100005, vers, proto, mountd.port) for vers in (1, 2, 3) for proto in (IPPROTO_TCP, IPPROTO_UDP)}
        assert mappings(port) == expected
        assert mountd.stop() == 0
        assert mappings(port) == set()


def test_mountd_serves_without_a_port_mapper_and_registers_when_it_comes(mountd: Mountd, tree: Path) -> None:
    """F11."""
    port = free_port()
    mountd.start(f"{tree}/a *(ro,insecure)\n", "--portmap-port", str(port), register=True)
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    assert "the port mapper does not answer" in mountd.log()
    with portmap(port):
        wait_until(lambda: len(mappings(port)) == 6, "registration")


def test_mountd_registers_again_when_the_port_mapper_was_restarted(mountd: Mountd, tree: Path) -> None:
    """F10."""
    port = free_port()
    with portmap(port):
        mountd.start(f"{tree}/a *(ro)\n", "--portmap-port", str(port), register=True)
    with portmap(port):
        began = time.monotonic()
        wait_until(lambda: len(mappings(port)) == 6, "registration")
        assert time.monotonic() - began < AGAIN_S
