"""nfsd(8): start, stop, signals, pid file, refusals."""
from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, RUN, alive, wait_until


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def can_bind(kind: int, port: int) -> bool:
    """Bound plainly, as a stranger would."""
    with socket.socket(socket.AF_INET, kind) as sock:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def test_nfsd_n_4_runs_a_master_a_control_half_and_four_workers(start):
    nfsd = start("-n", "4")
    status = nfsd.status()
    assert [s["slot"] for s in status["slots"]] == [0, 1, 2, 3]
    assert title(nfsd.process.pid) == "nfsd: master"
    assert title(status["control"]) == "nfsd: control"


def test_bare_number_is_the_count(start):
    """4.4BSD: `nfsd -tun 4` and `nfsd -tu 4` are the same."""
    assert len(start("-tu", "2").status()["slots"]) == 2


def test_four_connections_reach_four_workers(start):
    nfsd = start("-n", "4")
    connections = [nfsd.tcp() for _ in range(4)]
    assert sorted(nfsd.ask(c)[0] for c in connections) == [0, 1, 2, 3]
    for connection in connections:
        connection.close()


def test_datagram_is_answered_on_the_same_port(start):
    nfsd = start("-n", "2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(("127.0.0.1", nfsd.port))
        sock.send(b"?")
        assert sock.recv(64)


def test_t_alone_switches_udp_off(start):
    nfsd = start("-t", "-n", "1")
    assert can_bind(socket.SOCK_DGRAM, nfsd.port)
    nfsd.tcp().close()


@pytest.mark.root
def test_control_half_has_no_privilege(start):
    status = start("-n", "1").status()
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{status['control']}/status").read_text().splitlines())
    assert "0" not in lines["Uid"].split()
    assert int(lines["CapEff"], 16) == 0
    assert lines["NoNewPrivs"].strip() == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_stop_everything_with_status_0(start, number):
    """The nfsd of OS X 10.4 ignored both, and its UDP port stayed taken."""
    nfsd = start("-n", "2")
    connection = nfsd.tcp()
    nfsd.ask(connection)
    begun = time.monotonic()
    nfsd.signal(number)
    assert nfsd.wait() == 0
    assert time.monotonic() - begun < 5
    connection.close()
    assert not any(alive(pid) for pid in nfsd.pids)
    assert not nfsd.socket.exists()
    assert not (nfsd.statedir / "nfsd.pid").exists()
    assert can_bind(socket.SOCK_STREAM, nfsd.port)
    assert can_bind(socket.SOCK_DGRAM, nfsd.port)


def test_workers_that_do_not_drain_are_killed_within_5_s(start):
    nfsd = start("-n", "1")
    worker = nfsd.status()["slots"][0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    begun = time.monotonic()
    nfsd.signal(signal.SIGTERM)
    assert nfsd.wait() == 0
    assert time.monotonic() - begun < 5
    assert not alive(worker)


def test_second_term_stops_at_once(start):
    nfsd = start("-n", "1")
    os.kill(nfsd.status()["slots"][0]["pid"], signal.SIGSTOP)
    begun = time.monotonic()
    nfsd.signal(signal.SIGTERM)
    wait_until(lambda: not listens(nfsd.port), "the first TERM was not seen")
    nfsd.signal(signal.SIGTERM)
    assert nfsd.wait() == 0
    assert time.monotonic() - begun < 3


def listens(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def test_hup_storm_does_not_kill_or_change_a_process(start):
    nfsd = start("-n", "2")
    before = nfsd.status()
    for _ in range(500):
        nfsd.signal(signal.SIGHUP)
    after = nfsd.status()
    assert (after["pid"], after["control"]) == (before["pid"], before["control"])
    assert [s["pid"] for s in after["slots"]] == [s["pid"] for s in before["slots"]]
    assert nfsd.stop() == 0


def test_signals_while_the_control_half_does_not_run_are_kept_and_kill_nobody(start):
    """More signals than its socket has room for."""
    nfsd = start("-n", "1")
    before = nfsd.status()
    os.kill(before["control"], signal.SIGSTOP)
    try:
        for _ in range(1000):
            nfsd.signal(signal.SIGHUP)
            wait_until(lambda: sleeps(nfsd.process.pid), "the master is busy with signals")
        nfsd.signal(signal.SIGUSR1)
    finally:
        os.kill(before["control"], signal.SIGCONT)
    wait_until(lambda: nfsd.status()["verbose"] == before["verbose"] + 1, "the last USR1 was lost")
    assert nfsd.status()["control"] == before["control"]


def sleeps(pid: int) -> bool:
    return "\nState:\tS" in Path(f"/proc/{pid}/status").read_text()


def test_usr1_and_usr2_change_the_log_level(start):
    """macOS nfsd(8): USR1 verbose + 1, USR2 verbose - 1."""
    nfsd = start("-n", "1")
    before = nfsd.status()["verbose"]
    nfsd.signal(signal.SIGUSR1)
    wait_until(lambda: nfsd.status()["verbose"] == before + 1, "USR1")
    nfsd.signal(signal.SIGUSR2)
    wait_until(lambda: nfsd.status()["verbose"] == before, "USR2")


def test_pid_file_names_the_master_and_P_moves_it(start, directory):
    nfsd = start("-n", "1", "-P", str(directory / "my.pid"))
    assert (directory / "my.pid").read_text() == f"{nfsd.process.pid}\n"
    nfsd.stop()
    assert not (directory / "my.pid").exists()


def test_second_start_names_the_pid_that_runs_and_exits_2(start):
    first = start("-n", "1")
    second = start("-n", "1", wait=False)
    assert second.wait() == 2
    assert f"pid {first.process.pid} " in second.process.stderr.read()
    assert first.status()["pid"] == first.process.pid


def test_taken_port_names_its_holder_and_exits_2(start):
    first = start("-n", "1")
    second = start("-n", "1", "-p", str(first.port), statedir="other", wait=False)
    assert second.wait() == 2
    text = second.process.stderr.read()
    assert f"port {first.port} " in text
    assert "pid " in text
    assert not (second.statedir / "nfsd.pid").exists()
    assert not second.socket.exists()


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_port_taken_by_a_stranger_is_an_error_for_either_transport(start, kind):
    family = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[kind]
    with socket.socket(socket.AF_INET, family) as stranger:
        stranger.bind(("127.0.0.1", 0))
        if kind == "tcp":
            stranger.listen()
        port = stranger.getsockname()[1]
        nfsd = start("-n", "1", "-p", str(port), wait=False)
        assert nfsd.wait() == 2
    assert f"{kind} port {port}" in nfsd.process.stderr.read()


def test_stale_pid_file_and_socket_are_taken_over(start):
    first = start("-n", "1")
    first.signal(signal.SIGKILL)
    first.wait()
    assert (first.statedir / "nfsd.pid").exists()
    second = start("-n", "1", "-p", str(first.port))
    assert second.port == first.port


@pytest.mark.parametrize("words", [["-n", "0"], ["-n", "65"], ["-n", "four"], ["-p", "65536"], ["-h", "nowhere.invalid"],
                                   ["--bogus"], ["1", "2"], ["-p"]])
def test_wrong_usage_exits_64_with_a_line_that_says_why(words):
    done = subprocess.run([sys.executable, RUN, "serve", *words], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 64
    assert done.stderr.startswith("nfsd: ")


def test_workers_that_never_serve_end_the_start_with_status_1(start):
    nfsd = start("-n", "2", behaviour="crash", wait=False)
    assert nfsd.wait() == 1
    assert not nfsd.socket.exists()
    assert "ends 5 times" in nfsd.process.stderr.read()


def test_in_the_background_the_parent_returns_when_it_serves(directory):
    """The pid file names the daemon; the command came back with 0 only after the port answered."""
    done = subprocess.run([sys.executable, RUN, "serve", "-n", "1", "-p", "0", "--statedir", str(directory / "s"), "--no-portmap",
                           "--log", "stderr"], timeout=DEADLINE_S, stderr=subprocess.DEVNULL)
    pid = int((directory / "s/nfsd.pid").read_text())
    try:
        assert done.returncode == 0
        assert os.getsid(pid) == pid
        assert (directory / "s/nfssvc.sock").exists()
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid), "the daemon does not stop")


def test_term_during_the_start_leaves_nothing(start):
    """Whenever it comes: before the pid file, between it and the sockets, while workers start."""
    for delay_ms in (100, 200, 300, 400, 600):
        nfsd = start("-n", "1", wait=False)
        select.poll().poll(delay_ms)
        nfsd.signal(signal.SIGTERM)
        assert nfsd.wait() in (0, -signal.SIGTERM)  # the interpreter itself was starting
        assert not nfsd.socket.exists()
        assert not (nfsd.statedir / "nfsd.pid").exists()
