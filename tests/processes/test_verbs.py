"""The verbs of macOS' nfsd(8), nfs.conf, systemd's protocols, and `nfsd share`."""
from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.servers import free_port

from .conftest import DEADLINE_S, RUN, alive, wait_until


def nfsd_verb(statedir: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nfsd_master.nfsd", "--statedir", str(statedir), *words], capture_output=True,
                          text=True, timeout=60, check=False, env={**os.environ, **(env or {})})


def test_status_of_a_running_server_is_0_and_names_pid_and_workers(start, directory):
    nfsd = start("-n", "2")
    done = nfsd_verb(nfsd.statedir, "-v", "status", env={"RC_CONF_D": str(directory)})
    assert done.returncode == 0
    assert f"nfsd is running (pid {nfsd.process.pid}, 2 workers)" in done.stdout
    assert "nfsd service is disabled" in done.stdout
    assert done.stdout.count("serving") == 2


def test_status_without_a_server_is_1(directory):
    done = nfsd_verb(directory / "none", "status")
    assert done.returncode == 1
    assert "nfsd is not running" in done.stdout


@pytest.mark.parametrize("words", [["stop"], ["update"], ["verbose", "up"], ["check"]])
def test_verbs_that_need_a_server_say_that_none_runs(directory, words):
    done = nfsd_verb(directory / "none", *words)
    assert done.returncode == 1
    assert done.stderr.startswith("nfsd: not running")


def test_update_with_n_changes_the_number_of_workers(start):
    nfsd = start("-n", "1")
    assert nfsd_verb(nfsd.statedir, "-n", "3", "update").returncode == 0
    assert len(nfsd.status()["slots"]) == 3
    assert nfsd_verb(nfsd.statedir, "-n", "1", "update").returncode == 0
    assert len(nfsd.status()["slots"]) == 1


def test_stop_returns_when_it_has_ended(start):
    nfsd = start("-n", "1")
    assert nfsd_verb(nfsd.statedir, "stop").returncode == 0
    assert nfsd.wait() == 0


def test_verbose_up_and_down(start):
    nfsd = start("-n", "1")
    before = nfsd.status()["verbose"]
    assert nfsd_verb(nfsd.statedir, "verbose", "up", "up", "down").returncode == 0
    assert nfsd.status()["verbose"] == before + 1
    assert nfsd_verb(nfsd.statedir, "verbose", "sideways").returncode == 1


def test_start_restart_stop_of_a_real_server(directory):
    words = ["-n", "1", "-p", "0", "-h", "127.0.0.1", "--no-portmap", "--key", str(directory / "key"), "--log", "syslog"]
    state = directory / "s"
    pids = []
    try:
        for verb in ("start", "restart"):
            done = nfsd_verb(state, *words, verb)
            assert done.returncode == 0, done.stderr
            pids.append(int((state / "nfsd.pid").read_text()))
        assert pids[0] != pids[1]
        assert nfsd_verb(state, *words, "start").returncode == 1, "it runs already"
        assert nfsd_verb(state, "check").returncode == 1, "no mountd has sent a table"
    finally:
        assert nfsd_verb(state, "stop").returncode == 0
    assert not any(alive(pid) for pid in pids)


def test_enable_and_disable_change_one_line_of_rc_conf_d(directory):
    (directory / "nfsd").write_text('nfs_server_flags="-t"\nnfs_server_enable=NO\n')
    env = {"RC_CONF_D": str(directory)}
    assert nfsd_verb(directory / "none", "enable", env=env).returncode == 0
    assert (directory / "nfsd").read_text() == 'nfs_server_flags="-t"\nnfs_server_enable="YES"\n'
    assert "service is enabled" in nfsd_verb(directory / "none", "status", env=env).stdout
    assert nfsd_verb(directory / "none", "disable", env=env).returncode == 0
    assert "service is disabled" in nfsd_verb(directory / "none", "status", env=env).stdout


def test_an_rc_conf_that_cannot_be_read_is_told_and_not_taken_for_disabled(directory):
    (directory / "nfsd").mkdir()
    env = os.environ | {"RC_CONF_D": str(directory)}
    told = nfsd_verb(directory / "none", "status", env=env)
    assert f"nfsd service: {directory}/nfsd: Is a directory" in told.stdout and "disabled" not in told.stdout
    refused = nfsd_verb(directory / "none", "enable", env=env)
    assert (refused.returncode, refused.stderr) == (1, f"nfsd: {directory}/nfsd: Is a directory\n")


def test_rc_conf_of_strange_bytes_and_of_two_minds(directory):
    """The last assignment counts, as for the shell that sources it; other lines stay as they are."""
    (directory / "nfsd").write_bytes(b"\0\xff rubbish\nnfs_server_enable=YES\nnfs_server_enable=no\n")
    env = os.environ | {"RC_CONF_D": str(directory)}
    assert "service is disabled" in nfsd_verb(directory / "none", "status", env=env).stdout
    assert nfsd_verb(directory / "none", "enable", env=env).returncode == 0
    assert (directory / "nfsd").read_bytes() == b'\0\xff rubbish\nnfs_server_enable="YES"\n'


def test_checkexports_exits_with_the_number_of_errors(directory):
    bad = directory / "exports"
    bad.write_text("/ (bogus1)\n/tmp (bogus2)\n")
    done = nfsd_verb(directory / "none", "checkexports", "-F", str(bad))
    assert done.returncode == 2


@pytest.mark.parametrize("text, field, value", [
    ("nfs.server.nfsd_threads = 3\n", "workers", 3), ("[nfsd]\nthreads=2\n[mountd]\nthreads=9\n", "workers", 2),
    ("nfs.server.nfsd_threads=0x3  # three\n", "workers", 3), ("nfs.server.udp=0\n", "udp", False),
    ("unknown.key = nonsense\n", "tcp", True),
])
def test_nfs_conf_of_macos_and_of_linux(start, directory, text, field, value):
    (directory / "nfs.conf").write_text(text)
    nfsd = start("--conf", str(directory / "nfs.conf"))
    assert nfsd.status()[field] == value


def test_flags_win_over_nfs_conf(start, directory):
    (directory / "nfs.conf").write_text("nfs.server.nfsd_threads = 3\nnfs.server.tcp=0\n")
    nfsd = start("--conf", str(directory / "nfs.conf"), "-n", "1", "-t")
    assert (nfsd.status()["workers"], nfsd.status()["tcp"]) == (1, True)


@pytest.mark.parametrize("text", ["nfs.server.port = 99999\n", "nfs.server.nfsd_threads = many\n",
                                  "[nfsd]\nhost=not-an-address\n", "nfs.server.tcp=0\nnfs.server.udp=0\n"])
def test_nfs_conf_that_cannot_be_names_the_place_and_exits_64(directory, text):
    (directory / "nfs.conf").write_text(text)
    done = nfsd_verb(directory / "s", "-F", "--conf", str(directory / "nfs.conf"))
    assert done.returncode == 64
    if text.count("\n") == 1:
        assert f"{directory / 'nfs.conf'}:1: " in done.stderr


def test_systemd_hears_ready_watchdog_and_stopping(start, directory, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        nfsd = start("-n", "1")
        heard = ""
        while "READY=1" not in heard or "WATCHDOG=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"
        assert f"MAINPID={nfsd.process.pid}" in heard
        nfsd.signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode()
        assert nfsd.wait() == 0


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_sockets_of_socket_activation_are_served(directory, family, host):
    """sd_listen_fds(3): LISTEN_FDS sockets from descriptor 3 on, for the process LISTEN_PID.  "::" is for both families."""
    tcp = socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(tcp.getsockname())
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(tcp.fileno(), 53)
        os.dup2(udp.fileno(), 54)
        os.dup2(write, 55)
        os.dup2(53, 3)
        os.dup2(54, 4)
        os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
        os.set_inheritable(55, True)
        os.execv(sys.executable, [sys.executable, RUN, "serve", "-n", "2", "--no-portmap", "--statedir", str(directory / "s"),
                                  "--ready-fd", "55", "--log", "stderr"])
    try:
        address = ("127.0.0.1", tcp.getsockname()[1])
        tcp.close()
        udp.close()
        os.close(write)
        assert select.select([read], [], [], DEADLINE_S)[0]
        assert os.read(read, 64) == f"READY {address[1]}\n".encode()
        with socket.create_connection(address, timeout=DEADLINE_S) as sock:
            sock.sendall(b"?")
            assert sock.recv(64)
        slots = {datagram(address) for _ in range(32)}
        assert slots == {b"0", b"1"}, "the datagrams are spread over the workers"
    finally:
        os.close(read)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def datagram(address: tuple[str, int]) -> bytes:
    """Which slot answers a datagram from a new port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.sendto(b"?", address)
        return sock.recv(64).split()[0]


@pytest.fixture
def share(directory):
    """`nfsd share` on a directory of its own; what it printed until the banner was whole."""
    started = []

    def make(*words: str) -> tuple[subprocess.Popen, str]:
        env = {**os.environ, "NFSSVC_SOCKET": str(directory / "s.sock"), "XDG_STATE_HOME": str(directory),
               "TMPDIR": str(directory)}
        process = subprocess.Popen([sys.executable, "-m", "nfsd_master.nfsd", "share", *words], env=env, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        text = ""
        while "Ctrl-C" not in text:
            line = process.stdout.readline()
            assert line, text
            text += line
        return process, text

    yield make
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)
        process.stdout.close()


def test_share_serves_to_this_machine_alone_and_leaves_nothing(share, directory):
    data = directory / "data"
    data.mkdir()
    (data / "file").write_text("content\n")
    port = free_port()
    process, text = share(str(data), "--port", str(port))
    assert "this machine alone" in text
    assert f"port={port},mountport={port}" in text
    from tests.tools.nfs3 import Mount, Nfs3, connect
    mount = Mount(connect(("127.0.0.1", port), proto="tcp"), vers=3)
    handle = mount.mnt(os.fsencode(data)).fh
    client = Nfs3(connect(("127.0.0.1", port), proto="tcp"))
    found = client.lookup(handle, b"file")
    assert found.status == 0
    assert client.remove(handle, b"file").status == 30, "read-only until --rw"
    mount.transport.close()
    client.transport.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    assert sorted(path.name for path in directory.iterdir()) in (["data"], ["data", "nfsd"])


@pytest.mark.parametrize("words", [[], ["/nonexistent"], ["/", "--as", "no-such-user"], ["/", "--to", "a b"], ["/", "--bogus"]])
def test_share_refuses_in_one_line(directory, words):
    done = subprocess.run([sys.executable, "-m", "nfsd_master.nfsd", "share", *words], capture_output=True, text=True,
                          timeout=DEADLINE_S, check=False)
    assert done.returncode in (1, 64)
    assert done.stderr.startswith("nfsd: share")


def test_unregister_without_a_portmapper_says_so_and_ends(directory):
    done = nfsd_verb(directory / "none", "-d", "--portmap-port", str(free_port()))
    assert done.returncode == 1
    assert "no port mapper answers" in done.stderr
    wait_until(lambda: not (directory / "none").exists(), "nothing was made")
