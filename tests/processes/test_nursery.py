"""The first workers come from one process that forked them; each later one is an exec of its own."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.servers import ServerSet

from .conftest import DEADLINE_S, wait_until


@pytest.fixture
def server(directory: Path):
    directory.chmod(0o755)
    (directory / "data").mkdir()
    with ServerSet(directory, f"{directory}/data 127.0.0.1(rw,insecure)\n") as running:
        wait_until(lambda: len(workers(running)) == 2, "not both workers have said that they are there")
        yield running


def stack_of(pid: int) -> str:
    """Where its stack begins: chosen at random by each exec."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[25]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def workers(server: ServerSet) -> dict[int, int]:
    return {slot["slot"]: slot["pid"] for slot in server.status()["slots"] if slot["alive"]}


def test_the_first_workers_are_the_masters_children_and_share_their_addresses(server):
    pids = workers(server)
    assert len(pids) == 2
    assert {parent_of(pid) for pid in pids.values()} == {server.status()["pid"]}
    assert len({stack_of(pid) for pid in pids.values()}) == 1


def test_the_nursery_is_gone_when_the_server_runs(server):
    master, control = server.status()["pid"], server.status()["control"]
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    assert sorted(map(int, children)) == sorted([control, *workers(server).values()])


def test_a_workers_successor_has_addresses_of_its_own(server):
    """So that who learned something by a crash has learned it in vain."""
    old = workers(server)
    os.kill(old[0], signal.SIGKILL)
    new = wait_until(lambda: workers(server).get(0, old[0]) != old[0] and workers(server), "slot 0 is not back")
    assert stack_of(new[0]) != stack_of(old[1])
    assert parent_of(new[0]) == server.status()["pid"]


def test_a_worker_holds_no_channel_of_another(server):
    """It would keep the other's end open, and the control half would not see its death."""
    pids = workers(server)
    ends = [{link for link in links(pid) if link.startswith("socket:")} for pid in pids.values()]
    assert not ends[0] & ends[1]


def links(pid: int) -> set[str]:
    return {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.parametrize(("make", "why"), [
    (lambda key: key.write_text("short"), "must be a file of this user that nobody else may read"),
    (lambda key: (key.write_text("short"), key.chmod(0o600)), "not a key file of nfsd"),
    (lambda key: key.mkdir(), "Is a directory"),
    (lambda key: key.symlink_to("elsewhere"), "symbolic link"),
])
def test_a_key_that_is_none_is_one_line_and_nothing_stays(directory, make, why):
    make(directory / "key")
    ran = subprocess.run([sys.executable, "-m", "nfsd_master", "-F", "-p", "0", "-h", "127.0.0.1", "--no-portmap", "--statedir",
                          str(directory / "state"), "--key", str(directory / "key")], capture_output=True, text=True,
                         timeout=DEADLINE_S, check=False)
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert str(directory / "key") in ran.stderr
    assert why in ran.stderr
    assert not list((directory / "state").glob("*.pid")) + list((directory / "state").glob("*.sock"))
