"""bench/nfsload.py tells at once what happened to its server."""
from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("numpy")
BENCH = Path(__file__).resolve().parents[2] / "bench"
COMPILER = shutil.which("cc") or shutil.which("gcc")
LIMIT_S = 30.0  # for a busy machine; the load itself would run ten times as long

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler for floor.c")


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A running bench/floor.c, in a session of its own, and its port."""
    assert COMPILER is not None
    subprocess.run([COMPILER, "-O2", "-o", str(tmp_path / "floor"), str(BENCH / "floor.c")], check=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([str(tmp_path / "floor"), str(port), str(tmp_path / "file")], start_new_session=True)
    end = time.monotonic() + LIMIT_S
    while subprocess.run([*_load(port), "--seconds", "0.01", "null"], capture_output=True).returncode:
        assert time.monotonic() < end, "the floor does not answer"
    yield server, port
    os.killpg(server.pid, signal.SIGCONT)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _load(port: int) -> list[str]:
    return [sys.executable, str(BENCH / "nfsload.py"), "--nfs-port", str(port), "--export", "/"]


def _interrupted(server: subprocess.Popen[bytes], port: int, sig: int, *more: str) -> subprocess.CompletedProcess[str]:
    """A long load of which the second row sees its server get `sig`: the first row printed tells that it runs."""
    command = [*_load(port), "--connections", "2", "--seconds", "0.2", *more, "null", *["getattr"] * 1000]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stop = threading.Timer(LIMIT_S, load.kill)
    stop.start()
    assert load.stdout is not None
    load.stdout.readline()
    os.killpg(server.pid, sig)
    out, err = load.communicate()
    stop.cancel()
    return subprocess.CompletedProcess(command, load.returncode, out, err)


def test_load_ends_with_the_reason_when_its_server_is_killed(floor: tuple[subprocess.Popen[bytes], int]) -> None:
    done = _interrupted(*floor, signal.SIGKILL)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("nfsload: getattr: ")
    assert done.stderr.count("\n") == 1


def test_load_gives_up_when_its_server_says_nothing(floor: tuple[subprocess.Popen[bytes], int]) -> None:
    done = _interrupted(*floor, signal.SIGSTOP, "--stall", "0.5")
    assert done.returncode == 1, done.stderr
    assert done.stderr == "nfsload: getattr: no reply for 0.5 s\n"


def test_a_load_with_a_rate_sends_no_more(floor: tuple[subprocess.Popen[bytes], int]) -> None:
    """The floor answers a hundred times as many."""
    _, port = floor
    done = subprocess.run([*_load(port), "--seconds", "0.3", "--rate", "2000", "--connections", "2", "getattr"],
                          capture_output=True, text=True, timeout=LIMIT_S, check=True)
    row = json.loads(done.stdout)
    assert row["errors"] == {}
    assert 0 < row["ops_s"] < 2200
    assert row["p50_us"] <= row["p99_50ms_us"] <= row["p99_9_us"]
