"""bench/report fills a document's places with what was measured, and only those."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")
REPORT = Path(__file__).resolve().parents[2] / "bench/report"
MACHINE = {"date": "2026-01-02 03:04:05 +0000", "kernel": "6.1.0-x", "cpus": 2, "load": 0.5, "python": "3.11.7",
           "file_system": "ext4", "fsync_us": 123.4,
           "command": "bench/compare --unfs3 /home/me/unfsd --rounds 1 --json /home/me/out.json"}


def _row(cpu_us: float) -> dict[str, object]:
    return {"ops_s": 1000, "errors": {}, "cpu_us": cpu_us, "p50_us": 10, "p99_us": 20}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    verdicts = [{"work": "getattr", "side": "ours", "goal": "cpu/ganesha <=0.2", "ratio": 0.5, "reached": False}]
    rows = {"getattr": {"ours": [_row(2.0)], "ganesha": [_row(4.0)]}}
    (tmp_path / "compare.json").write_text(json.dumps({"machine": MACHINE, "rows": rows, "verdicts": verdicts}))
    return tmp_path


def _report(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(REPORT), *map(str, args)], capture_output=True, text=True, timeout=60)


def test_places_are_filled_and_others_stay(measured: Path) -> None:
    page = measured / "page.md"
    page.write_text("# A\n<!-- bench: small -->\nold\n<!-- /bench -->\ntext\n<!-- bench: client -->\nkept\n<!-- /bench -->\n"
                    "<!-- bench: compare by -->\n<!-- /bench -->\n")
    done = _report(measured, "--into", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "old" not in text
    assert "| GETATTR | - | 2 | - | 4 | - | 0.50 (goal <=0.2) | - |" in text
    assert "\ntext\n<!-- bench: client -->\nkept\n" in text
    assert "load before it 0.5: `bench/compare --unfs3 UNFSD --rounds 1`" in text
    again = page.read_text()
    assert _report(measured, "--into", page).returncode == 0
    assert page.read_text() == again


def test_a_run_ahead_of_the_machine_has_places_of_its_own(measured: Path) -> None:
    rows = {"getattr/d1": {"floor": [_row(2.0)] * 3, "ours": [_row(1.0)] * 3}}
    command = {"command": "chrt -r 1 bench/compare --work *d1 --json /home/me/out.json"}
    (measured / "ahead.json").write_text(json.dumps({"machine": MACHINE | command, "rows": rows, "verdicts": []}))
    page = measured / "page.md"
    page.write_text("<!-- bench: latency -->\nx\n<!-- /bench -->\n<!-- bench: latency ahead -->\ny\n<!-- /bench -->\n"
                    "<!-- bench: ahead by -->\n<!-- /bench -->\n")
    done = _report(measured, "--into", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.count("| GETATTR | 10, 20 | 10, 20 | -, - | -, - | 1.00; 1.00 | -; - | -; - |") == 1
    assert text.index("latency ahead") < text.index("| GETATTR")
    assert "`chrt -r 1 bench/compare --work *d1`" in text


def _measure_all(folder: Path) -> None:
    """One small file for each part that the summary needs."""
    point = {"side": "ours", "curve": "files", "series": "GETATTR"}
    rounds = {"ours": {"rm": [[1.0, 0.2], [1.2, 0.2]], "untar": [[2.0, 0.5], [2.1, 0.5]]},
              "unfs3": {"rm": [[1.1, 0.4], [1.3, 0.4]], "untar": [[1.0, 0.5], [1.9, 0.5]]}}
    udp = {"getattr/udp": {"ours": [_row(1.0)]}, "getattr": {"ours": [_row(1.0)]}}
    verdicts = [{"work": w, "side": "ours", "goal": "cpu/unfs3 <=0.45", "ratio": r, "reached": r <= 0.45}
                for w, r in (("null", 0.3), ("getattr", 0.5))]
    parts: dict[str, dict[str, object]] = {
        "compare": {"rows": udp, "verdicts": verdicts}, "client": {"files": 9, "seconds": rounds},
        "slowdisk": {"iops": 20, "rows": [{"side": "ours", "slow": "READ, cold", "where": "same", "calls": {
            name: {"ops_s": 1, "p50_us": 1, "p99_us": us}
            for name, us in (("GETATTR", 2500.0), ("READ, cached", 1.0), ("READ, cold", 9e6))}}]},
        "footprint": {"rows": [{"side": side, "connections": 9, "start_ms": 1, "idle_mb": 80.0, "kb_a_connection": 1,
                                "respawn_ms": 1, "idle_cpu_percent": 0.1, "null_p99_ms": 1} for side in ("ours", "daemons")]},
        "curves": {"points": [{**point, "n": n, "cpu_us": cpu} for n, cpu in ((1, 2.0), (10, 3.0))]},
        "files": {"points": [{**point, "n": 1, "cpu_us": 1.0}]},
        "fairness": {"rows": [{"side": "ours", "depth": 8, "jain": 0.9, "kept": 0.7, "fast_by_other": 2, "jain_equal": 1,
                               "p99_us": 1, "p99_equal_us": 1, "busy": 1}]},
    }
    for name, data in parts.items():
        (folder / f"{name}.json").write_text(json.dumps({"machine": MACHINE, **data}))


def test_all_parts_together_say_what_is_reached(tmp_path: Path) -> None:
    """The worst of each kind; slower is a client's piece only where each round took longer than each of the peer's."""
    _measure_all(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: reached -->\nold\n<!-- /bench -->\n")
    done = _report(tmp_path, "--into", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "| CPU a call 0.50 (<=0.45) **missed: getattr** |" in text
    assert "ours by unfs3: clock | not slower on any | median of 2 pieces 1.17; slower: untar 1.41 | **no** |" in text
    assert "ours by unfs3: processor | not slower on any | median of 2 pieces 0.75; slower: none | yes |" in text
    assert "p99 | ≤ 2 ms | 2.5 ms | **no** |" in text
    assert "| files, GETATTR: 1 to 10 | flat | 2 to 3 µs a call | 1.50 times |" in text
    (tmp_path / "client.json").unlink()
    assert _report(tmp_path, "--into", page).returncode == 0
    assert page.read_text() == text, "a part is missing: the old summary stays"


def test_a_place_with_an_unknown_name_is_refused(measured: Path) -> None:
    page = measured / "page.md"
    page.write_text("<!-- bench: nonsense -->\n<!-- /bench -->\n")
    done = _report(measured, "--into", page)
    assert done.returncode == 1
    assert done.stderr == "report: no table 'nonsense'\n"


def test_a_folder_without_measurements_is_refused(tmp_path: Path) -> None:
    done = _report(tmp_path)
    assert done.returncode == 1
    assert "nothing measured" in done.stderr
