"""`nfsd trace` against the real server: what it shows, to whom, and that it delays nobody."""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nfssvc_shim.call import nfssvc
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import TraceArgs, pack_trace_args
from tests.tools.nfs2 import Nfs2
from tests.tools.nfs3 import Nfs3, Proc
from tests.tools.rpc import Auth, auth_sys
from tests.tools.servers import TREE, ServerSet, wait_until

DEADLINE_S = 20.0
TSHARK = shutil.which("tshark")
needs_tshark = pytest.mark.skipif(not TSHARK, reason="tshark is not installed")


class Trace:
    """A running `nfsd trace`; its output goes to a file, so that a stopped reader is not our full pipe."""

    def __init__(self, server: ServerSet, *words: str, **keywords: object) -> None:
        command = [sys.executable, "-m", "nfsd_master", "--socket", str(server.socket), "trace", *words]
        self.out = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed by close()
        self.process = subprocess.Popen(command, cwd=TREE, env=server.environment(), stdout=self.out, stderr=subprocess.PIPE,
                                        text=True, **keywords)
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline()

    def lines(self) -> list[str]:
        size = os.fstat(self.out.fileno()).st_size
        text = os.pread(self.out.fileno(), size, 0).decode()  # seek(2) would move where the trace writes: they share the offset
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def calls(self) -> list[dict]:
        return [call for call in map(json.loads, self.lines()) if "procedure" in call]

    def await_calls(self, n: int) -> list[dict]:
        wait_until(lambda: len(self.calls()) >= n, deadline_s=DEADLINE_S, what=f"{n} calls in the trace")
        return self.calls()

    def end(self, number: int = signal.SIGTERM) -> str:
        """Ends it and returns what it said last."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> str:
        said = self.process.communicate(timeout=DEADLINE_S)[1]
        assert self.process.returncode == 0, said
        return said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.out.close()

    def __enter__(self) -> Trace:
        assert self.first == "nfsd: tracing\n", self.first
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="trace"))
    base.chmod(0o755)
    for name in ("one", "two"):
        (base / name).mkdir()
        (base / name).chmod(0o777)
        (base / name / "file").write_bytes(b"content\n" * 8192)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ServerSet]:
    clients = "127.0.0.0/8(rw,no_root_squash,insecure)"
    directory = base / "server"
    directory.mkdir()
    with ServerSet(directory, f"{base}/one {clients}\n{base}/two {clients}\n", options=("-V", "2")) as running:
        yield running


def run(server: ServerSet, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nfsd_master", "--socket", str(server.socket), "trace", *words]
    return subprocess.run(command, cwd=TREE, env=server.environment(), capture_output=True, text=True, timeout=DEADLINE_S,
                          check=False)


def client(server: ServerSet, source: str = "127.0.0.1", cred: Auth | None = None, proto: str = "tcp") -> Nfs3:
    return server.client(cred or auth_sys(os.geteuid(), os.getegid()), source=source, proto=proto)


# ---- what it shows

def test_exactly_the_calls_of_one_client_are_shown(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with Trace(server, "--json", "--client", "127.0.0.2") as trace, closing(client(server, "127.0.0.2")) as ours, \
            closing(client(server, "127.0.0.3")) as other:
        for _ in range(5):
            other.getattr(root)
            found = ours.lookup(root, b"file")
            other.access(root, 1)
        ours.read(found.fh, 0, 1000)
        ours.null()
        calls = trace.await_calls(7)
        trace.end()
        assert trace.calls() == calls
        assert [call["procedure"] for call in calls] == ["LOOKUP"] * 5 + ["READ", "NULL"]
        assert {call["client"] for call in calls} == {"127.0.0.2"}


def test_a_line_says_who_what_how_it_went_and_how_long(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with Trace(server, "-c", "4") as trace, closing(client(server, "127.0.0.4")) as ours:
        found = ours.lookup(root, b"file")
        ours.read(found.fh, 8, 100)
        ours.remove(root, b"not there")
        ours.raw(int(Proc.GETATTR), b"", vers=4)
        assert trace.wait() == "nfsd: 4 calls shown\n"
        lookup, read, remove, wrong = [line.split(" ", 2)[2].strip() for line in trace.lines()]
        port, uid = ours.transport.sock.getsockname()[1], os.geteuid()
        who = f"127.0.0.4:{port} uid {uid}"
        assert lookup.startswith(f"{who} LOOKUP {base}/one/file = OK ")
        assert read.startswith(f"{who} READ {base}/one/file offset 8 count 100 = OK ")
        assert remove.startswith(f"{who} REMOVE {base}/one/not there = NOENT ")
        assert wrong.startswith(f"127.0.0.4:{port} uid {uid} 100003 1 = PROG_MISMATCH ")
        assert all(line.split()[-2] == "ms" and ">" in line.split()[-1] for line in (lookup, read, remove, wrong))


def test_every_procedure_shows_its_object_and_status(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with Trace(server, "--json", "--client", "127.0.0.5") as trace, closing(client(server, "127.0.0.5")) as ours:
        made = ours.create(root, b"new\x1b[31m")
        ours.write(made.fh, b"x" * 9000, 100, stable=0)
        ours.commit(made.fh)
        ours.rename(root, b"new\x1b[31m", root, b"renamed")
        ours.mkdir(root, b"dir")
        ours.symlink(root, b"link", b"/else where")
        ours.readdirplus(root)
        ours.rmdir(root, b"dir")
        for name in (b"renamed", b"link"):
            ours.remove(root, name)
        calls = {call["procedure"]: call for call in trace.await_calls(10)}
        assert {call["status"] for call in calls.values()} == {"OK"}
        assert calls["CREATE"]["args"]["name"] == "new\\x1b[31m"
        assert (calls["WRITE"]["args"]["offset"], calls["WRITE"]["results"]) == (100, {"count": 9000, "stable": "UNSTABLE"})
        assert calls["COMMIT"]["path"] == f"{base}/one/new\\x1b[31m"
        assert calls["RENAME"]["args"]["to"] == "renamed"
        assert calls["SYMLINK"]["args"]["to"] == "/else where"
        assert len({call["export"] for call in calls.values()}) == 1


def test_version_2_mount_and_udp_are_shown(server: ServerSet, base: Path) -> None:
    with Trace(server, "--json", "--client", "127.0.0.6") as trace:
        root = server.root(base / "one", source="127.0.0.6")
        mount = server.mount(source="127.0.0.6", vers=1)
        old = Nfs2(client(server, "127.0.0.6").transport, auth_sys(os.geteuid(), os.getegid()))
        handle = mount.mnt(os.fsencode(base / "one")).fh
        old.lookup(handle, b"file")
        with closing(client(server, "127.0.0.6", proto="udp")) as datagrams:
            datagrams.getattr(root)
        calls = trace.await_calls(4)
        shown = sorted((call["program"], call["version"], call["procedure"], call["transport"], call["status"]) for call in calls)
        assert shown == [("mount", 1, "MNT", "tcp", "OK"), ("mount", 3, "MNT", "tcp", "OK"), ("nfs", 2, "LOOKUP", "tcp", "OK"),
                         ("nfs", 3, "GETATTR", "udp", "OK")]
        assert next(call for call in calls if call["version"] == 2)["path"] == f"{base}/one"
        mount.transport.close()
        old.transport.close()


def test_user_and_export_narrow_it_down(server: ServerSet, base: Path) -> None:
    one, two = server.root(base / "one"), server.root(base / "two")
    with Trace(server, "--json", "--user", "4711", "--export", str(base / "two")) as trace, \
            closing(client(server, cred=auth_sys(4711, 1))) as ours, closing(client(server)) as other:
        ours.getattr(one)
        other.getattr(two)
        ours.access(two, 1)
        ours.null()
        other.null()
        ours.fsinfo(two)
        assert [call["procedure"] for call in trace.await_calls(2)] == ["ACCESS", "FSINFO"]


def test_a_refused_handle_counts_for_the_export_that_it_names(server: ServerSet, base: Path) -> None:
    root = server.root(base / "two")
    forged = root[:-1] + bytes([root[-1] ^ 1])
    with Trace(server, "--json", "--export", str(base / "two")) as trace, closing(client(server)) as ours:
        ours.getattr(forged)
        (call,) = trace.await_calls(1)
        assert (call["status"], call["path"]) == ("BADHANDLE", None)


# ---- pcap-ng

def tshark(path: Path, *words: str) -> list[str]:
    assert TSHARK
    ran = subprocess.run([TSHARK, "-r", str(path), *words], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.splitlines()


@needs_tshark
@pytest.mark.parametrize("snap", ["1024", "65536"])
def test_tshark_reads_the_pcapng_as_nfs(server: ServerSet, base: Path, tmp_path: Path, snap: str) -> None:
    """Whole messages or cut ones: every call and reply is NFS, paired, and nothing is malformed."""
    root, path = server.root(base / "one"), tmp_path / "t.pcapng"
    with Trace(server, "--pcapng", str(path), "-c", "8", "-s", snap) as trace, closing(client(server)) as ours:
        found = ours.lookup(root, b"file")
        ours.read(found.fh, 0, 60000)
        ours.write(found.fh, b"y" * 50000)
        ours.readdirplus(root)
        ours.fsinfo(root)
        ours.null()
        with closing(client(server, proto="udp")) as datagrams:
            datagrams.getattr(found.fh)
            datagrams.read(found.fh, 0, 8192)
        assert trace.wait() == "nfsd: 8 calls shown\n"
    assert path.stat().st_mode & 0o777 == 0o600
    rows = [row.split("\t") for row in tshark(path, "-Y", "rpc", "-T", "fields", "-e", "rpc.msgtyp", "-e", "nfs.procedure_v3",
                                              "-e", "rpc.repframe")]
    assert sorted(row[1] for row in rows) == sorted(str(number) for number in (3, 6, 7, 17, 19, 0, 1, 6) * 2)
    assert [row[0] for row in rows].count("0") == 8
    assert all(row[2] for row in rows if row[0] == "1"), "a reply without its call"
    assert tshark(path, "-Y", "_ws.malformed") == []
    assert any("Unreassembled" in line for line in tshark(path)) == (snap == "1024")
    assert f"{base}/one/file" in "\n".join(tshark(path, "-T", "fields", "-e", "frame.comment"))


# ---- that it delays nobody, and ends

def descriptors(server: ServerSet) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.pids())


def test_a_reader_that_stands_still_delays_nobody_and_is_told_what_it_lost(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with Trace(server, "-s", "65536", "--client", "127.0.0.7") as trace, closing(client(server, "127.0.0.7")) as ours:
        found = ours.lookup(root, b"file")
        trace.process.send_signal(signal.SIGSTOP)
        for _ in range(400):
            assert ours.read(found.fh, 0, 65536).status == 0
        trace.process.send_signal(signal.SIGCONT)
        wait_until(lambda: any("not shown" in line for line in trace.lines()), deadline_s=DEADLINE_S, what="the number lost")
        ours.null()
        wait_until(lambda: " NULL " in trace.lines()[-1], deadline_s=DEADLINE_S, what="the call after")
        said = trace.end()
    words = said.split()
    shown, lost = int(words[1]), int(words[4])
    assert lost > 0
    assert shown + lost == 402


def test_a_reader_that_is_killed_leaves_nothing(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with closing(client(server)) as ours:
        ours.getattr(root)
        before = descriptors(server)
        with Trace(server) as trace:
            assert descriptors(server) > before
            trace.process.kill()
            trace.process.wait()
            ours.getattr(root)
            wait_until(lambda: descriptors(server) <= before, deadline_s=DEADLINE_S, what="all descriptors closed")


def test_a_trace_of_nothing_is_let_go_as_well(server: ServerSet) -> None:
    """The reader and its connection go, and no call comes that the workers could notice it by."""
    server.status()
    before = descriptors(server)
    with Trace(server, "--client", "192.0.2.1") as trace:
        assert descriptors(server) > before
        trace.process.kill()
        trace.process.wait()
        wait_until(lambda: descriptors(server) <= before, deadline_s=DEADLINE_S, what="all descriptors closed")


@pytest.mark.kills
def test_the_death_of_the_control_half_ends_it_everywhere(server: ServerSet) -> None:
    control, before = server.status()["control"], sockets_of_workers(server)
    with Trace(server, "--client", "192.0.2.1") as trace:
        traced = sockets_of_workers(server) - before
        assert traced
        os.kill(control, signal.SIGKILL)
        assert trace.wait() == "nfsd: the server has ended the trace\nnfsd: 0 calls shown\n"
    wait_until(lambda: running_control(server) not in (0, control), deadline_s=DEADLINE_S, what="another control half")
    wait_until(lambda: not sockets_of_workers(server) & traced, deadline_s=DEADLINE_S, what="the workers let it go")


def sockets_of_workers(server: ServerSet) -> set[str]:
    """As /proc names them."""
    found = set()
    for pid in server.worker_pids():
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def running_control(server: ServerSet) -> int:
    try:
        return int(server.status()["control"])
    except OSError:
        return 0


@pytest.mark.kills
def test_a_new_worker_joins_in(server: ServerSet, base: Path) -> None:
    root = server.root(base / "one")
    with Trace(server, "--json", "--client", "127.0.0.8") as trace:
        old = server.worker_pids()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(new := [slot["pid"] for slot in server.status()["slots"] if slot["alive"]]) == len(old)
                   and not set(new) & set(old), deadline_s=DEADLINE_S, what="as many new workers")
        with contextlib.ExitStack() as stack:
            for _ in range(8):  # more than one a worker
                stack.enter_context(closing(client(server, "127.0.0.8"))).getattr(root)
            calls = trace.await_calls(8)
        assert {call["worker"] for call in calls} == {0, 1}


def test_it_ends_with_the_server(base: Path, tmp_path: Path) -> None:
    with ServerSet(tmp_path, f"{base}/one 127.0.0.0/8(insecure)\n") as server:
        with Trace(server) as trace, closing(client(server)) as ours:
            ours.null()
            os.kill(server.pid, signal.SIGTERM)
            said = trace.wait()
        assert said == "nfsd: the server has ended the trace\nnfsd: 1 calls shown\n"


def test_it_ends_after_its_seconds(server: ServerSet) -> None:
    ran = run(server, "--seconds", "0.2")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "nfsd: tracing\nnfsd: 0 calls shown\n")


# ---- who may, and what is wrong

def descriptor_of(kind: str) -> list[socket.socket]:
    """What a caller could bring instead of one end of a SOCK_SEQPACKET pair."""
    if kind == "stream":
        return list(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    if kind == "unconnected":
        return [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]


@pytest.mark.parametrize("kind", ["stream", "unconnected", "udp"])
def test_another_descriptor_is_einval(server: ServerSet, kind: str) -> None:
    sockets = descriptor_of(kind)
    with pytest.raises(OSError, match="Invalid argument"):
        nfssvc(Nfssvc.TRACE, pack_trace_args(TraceArgs()), fds=[sockets[0].fileno()], socket_path=server.socket)
    with pytest.raises(OSError, match="Invalid argument"):
        nfssvc(Nfssvc.TRACE, pack_trace_args(TraceArgs()), socket_path=server.socket)
    for sock in sockets:
        sock.close()


@pytest.mark.root
def test_an_ordinary_user_is_refused(server: ServerSet) -> None:
    code = ("import os, sys; from nfsd_master import nfsd, trace, verbs; "
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(nfsd.main(sys.argv[1:]))")
    ran = subprocess.run([sys.executable, "-c", code, "--socket", str(server.socket), "trace"], cwd=TREE, capture_output=True,
                         text=True, timeout=DEADLINE_S, check=False)
    assert (ran.returncode, ran.stderr) == (1, "nfsd: trace: only for root and the server's user\n")


def test_four_traces_run_and_no_fifth(server: ServerSet) -> None:
    with Trace(server), Trace(server), Trace(server), Trace(server):
        ran = run(server)
    assert (ran.returncode, ran.stderr) == (1, "nfsd: trace: Device or resource busy\n")
    wait_until(lambda: run(server, "--seconds", "0.01").returncode == 0, deadline_s=DEADLINE_S, what="places are free again")


@pytest.mark.parametrize(("words", "said"), [
    (("--client", "host"), "'host' is not an address or a network"), (("--user", "no such"), "neither a number nor a user"),
    (("--export", "data"), "not an absolute path"), (("-s", "0"), "is not a number from 1 to 65536"),
    (("-c", "many"), "is not a number from 1 to"), (("--seconds", "-1"), "--seconds '-1'"), (("more",), "unexpected 'more'"),
    (("--json", "--pcapng", "x"), "not both"), (("--what",), "not recognized"),
])
def test_a_wrong_word_is_usage(server: ServerSet, words: tuple[str, ...], said: str) -> None:
    ran = run(server, *words)
    assert ran.returncode == 64
    assert said in ran.stderr.splitlines()[0]


def test_what_cannot_be_is_said_in_one_line(server: ServerSet, tmp_path: Path) -> None:
    assert run(server, "--export", "/not/there").stderr == "nfsd: trace: /not/there is not exported\n"
    ran = run(server, "--pcapng", str(tmp_path / "no" / "file"))
    assert (ran.returncode, ran.stderr) == (1, f"nfsd: trace: {tmp_path}/no/file: No such file or directory\n")
    gone = tmp_path / "gone.sock"
    command = [sys.executable, "-m", "nfsd_master", "--socket", str(gone), "trace"]
    silent = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (silent.returncode, silent.stderr) == (1, f"nfsd: not running: nobody answers on {gone}\n")
