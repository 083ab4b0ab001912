"""bench/compare and bench/nfsload.py work; nothing here judges a time."""
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("numpy")
BENCH = Path(__file__).resolve().parents[2] / "bench"


def _compare(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCH / "compare"), *args], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler for floor.c")
def test_compare_measures_the_floor_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    base = tmp_path / "base"
    base.mkdir()
    done = _compare("--side", "floor", "--work", "getattr", "--work", "read128", "--rounds", "1", "--seconds", "0.1",
                    "--dir", str(base), "--json", str(out))
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]["getattr"]["floor"]
    assert rows[0]["ops_s"] > 0
    assert rows[0]["errors"] == {}
    assert os.listdir(base) == []


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler for floor.c")
def test_compare_ends_at_term_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "compare"), "--side", "floor", "--work", "getattr", "--seconds", "600",
               "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("date ")  # servers stand, the load begins
        running.terminate()
        assert running.wait(60) == 143
    assert os.listdir(tmp_path) == []


def test_compare_ends_when_a_side_that_was_asked_for_is_absent(tmp_path: Path) -> None:
    done = _compare("--side", "unfs3", "--unfs3", str(tmp_path / "none"), "--work", "null", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert "unfs3 cannot run" in done.stderr
    assert os.listdir(tmp_path) == []


def test_compare_refuses_an_unknown_row() -> None:
    done = _compare("--work", "nonsense")
    assert done.returncode != 0
    assert "no row 'nonsense'" in done.stderr


def test_compare_goal_bounds() -> None:
    done = _compare("--list")
    assert "ops/floor >=0.5" in done.stdout


def test_calls_in_one_window_never_share_a_name(nfsload: ModuleType) -> None:
    """Threaded servers may take a REMOVE before the CREATE that was sent just before it."""
    ws = nfsload.WorkingSet(b"d", b"b", b"m", b"o", b"w", b"s", 1 << 20, 1 << 20)
    calls, _ = nfsload.batch_for("create", ws, nfsload.batch_size("create", 32), 0)
    names = [args.split(b"\0\0\0\x0c", 1)[1][:12] for _, args in calls]
    for i in range(len(names)):
        window = [names[(i + k) % len(names)] for k in range(32)]
        assert len(set(window)) == len(window)


@pytest.fixture(scope="module")
def compare(nfsload: ModuleType) -> ModuleType:
    sys.path.insert(0, str(BENCH))
    import sides

    return sides.program("compare")


def test_p99_is_compared_by_its_medians_and_all_else_within_rounds(compare: ModuleType) -> None:
    ours = [{"errors": {}, "ops_s": n, "p99_us": p} for n, p in ((1, 10.0), (10, 20.0), (100, 900.0))]
    other = [{"errors": {}, "ops_s": n, "p99_us": p} for n, p in ((2, 500.0), (30, 40.0), (400, 10.0))]
    assert compare.middle_ratio(ours, other, "p99") == 20 / 40
    assert compare.middle_ratio(ours, other, "ops") == 1 / 3
    assert compare.middle_ratio(ours, [], "p99") is None
    assert compare.middle_ratio(ours, [{"errors": {}, "ops_s": 0}] * 3, "ops") is None


def test_rows_at_depth_1_have_more_rounds_in_the_same_time(compare: ModuleType) -> None:
    opts = argparse.Namespace(rounds=3, seconds=1.5)
    assert compare.rounds_of(compare.Work("null"), opts) == (3, 1.5)
    assert compare.rounds_of(compare.Work("null", depth=1), opts) == (9, 0.5)
    assert compare.rounds_of(compare.Work("null", depth=1), argparse.Namespace(rounds=12, seconds=0.1)) == (12, 0.1)


@pytest.mark.parametrize("name", ["null", "getattr", "lookup", "access", "commit", "fsstat", "read4", "write128", "write4sync",
                                  "readdir", "readdir4", "readdirplus", "readdirplus3", "create", "mix"])
def test_every_workload_encodes(nfsload: ModuleType, name: str) -> None:
    ws = nfsload.WorkingSet(b"d", b"b", b"m", b"o", b"w", b"s", 1 << 20, 1 << 20)
    opts = nfsload.options(["--export", "/", "--uids", "3", name])
    raws, _ = nfsload.encoded(opts, name, ws, 0, 32)
    assert len(raws) >= 32
    assert all(int.from_bytes(r[:4], "big") == 0x80000000 | len(r) - 4 for r in raws)
