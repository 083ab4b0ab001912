"""What a process pays for: workers import oncrpc.server and must stay small and start at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
HEAVY = (
    "asyncio",
    "cffi",
    "ctypes",
    "email",
    "http",
    "multiprocessing",
    "pyroute2",
    "ssl",
    "subprocess",
    "typing_extensions",
    "unittest",
    "urllib",
)


def test_server_imports_nothing_heavy() -> None:
    code = f"import sys; import oncrpc.server; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
