"""A running server set for tests: started on free loopback ports in a temporary directory, checked for leaks at its end.

The command is `unfsd` of this tree; NFS3_TEST_SERVER names another one, with the places {exports} {port} {mount_port} {pidfile},
so that the tests themselves can be tried against foreign servers.
"""
from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from nfssvc_shim.channel import Channel
from nfssvc_shim.flags import Nfssvc

from .nfs3 import Mount, Nfs3, connect
from .rpc import ROOT, Auth, RpcFailed, Tcp

TREE = Path(__file__).resolve().parents[2]
START_S = 20.0   # start of all processes on a busy machine
STOP_S = 10.0    # twice what the server promises for TERM
FOREIGN = os.environ.get("NFS3_TEST_SERVER", "")
OURS = not FOREIGN


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free for TCP and UDP; should another process take it first, the server says so and the test fails."""
    family = family_of(address)
    while True:
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            tcp.bind((address, 0))
            try:
                udp.bind((address, tcp.getsockname()[1]))
            except OSError:
                continue
            return int(tcp.getsockname()[1])


def wait_until(condition: Callable[[], object], *, deadline_s: float, what: str) -> None:
    """Returns when `condition` holds.  Raises TimeoutError naming `what`.

    For events that announce themselves in no other way (another program's end, its first answer): asked every 10 ms.
    """
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        time.sleep(0.01)


STREAK_S = 0.15  # without a sync: the next one is a thread's again, and who is heard then is alone (nfsserver/here.c)


def pause() -> None:
    """So long that no worker's loop syncs by itself, however quick the disk was."""
    over = time.monotonic() + STREAK_S
    wait_until(lambda: time.monotonic() > over, deadline_s=STREAK_S + 60, what="a pause")


def processes_of_session(session: int) -> list[int]:
    """Pids of all processes of `session` that still run (zombies are not counted: they are their parent's)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(entry)
            if fields and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _stat(entry: Path) -> list[str]:
    """/proc/PID/stat from the state on; empty when the process ended meanwhile."""
    try:
        return (entry / "stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


class ServerSet:
    """nfsd, its workers and mountd, serving `exports` on one port of the address `listen`; use as a context manager."""

    def __init__(self, directory: Path, exports: str, *, workers: int = 2, options: tuple[str, ...] = (),
                 env: dict[str, str] | None = None, listen: str = "127.0.0.1") -> None:
        self.directory, self.exports_file = directory, directory / "exports"
        self.pidfile, self.log_file = directory / "unfsd.pid", directory / "log"
        self.socket = directory / "nfssvc.sock"
        self.listen = listen
        self.port = free_port(listen)
        self.mount_port = free_port(listen) if "{mount_port}" in FOREIGN else self.port
        self.workers, self.options, self.extra_env = workers, options, env or {}
        self.exports_file.write_text(exports)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self.listen, self.port

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        places = {"exports": str(self.exports_file), "port": str(self.port), "mount_port": str(self.mount_port),
                  "pidfile": str(self.pidfile)}
        if FOREIGN:
            return shlex.split(FOREIGN.format(**places))
        port = places["port"]
        return [sys.executable, "-m", "nfsd_master.unfsd", "-d", "-p", "-l", self.listen, "-n", port, "-m", port,
                "-e", places["exports"], "-i", places["pidfile"], "--workers", str(self.workers), *self.options]

    def environment(self) -> dict[str, str]:
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        own = {"NFSSVC_SOCKET": str(self.socket), "XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(runtime),
               "TMPDIR": str(runtime), "PYTHONPATH": str(TREE), "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own, **self.extra_env}

    def start(self) -> ServerSet:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.directory, env=self.environment(), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(self._answers, deadline_s=START_S, what="start of the server set")
        except BaseException:
            self._kill()
            sys.stderr.write(self.log())
            raise
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with status {self.process.returncode}:\n{self.log()}")
        try:
            with closing(Tcp(self.address, timeout_s=2.0)) as transport:
                Nfs3(transport).null()
            with closing(Tcp((self.listen, self.mount_port), timeout_s=2.0)) as transport:
                return bool(Mount(transport).export())
        except (OSError, EOFError, RpcFailed):  # RpcFailed: NFS is served already, mountd not yet
            return False

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def client(self, cred: Auth = ROOT, *, proto: str = "tcp", source: str = "", source_port: int = 0) -> Nfs3:
        return Nfs3(connect(self.address, proto=proto, source=source, source_port=source_port), cred)

    def mount(self, *, proto: str = "tcp", source: str = "", source_port: int = 0, vers: int = 3, cred: Auth = ROOT) -> Mount:
        server = self.listen, self.mount_port
        return Mount(connect(server, proto=proto, source=source, source_port=source_port), cred, vers=vers)

    def root(self, path: Path, *, source: str = "") -> bytes:
        """The handle that MNT gives for `path`."""
        mount = self.mount(source=source)
        try:
            res = mount.mnt(os.fsencode(path))
        finally:
            mount.transport.close()
        assert res.status == 0, f"MNT {path}: {res.status}"
        return res.fh

    def reload(self, exports: str) -> None:
        """A new exports file, and HUP; the caller waits for what it changes."""
        self.exports_file.write_text(exports)
        os.kill(self.pid, signal.SIGHUP)

    def worker_pids(self) -> list[int]:
        """Pids of the workers, by their process title."""
        return [pid for pid in processes_of_session(self.pid) if re.match(r"nfsd: worker", _title(pid))]

    def status(self) -> dict[str, Any]:
        """What the control half says about the set (the STATUS message of the call socket)."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
            sock.settimeout(5.0)
            sock.connect(str(self.socket))
            answer: dict[str, Any] = json.loads(Channel(sock).call(Nfssvc.STATUS)[0])
            return answer

    def pids(self) -> list[int]:
        return processes_of_session(self.pid)

    def stop(self) -> None:
        """TERM; the whole set must be gone within STOP_S, say nothing of its own mistakes, and free its ports."""
        assert self.process is not None
        try:
            self.process.terminate()
            status = self.process.wait(STOP_S)
            wait_until(lambda: not self.pids(), deadline_s=STOP_S, what="end of all processes")
        finally:
            self._kill()
        if OURS:
            assert status == 0, f"exit status {status}\n{self.log()}"
            self._check_leaks()

    def _check_leaks(self) -> None:
        assert "Traceback" not in self.log(), self.log()
        assert not self.pidfile.exists(), "the pid file was left"
        assert not self.socket.exists(), "the call socket was left"
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family_of(self.listen), kind) as probe:
                if kind == socket.SOCK_STREAM:  # connections in TIME_WAIT are no leak
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(self.address)

    def _kill(self) -> None:
        assert self.process is not None
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def __enter__(self) -> ServerSet:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _title(pid: int) -> str:
    """Process title, or the command where there is none."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return line if line.startswith("nfsd:") else Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
