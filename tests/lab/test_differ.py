"""lab/differ.py against this server alone: one server does not differ from itself, and from one that squashes it does."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.servers import ServerSet

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerSet, Path]]:
    base = tmp_path_factory.mktemp("differ")
    for name in ("rw", "squash"):
        (base / name).mkdir()
        (base / name).chmod(0o777)
    table = f'"{base}/rw" *(rw,no_root_squash,insecure)\n"{base}/squash" *(rw,all_squash,insecure)\n'
    (base / "state").mkdir()
    with ServerSet(base / "state", table) as running:
        yield running, base


def differ(server: tuple[ServerSet, Path], one: str, two: str) -> subprocess.CompletedProcess[str]:
    running, base = server
    host, port = running.address
    sides = [f"{host}:{port}:{port}:{base / name}" for name in (one, two)]
    return subprocess.run([sys.executable, str(ROOT / "lab/differ.py"), *sides, "--seed", "1", "--seconds", "2"], check=False,
                          capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT)})


def test_differ_finds_nothing_between_a_server_and_itself(server: tuple[ServerSet, Path]) -> None:
    done = differ(server, "rw", "rw")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " not argued: 0" in done.stdout


def test_differ_names_what_differs(server: tuple[ServerSet, Path]) -> None:
    done = differ(server, "rw", "squash")
    assert done.returncode == 1 and "DIFFERS" in done.stdout, done.stdout + done.stderr
