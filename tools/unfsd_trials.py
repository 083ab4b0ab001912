#!/usr/bin/env python3
"""Every option and behaviour of unfsd(8), tried against our unfsd and another one; prints the table of docs/unfsd.md.

    python tools/unfsd_trials.py --other /path/to/unfs3/unfsd [--ours 'python -m nfsd_master.unfsd'] > table

Duty: one short trial an option, on loopback, in a temporary directory; a trial says in a few words what it saw.  As root.
"""
from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tools.nfs3 import Mount, Nfs3, connect
from tests.tools.rpc import RpcFailed, auth_sys
from tests.tools.servers import free_port

WAIT_S = 15.0


@dataclass
class Ground:
    """A directory with an exported tree, and the program that is tried."""

    program: list[str]
    folder: Path
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.tree, self.exports, self.pidfile = self.folder / "data", self.folder / "exports", self.folder / "pid"
        self.tree.mkdir(exist_ok=True)
        (self.tree / "file").write_text("content\n")
        self.export("rw,no_root_squash,insecure")

    def export(self, options: str, path: Path | None = None) -> None:
        self.exports.write_text(f"{path or self.tree} 127.0.0.1({options})\n")

    def words(self, *more: str) -> list[str]:
        port = str(self.port)
        return [*self.program, "-p", "-e", str(self.exports), "-n", port, "-m", port, *more]

    def environment(self) -> dict[str, str]:
        own = {"NFSSVC_SOCKET": str(self.folder / "sock"), "XDG_STATE_HOME": str(self.folder),
               "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        return {**os.environ, **own}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.program, *words], env=self.environment(), text=True, capture_output=True, timeout=WAIT_S,
                              check=False)


class Running:
    """A server in the foreground, ended at the end of the `with`."""

    def __init__(self, ground: Ground, *more: str, mount_port: int = 0) -> None:
        self.ground, self.more, self.mount_port = ground, more, mount_port or ground.port
        self.log = ground.folder / "log"

    def __enter__(self) -> Running:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.ground.words("-d", *self.more), env=self.ground.environment(), stdout=log,
                                            stderr=log, start_new_session=True)
        try:
            until(lambda: self.process.poll() is not None or self.answers())
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(WAIT_S)

    def answers(self) -> bool:
        try:
            mount = Mount(connect(("127.0.0.1", self.mount_port)), vers=3)
        except OSError:
            return False
        try:
            return bool(mount.export())
        except (OSError, EOFError, RpcFailed):
            return False
        finally:
            mount.transport.close()

    def mnt(self, path: Path, vers: int = 3) -> tuple[int, bytes]:
        mount = Mount(connect(("127.0.0.1", self.mount_port)), vers=vers)
        try:
            result = mount.mnt(os.fsencode(path))
            return result.status, result.fh
        finally:
            mount.transport.close()

    def client(self, uid: int = 0) -> Nfs3:
        return Nfs3(connect(("127.0.0.1", self.ground.port)), auth_sys(uid, uid))


def until(what: Callable[[], object]) -> bool:
    end, poll = time.monotonic() + WAIT_S, select.poll()
    while time.monotonic() < end:
        if what():
            return True
        poll.poll(20)
    return False


def bound(port: int, kind: int, host: str = "127.0.0.1") -> bool:
    """Somebody has the port of this address."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


# ---- trials: each returns what it saw

def option_h(g: Ground) -> str:
    done = g.run("-h")
    return f"exit {done.returncode}, {'a summary' if '-e' in done.stdout + done.stderr else 'nothing'}"


def option_unknown(g: Ground) -> str:
    return f"exit {g.run('-X').returncode}"


def option_e_relative(g: Ground) -> str:
    return f"exit {g.run('-d', '-p', '-e', 'exports').returncode}"


def option_n_zero(g: Ground) -> str:
    return f"exit {g.run('-d', '-p', '-n', '0').returncode}"


def option_T(g: Ground) -> str:
    good = g.run("-T", "-e", str(g.exports)).returncode
    g.exports.write_text(f"{g.tree} (rw\n")
    return f"good file exit {good}, broken file exit {g.run('-T', '-e', str(g.exports)).returncode}"


def option_T_unknown(g: Ground) -> str:
    g.exports.write_text(f"{g.tree} 127.0.0.1(rw,bogus)\n")
    return f"exit {g.run('-T', '-e', str(g.exports)).returncode}"


def option_d(g: Ground) -> str:
    with Running(g) as server:
        return f"foreground, {'answers' if server.answers() else 'no answer'}"


def background(g: Ground) -> str:
    done = g.run(*g.words("-i", str(g.pidfile))[len(g.program):])
    listens = bound(g.port, socket.SOCK_STREAM)
    until(g.pidfile.exists)
    pid = int(g.pidfile.read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists())
    return f"exit {done.returncode} {'when' if listens else 'before'} it listens"


def option_i(g: Ground) -> str:
    with Running(g, "-i", str(g.pidfile)) as server:
        right = g.pidfile.read_text().strip() == str(server.process.pid)
    return f"{'its pid' if right else 'another number'}, {'left' if g.pidfile.exists() else 'removed'} at the end"


def option_t(g: Ground) -> str:
    with Running(g, "-t"):
        return "UDP bound" if bound(g.port, socket.SOCK_DGRAM) else "TCP only"


def both_transports(g: Ground) -> str:
    with Running(g):
        return "TCP and UDP" if bound(g.port, socket.SOCK_DGRAM) and bound(g.port, socket.SOCK_STREAM) else "one"


def option_m(g: Ground) -> str:
    other = free_port()
    with Running(g, "-m", str(other), mount_port=other) as server:
        return f"MNT on its own port: status {server.mnt(g.tree)[0]}"


def option_l(g: Ground) -> str:
    with Running(g, "-l", "127.0.0.1"):
        return f"{'bound' if bound(g.port, socket.SOCK_STREAM) else 'free'} on 127.0.0.1, " \
               f"{'bound' if bound(g.port, socket.SOCK_STREAM, '127.0.0.2') else 'free'} on 127.0.0.2"


def option_s(g: Ground) -> str:
    with Running(g, "-s") as server:
        client = server.client(1000)
        attr = client.lookup(server.mnt(g.tree)[1], b"file").attr
        client.transport.close()
        return f"its own file looks owned by {attr.uid if attr else '?'} to uid 1000"


def option_r(g: Ground) -> str:
    (g.tree / "tool").write_text("#!/bin/sh\n")
    (g.tree / "tool").chmod(0o711)
    with Running(g, "-r") as server:
        client = server.client(1000)
        attr = client.lookup(server.mnt(g.tree)[1], b"tool").attr
        client.transport.close()
        return f"mode 0711 looks {attr.mode & 0o777:04o}" if attr else "no attributes"


def option_3(g: Ground) -> str:
    with Running(g, "-3") as server:
        client = server.client()
        found = client.lookup(server.mnt(g.tree)[1], b"file").attr
        client.transport.close()
        return "fileid fits 32 bits" if found and found.fileid < 1 << 32 else "fileid is longer"


def option_w(g: Ground) -> str:
    with Running(g, "-w") as server:
        return "accepted" if server.answers() else "refused"


def term(g: Ground) -> str:
    with Running(g) as server:
        server.process.terminate()
        status = server.process.wait(WAIT_S)
    return f"ends, exit {status}, port {'still bound' if bound(g.port, socket.SOCK_DGRAM) else 'free at once'}"


def hup(g: Ground) -> str:
    other = g.folder / "other"
    other.mkdir()
    with Running(g) as server:
        g.export("ro,insecure", other)
        server.process.send_signal(signal.SIGHUP)
        return "the new file is in force" if until(lambda: server.mnt(other)[0] == 0) else "nothing changed"


def hup_bad(g: Ground) -> str:
    with Running(g) as server:
        before = server.log.stat().st_size
        g.exports.write_text(f"{g.tree} 127.0.0.1(rw\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.stat().st_size > before)
        return "the last table stays" if server.mnt(g.tree)[0] == 0 else "nothing is exported"


def usr1(g: Ground) -> str:
    with Running(g) as server:
        server.process.send_signal(signal.SIGUSR1)
        until(lambda: "descriptors" in server.log.read_text())
        return "handle and descriptor caches" if "fh " in server.log.read_text() else "nothing"


def prefix(g: Ground) -> str:
    """/data is exported; /database is not."""
    (g.folder / "database").mkdir()
    with Running(g) as server:
        return "mounted" if server.mnt(g.folder / "database")[0] == 0 else "refused"


def mount_v1(g: Ground) -> str:
    with Running(g) as server:
        try:
            return f"status {server.mnt(g.tree, vers=1)[0]}"
        except RpcFailed:
            return "RPC error"


def readdirplus(g: Ground) -> str:
    with Running(g) as server:
        client = server.client()
        result = client.readdirplus(server.mnt(g.tree)[1])
        client.transport.close()
        return result.status.name if hasattr(result.status, "name") else str(result.status)


def removable(g: Ground) -> str:
    g.export("ro,removable,insecure", g.folder / "absent")
    with Running(g) as server:
        return f"MNT of a path that is not there: status {server.mnt(g.folder / 'absent')[0]}"


def root_squash(g: Ground) -> str:
    g.export("rw,insecure")
    (g.tree / "file").chmod(0o600)
    with Running(g) as server:
        client = server.client(0)
        file = client.lookup(server.mnt(g.tree)[1], b"file")
        result = client.read(file.fh, 0, 10)
        client.transport.close()
        return f"root reads a 0600 file of root: {getattr(result.status, 'name', result.status)}"


def secure_port(g: Ground) -> str:
    g.export("rw,no_root_squash")
    with Running(g) as server:
        return "MNT from a high port refused" if server.mnt(g.tree)[0] else "MNT from a high port allowed"


def deep_path(g: Ground) -> str:
    """60 levels: a handle of one byte a level has room for 43."""
    deep = g.tree
    for level in range(60):
        deep = deep / f"d{level}"
    deep.mkdir(parents=True)
    with Running(g) as server:
        client, handle = server.client(), server.mnt(g.tree)[1]
        for level in range(60):
            found = client.lookup(handle, f"d{level}".encode())
            if found.status:
                client.transport.close()
                return f"ends at level {level}: {getattr(found.status, 'name', found.status)}"
            handle = found.fh
        client.transport.close()
        return "all reached"


def rename_keeps_handle(g: Ground) -> str:
    (g.tree / "a").mkdir()
    (g.tree / "b").mkdir()
    (g.tree / "a/moved").write_text("x")
    with Running(g) as server:
        client, root = server.client(), server.mnt(g.tree)[1]
        a = client.lookup(root, b"a").fh
        handle = client.lookup(a, b"moved").fh
        (g.tree / "a/moved").rename(g.tree / "b/moved")
        status = client.getattr(handle).status
        client.transport.close()
        return f"handle after a move: {getattr(status, 'name', status)}"


@dataclass(frozen=True)
class Trial:
    what: str
    run: Callable[[Ground], str]
    better: str = ""      # why a difference is meant
    note: str = ""        # what the same words do not say


TRIALS = (
    Trial("`-h`", option_h), Trial("an unknown option", option_unknown), Trial("`-e` with a relative path", option_e_relative),
    Trial("`-n 0`", option_n_zero), Trial("`-T`", option_T),
    Trial("`-T` with an unknown option in the file", option_T_unknown, "a misspelt `ro` must not be read-write in silence"),
    Trial("`-d`", option_d), Trial("without `-d`", background), Trial("`-i`", option_i),
    Trial("neither `-t` nor `-u`", both_transports), Trial("`-t`", option_t), Trial("`-m` other than `-n`", option_m),
    Trial("`-l 127.0.0.1`", option_l), Trial("`-s`", option_s), Trial("`-r`", option_r), Trial("`-3`", option_3),
    Trial("`-w`", option_w),
    Trial("TERM", term, "0 is how a service that was asked to stop ends"), Trial("HUP", hup),
    Trial("HUP with a broken file", hup_bad, "clients would hang on an empty table"), Trial("USR1", usr1),
    Trial("`/data` exported, MNT of `/database`", prefix, "an export ends at a component"),
    Trial("MOUNT version 1 MNT", mount_v1, "a v1 answer where the handle fits its 32 bytes"),
    Trial("READDIRPLUS", readdirplus, "one call instead of one and a LOOKUP a name"),
    Trial("`removable`", removable, note="an empty directory, read-only here; a handle is good again when its medium is back"),
    Trial("root_squash is the default", root_squash),
    Trial("secure is the default", secure_port),
    Trial("60 directories deep", deep_path, "handles are the kernel's, not paths"),
    Trial("a file moved on the server", rename_keeps_handle, "handles are the kernel's, not paths"),
)


def outcome(program: list[str], trial: Trial) -> str:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trial")))
        try:
            return trial.run(Ground(program, folder))
        except (OSError, EOFError, RpcFailed, ValueError, subprocess.SubprocessError) as exc:
            return f"failed: {type(exc).__name__} {exc}"


def main() -> int:
    parser = argparse.ArgumentParser(description="compare two unfsd programs")
    parser.add_argument("--ours", default=f"{sys.executable} -m nfsd_master.unfsd")
    parser.add_argument("--other", required=True)
    options = parser.parse_args()
    print("| tried | unfs3 | here | |\n| --- | --- | --- | --- |")
    for trial in TRIALS:
        other, ours = outcome(shlex.split(options.other), trial), outcome(shlex.split(options.ours), trial)
        same = f"same: {trial.note}" if trial.note else "same"
        verdict = same if other == ours else f"better: {trial.better}" if trial.better else "DIFFERS"
        print(f"| {trial.what} | {other} | {ours} | {verdict} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
