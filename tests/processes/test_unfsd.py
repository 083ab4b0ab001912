"""unfsd(8): the whole set with one command, as in the manual of 2008, with the real workers and mountd."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.rpc import RpcFailed
from tests.tools.servers import ServerSet, free_port, processes_of_session

from .conftest import DEADLINE_S, wait_until

UNFSD = [sys.executable, "-m", "nfsd_master.unfsd"]


@pytest.fixture
def tree(directory: Path) -> Path:
    """A directory to export; everyone may walk to it."""
    directory.chmod(0o755)
    tree = directory / "data"
    tree.mkdir()
    (tree / "file").write_text("content\n")
    return tree


@pytest.fixture
def unfsd(directory: Path, tree: Path) -> Iterator[ServerSet]:
    with ServerSet(directory, f"{tree} 127.0.0.1(rw,no_root_squash,insecure)\n") as server:
        yield server


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UNFSD, *words], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_mount_and_nfs_on_one_port(unfsd, tree):
    handle = unfsd.root(tree)
    with unfsd_client(unfsd) as client:
        assert client.lookup(handle, b"file").status == 0


class unfsd_client:
    def __init__(self, server):
        self.client = server.client()

    def __enter__(self):
        return self.client

    def __exit__(self, *_):
        self.client.transport.close()


def test_everything_is_in_one_session_and_ends_with_it(unfsd):
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode() for pid in processes_of_session(unfsd.pid)]
    for name in ("nfsd: master", "nfsd: control", "nfsd: worker 0", "nfsd: worker 1"):
        assert any(name in title for title in titles), titles


def test_pid_file_is_written_and_locked_before_it_is_ready(unfsd):
    assert int(unfsd.pidfile.read_text()) == unfsd.pid
    second = run("-d", "-p", "-e", str(unfsd.exports_file), "-i", str(unfsd.pidfile), "-u", "-l", "127.0.0.1")
    assert second.returncode == 1
    assert f"pid {unfsd.pid} " in second.stderr + second.stdout


def test_hup_reads_the_exports_file_again(unfsd, tree, directory):
    other = directory / "other"
    other.mkdir()
    unfsd.reload(f"{other} 127.0.0.1(rw,insecure)\n")
    wait_until(lambda: mnt_status(unfsd, other) == 0, "the new export is served")
    assert mnt_status(unfsd, tree) == 13


def mnt_status(server, path: Path) -> int:
    mount = server.mount()
    try:
        return mount.mnt(os.fsencode(path)).status
    finally:
        mount.transport.close()


def test_hup_with_a_bad_file_keeps_the_exports(unfsd, tree):
    """unfs3 exports nothing then, and every client hangs."""
    unfsd.reload(f"{tree} 127.0.0.1(bogus_option)\n")
    wait_until(lambda: "bogus_option" in unfsd.log(), "the error is logged")
    assert mnt_status(unfsd, tree) == 0


def test_usr1_logs_handle_and_descriptor_caches(unfsd):
    os.kill(unfsd.pid, signal.SIGUSR1)
    wait_until(lambda: re.search(r"fh entries \d+ access \d+ hit \d+ miss \d+", unfsd.log()), "the handle cache's line")
    wait_until(lambda: "Open file descriptors: read " in unfsd.log(), "the descriptors' line")


@pytest.mark.parametrize("name", ["mountd: privileged", "nfsd: master"])
def test_a_daemon_that_is_killed_comes_back_and_serves(unfsd, tree, name):
    old = pid_of(unfsd, name)
    assert old
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: pid_of(unfsd, name) not in (0, old), f"{name} is not back")
    wait_until(lambda: served(unfsd, tree), "MNT is answered again")


def test_a_new_control_half_gives_workers_no_second_copy_of_a_socket(unfsd):
    """Each copy would be polled, and stay for the worker's life."""
    for _ in range(2):
        control = unfsd.status()["control"]
        os.kill(control, signal.SIGKILL)
        wait_until(lambda old=control: new_control(unfsd, old), "another control half")
    pids = unfsd.worker_pids()
    wait_until(lambda: {slot["pid"] for slot in unfsd.status()["slots"] if slot["alive"]} == set(pids), "its workers")
    for pid in pids:
        wait_until(lambda pid=pid: not doubles(pid), f"worker {pid} has each socket once")


def new_control(server, old):
    try:
        return server.status()["control"] != old
    except OSError:
        return False


def doubles(pid):
    """Sockets that a process has more than one descriptor of."""
    links = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    sockets = [link for link in links if link.startswith("socket:")]
    return {link for link in sockets if sockets.count(link) > 1}


def test_handle_and_write_verifier_outlive_a_killed_master(unfsd, tree):
    """Attack table F07: the same boot, so the same handles, and nothing unsynced was lost."""
    root = unfsd.root(tree)
    with unfsd_client(unfsd) as client:
        file = client.lookup(root, b"file")
        before = client.commit(file.fh)
        assert (file.status, before.status) == (0, 0)
    old = pid_of(unfsd, "nfsd: master")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: pid_of(unfsd, "nfsd: master") not in (0, old), "the master is not back")
    wait_until(lambda: pid_of(unfsd, "nfsd: worker") and served(unfsd, tree), "MNT is answered again")
    with unfsd_client(unfsd) as client:
        after = client.commit(file.fh)
    assert (after.status, after.verf) == (0, before.verf)


def pid_of(server, title: str) -> int:
    """A process of the set by its title; 0: none."""
    for pid in processes_of_session(server.pid):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                return pid
        except FileNotFoundError:
            continue
    return 0


def served(server, tree: Path) -> bool:
    try:
        return mnt_status(server, tree) == 0
    except (OSError, EOFError, RpcFailed):  # SYSTEM_ERR while there is no mountd
        return False


def test_killed_unfsd_takes_the_others_along(directory, tree):
    server = ServerSet(directory, f"{tree} 127.0.0.1(ro,insecure)\n").start()
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: not server.pids(), "processes outlive unfsd")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(server.address)


def test_mount_on_a_port_of_its_own(directory, tree):
    """-m other than -n: mountd listens itself."""
    mount_port = free_port()
    server = ServerSet(directory, f"{tree} 127.0.0.1(ro,insecure)\n", options=("-m", str(mount_port)))
    server.mount_port = mount_port
    with server:
        assert mnt_status(server, tree) == 0


def test_T_says_0_or_1(directory, tree):
    good, bad = directory / "good", directory / "bad"
    good.write_text(f"{tree} 127.0.0.1(rw)\n")
    bad.write_text(f"{tree} 127.0.0.1(rw,bogus_option)\n{tree} (rw,other_bogus)\n")
    assert run("-T", "-e", str(good)).returncode == 0
    assert run("-T", "-e", str(bad)).returncode == 1
    assert "bogus_option" in run("-T", "-e", str(bad)).stderr


@pytest.mark.parametrize("words", [["-n", "0"], ["-m", "x"], ["-e", "relative"], ["-X"], ["--workers", "0"], ["-l", "no-address"],
                                   ["stray"], ["-n"]])
def test_wrong_usage_is_one_line_and_status_1(words):
    done = run(*words)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("unfsd: ")


def test_h_is_a_short_summary(directory):
    done = run("-h")
    assert done.returncode == 0
    assert "-e file" in done.stdout


def test_taken_port_is_status_1_and_nothing_is_left(directory, tree):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        server = ServerSet(directory, f"{tree} (ro)\n")
        server.port = port
        done = subprocess.run(server.command(), env=server.environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert f"port {port}" in done.stdout
    assert not server.pidfile.exists()
    assert not server.socket.exists()


def test_unreadable_exports_file_is_status_1_and_nothing_is_left(directory):
    server = ServerSet(directory, "")
    server.exports_file.unlink()
    done = subprocess.run(server.command(), env=server.environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert str(server.exports_file) in done.stdout
    assert not server.socket.exists()


def test_in_the_background_the_command_returns_when_it_serves_and_term_ends_all(directory, tree):
    """Without -d; nothing of it holds the pipe that the command was started on."""
    server = ServerSet(directory, f"{tree} 127.0.0.1(rw,insecure)\n")
    words = [word for word in server.command() if word != "-d"]
    done = subprocess.run(words, env=server.environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    pid = int(server.pidfile.read_text())
    try:
        assert mnt_status(server, tree) == 0
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not processes_of_session(pid), "all of its session ends")
    assert not server.pidfile.exists()


def test_in_the_background_a_bad_exports_file_is_said_on_the_terminal(directory, tree):
    server = ServerSet(directory, f"{tree} (bogus_option)\n")
    words = [word for word in server.command() if word != "-d"]
    done = subprocess.run(words, env=server.environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert "bogus_option" in done.stderr
    assert not server.pidfile.exists()


def test_every_place_has_an_option(directory, tree):
    server = ServerSet(directory, f"{tree} 127.0.0.1(rw,insecure)\n",
                       options=("--statedir", str(directory / "s"), "--socket", str(directory / "c"),
                                "--key", str(directory / "k")))
    with server:
        assert mnt_status(server, tree) == 0
        assert (directory / "c").is_socket()
        assert (directory / "k").exists()
        assert (directory / "s/state").exists()
    assert not (directory / "c").exists()


class Alone(ServerSet):
    """As root of a user namespace that has nobody else in it: no setgroups(2), no other uid."""

    def command(self) -> list[str]:
        return ["unshare", "-Ur", *super().command(), "--key", str(self.directory / "key")]


@pytest.mark.skipif(subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode != 0,
                    reason="no user namespaces here")
def test_root_of_a_user_namespace_serves_as_itself(directory, tree):
    with Alone(directory, f"{tree} 127.0.0.1(rw,no_root_squash,insecure)\n") as server, unfsd_client(server) as client:
        root = server.root(tree)
        assert client.create(root, b"new").status == 0
    assert (tree / "new").stat().st_uid == os.geteuid()
