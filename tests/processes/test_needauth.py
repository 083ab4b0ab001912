"""ENEEDAUTH: an nfsd of 4.4BSD's kind, in C, tells the server whose Kerberos 4 ticket a call carries."""
from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nfssvc_shim.call import nfssvc
from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import AuthIn, Cred, pack_authin
from nfssvc_shim.state import N_SLOTS, S_INCARNATION, State
from oncrpc.xdr import Packer, Unpacker
from tests.tools.nfs3 import Nfs3, Proc, pack_opaque
from tests.tools.rpc import AUTH_BADVERF, AUTH_REJECTEDCRED, AUTH_TOOWEAK, Auth, Reply, exchange, receive
from tests.tools.servers import TREE, ServerSet, wait_until

DEADLINE_S = 20.0
KERB4, FULLNAME, NICKNAME = 4, 0, 1
VERF = Auth(KERB4, struct.pack(">I", FULLNAME) + b"12 encrypted")
SHIM = TREE / "nfssvc_shim"
LIBRARY = [str(SHIM / name) for name in ("copy.c", "xdr.c", "records.c", "channel.c", "kept.c", "bsd44.c", "nfssvc.c")]


def full_name(ticket: bytes) -> Auth:
    p = Packer()
    p.pack_uint(FULLNAME)
    p.pack_opaque(ticket)
    p.pack_uint(3600)
    return Auth(KERB4, bytes(p))


class Daemon:
    """The C program, running."""

    def __init__(self, program: Path, server: ServerSet) -> None:
        self.process = subprocess.Popen([program], env=server.environment(), stdout=subprocess.PIPE, bufsize=0)
        assert self.wait_line() == "serving"

    def wait_line(self) -> str:
        """What it says next; questions of the fixture left out."""
        out = self.process.stdout
        assert out is not None
        while True:
            assert select.select([out], [], [], DEADLINE_S)[0], "it says nothing"
            line = out.readline().decode().strip()
            if "?" not in line:
                return line

    def close(self) -> None:
        """May be called again."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="kerb"))
    base.chmod(0o755)
    (base / "data").mkdir()
    (base / "data").chmod(0o777)
    (base / "server").mkdir()
    source = str(Path(__file__).with_name("bsd44_nfsd.c"))
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{SHIM}", "-o", str(base / "nfsd44"), source, *LIBRARY]
    subprocess.run(command, check=True)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ServerSet]:
    with ServerSet(base / "server", f"{base}/data 127.0.0.0/8(rw,no_root_squash,insecure)\n") as running:
        yield running


@pytest.fixture
def nfs(server: ServerSet) -> Iterator[Nfs3]:
    with closing(server.client()) as nfs:
        yield nfs


@pytest.fixture
def daemon(base: Path, server: ServerSet, nfs: Nfs3) -> Iterator[Callable[[], Daemon]]:
    """Starts one more; it serves, and the worker behind `nfs` knows that there is one."""
    started: list[Daemon] = []
    root = pack_opaque(server.root(base / "data"))

    def start() -> Daemon:
        lent = server.status()["lent"]
        started.append(Daemon(base / "nfsd44", server))
        wait_until(lambda: server.status()["lent"] > lent, deadline_s=DEADLINE_S, what="its slot")
        wait_until(lambda: call(nfs, Proc.GETATTR, root, full_name(b"?")).auth_error == AUTH_TOOWEAK, deadline_s=DEADLINE_S,
                   what="a worker that asks")
        return started[-1]

    yield start
    for one in started:
        one.close()
    wait_until(lambda: server.status()["lent"] == 0 and len(server.status()["slots"]) == 2, deadline_s=DEADLINE_S,
               what="the lent slots are gone")


def call(nfs: Nfs3, proc: Proc, args: bytes, cred: Auth, verf: Auth = VERF) -> Reply:
    return exchange(nfs.transport, replace(nfs.message(proc, args), cred=cred, verf=verf))


def make(root: bytes, name: bytes) -> bytes:
    """Arguments of MKDIR with no attribute set."""
    return pack_opaque(root) + pack_opaque(name) + bytes(24)


def test_a_call_runs_as_the_user_that_the_daemon_names(server: ServerSet, base: Path, nfs: Nfs3,
                                                       daemon: Callable[[], Daemon]) -> None:
    root, nfsd = server.root(base / "data"), daemon()
    for name in (b"one", b"two"):
        reply = call(nfs, Proc.MKDIR, make(root, name), full_name(b"anna"))
        assert reply.ok
        assert Unpacker(reply.body).unpack_uint() == 0
        assert nfsd.wait_line() == "127.0.0.1 anna 12 12"
        if os.geteuid() == 0:
            made = (base / "data" / name.decode()).stat()
            assert (made.st_uid, made.st_gid) == (4711, 100)


def test_authinfail_is_auth_tooweak_and_others_go_on(server: ServerSet, base: Path, nfs: Nfs3,
                                                     daemon: Callable[[], Daemon]) -> None:
    root, nfsd = server.root(base / "data"), daemon()
    assert call(nfs, Proc.GETATTR, pack_opaque(root), full_name(b"otto")).auth_error == AUTH_TOOWEAK
    assert nfsd.wait_line() == "127.0.0.1 otto 12 12"
    assert call(nfs, Proc.GETATTR, pack_opaque(root), full_name(b"anna")).ok
    assert nfs.getattr(root).status == 0


def test_nicknames_and_wrong_verifiers_are_refused_without_a_question(server: ServerSet, base: Path, nfs: Nfs3,
                                                                      daemon: Callable[[], Daemon]) -> None:
    root, nfsd = pack_opaque(server.root(base / "data")), daemon()
    nickname = Auth(KERB4, struct.pack(">2I", NICKNAME, 4711))
    assert call(nfs, Proc.GETATTR, root, nickname).auth_error == AUTH_REJECTEDCRED
    for body in (b"", full_name(b"anna").body[:-4], struct.pack(">2I", FULLNAME, 500) + bytes(40)):
        assert call(nfs, Proc.GETATTR, root, Auth(KERB4, body)).auth_error == AUTH_REJECTEDCRED
    for verf in (Auth(), Auth(KERB4, bytes(12)), Auth(KERB4, struct.pack(">I", NICKNAME) + bytes(12))):
        assert call(nfs, Proc.GETATTR, root, full_name(b"anna"), verf).auth_error == AUTH_BADVERF
    assert call(nfs, Proc.GETATTR, root, full_name(b"anna")).ok
    assert nfsd.wait_line() == "127.0.0.1 anna 12 12"


def test_without_a_daemon_such_calls_are_refused(server: ServerSet, base: Path, nfs: Nfs3) -> None:
    root = pack_opaque(server.root(base / "data"))
    assert call(nfs, Proc.GETATTR, root, full_name(b"anna")).auth_error == AUTH_REJECTEDCRED
    assert call(nfs, Proc.NULL, b"", full_name(b"anna")).ok


def test_a_question_goes_on_to_the_next_daemon_and_then_to_nobody(server: ServerSet, base: Path, nfs: Nfs3,
                                                                  daemon: Callable[[], Daemon]) -> None:
    root, left = pack_opaque(server.root(base / "data")), [daemon(), daemon()]
    question = replace(nfs.message(Proc.GETATTR, root), cred=full_name(b"slow"), verf=VERF)
    nfs.transport.send(question.pack())
    while left:
        holder = await_question(left)
        left.remove(holder)
        holder.close()
    assert receive(nfs.transport, question.xid).auth_error == AUTH_TOOWEAK


def await_question(daemons: list[Daemon]) -> Daemon:
    """The one that says it was asked about "slow"."""
    while True:
        talking, _, _ = select.select([one.process.stdout for one in daemons], [], [], DEADLINE_S)
        assert talking, "nobody was asked"
        for one in daemons:
            if one.process.stdout in talking and b"slow" in one.process.stdout.readline():
                return one


def test_a_signal_ends_the_call_with_0(daemon: Callable[[], Daemon]) -> None:
    nfsd = daemon()
    nfsd.process.send_signal(signal.SIGUSR1)
    assert nfsd.wait_line() == "ended"
    assert nfsd.process.wait(DEADLINE_S) == 0


def test_the_end_of_the_server_ends_the_daemon(base: Path, tmp_path: Path) -> None:
    with ServerSet(tmp_path, f"{base}/data 127.0.0.0/8(insecure)\n") as server:
        nfsd = Daemon(base / "nfsd44", server)
        wait_until(lambda: server.status()["lent"] == 1, deadline_s=DEADLINE_S, what="its slot")
        os.kill(server.pid, signal.SIGTERM)
        assert nfsd.wait_line() == "ended"
        assert nfsd.process.wait(DEADLINE_S) == 0
        nfsd.close()


def started(server: ServerSet) -> list[int]:
    """How many workers each slot has had."""
    with next(server.directory.glob("unfsd-*/state")).open("r+b") as file, closing(State(file.fileno())) as state:
        return [int(state.slot(number)[S_INCARNATION]) for number in range(N_SLOTS)]


def test_a_slot_that_was_lent_for_a_moment_goes_again(server: ServerSet) -> None:
    """Who hangs up while the worker for its slot is being started leaves none behind."""
    lent, before = len(server.status()["slots"]), started(server)
    for _ in range(10):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(server.socket))
            Channel(sock).send(Message(Nfssvc.NFSD, 1))
    wait_until(lambda: started(server)[lent] > before[lent], deadline_s=DEADLINE_S, what="start of the worker that nobody wants")
    wait_until(lambda: server.status()["lent"] == 0 and len(server.status()["slots"]) == 2, deadline_s=DEADLINE_S,
               what="the lent slots are gone")


def test_an_answer_to_no_question_is_einval(server: ServerSet) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        nfssvc(Nfssvc.AUTHIN, pack_authin(AuthIn(1, True, Cred(0, 0))), socket_path=server.socket)
