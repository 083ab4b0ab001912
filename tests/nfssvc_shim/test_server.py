"""nfssvc() against the real server: nfsd with two workers, no mountd, its own directory."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from nfsstat import stats
from nfssvc_shim.call import fhopen, getfh, nfssvc
from nfssvc_shim.channel import Channel, ProtocolError
from nfssvc_shim.flags import Ex, Nfssvc, Nx, Nxa
from nfssvc_shim.records import (
    Address,
    AuthIn,
    Cred,
    Export,
    ExportArgs,
    FhopenArgs,
    GetfhArgs,
    Net,
    NfsdArgs,
    TraceArgs,
    pack_authin,
    pack_export_args,
    pack_getfh_args,
    pack_nfsd_args,
    pack_trace_args,
)
from nfssvc_shim.state import C_RPC_ERRS, S_COUNTERS, S_TCPCONN
from oncrpc.client import Client
from oncrpc.message import auth_sys, pack_call
from oncrpc.record import pack_record, read_record
from oncrpc.xdr import Packer, Unpacker

ROOT = Path(__file__).parents[2]
LOCAL = Address.of("127.0.0.1")
ME = Cred(os.geteuid(), os.getegid())
EXPID = 0x1234
NONE = Nx(0)


@dataclass
class Server:
    path: Path
    port: int
    export: Path
    pid: int

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(nfssvc(Nfssvc.STATUS, socket_path=self.path))
        return found

    def table(self, *, op: Nxa = Nxa.REPLACE, flags: Nx = NONE) -> ExportArgs:
        nets = (Net(Nx.DEFAULTEXPORT | flags, Address(0), 0),)
        return ExportArgs(op, op == Nxa.REPLACE, (Export(EXPID, bytes(self.export), flags=Ex.PATHFH, nets=nets),))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="nfssvc-") as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "export").mkdir(mode=0o755)
        (base / "export" / "file").write_text("twelve bytes")
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "nfsd_master", "-F", "-n", "2", "-p", "0", "-h", "127.0.0.1", "--no-portmap", "--statedir",
             str(base / "state"), "--key", str(base / "key"), "--ready-fd", str(writing), "--log", "stderr"],
            pass_fds=[writing], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        os.close(writing)
        try:
            assert select.select([reading], [], [], 30)[0], "nfsd is not ready"
            port = int(os.read(reading, 100).split()[1])
            made = Server(base / "state" / "nfssvc.sock", port, base / "export", process.pid)
            nfssvc(Nfssvc.EXPORT, made.table(), socket_path=made.path)
            yield made
        finally:
            os.close(reading)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        select.select([], [], [], 0.02)
    return condition()


def handle_of(server: Server) -> bytes:
    body = getfh(GetfhArgs(EXPID, b"", LOCAL, ME), socket_path=server.path)
    return Unpacker(body).unpack_opaque(64)


def getattr_status(client: Client, handle: bytes) -> int:
    packer = Packer()
    packer.pack_opaque(handle)
    return Unpacker(client.call(1, bytes(packer))).unpack_uint()


def test_getfh_gives_a_handle_that_the_workers_know(server: Server) -> None:
    with Client.tcp(("127.0.0.1", server.port), 100003, 3) as client:
        assert getattr_status(client, handle_of(server)) == 0


def test_getfh_of_nothing_is_enoent(server: Server) -> None:
    with pytest.raises(OSError) as error:
        getfh(GetfhArgs(EXPID, b"nothing", LOCAL, ME), socket_path=server.path)
    assert error.value.errno == errno.ENOENT


def file_handle(server: Server) -> bytes:
    packer = Packer()
    packer.pack_opaque(handle_of(server))
    packer.pack_string(b"file")
    with Client.tcp(("127.0.0.1", server.port), 100003, 3) as client:
        reply = Unpacker(client.call(3, bytes(packer)))
    assert reply.unpack_uint() == 0
    return reply.unpack_opaque(64)


def test_fhopen_gives_a_descriptor_of_the_file(server: Server) -> None:
    fd = fhopen(FhopenArgs(file_handle(server), LOCAL, ME, 1), socket_path=server.path)
    assert os.pread(fd, 100, 0) == b"twelve bytes"
    os.close(fd)


@pytest.mark.parametrize("mode", [2, 3])
def test_fhopen_for_writing_is_refused_on_a_read_only_export(server: Server, mode: int) -> None:
    """A descriptor outlives the look at the export: no write may come of it where WRITE answers ROFS."""
    handle = file_handle(server)
    nfssvc(Nfssvc.EXPORT, server.table(flags=Nx.READONLY), socket_path=server.path)
    try:
        with pytest.raises(OSError) as error:
            fhopen(FhopenArgs(handle, LOCAL, ME, mode), socket_path=server.path)
        assert error.value.errno == errno.EROFS
        os.close(fhopen(FhopenArgs(handle, LOCAL, ME, 1), socket_path=server.path))
    finally:
        nfssvc(Nfssvc.EXPORT, server.table(), socket_path=server.path)


@pytest.mark.parametrize("slot", [0, 1])
def test_a_socket_handed_over_is_served_by_the_slot_it_names(server: Server, slot: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        nfssvc(Nfssvc.ADDSOCK, NfsdArgs(Address.of("127.0.0.1", ours.getsockname()[1]), slot), fds=[theirs.fileno()],
               socket_path=server.path)
    handle = handle_of(server)
    before = {s.slot: s.words[S_COUNTERS + 1] for s in server_stats(server).slots}
    with Client(ours, 100003, 3) as client:
        assert getattr_status(client, handle) == 0
    after = {s.slot: s.words[S_COUNTERS + 1] for s in server_stats(server).slots}
    assert {number: after[number] - before[number] for number in after} == {slot: 1, 1 - slot: 0}


def server_stats(server: Server) -> stats.Server:
    return stats.unpack_server(nfssvc(Nfssvc.SRVSTATS, socket_path=server.path))


def test_counters_are_exact_and_zerostats_zeroes_them(server: Server) -> None:
    nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
    assert server_stats(server).total == 0
    handle = handle_of(server)
    with Client.tcp(("127.0.0.1", server.port), 100003, 3) as client:
        for _ in range(17):
            getattr_status(client, handle)
        getattr_status(client, b"no handle of ours")
    found = server_stats(server)
    assert found.calls(1) == 18
    assert sum(found.histogram(1)) == 18
    (export,) = stats.unpack_exports(nfssvc(Nfssvc.EXPORTSTATS, socket_path=server.path))
    assert (export.path, export.requests) == (str(server.export), 17)
    users = stats.unpack_users(nfssvc(Nfssvc.USERSTATS, socket_path=server.path))
    assert [(u.address, u.uid) for u in users if u.requests] == [("127.0.0.1", ME.uid)]
    assert struct.unpack("=I", nfssvc(Nfssvc.USERCOUNT, socket_path=server.path))[0] == len(users)


def test_export_that_is_there_cannot_be_added_again_nor_one_that_is_not_deleted(server: Server) -> None:
    for args, want in ((server.table(op=Nxa.ADD), errno.EEXIST),
                       (ExportArgs(Nxa.DELETE, False, (Export(0x999, b"/nowhere"),)), errno.ENOENT),
                       (ExportArgs(Nxa(0), False), errno.EINVAL)):
        with pytest.raises(OSError) as error:
            nfssvc(Nfssvc.EXPORT, args, socket_path=server.path)
        assert error.value.errno == want


def test_second_udp_socket_is_eexist(server: Server) -> None:
    """nfssvc(2), ERRORS: nfsd serves UDP already."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(OSError) as error:
        nfssvc(Nfssvc.ADDSOCK, NfsdArgs(), fds=[udp.fileno()], socket_path=server.path)
    assert error.value.errno == errno.EEXIST


def test_foreign_nfsd_lends_a_slot_and_a_signal_ends_it_with_0(server: Server) -> None:
    """nfssvc(2), RETURN VALUES."""
    code = "import signal; from nfssvc_shim.call import nfssvc; signal.signal(signal.SIGINT, lambda *a: None); print(nfssvc(4))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env=os.environ | {"NFSSVC_SOCKET": str(server.path)})
    assert wait_for(lambda: server.status()["lent"] == 1)
    assert wait_for(lambda: len(server.status()["slots"]) == 3)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "b''\n"
    assert process.returncode == 0
    assert wait_for(lambda: len(server.status()["slots"]) == 2)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("strace") is None, reason="sends the signal at a system call")
def test_signal_between_asking_and_waiting_ends_nfsd_too(server: Server) -> None:
    code = "import signal; from nfssvc_shim.call import nfssvc; signal.signal(signal.SIGINT, lambda *a: None); print(nfssvc(4))"
    ran = subprocess.run(["strace", "-qq", "-o", "/dev/null", "-e", "inject=sendmsg:signal=INT", sys.executable, "-c", code],
                         stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"NFSSVC_SOCKET": str(server.path)},
                         timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "b''\n")
    assert wait_for(lambda: len(server.status()["slots"]) == 2)  # type: ignore[arg-type]


def test_suspended_workers_answer_after_resume(server: Server) -> None:
    handle = handle_of(server)
    with Client.tcp(("127.0.0.1", server.port), 100003, 3) as client:
        assert getattr_status(client, handle) == 0
        nfssvc(Nfssvc.SUSPEND, 1, socket_path=server.path)
        try:
            assert server.status()["suspended"] is True
            with pytest.raises(TimeoutError):
                client.call(0, timeout_s=0.3)
        finally:
            nfssvc(Nfssvc.SUSPEND, 0, socket_path=server.path)
        assert getattr_status(client, handle) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_ordinary_user_may_ask_for_counters_and_nothing_else(server: Server) -> None:
    code = """if True:
        import os, sys
        from nfssvc_shim.call import nfssvc
        from nfssvc_shim.flags import Nfssvc
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for flag in Nfssvc:
            if flag is Nfssvc.NFSD and len(sys.argv) > 1:
                continue
            try:
                nfssvc(flag)
                print(flag.name, 0)
            except OSError as exc:
                print(flag.name, exc.errno)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=30,
                         env=os.environ | {"NFSSVC_SOCKET": str(server.path)})
    got = dict(line.split() for line in ran.stdout.splitlines())
    inside = {"NEEDAUTH", "SLOT", "STOP", "READY", "LISTEN", "RELAY"}
    assert {name for name, number in got.items() if number == "0"} == {"SRVSTATS", "USERCOUNT", "STATUS"}
    assert {number for name, number in got.items() if number != "0" and name not in inside} == {str(errno.EPERM)}


# ---- hostile callers

def connect(server: Server) -> Channel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    sock.connect(str(server.path))
    return Channel(sock)


@pytest.mark.parametrize("flag", [0, 0x400, 0xC, 0x3FF, *(int(f) for f in (Nfssvc.SLOT, Nfssvc.STOP, Nfssvc.READY, Nfssvc.LISTEN,
                                                                           Nfssvc.RELAY)), 0x7FFFFFFF])
def test_flags_that_are_no_call_are_einval_and_the_channel_stays(server: Server, flag: int) -> None:
    channel = connect(server)
    with pytest.raises(OSError) as error:
        channel.call(flag)
    assert error.value.errno == errno.EINVAL
    assert channel.call(Nfssvc.USERCOUNT)[0]
    channel.close()


def bodies(server: Server) -> dict[int, bytes]:
    return {Nfssvc.EXPORT: pack_export_args(server.table()), Nfssvc.GETFH: pack_getfh_args(GetfhArgs(EXPID, b"x", LOCAL, ME)),
            Nfssvc.ADDSOCK: pack_nfsd_args(NfsdArgs(LOCAL)), Nfssvc.WORKERS: b"\0\0\0\2", Nfssvc.SUSPEND: b"\0\0\0\0",
            Nfssvc.TRACE: pack_trace_args(TraceArgs(LOCAL, 0, 1000, b"/x")),
            Nfssvc.AUTHIN: pack_authin(AuthIn(1, True, ME))}


def test_every_truncation_of_every_body_is_einval(server: Server) -> None:
    """And nothing of it is in force: the table serves on."""
    channel = connect(server)
    with open("/dev/null") as null:
        for flag, body in bodies(server).items():
            for size in range(len(body)):
                with pytest.raises(OSError) as error:
                    channel.call(flag, body[:size], [null.fileno()] if flag == Nfssvc.ADDSOCK else [])
                assert error.value.errno == errno.EINVAL, (flag, size)
    channel.close()
    assert server.status()["exports"] == 1
    handle_of(server)


def test_bytes_that_are_no_message_end_the_connection_and_nothing_else(server: Server) -> None:
    for junk in (b"x", bytes(24), b"NFSV" + bytes(20), struct.pack(">6I", 0x4E465356, 1, 0x40, 1, 0, 9), os.urandom(60000)):
        channel = connect(server)
        channel.sock.send(junk)
        with pytest.raises((EOFError, ConnectionResetError)):
            channel.recv()
        channel.close()
    assert server.status()["workers"] == 2


def test_memfd_without_seals_ends_the_connection(server: Server) -> None:
    channel, memfd = connect(server), os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 100)
    socket.send_fds(channel.sock, [struct.pack(">6I", 0x4E465356, 1, 0x80000200, 1, 0, 100)], [memfd])
    os.close(memfd)
    with pytest.raises((EOFError, ConnectionResetError, ProtocolError)):
        channel.recv()
    channel.close()


def test_descriptors_nobody_asked_for_are_closed(server: Server) -> None:
    control = int(str(server.status()["control"]))
    channel = connect(server)
    channel.call(Nfssvc.USERCOUNT)
    before = len(os.listdir(f"/proc/{control}/fd"))
    with open("/dev/null") as null:
        before = len(os.listdir(f"/proc/{control}/fd"))
        for _ in range(20):
            channel.call(Nfssvc.USERCOUNT, fds=[null.fileno()] * 60)
        assert wait_for(lambda: len(os.listdir(f"/proc/{control}/fd")) <= before)
    channel.close()


# ---- counted exactly

def test_users_and_exports_are_counted_as_their_clients_count(server: Server) -> None:
    """Four clients, three users, each with calls of his own number."""
    nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
    handle = handle_of(server)
    sent: dict[tuple[str, int], int] = {}
    for place, (host, uid) in enumerate((f"127.0.0.{n}", uid) for n in range(1, 5) for uid in (2001, 2002, 2003)):
        with Client.tcp(("127.0.0.1", server.port), 100003, 3, cred=auth_sys(uid, uid), source=host) as client:
            for _ in range(place + 3):
                assert getattr_status(client, handle) == 0
        sent[host, uid] = place + 3
    users = stats.unpack_users(nfssvc(Nfssvc.USERSTATS, socket_path=server.path))
    assert {(u.address, u.uid): u.requests for u in users if u.requests} == sent
    (export,) = stats.unpack_exports(nfssvc(Nfssvc.EXPORTSTATS, socket_path=server.path))
    assert export.requests == sum(sent.values())


KILLS = int(os.environ.get("NFSSVC_TEST_KILLS", "24"))  # 1,000 take some minutes


def test_sums_stay_exact_over_the_death_of_workers(server: Server) -> None:
    """Each worker counts what it answered, in a row that outlives it: the one that answered is the one that is killed."""
    nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
    handle, answered = handle_of(server), 0
    for _ in range(KILLS // 2):
        clients = [Client.tcp(("127.0.0.1", server.port), 100003, 3) for _ in range(2)]  # one to each worker
        for client in clients:
            assert [getattr_status(client, handle) for _ in range(3)] == [0, 0, 0]
            answered += 3
        gone = [worker["pid"] for worker in workers(server)]
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            client.close()
        assert wait_for(lambda gone=gone: replaced(server, *gone))
    found = server_stats(server)
    assert (found.calls(1), sum(found.histogram(1))) == (answered, answered)
    (export,) = stats.unpack_exports(nfssvc(Nfssvc.EXPORTSTATS, socket_path=server.path))
    assert export.requests == answered


class Load(threading.Thread):
    """Thirty-two GETATTRs at once, again and again, until stop; a connection that ends is followed by another."""

    def __init__(self, server: Server, handle: bytes) -> None:
        super().__init__()
        self.server, self.stop, self.sent, self.answered = server, threading.Event(), 0, 0
        packer = Packer()
        packer.pack_opaque(handle)
        calls = [pack_call(xid, 100003, 3, 1, bytes(packer), auth_sys(ME.uid, ME.gid)) for xid in range(32)]
        self.batch = b"".join(pack_record(call) for call in calls)

    def run(self) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(OSError, EOFError), socket.create_connection(("127.0.0.1", self.server.port), 20) as sock:
                self.ask_on(sock)

    def ask_on(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as replies:
            while not self.stop.is_set():
                self.sent += 32
                sock.sendall(self.batch)
                for _ in range(32):
                    read_record(lambda size: exactly(replies, size), limit=4096)
                    self.answered += 1


def exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("the connection ended")
    return data


def test_every_answer_is_counted_though_workers_are_killed_under_load(server: Server) -> None:
    """A call is counted before its reply leaves; what a worker took with it was not answered."""
    loads = [Load(server, handle_of(server)) for _ in range(3)]
    nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
    for load in loads:
        load.start()
    try:
        for kill in range(8):
            before = sum(load.answered for load in loads)
            assert wait_for(lambda before=before: sum(load.answered for load in loads) > before + 100)
            victim = workers(server)[kill % 2]["pid"]
            os.kill(victim, signal.SIGKILL)
            assert wait_for(lambda victim=victim: replaced(server, victim))
    finally:
        for load in loads:
            load.stop.set()
        for load in loads:
            load.join()
    answered, sent = sum(load.answered for load in loads), sum(load.sent for load in loads)
    (export,) = stats.unpack_exports(nfssvc(Nfssvc.EXPORTSTATS, socket_path=server.path))
    found = server_stats(server)
    assert answered <= found.calls(1) <= sent
    assert answered <= export.requests <= sent
    assert found.counters[C_RPC_ERRS] == 0


def test_what_zerostats_zeroed_stays_so_when_the_control_half_dies(server: Server) -> None:
    """The base of the sums and of each worker's row is in the shared state."""
    handle = handle_of(server)
    with Client.tcp(("127.0.0.1", server.port), 100003, 3) as client:
        for _ in range(10):
            getattr_status(client, handle)
        nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
        for _ in range(7):
            getattr_status(client, handle)
        before = int(str(server.status()["control"]))
        os.kill(before, signal.SIGKILL)
        assert wait_for(lambda: answers_anew(server, before))
        found = server_stats(server)
    assert (found.calls(1), sum(found.histogram(1))) == (7, 7)


def answers_anew(server: Server, before: int) -> bool:
    try:
        status = server.status()
    except OSError:
        return False
    return status["control"] != before and [s["alive"] for s in status["slots"]] == [True, True]  # type: ignore[attr-defined]


def workers(server: Server) -> list[dict[str, int]]:
    found: list[dict[str, int]] = server.status()["slots"]  # type: ignore[assignment]
    return found


def replaced(server: Server, *gone: int) -> bool:
    now = workers(server)
    return [bool(worker["alive"]) for worker in now] == [True, True] and not {worker["pid"] for worker in now} & set(gone)


# ---- nfsstat check

def check(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nfsstat", "check", *words]
    env = os.environ | {"NFSSVC_SOCKET": str(server.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env)


def test_check_asks_every_worker(server: Server) -> None:
    before = [s.words[S_TCPCONN] for s in server_stats(server).slots]
    ran = check(server)
    assert (ran.returncode, ran.stdout) == (0, "ok: 2 workers answered NULL; 1 exports\n"), ran.stderr
    # A worker writes this word at the end of a turn.
    assert wait_for(lambda: all(s.words[S_TCPCONN] > then for s, then in zip(server_stats(server).slots, before, strict=True)))


def test_check_says_which_worker_hangs(server: Server) -> None:
    victim = workers(server)[1]
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        ran = check(server, "--deadline", "1")
    finally:
        with contextlib.suppress(ProcessLookupError):  # the master replaces a worker that hangs
            os.kill(victim["pid"], signal.SIGCONT)
    assert ran.returncode == 1
    assert ran.stderr.startswith("nfsstat: worker 1")
    assert wait_for(lambda: check(server).returncode == 0)
