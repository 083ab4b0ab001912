"""The scripts with the real daemons, on ports and directories of their own."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oncrpc.client import Client

from .test_rcd import gone

RC = Path(__file__).parents[2] / "rc.d"
ROOT = Path(__file__).parents[2]
MODULES = {"portmap": "portmap", "mountd": "mountd", "nfsd": "nfsd_master"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Set:
    def __init__(self, base: Path) -> None:
        self.base, self.port, self.mapper = base, free_port(), free_port()
        self.state = base / "state"
        self.exports = base / "exports"
        self.exports.write_text(f"{base} 127.0.0.1(rw,insecure)\n")
        lines = ["portmap_enable=YES", "mountd_enable=YES", "nfs_server_enable=YES", f"mountd_exports={self.exports}",
                 f'portmap_flags="-h 127.0.0.1 -p {self.mapper} -s {base}/rpcbind.sock"',
                 f'mountd_flags="--no-portmap --relay-only --socket {self.state}/nfssvc.sock --statedir {base}/mountd-state"',
                 f'nfs_server_flags="-n 2 -h 127.0.0.1 -p {self.port} --no-portmap --statedir {self.state} --key {base}/key"']
        for name, module in MODULES.items():
            program = base / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            program.chmod(0o755)
            lines += [f"{name}_program={program}", f"{name}_pidfile={base}/{name}.pid"]
        (base / "rc.conf").write_text("\n".join(lines) + "\n")

    def run(self, script: str, verb: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"RC_CONF": str(self.base / "rc.conf"), "RC_CONF_D": str(self.base / "none"), "PYTHONPATH": str(ROOT)}
        return subprocess.run(["/bin/sh", str(RC / script), verb], env=env, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def pid(self, name: str) -> int:
        return int((self.base / f"{name}.pid").read_text())


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Set]:
    made = Set(tmp_path)
    try:
        yield made
    finally:
        made.run("rc", "stop")


def test_the_whole_set_starts_answers_reloads_restarts_and_stops(real: Set) -> None:
    started = real.run("rc", "start")
    assert started.returncode == 0, started.stdout
    assert real.run("rc", "status").returncode == 0
    for program, version in ((100003, 3), (100005, 3)):
        with Client.tcp(("127.0.0.1", real.port), program, version) as client:
            assert client.call(0) == b""
    with Client.tcp(("127.0.0.1", real.mapper), 100000, 2) as client:
        assert client.call(0) == b""

    before = real.pid("nfsd")
    assert real.run("nfsd", "start").returncode == 1
    assert real.run("rc", "reload").returncode == 0
    real.exports.write_text("/nowhere 127.0.0.1 (rw)\n")
    assert real.run("mountd", "reload").returncode == 1
    assert real.run("nfsd", "restart").returncode == 0
    assert real.pid("nfsd") != before

    pids = [real.pid(name) for name in MODULES]
    assert real.run("rc", "stop").returncode == 0
    assert real.run("rc", "status").returncode == 1
    assert all(gone(pid) for pid in pids)
