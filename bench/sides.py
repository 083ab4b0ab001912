"""The servers that the benchmarks measure: how each is started on a directory of its own, and stopped.

Used by every program of this folder.  As root everything happens in private network, mount and
process namespaces (`isolated`): no port of this machine is used, and nothing outlives the run.
Otherwise: loopback and free high ports, without NFS-Ganesha.  A side that cannot run here raises
Absent with the reason.
"""
from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import nfsload

HERE = Path(__file__).resolve().parent
START_LIMIT_S = 20
STOP_LIMIT_S = 5
OURS = "{unfsd} -d -p -l 127.0.0.1 -e {exports} -i {statedir}/unfsd.pid -n {port} -m {port} --workers {workers}"
GANESHA_CONF = """
NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = {port}; MNT_Port = {mount_port}; Enable_NLM = false; Enable_RQUOTA = false;
  mount_path_pseudo = false; Plugins_Dir = /usr/lib/x86_64-linux-gnu/ganesha; }}
NFSV4 {{ Graceless = true; RecoveryBackend = fs; }}
EXPORT_DEFAULTS {{ SecType = sys; }}
EXPORT {{ Export_Id = 1; Path = {dir}; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash;
  Protocols = 3; Transports = UDP,TCP; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"""


class Absent(Exception):
    """This side cannot run on this machine; the text says why."""


# ---------------------------------------------------------------- the servers

@dataclass(slots=True)
class Server:
    """One side: how it is started, and once it runs, where."""
    name: str
    dir: Path
    statedir: Path
    port: int
    mount_port: int
    export: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started_ms: float = 0
    more_exports: list[Path] = field(default_factory=list)
    working_set: nfsload.WorkingSet | None = None

    @property
    def log(self) -> Path:
        return self.statedir / "log"

    def run(self, command: list[str]) -> None:
        own = {"NFSSVC_SOCKET": str(self.statedir / "nfssvc.sock"), "XDG_RUNTIME_DIR": str(self.statedir),
               "XDG_STATE_HOME": str(self.statedir)}
        with open(self.log, "ab") as f:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f,
                                                   cwd=self.statedir, start_new_session=True, env={**os.environ, **own}))

    def pids(self) -> list[int]:
        return [p.pid for p in self.processes]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start_floor(server: Server, opts: argparse.Namespace) -> None:
    binary = server.statedir / "floor"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise Absent("no C compiler")
    subprocess.run([compiler, "-O2", "-o", str(binary), str(HERE / "floor.c")], check=True)
    server.run([str(binary), str(server.port), str(server.dir / "floor")])


def exports_line(server: Server, more: str = "") -> Path:
    path = server.statedir / "exports"
    folders = [server.dir, *server.more_exports]
    path.write_text("".join(f'"{folder}" 127.0.0.0/8(rw,no_root_squash,insecure{more})\n' for folder in folders))
    return path


def unfsd() -> str:
    """This project's own command: beside the Python that runs this, as its module, in this tree's .venv, else on PATH."""
    here, tree = Path(sys.executable).parent / "unfsd", HERE.parent / ".venv/bin/unfsd"
    if here.exists():
        return str(here)
    if importlib.util.find_spec("nfsd_master"):
        return f"{sys.executable} -m nfsd_master.unfsd"
    return str(tree) if tree.exists() else "unfsd"


def start_ours(server: Server, opts: argparse.Namespace) -> None:
    exports = exports_line(server, ",async" if server.name == "ours-async" else "")
    command = opts.ours.format(port=server.port, dir=server.dir, statedir=server.statedir, exports=exports,
                               unfsd=unfsd(), workers=opts.workers)
    if not shutil.which(shlex.split(command)[0]):
        raise Absent(f"no command {shlex.split(command)[0]}: install the project, or give --ours")
    server.run(["/bin/sh", "-c", "exec " + command])


def start_unfs3(server: Server, opts: argparse.Namespace) -> None:
    if not opts.unfs3 or not os.access(opts.unfs3, os.X_OK):
        raise Absent("give its unfsd with --unfs3 or $UNFS3")
    server.run([opts.unfs3, "-d", "-p", "-l", "127.0.0.1", "-e", str(exports_line(server)), "-i", str(server.statedir / "pid"),
                "-n", str(server.port), "-m", str(server.port)])


def start_ganesha(server: Server, opts: argparse.Namespace) -> None:
    binary = shutil.which("ganesha.nfsd")
    if not binary:
        raise Absent("not installed (Debian: nfs-ganesha-vfs)")
    if not in_namespace():
        raise Absent("needs root: it must have a portmapper of its own")
    server.mount_port = free_port()
    for folder in ("/run/ganesha", "/run/rpcbind", "/var/lib/nfs/ganesha/v4recov", "/var/lib/nfs/ganesha/v4old"):
        os.makedirs(folder, exist_ok=True)
    if not shutil.which("rpcbind"):
        raise Absent("needs rpcbind")
    server.run(["rpcbind", "-f", "-w"])
    wait_for(lambda: socket.create_connection(("127.0.0.1", 111), 1).close(), server)
    conf = server.statedir / "ganesha.conf"
    conf.write_text(GANESHA_CONF.format(port=server.port, mount_port=server.mount_port, dir=server.dir))
    server.run([binary, "-F", "-L", "/dev/stdout", "-f", str(conf), "-p", str(server.statedir / "pid"), "-N", "NIV_EVENT"])


def start_daemons(server: Server, opts: argparse.Namespace) -> None:
    """Ours as three daemons, portmap on 111 among them."""
    if not in_namespace():
        raise Absent("needs root: portmap takes port 111")
    python, state = [sys.executable, "-m"], str(server.statedir)
    server.run([*python, "portmap", "-f", "-h", "127.0.0.1"])
    wait_for(lambda: socket.create_connection(("127.0.0.1", 111), 1).close(), server)
    server.run([*python, "nfsd_master", "-F", "-n", str(opts.workers), "-p", str(server.port), "-h", "127.0.0.1", "--statedir", state,
                "--socket", f"{state}/nfssvc.sock", "--key", f"{state}/key", "--log", "stderr"])
    server.run([*python, "mountd", "-d", "-p", "0", "-h", "127.0.0.1", "--socket", f"{state}/nfssvc.sock", "--statedir", state,
                str(exports_line(server))])


STARTERS: dict[str, Callable[[Server, argparse.Namespace], None]] = {
    "floor": start_floor, "ours": start_ours, "ours-async": start_ours, "unfs3": start_unfs3, "ganesha": start_ganesha,
    "daemons": start_daemons}


def wait_for(attempt: Callable[[], object], server: Server) -> None:
    """Until `attempt` raises nothing; Absent with the end of the log when that never comes."""
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            attempt()
            return
        except (OSError, RuntimeError) as problem:
            dead = any(p.poll() is not None for p in server.processes)
            if dead or time.monotonic() > end:
                tail = server.log.read_text(errors="replace").splitlines()[-4:]
                raise Absent(" | ".join([f"did not start: {problem}", *tail])) from None
        time.sleep(0.005)


def stop(server: Server) -> None:
    """TERM to the first process, KILL to its session after five seconds."""
    for p in reversed(server.processes):
        p.terminate()
    for p in reversed(server.processes):
        try:
            p.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"note: {server.name}: process {p.pid} did not stop in {STOP_LIMIT_S} s", file=sys.stderr)
        with suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()


@contextmanager
def running(name: str, base: Path, opts: argparse.Namespace, *, place: str = "", n_exports: int = 1,
            prepared: bool = True) -> Iterator[Server]:
    """A side that answers, with its working set made when `prepared`.

    base       a workspace; place: a folder in it and in its export, for one server after the other
    n_exports  all but the first are folders in the first
    """
    server = Server(name, base / "export" / place / name, base / place / name, 0, 0)
    server.more_exports = [server.dir / "exports" / f"{i:05d}" for i in range(1, n_exports)]
    for folder in (server.dir, server.statedir, *server.more_exports):
        folder.mkdir(parents=True, exist_ok=True)
    server.dir.chmod(0o755)
    server.port = server.mount_port = free_port()
    server.export = "/" if name == "floor" else str(server.dir)
    cred = nfsload.auth_sys(os.getuid(), os.getgid())
    try:
        begun = time.monotonic()
        STARTERS[name](server, opts)
        root: list[bytes] = []
        wait_for(lambda: root.append(nfsload.mount("127.0.0.1", server.mount_port, server.export, cred)), server)
        server.started_ms = (time.monotonic() - begun) * 1e3
        if prepared:
            server.working_set = nfsload.prepare("127.0.0.1", server.port, root[0], cred, "nfsload")
        yield server
    finally:
        stop(server)


def tree_pss_mb(pids: list[int]) -> float | None:
    """Proportional memory of these processes and all below them; None when we may not see that of each."""
    total = 0
    for pid in nfsload.tree_of(pids):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except PermissionError:
            return None
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return round(total / 1024, 1)


def fsync_cost_us(folder: Path, turns: int = 100) -> float:
    """What a durable create costs here without any server: the file and one fsync of its folder."""
    took = []
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for i in range(turns):
        begun = time.perf_counter()
        os.close(os.open(f"fsync{i}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644, dir_fd=fd))
        os.fsync(fd)
        took.append(time.perf_counter() - begun)
        os.unlink(f"fsync{i}", dir_fd=fd)
    os.close(fd)
    return round(statistics.median(took) * 1e6, 1)


def file_system(folder: Path) -> str:
    """Its type; of ext4 also when it has no journal: fsync is quick then, and inode numbers are slow to be used again."""
    found = subprocess.run(["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", str(folder)], capture_output=True, text=True).stdout
    kind, source = (found.split() or ["", ""])[-2:]  # the last line: of mounts on one another it is the upper one
    has_none = kind == "ext4" and not any(Path("/proc/fs/jbd2").glob(f"{Path(source).resolve().name}-*"))
    return f"{kind} without a journal" if has_none else kind


def machine(folder: Path) -> dict[str, object]:
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "kernel": platform.release(), "cpus": os.cpu_count(),
            "load": os.getloadavg()[0], "python": platform.python_version(), "file_system": file_system(folder),
            "command": ahead() + shlex.join([f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])}


def ahead() -> str:
    """How this was started to run ahead of everything else on the machine, where it was."""
    return {os.SCHED_RR: "chrt -r 1 ", os.SCHED_FIFO: "chrt -f 1 "}.get(os.sched_getscheduler(0), "")


def in_namespace() -> bool:
    return os.environ.get("BENCH_INSIDE") == "1"


def enter_namespace() -> NoReturn:
    """Run again where no port, mount or process of this machine is in the way; ends with the inner run's status.

    unshare(1) hears no TERM while it waits for its child, so we stay and pass it on.
    """
    os.environ["BENCH_INSIDE"] = "1"
    outer = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc",
                              "--kill-child", sys.executable, *sys.argv])

    def pass_on(*_: object) -> None:
        for pid in [p for p, above in nfsload.parents().items() if above == outer.pid]:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    while True:
        with suppress(KeyboardInterrupt):  # the inner run has had it too
            sys.exit(outer.wait())


def furnish_namespace() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run"], check=True)
    if os.path.isdir("/var/lib/nfs"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "nfs", "/var/lib/nfs"], check=True)


def isolated() -> None:
    """The rest of the program in namespaces of its own, as root; returns inside."""
    if os.geteuid() == 0 and not in_namespace() and shutil.which("unshare"):
        enter_namespace()
    if in_namespace():
        furnish_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def workspace(opts: argparse.Namespace) -> Iterator[Path]:
    """A temporary folder with `export` in it, a tmpfs when opts.tmpfs; gone afterwards."""
    base = Path(tempfile.mkdtemp(prefix="bench.", dir=opts.dir))
    base.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        (base / "export").mkdir()
        if opts.tmpfs:
            mounted(stack, base / "export", "-t", "tmpfs", "-o", "mode=755", "export")
        elif getattr(opts, "image", None):
            mounted(stack, base / "export", "-o", "loop", str(ext4_image(base / "image", opts.image)))
        yield base


def mounted(stack: ExitStack, where: Path, *what: str) -> None:
    subprocess.run(["mount", *what, str(where)], check=True)
    stack.callback(subprocess.run, ["umount", str(where)])


def ext4_image(path: Path, n_inodes: int) -> Path:
    """A sparse file with a fresh ext4 of so many inodes and about 512 bytes of room for each."""
    with open(path, "wb") as f:
        f.truncate(n_inodes * 1024 + (1 << 30))
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", str(n_inodes), str(path)], check=True)
    return path


def all_started(stack: ExitStack, base: Path, names: list[str], opts: argparse.Namespace) -> list[Server]:
    """Those of `names` that run here; SystemExit when opts.side asked for one that does not."""
    servers = []
    for name in names:
        try:
            servers.append(stack.enter_context(running(name, base, opts)))
        except Absent as why:
            leave_out(name, why, opts)
    return servers


def leave_out(name: str, why: Absent, opts: argparse.Namespace) -> None:
    """A note; SystemExit when opts.side asked for it."""
    if opts.side:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {name} cannot run: {why}") from None
    print(f"note: {name} left out: {why}", file=sys.stderr, flush=True)


def server_options(ap: argparse.ArgumentParser, names: list[str]) -> None:
    """What every program asks about the sides and the place."""
    ap.add_argument("--dir", default=os.environ.get("TMPDIR", "/var/tmp"), help="where the export's temporary folder is made")
    ap.add_argument("--tmpfs", action="store_true", help="a tmpfs instead (as root)")
    ap.add_argument("--ours", default=OURS, metavar="CMD",
                    help="with {port} {dir} {statedir} {exports} {workers} {unfsd}; default: %(default)s")
    ap.add_argument("--image", type=int, metavar="INODES", help="a fresh ext4 with so many inodes, in a file, instead (as root)")
    ap.add_argument("--workers", type=int, default=4)
    ap.add_argument("--unfs3", default=os.environ.get("UNFS3", ""), metavar="PATH", help="unfs3's unfsd (default $UNFS3)")
    ap.add_argument("--side", action="append", choices=names, help="only these (default: all that can run)")
    ap.add_argument("--json", metavar="FILE", help="everything measured")


def print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * w for w in widths], *rows]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def figure(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def program(name: str) -> ModuleType:
    """A program of this folder as a module, for what is defined there."""
    loader = importlib.machinery.SourceFileLoader(name, str(HERE / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module
