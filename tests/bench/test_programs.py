"""The programs of bench/ run and say what they measured; nothing here judges a time."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")
BENCH = Path(__file__).resolve().parents[2] / "bench"
LIMIT_S = 120
GUESTS = Path(os.environ.get("VMLAB_CACHE", Path.home() / ".cache" / "vmlab"))


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: a socket's path has 108 bytes at most."""
    return tmp_path_factory.mktemp("b")


def _run(program: str, base: Path, *args: str) -> dict[str, object]:
    """What `program` wrote as JSON; nothing else is left of it."""
    out = base.parent / f"{program}.json"
    done = subprocess.run([sys.executable, str(BENCH / program), *args, "--dir", str(base), "--json", str(out)],
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert os.listdir(base) == []
    found: dict[str, object] = json.loads(out.read_text())
    return found


def test_curves_gives_a_point_for_each_series_and_size(base: Path) -> None:
    found = _run("curves", base, "--rounds", "1", "--seconds", "0.01", "--most", "10",
                 "--curve", "connections", "--curve", "directory")["points"]
    assert isinstance(found, list)
    assert [(p["curve"], p["series"], p["n"]) for p in found] == [
        *(("connections", "one at a time", n) for n in (1, 3, 10)),
        *(("directory", series, 10) for series in ("READDIR, first", "READDIR", "READDIRPLUS, first", "READDIRPLUS", "LOOKUP"))]


def test_fairness_gives_an_index_for_each_depth(base: Path) -> None:
    rows = _run("fairness", base, "--side", "ours", "--rounds", "1", "--seconds", "0.1",
                "--depth", "2", "--depth", "4")["rows"]
    assert isinstance(rows, list)
    assert [r["depth"] for r in rows] == [2, 4]
    assert all(0 < r["jain"] <= 1 for r in rows)


def test_footprint_gives_each_figure(base: Path) -> None:
    rows = _run("footprint", base, "--side", "ours", "--rounds", "1", "--seconds", "0.1",
                "--connections", "20")["rows"]
    assert isinstance(rows, list)
    assert {"start_ms", "start_cpu_ms", "idle_mb", "respawn_ms", "respawn_of_four_ms", "kb_a_connection", "idle_cpu_percent",
            "null_p99_ms"} <= set(rows[0])


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="no mkfs.ext4")
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices")
def test_slowdisk_sees_cached_calls_pass_slow_ones(base: Path) -> None:
    """5 reads and 5 writes a second for 8 calls in flight: most of these are unanswered at the end, and GETATTRs are not."""
    rows = _run("slowdisk", base, "--side", "ours", "--iops", "5", "--seconds", "0.5")["rows"]
    assert isinstance(rows, list)
    assert [(r["slow"], r["where"]) for r in rows] == [("none", "-"), ("READ, cold", "other"), ("READ, cold", "same"),
                                                       ("WRITE, FILE_SYNC", "other"), ("WRITE, FILE_SYNC", "same")]
    assert all(r["calls"]["GETATTR"]["ops_s"] > 2 for r in rows)


def test_client_says_when_there_is_no_server_to_compare() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "client"), "--side", "unfs3", "--unfs3", ""],
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    assert done.stderr == "note: unfs3 left out: not here\n"


@pytest.mark.root
def test_client_times_a_piece_of_work_in_a_guest(tmp_path: Path) -> None:
    if not GUESTS.is_dir() or not any(GUESTS.iterdir()):
        pytest.skip("the laboratory is not built: lab/vmlab build")
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCH / "client"), "--side", "ours", "--work", "ls_lR", "--files", "30", "--rounds", "1",
               "--timeout", "100", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    clock, processor = json.loads(out.read_text())["seconds"]["ours"]["ls_lR"][0]
    assert clock > 0
    assert processor >= 0


def test_nfssvc_rate_counts_calls_and_none_fails(base: Path) -> None:
    found = _run("nfssvc_rate", base, "--rounds", "1", "--seconds", "0.1", "--nfs-rate", "2000", "--rate", "1000",
                 "--call", "SRVSTATS", "--call", "USERSTATS")["calls"]
    assert isinstance(found, dict)
    for call in found.values():
        (row,) = call["rounds"]
        assert call["alone"]["failed"] == row["failed"] == 0 and call["alone"]["alone/s"] > 0 and row["beside/s"] > 0
        assert row["p99 of 50 ms beside/quiet"] > 0


def test_nfssvc_rate_tells_what_holds_the_median() -> None:
    """Of 6 values least and most hold it with 97 %, of 5 they cannot with 95 %; of 9 the second and the eighth do (96 %)."""
    sys.path.insert(0, str(BENCH))
    import sides
    interval = sides.program("nfssvc_rate").interval
    assert [interval([float(i) for i in range(n)]) for n in (5, 6, 9)] == [(0, 4), (0, 5), (1, 7)]
