"""TERM, and deaths, under load: what was accepted is answered, or its connection ends (attack table F08, F01)."""
from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.servers import ServerSet, processes_of_session

from .conftest import wait_until


class Load:
    """A client that asks GETATTR one after the other until its connection ends; connects again when told to."""

    def __init__(self, server: ServerSet, handle: bytes, *, again: bool) -> None:
        self.server, self.handle, self.again = server, handle, again
        self.answered = self.ended = self.broken = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                client = self.server.client()
            except OSError:
                self.ended += 1
                if not self.again:
                    return
                self.stop.wait(0.01)
                continue
            self._ask(client)
            if not self.again:
                return

    def _ask(self, client) -> None:
        try:
            while not self.stop.is_set():
                if client.getattr(self.handle).status == 0:
                    self.answered += 1
                else:
                    self.broken += 1
        except (OSError, EOFError):
            self.ended += 1
        finally:
            client.transport.close()


@pytest.fixture
def loaded(directory: Path) -> Iterator[Callable[..., tuple[ServerSet, list[Load]]]]:
    directory.chmod(0o755)
    tree = directory / "data"
    tree.mkdir()
    server = ServerSet(directory, f"{tree} 127.0.0.1(rw,insecure)\n").start()
    loads: list[Load] = []

    def make(count: int, *, again: bool) -> tuple[ServerSet, list[Load]]:
        handle = server.root(tree)
        loads.extend(Load(server, handle, again=again) for _ in range(count))
        wait_until(lambda: all(load.answered > 20 for load in loads), "the load runs")
        return server, loads

    try:
        yield make
    finally:
        for load in loads:
            load.stop.set()
            load.thread.join()
        if server.process.poll() is None:
            server.stop()


def test_term_under_load_stops_within_5_s_and_answers_nothing_wrong(loaded):
    server, loads = loaded(4, again=False)
    begun = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert time.monotonic() - begun < 5
    for load in loads:
        load.thread.join(5)
    assert sum(load.broken for load in loads) == 0
    assert all(load.ended == 1 for load in loads)


def test_worker_killed_under_load_is_back_and_clients_go_on(loaded):
    server, loads = loaded(4, again=True)
    for _ in range(3):
        before = {pid: pid for pid in server.worker_pids()}
        victim = next(iter(before))
        counts = [load.answered for load in loads]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(server.worker_pids()) - {victim}) == 2, "two workers run again")  # noqa: B023
        wait_until(lambda: all(load.answered > count + 20 for load, count in zip(loads, counts, strict=True)),  # noqa: B023
                   "every client goes on")
    assert sum(load.broken for load in loads) == 0


def test_control_half_killed_under_load_costs_no_connection(loaded):
    server, loads = loaded(4, again=False)
    control = next(pid for pid in processes_of_session(server.pid)
                   if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"nfsd: control"))
    os.kill(control, signal.SIGKILL)
    counts = [load.answered for load in loads]
    wait_until(lambda: all(load.answered > count + 50 for load, count in zip(loads, counts, strict=True)), "the load goes on")
    assert sum(load.ended for load in loads) == 0
