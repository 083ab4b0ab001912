"""The rc.d scripts, driven by dash and by bash, with small daemons and paths of their own."""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RC = Path(__file__).parents[2] / "rc.d"
NAMES = ("portmap", "mountd", "nfsd", "statd", "lockd")
CONF = 'portmap_enable=YES\nmountd_enable="yes"\nnfs_server_enable=YES\nnfs_server_flags="-t -u -n 4"\n' \
    "mountd_flags=--no-portmap\n"


@dataclass
class Rc:
    """A tree with programs, configuration, pid files."""

    shell: str
    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "bin").mkdir()
        source = Path(__file__).with_name("daemon.py").read_text()
        paths = f"mountd_exports={self.root}/exports\n"
        for name in NAMES:
            program = self.root / "bin" / name
            program.write_text(f"#!{sys.executable}\n{source}")
            program.chmod(0o755)
            paths += f"{name}_program={program}\n{name}_pidfile={self.pidfile(name)}\n"
        (self.root / "exports").write_text("")
        (self.root / "paths").write_text(paths)
        self.configure(CONF)
        self.env = {"RC_CONF": f"{self.root}/paths {self.root}/rc.conf", "RC_CONF_D": str(self.root / "none"),
                    "RC_SH": self.shell, "LOG": str(self.root / "log"), "PATH": os.environ["PATH"]}

    def configure(self, text: str) -> None:
        (self.root / "rc.conf").write_text(text)

    def pidfile(self, name: str) -> Path:
        return self.root / f"{name}.pid"

    def pid(self, name: str) -> int:
        return int(self.pidfile(name).read_text())

    def run(self, script: str, verb: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [self.shell, str(RC / script), verb]
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=20)

    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        for name in NAMES:
            if self.pidfile(name).exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid(name), signal.SIGKILL)


@pytest.fixture(params=["dash", "bash"])
def rc(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rc]:
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"no {request.param} here")
    made = Rc(shell, tmp_path)
    try:
        yield made
    finally:
        made.end()


def gone(pid: int) -> bool:
    """Waits for the end of a process that is not ours to reap."""
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
    return not os.path.exists(f"/proc/{pid}")


def test_all_start_in_the_order_of_their_require_lines_and_stop_in_reverse(rc: Rc) -> None:
    assert rc.run("rc", "start").returncode == 0
    assert [line.split()[0] for line in rc.log()] == ["portmap", "mountd", "nfsd"]
    assert rc.run("rc", "status").returncode == 0
    assert rc.run("rc", "stop").returncode == 0
    assert [line for line in rc.log() if "stopped" in line] == ["nfsd stopped", "mountd stopped", "portmap stopped"]
    assert not any(rc.pidfile(name).exists() for name in NAMES)
    assert rc.run("rc", "status").returncode == 1


def test_statd_and_lockd_come_last_where_a_machine_has_them(rc: Rc) -> None:
    """They tell clients to reclaim their locks, and the server has to answer then."""
    rc.configure(CONF + f"rpc_statd_enable=YES\nrpc_statd_flags='-i {rc.pidfile('statd')}'\n"
                 f"rpc_lockd_enable=YES\nrpc_lockd_flags='-i {rc.pidfile('lockd')}'\n")
    assert rc.run("rc", "start").returncode == 0
    assert [line.split()[0] for line in rc.log()] == list(NAMES)
    assert rc.run("rc", "stop").returncode == 0
    assert [line.split()[0] for line in rc.log() if "stopped" in line] == list(reversed(NAMES))


def test_lockd_that_is_not_there_is_told_in_one_line(rc: Rc) -> None:
    (rc.root / "bin" / "lockd").unlink()
    ran = rc.run("lockd", "onestart")
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"lockd: WARNING: {rc.root}/bin/lockd is not there: clients mount with nolock")
    assert ran.stderr.count("\n") == 1


def test_rcorder_sorts_whatever_order_was_given(rc: Rc) -> None:
    files = [str(RC / name) for name in ("nfsd", "mountd", "portmap")]
    ran = subprocess.run([rc.shell, str(RC / "rcorder"), *files], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == files[::-1]
    ran = subprocess.run([rc.shell, str(RC / "rcorder"), "-s", "nojail", *files], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [files[2]]


def test_rcorder_tells_of_a_circle_and_lists_every_file(rc: Rc) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (rc.root / name).write_text(f"# PROVIDE: {name}\n# REQUIRE: {other}\n")
    ran = subprocess.run([rc.shell, str(RC / "rcorder"), "a", "b"], cwd=rc.root, capture_output=True, text=True, check=True)
    assert sorted(ran.stdout.split()) == ["a", "b"]
    assert "circular" in ran.stderr


def test_flags_come_from_nfs_server_flags(rc: Rc) -> None:
    rc.run("mountd", "start")
    assert rc.run("nfsd", "start").returncode == 0
    assert "nfsd started -t -u -n 4" in rc.log()


def test_start_of_a_running_one_is_refused_and_says_its_pid(rc: Rc) -> None:
    rc.run("portmap", "start")
    ran = rc.run("portmap", "start")
    assert ran.returncode == 1
    assert f"portmap already running? (pid={rc.pid('portmap')})." in ran.stdout
    assert rc.run("portmap", "status").stdout == f"portmap is running as pid {rc.pid('portmap')}.\n"


def test_stale_pid_file_counts_as_not_running(rc: Rc) -> None:
    """The number of a process that is gone, and the number of one that is something else."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number in (str(ended.pid), str(os.getpid()), "rubbish", ""):
        rc.pidfile("portmap").write_text(number)
        assert rc.run("portmap", "status").returncode == 1
    assert rc.run("portmap", "start").returncode == 0
    assert rc.pid("portmap") not in (ended.pid, os.getpid())


def test_killed_daemon_is_seen_and_started_again(rc: Rc) -> None:
    rc.run("portmap", "start")
    pid = rc.pid("portmap")
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert rc.run("portmap", "status").returncode == 1
    assert rc.run("portmap", "restart").returncode == 0
    assert rc.pid("portmap") != pid


def test_stop_kills_what_does_not_stop_in_time(rc: Rc) -> None:
    rc.configure(CONF + "portmap_timeout=1\n")
    rc.run("portmap", "start", STUBBORN="1")
    pid = rc.pid("portmap")
    ran = rc.run("portmap", "stop")
    assert "(killed)" in ran.stderr
    assert gone(pid)
    assert not rc.pidfile("portmap").exists()


def test_reload_tests_the_exports_first(rc: Rc) -> None:
    rc.run("mountd", "start")
    assert rc.run("mountd", "reload", REFUSE="1").returncode == 1
    assert rc.run("mountd", "reload").returncode == 0
    rc.run("mountd", "stop")
    assert rc.log().count("mountd reloaded") == 1


def test_failed_start_is_told_and_exit_1(rc: Rc) -> None:
    for name in ("portmap", "mountd"):
        ran = rc.run(name, "start", REFUSE="1")
        assert ran.returncode == 1
    assert "failed to start" in rc.run("portmap", "start", REFUSE="1").stderr


def test_missing_exports_file_refuses_the_start(rc: Rc) -> None:
    (rc.root / "exports").unlink()
    ran = rc.run("mountd", "start")
    assert ran.returncode == 1
    assert "exports is not readable" in ran.stderr


@pytest.mark.parametrize("conf", ["", "portmap_enable=NO\n", "portmap=NO\n", "portmap_flags=NO\n"])
def test_not_enabled_is_refused_but_forced_and_one_work(rc: Rc, conf: str) -> None:
    rc.configure(conf)
    ran = rc.run("portmap", "start")
    assert ran.returncode == 1
    assert "portmap_enable" in ran.stdout
    assert rc.run("portmap", "onestart").returncode == 0
    assert rc.run("portmap", "forcestop").returncode == 0


@pytest.mark.parametrize("conf", ["portmap_enable=on\n", "portmap=YES\n", "portmap_flags=\n", "portmap_flags=-d\n"])
def test_three_systems_ways_to_enable(rc: Rc, conf: str) -> None:
    """FreeBSD, NetBSD, OpenBSD (rc.conf(5))."""
    rc.configure(conf)
    assert rc.run("portmap", "enabled").returncode == 0


def test_nfsd_starts_mountd_that_is_not_there(rc: Rc) -> None:
    """force_depend of rc.subr(8)."""
    assert rc.run("nfsd", "start").returncode == 0
    assert [line.split()[0] for line in rc.log()] == ["mountd", "nfsd"]


def test_unknown_verb_is_usage(rc: Rc) -> None:
    for verb in ("", "begin", "reload"):
        ran = rc.run("portmap", verb)
        assert ran.returncode == 1
        assert "usage:" in ran.stderr


def test_rcvar_and_poll(rc: Rc) -> None:
    assert 'nfs_server_enable="YES"' in rc.run("nfsd", "rcvar").stdout
    assert rc.run("portmap", "poll").returncode == 0
