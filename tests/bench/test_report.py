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
