"""A call socket that answers as a server with two workers, and nfsstat run as a process against it."""
from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfssvc_shim import state
from nfssvc_shim.flags import Nfssvc
from tests.nfssvc_shim.callserver import CallServer

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def row(**words: int) -> list[int]:
    """A slot's row with these S_ words set."""
    made = [0] * state.SLOT_WORDS
    for name, value in words.items():
        made[getattr(state, name)] = value
    return made


def counters(scale: int = 1) -> list[int]:
    """Every word different, so that a swapped column shows."""
    return [scale * (100 + i) for i in range(state.N_COUNTERS)]


def srvstats(scale: int = 1) -> bytes:
    """Two workers; GETATTR's histogram: 90 calls of 2-4 us, 10 of 1-2 ms."""
    body = struct.pack(f"={state.N_COUNTERS}Q", *counters(scale))
    rows = [row(S_PACKETS_UDP=5, S_PACKETS_TCP=20, S_TCPCONN=3, S_BADCALLS=4, S_BADFMT=1, S_BADAUTH=3, S_READ_BYTES=1000 * scale,
                S_WRITE_BYTES=2000, S_FH_HITS=7, S_FH_MISSES=2, S_FH_STALE=1, S_COUNTERS=11 * scale) for _ in range(2)]
    rows[0][state.S_HIST + state.HIST + 11] = 90
    rows[0][state.S_HIST + state.HIST + 20] = 10
    rows[0][state.S_TIME_PROC + 1] = 15_000_000
    packed = [struct.pack("=4I", n, 1000 + n, n + 1, 2 * n) + struct.pack(f"={state.SLOT_WORDS}Q", *words)
              for n, words in enumerate(rows)]
    return body + struct.pack("=I", len(rows)) + b"".join(packed)


STATUS = {"version": "0.1.0", "pid": 1, "slots": [{"slot": 0}, {"slot": 1}], "generation": 1}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CallServer]:
    running = CallServer(tmp_path / "nfssvc.sock")
    running.answers[Nfssvc.SRVSTATS] = (0, srvstats(), None)
    running.answers[Nfssvc.STATUS] = (0, json.dumps(STATUS).encode(), None)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def nfsstat(tmp_path: Path) -> Run:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"NFSSVC_SOCKET": str(tmp_path / "nfssvc.sock"), "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run([sys.executable, "-m", "nfsstat", *argv], env=env, capture_output=True, text=True, timeout=30)
    return run
