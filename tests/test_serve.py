"""`make serve`: starts, prints what a user needs, serves a stranger's client, and leaves nothing behind.

It runs in network and mount namespaces of its own, where ports 111 and 2049 are free and /run is empty.
"""
from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = 'ip link set lo up && mount -t tmpfs tmpfs /run && exec "$@"'


def installed() -> bool:
    try:
        importlib.metadata.version("nfssvc")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network and mount namespaces"),
    pytest.mark.skipif(shutil.which("nfs-ls") is None or shutil.which("nsenter") is None, reason="no nfs-ls, no nsenter"),
    pytest.mark.skipif(not installed(), reason="the banner says the version of the installed package"),
]


class Served:
    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", SETUP, "sh", sys.executable, str(ROOT / "tools" / "serve.py"), *argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
        self.said: list[str] = []

    def banner(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("Ctrl-C"):
                break
        return "".join(self.said)

    def inside(self, *argv: str) -> str:
        command = ["nsenter", "--net", "--mount", "-t", str(self.process.pid), *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    def children(self) -> set[int]:
        """Every process that began in this server's network."""
        ours = os.stat(f"/proc/{self.process.pid}/ns/net").st_ino
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.stat(entry / "ns" / "net").st_ino == ours:
                    found.add(int(entry.name))
            except OSError:
                continue  # it has ended
        return found

    def end(self) -> None:
        """Whatever state it is in; a daemon that changed its user does not die with its parent."""
        if self.process.poll() is None:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):  # one of them was the parent of the next
                    os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=10)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "with blank").mkdir()
    (tmp_path / "with blank" / "hello").write_text("hello\n")
    return tmp_path / "with blank"


@pytest.fixture
def served(tree: Path) -> Iterator[Served]:
    made = Served("--dir", str(tree), "--workers", "2")
    try:
        yield made
    finally:
        made.end()


def test_as_root_it_uses_111_and_2049_and_says_how_to_mount(served: Served, tree: Path) -> None:
    said = served.banner()
    assert f"mount -t nfs -o vers=3,nolock,port=2049,mountport=2049 127.0.0.1:{tree} /mnt" in said
    assert "111: portmap" in said
    assert "hello" in served.inside("nfs-ls", f"nfs://127.0.0.1{tree}")
    assert str(tree) in served.inside(sys.executable, "-m", "mountd.showmount", "-e", "127.0.0.1")


def test_ctrl_c_ends_everything_and_leaves_nothing(served: Served) -> None:
    served.banner()
    pids = served.children()
    assert len(pids) >= 7  # serve, portmap, mountd's halves, master, control, two workers
    assert served.inside("ls", "/run").split() != []
    assert served.interrupt() == 0
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}") and not zombie(pid)] == []


def briefly(tree: Path) -> str:
    """Shell words: a server of its own, ended when it has said everything."""
    log = tree.parent / "log"
    return (f"touch {log}; {sys.executable} {ROOT}/tools/serve.py --dir '{tree}' --workers 1 >{log} & pid=$!; "
            f"until grep -q ^Ctrl-C {log} || ! kill -0 $pid; do sleep 0.1; done; "
            f"kill $pid; wait $pid; end=$?; cat {log}; (exit $end)")


def test_it_uses_an_empty_run_directory_and_removes_both_sockets(tree: Path) -> None:
    """The namespaces are a bystander's, who sees what is left when the server has gone."""
    script = "mkdir /run/nfsd; " + briefly(tree) + "; echo status $?; find /run -mindepth 1"
    out = subprocess.run(["unshare", "--net", "--mount", "sh", "-c", SETUP, "sh", "sh", "-c", script], capture_output=True,
                         text=True, timeout=40, check=False).stdout
    assert "NFSSVC_SOCKET" not in out
    assert "Ctrl-C stops it.\nstatus 0" in out
    assert out.rpartition("status ")[2].split("\n")[1:] == [""]


def test_a_second_server_leaves_the_first_one_registered(served: Served, tree: Path) -> None:
    served.banner()
    before = served.inside(sys.executable, "-m", "portmap.rpcinfo", "-p")
    said = served.inside("sh", "-c", briefly(tree))
    assert "no portmap needed" in said
    assert served.inside(sys.executable, "-m", "portmap.rpcinfo", "-p") == before


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(("argv", "said"), [
    (["--dir", "/nonexistent"], "/nonexistent is not a directory"),
    (["--port", "notanumber"], "port: 'notanumber' is not a number from 1 to 65535"),
    (["--port", "99999"], "not a number from 1 to 65535"),
    (["--workers", "0"], "workers: '0' is not a number from 1 to 64"),
    (["--to", "10.0.0.0/99"], "TO=10.0.0.0/99 is no host or network"),
    (["--port", "1", "--dir", "/etc/passwd"], "not a directory"),
])
def test_wrong_words_are_one_line_and_start_nothing(argv: list[str], said: str) -> None:
    made = Served(*argv)
    out, _ = made.process.communicate(timeout=30)
    assert said in out
    assert made.process.returncode != 0
