#!/usr/bin/env python3
"""`make serve`: one directory, served from here, in the foreground.

Duty: write an exports file, start portmap (as root, where port 111 is free), nfsd and mountd as children, print how to mount,
wait for Ctrl-C, stop them in order, remove what was made.  Everyone on this machine may mount; --to opens it to a network.
Files are served as the directory's owner (all_squash), except root's: those with root_squash.
"""
from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import prctl

from oncrpc.message import RpcError
from oncrpc.pmap import Pmap

NFS_PROG, NFS_PORT, PORTMAP_PORT = 100003, 2049, 111
MAX_WORKERS = 64        # nfsd's
READY_S = 20.0          # a daemon that is not ready by then is not going to be
STOP_S = 5.0            # what each daemon promises to stop in
NOBODY = 65534
LOOPBACK = ("127.0.0.1", "::1")


@dataclass
class Plan:
    """What is to be run.  own_statedir: we make the directory and remove it."""

    directory: Path
    port: int
    clients: tuple[str, ...]
    workers: int
    statedir: Path
    root: bool = field(default_factory=lambda: os.geteuid() == 0)

    @property
    def local(self) -> bool:
        return self.clients == LOOPBACK

    @property
    def binds(self) -> list[str]:
        return [address for address in LOOPBACK if can_bind(0, address)] if self.local else []

    @property
    def socket(self) -> Path:
        return self.statedir / "nfssvc.sock"


def can_bind(port: int, address: str = "") -> bool:
    """Both transports of `port` are free here."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with closing(socket.socket(family, kind)) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port() -> int:
    if can_bind(NFS_PORT):
        return NFS_PORT
    for _ in range(100):
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        if can_bind(port):
            return port
    raise SystemExit("make serve: no free port")


def sample_tree() -> Path:
    """build/sample, with something to look at; root's is given to nobody, who is whom clients act as."""
    tree = Path(__file__).resolve().parent.parent / "build" / "sample"
    if not tree.exists():
        (tree / "notes").mkdir(parents=True)
        (tree / "README").write_text("This directory is served over NFS.  Write here what you like.\n")
        (tree / "notes" / "hello.txt").write_text("hello from the server\n")
        if os.geteuid() == 0:
            for path in (tree, *tree.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
    return tree


def state_directory() -> Path:
    """Where tools look by default, when nobody uses it; else a new one."""
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        path = Path(runtime) / "nfsd"
        with contextlib.suppress(OSError):
            path.rmdir()  # an empty one is nobody's
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o755)
            return path
    path = Path(tempfile.mkdtemp(prefix="nfsd-"))
    path.chmod(0o755)
    return path


def another_is_registered() -> bool:
    """The port mapper here knows an NFS server already: clients that ask it are that one's."""
    try:
        with Pmap() as mapper:
            return any(entry.prog == NFS_PROG for entry in mapper.dump())
    except (OSError, RpcError):
        return True  # what holds 111 does not talk to us


def exports_text(plan: Plan) -> str:
    owner = plan.directory.stat()
    who = f",all_squash,anonuid={owner.st_uid},anongid={owner.st_gid}" if owner.st_uid else ",root_squash"
    quoted = str(plan.directory).replace("\\", "\\134").replace('"', "\\042")
    return f'"{quoted}" ' + " ".join(f"{client}(rw,insecure{who})" for client in plan.clients) + "\n"


class Daemons:
    """The children, in the order of their start."""

    def __init__(self) -> None:
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *argv: str) -> int:
        """A descriptor that tells when it is ready."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", *argv, "--ready-fd", str(writing)]
        # Their own session: Ctrl-C reaches us alone, and we stop them in order.
        child = subprocess.Popen(command, pass_fds=[writing], start_new_session=True,
                                 preexec_fn=lambda: prctl.set_pdeathsig(signal.SIGTERM))  # noqa: PLW1509 no threads here
        os.close(writing)
        self.running.append((name, child))
        return reading

    def wait_ready(self, name: str, fd: int) -> None:
        """SystemExit when the daemon ended or said nothing in time."""
        if not select.select([fd], [], [], READY_S)[0] or not os.read(fd, 256):
            raise SystemExit(f"make serve: {name} did not start")
        os.close(fd)

    def stop(self) -> None:
        """Last started, first stopped: mountd and nfsd unregister while portmap is there."""
        for _, child in reversed(self.running):
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def wait_for_end(self) -> str:
        """Returns the name of a daemon that ended by itself; a signal interrupts."""
        pid, _ = os.waitpid(-1, 0)
        for place, (name, child) in enumerate(self.running):
            if child.pid == pid:
                del self.running[place]
                return name
        return f"process {pid}"


def start_all(plan: Plan, daemons: Daemons) -> bool:
    """True: a port mapper knows the ports."""
    ours = plan.root and can_bind(PORTMAP_PORT)
    binds = [word for address in plan.binds for word in ("-h", address)]
    if ours:
        daemons.wait_ready("portmap", daemons.start("portmap", "portmap", "-f", *binds))
    mapped = ours or (plan.root and not another_is_registered())
    quiet = [] if mapped else ["--no-portmap"]
    nfsd = daemons.start("nfsd", "nfsd_master", "-F", "-v", "-n", str(plan.workers), "-p", str(plan.port), *binds, *quiet,
                         "--statedir", str(plan.statedir), "--socket", str(plan.socket), "--key", str(plan.statedir / "key"),
                         "--log", "stderr")
    daemons.wait_ready("nfsd", nfsd)
    exports = plan.statedir / "exports"
    exports.write_text(exports_text(plan))
    listen = ["-p", "0", *binds] if mapped else ["--relay-only"]
    mountd = daemons.start("mountd", "mountd", "-d", *listen, *quiet, "--socket", str(plan.socket), "--statedir",
                           str(plan.statedir), str(exports))
    daemons.wait_ready("mountd", mountd)
    return mapped


def this_host() -> str:
    """The address that other machines see; a connected datagram socket asks the routing table and sends nothing."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def banner(plan: Plan, mapped: bool) -> str:
    host = "127.0.0.1" if plan.local else this_host()
    port, path = plan.port, str(plan.directory)
    who = "programs on this machine only; TO=192.168.1.0/24 opens it" if plan.local else ", ".join(plan.clients)
    ports = f"{port} tcp and udp: NFS and MOUNT" + (f"; {PORTMAP_PORT}: portmap" if mapped else "; no portmap needed")
    find = "" if str(plan.socket) in ("/run/nfsd/nfssvc.sock", os.environ.get("XDG_RUNTIME_DIR", "-") + "/nfsd/nfssvc.sock") \
        else f"NFSSVC_SOCKET={plan.socket} "
    shares = path.replace("/", "\\")
    windows = f"mount -o anon,nolock,mtype=hard \\\\{host}{shares} N:" if port == NFS_PORT and mapped else \
        "needs a port mapper on 111 and NFS on 2049: run this as root"
    return "\n".join([
        f"nfssvc {version('nfssvc')}: NFS version 3",
        f"  exports   {path} (read and write)",
        f"  may mount {who}",
        f"  ports     {ports}",
        "",
        f"  Linux     mount -t nfs -o vers=3,nolock,port={port},mountport={port} {host}:{path} /mnt",
        f"  macOS     mount_nfs -o vers=3,nolocks,port={port},mountport={port},noresvport {host}:{path} /tmp/mnt",
        f"  Windows   {windows}",
        f"  libnfs    nfs-ls 'nfs://{host}{path}?nfsport={port}&mountport={port}'",
        f"  counters  {find}{Path(sys.executable).parent / 'nfsstat'} -s",
        "",
        "Ctrl-C stops it.",
    ])


class Parser(argparse.ArgumentParser):
    """One line about what is wrong: who runs make has not seen our options."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(f"make serve: {message.removeprefix('argument --')}")


def number_up_to(most: int, least: int = 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {least} to {most}")
        return int(text)
    return number


def read_options() -> argparse.Namespace:
    parser = Parser(prog="make serve", description="Serve one directory over NFS, in the foreground.")
    parser.add_argument("--dir", type=Path, help="what to export (default: a sample tree)")
    parser.add_argument("--port", type=number_up_to(65535), default=0, help="default: 2049 where it is free")
    parser.add_argument("--to", default="", help="hosts or networks that may mount, by commas (default: this machine)")
    parser.add_argument("--workers", type=number_up_to(MAX_WORKERS), default=4)
    return parser.parse_args()


def make_plan(options: argparse.Namespace) -> Plan:
    directory = options.dir or sample_tree()
    if not directory.is_dir():
        raise SystemExit(f"make serve: {directory} is not a directory")
    if options.port and not can_bind(options.port):
        raise SystemExit(f"make serve: port {options.port} is taken, or not for this user")
    clients = tuple(word for word in options.to.split(",") if word) or LOOPBACK
    check_clients(clients)
    return Plan(directory.resolve(), options.port or free_port(), clients, options.workers, state_directory())


def check_clients(clients: tuple[str, ...]) -> None:
    """mountd would refuse them, but when the others have started; names are its business."""
    for client in clients:
        if set(client) <= set("0123456789./"):
            try:
                ipaddress.IPv4Network(client, strict=False)
            except ValueError as exc:
                raise SystemExit(f"make serve: TO={client} is no host or network: {exc}") from exc


def main() -> int:
    plan, daemons = make_plan(read_options()), Daemons()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        mapped = start_all(plan, daemons)
        print(banner(plan, mapped), flush=True)
        name = daemons.wait_for_end()
        print(f"make serve: {name} ended", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # one is enough; stopping takes its time
        daemons.stop()
        shutil.rmtree(plan.statedir, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
