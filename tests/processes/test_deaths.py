"""Any process may die at any time: what the others do (attack table F01, F07; the bug of OS X 10.4's nfsd)."""
from __future__ import annotations

import os
import signal
import socket
import struct
import time

from nfssvc_shim.channel import Message
from nfssvc_shim.flags import Nfssvc, Nxa
from nfssvc_shim.records import Export, ExportArgs, pack_export_args

from .conftest import RUN_HASTY, alive, wait_until
from .test_start import can_bind, sleeps


def pid_of(nfsd, slot: int) -> int:
    return next((s["pid"] for s in nfsd.status()["slots"] if s["slot"] == slot and s["alive"]), 0)


def test_killed_worker_is_back_and_the_others_are_untouched(start):
    nfsd = start("-n", "2")
    connections = [nfsd.tcp(), nfsd.tcp()]
    workers = dict(nfsd.ask(c) for c in connections)
    os.kill(workers[1], signal.SIGKILL)
    wait_until(lambda: pid_of(nfsd, 1) not in (0, workers[1]), "slot 1 is not back")  # how soon: bench/footprint
    assert nfsd.ask(connections[0]) == (0, workers[0])
    assert connections[1].recv(1) == b"", "the dead worker's connection is closed, so that the client connects again"
    with nfsd.tcp() as again:
        assert nfsd.ask(again)[0] == 1
    for connection in connections:
        connection.close()


def test_worker_killed_again_and_again_comes_back_each_time(start):
    nfsd = start("-n", "1")
    pids = set()
    for _ in range(10):
        pid = wait_until(lambda: pid_of(nfsd, 0) if pid_of(nfsd, 0) not in pids else 0, "no new worker")
        with nfsd.tcp() as sock:
            assert nfsd.ask(sock) == (0, pid)
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == 10


def test_datagrams_sent_while_no_worker_runs_are_answered_by_the_next(start):
    """The master keeps the UDP socket: its queue outlives the worker."""
    nfsd = start("-n", "1")
    old = pid_of(nfsd, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.connect(("127.0.0.1", nfsd.port))
        os.kill(old, signal.SIGSTOP)
        sock.send(b"?")
        os.kill(old, signal.SIGKILL)
        assert int(sock.recv(64).split()[1]) != old


def test_killed_master_frees_udp_and_tcp_ports_at_once(start):
    """OS X 10.4: the kernel kept UDP 2049 after nfsd had died, until a reboot."""
    nfsd = start("-n", "4")
    connection = nfsd.tcp()
    nfsd.ask(connection)
    nfsd.status()
    nfsd.signal(signal.SIGKILL)
    nfsd.wait()
    begun = time.monotonic()
    wait_until(lambda: can_bind(socket.SOCK_DGRAM, nfsd.port), "UDP port")
    wait_until(lambda: can_bind(socket.SOCK_STREAM, nfsd.port), "TCP port")
    assert time.monotonic() - begun < 2
    connection.close()
    wait_until(lambda: not any(alive(pid) for pid in nfsd.pids), "processes outlive their master")


def test_nfsd_starts_again_on_its_port_right_after_a_sigkill(start):
    first = start("-n", "2")
    connection = first.tcp()
    first.ask(connection)
    first.signal(signal.SIGKILL)
    first.wait()
    second = start("-n", "2", "-p", str(first.port))
    with second.tcp() as sock:
        second.ask(sock)
    connection.close()


def test_killed_control_half_is_replaced_and_no_worker_notices(start):
    nfsd = start("-n", "2")
    before = nfsd.status()
    connection = nfsd.tcp()
    who = nfsd.ask(connection)
    os.kill(before["control"], signal.SIGKILL)
    after = wait_until(lambda: status_of_another(nfsd, before["control"]), "no new control half")
    assert [s["pid"] for s in after["slots"]] == [s["pid"] for s in before["slots"]]
    assert nfsd.ask(connection) == who
    with nfsd.tcp() as sock:
        assert nfsd.ask(sock)[0] != who[0], "the new control half knows who is busy"
    connection.close()


def test_a_set_that_was_frozen_goes_on_with_the_same_processes(start):
    """As in a container that is paused: nobody had a turn to answer, so nobody hangs."""
    nfsd = start("-n", "1", run=RUN_HASTY)
    before = nfsd.status()
    pids = [nfsd.process.pid, before["control"], before["slots"][0]["pid"]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + 3  # longer than a control half may be silent
    wait_until(lambda: time.monotonic() >= end, "time does not pass")
    nfsd.signal(signal.SIGCONT)
    wait_until(lambda: sleeps(nfsd.process.pid), "the master is busy")
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    assert (nfsd.status()["control"], pid_of(nfsd, 0)) == (before["control"], before["slots"][0]["pid"])
    assert nfsd.stop() == 0
    assert "killed" not in nfsd.process.stderr.read()


def status_of_another(nfsd, control: int) -> dict | None:
    try:
        status = nfsd.status()
    except OSError:
        return None
    return status if status["control"] != control and [s["alive"] for s in status["slots"]] == [True, True] else None


def test_control_half_that_hangs_is_replaced(start):
    nfsd = start("-n", "1")
    hung = nfsd.status()["control"]
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: not alive(hung), "the hung control half is killed")
    wait_until(lambda: pid_of(nfsd, 0), "the worker is known again")


def replace_table(nfsd, *paths: bytes) -> None:
    exports = tuple(Export(i, path) for i, path in enumerate(paths, 1))
    nfsd.call(Nfssvc.EXPORT, pack_export_args(ExportArgs(Nxa.REPLACE, True, exports)))


def test_export_table_survives_the_control_half_and_a_new_nfsd(start):
    nfsd = start("-n", "2")
    replace_table(nfsd, b"/srv/a", b"/srv/b")
    before = nfsd.status()
    os.kill(before["control"], signal.SIGKILL)
    after = wait_until(lambda: status_of_another(nfsd, before["control"]), "no new control half")
    assert after["exports"] == 2
    assert after["generation"] > before["generation"]
    nfsd.stop()
    assert start("-n", "1").status()["exports"] == 2


def test_stopped_worker_does_not_hold_up_the_export_call_for_ever(start):
    """Fenced: it serves nothing under the old table, whenever it wakes."""
    nfsd = start("-n", "2")
    stuck = pid_of(nfsd, 0)
    os.kill(stuck, signal.SIGSTOP)
    replace_table(nfsd, b"/srv/a")
    assert nfsd.status()["exports"] == 1
    wait_until(lambda: pid_of(nfsd, 0) not in (0, stuck), "the hung worker is replaced")


def test_workers_are_added_and_drained_while_it_runs(start):
    nfsd = start("-n", "2")
    nfsd.call(Nfssvc.WORKERS, struct.pack(">I", 5))
    assert len(nfsd.status()["slots"]) == 5
    nfsd.call(Nfssvc.WORKERS, struct.pack(">I", 1))
    assert [s["slot"] for s in nfsd.status()["slots"]] == [0]
    for _ in range(16):  # other source ports hash to other sockets: none may be nobody's
        assert wait_until(lambda: answered(nfsd.port), "a datagram to a drained slot")


def answered(port: int) -> bytes:
    """One datagram from a new source port; b"" when it was lost, as one that met a worker's end may be."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.sendto(b"?", ("127.0.0.1", port))
        try:
            return sock.recv(64)
        except TimeoutError:
            return b""


def test_lent_slot_lives_as_long_as_the_call(start):
    """nfssvc(NFSSVC_NFSD) of a foreign process lends one slot; hanging up ends it."""
    nfsd = start("-n", "1")
    lender = nfsd.connect()
    lender.send(Message(Nfssvc.NFSD, 7))
    wait_until(lambda: pid_of(nfsd, 1), "the lent slot is not served")
    lender.close()
    wait_until(lambda: len(nfsd.status()["slots"]) == 1, "the lent slot goes on")


def test_lent_slot_returns_0_when_the_server_stops(start):
    nfsd = start("-n", "1")
    lender = nfsd.connect()
    lender.send(Message(Nfssvc.NFSD, 7))
    wait_until(lambda: pid_of(nfsd, 1), "the lent slot is not served")
    nfsd.signal(signal.SIGTERM)
    assert lender.recv()[0] == Message(Nfssvc.NFSD, 7, b"", 0)
    lender.close()
    assert nfsd.wait() == 0
