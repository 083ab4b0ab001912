"""A real portmap process on a free port, without rights, stopped by TERM with exit status 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
STOP_S = 10.0


class Portmap:
    """One process; `log` after stop()."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.path = str(directory / "rpcbind.sock")
        reader, writer = os.pipe()
        user = ("-u", "root") if os.geteuid() == 0 else ()  # in the tests' interpreter others may not read
        command = [
            sys.executable,
            "-m",
            "portmap",
            "-d",
            "-l",
            "-p",
            "0",
            "-s",
            self.path,
            *user,
            "--ready-fd",
            str(writer),
            *options,
        ]
        self.process = subprocess.Popen(command, cwd=TREE, pass_fds=[writer], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(writer)
        ready = os.read(reader, 100)
        os.close(reader)
        if not ready:
            raise RuntimeError(f"no portmap: {self._end()}")
        self.port = int(ready.split()[1])

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Its log."""
        self.process.send_signal(number)
        log = self._end()
        assert self.process.returncode == 0, log
        assert "Traceback" not in log, log
        return log

    def _end(self) -> str:
        try:
            return self.process.communicate(timeout=STOP_S)[1].decode()
        finally:
            self.process.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Portmap]]:
    """Starts one, with options; stopped at the end if the test did not."""
    running: list[Portmap] = []

    def begin(*options: str) -> Portmap:
        running.append(Portmap(tmp_path, *options))
        return running[-1]

    yield begin
    for one in running:
        if one.process.returncode is None:
            one.stop()
        assert not Path(one.path).exists(), "the socket file was left"


@pytest.fixture
def portmap(start: Callable[..., Portmap]) -> Portmap:
    return start()
