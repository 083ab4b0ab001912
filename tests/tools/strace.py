"""strace(1) on processes that run: what they call, what is put into their calls."""
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .servers import pause


def strace_path() -> str:
    """Where strace is; the test is skipped where it is not."""
    path = shutil.which("strace")
    if not path:
        pytest.skip("strace is not installed")
    return path


@contextmanager
def straced(pids: Iterable[int], log: Path, *options: str, kill: bool = False) -> Iterator[None]:
    """While in it, `pids` and all their threads are traced to `log`, which is whole after it; skips where that is not allowed.

    kill    strace is ended by SIGKILL: when its own injection ended the traced, it may wait for their threads for ever.
    """
    targets = [word for pid in pids for word in ("-p", str(pid))]
    with subprocess.Popen([strace_path(), "-f", "-o", str(log), *options, *targets], stderr=subprocess.PIPE, text=True) as tracer:
        try:
            _await_attached(tracer, len(targets) // 2)
            pause()  # what is slow or fails now must not be the loop's own
            yield
        finally:
            tracer.kill() if kill else tracer.terminate()


def _await_attached(tracer: subprocess.Popen[str], count: int) -> None:
    assert tracer.stderr is not None
    while count:
        line = tracer.stderr.readline()
        if not line or "Operation not permitted" in line:
            pytest.skip(f"strace cannot attach: {line}")
        count -= "attached" in line
