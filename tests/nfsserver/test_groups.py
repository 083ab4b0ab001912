"""manage-gids: groups come from this server's own databases; the loop does not wait for them."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs2 import Nfs2, Nfsstat
from tests.tools.nfs3 import ACCES, FILE_SYNC, JUKEBOX, NFS, UNSTABLE, V3, Nfs3, Proc, pack_opaque
from tests.tools.rpc import Call, auth_sys, receive
from tests.tools.servers import wait_until
from tests.tools.worker import OneWorker, export_of

pytestmark = pytest.mark.root

MANAGED, PLAIN = 1, 2
UID, GID, SECRET, STRANGER = 4711, 4711, 4800, 4712
OWN_DATABASES = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


@dataclass
class Place:
    worker: OneWorker
    base: Path

    def client(self, uid: int, *gids: int) -> Nfs3:
        return Nfs3(self.worker.tcp(), auth_sys(uid, GID, gids))

    def helpers(self) -> list[int]:
        """Pids of the worker's children."""
        pid = self.worker.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def place() -> Iterator[Place]:
    """A worker with a user database of its own, in which UID is in 40 groups, SECRET among them."""
    base = Path(tempfile.mkdtemp(prefix="nfsgids-"))
    base.chmod(0o755)
    (base / "server").mkdir(mode=0o700)
    (base / "passwd").write_text(f"root:x:0:0::/:/bin/sh\nmany:x:{UID}:{GID}::/:/bin/sh\n")
    (base / "group").write_text("".join(f"g{gid}:x:{gid}:many\n" for gid in range(SECRET - 39, SECRET + 1)))
    (base / "dir").mkdir(mode=0o750)
    os.chown(base / "dir", 0, SECRET)
    (base / "dir").chmod(0o770)
    wrapper = ("unshare", "-m", "--propagation", "private", "sh", "-c", OWN_DATABASES, str(base))
    if subprocess.run([*wrapper, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    exports = [export_of(base / "dir", MANAGED, Ex.MANAGE_GIDS), export_of(base / "dir", PLAIN)]
    worker = OneWorker(base / "server", exports, "--v2", wrapper=wrapper)
    yield Place(worker, base)
    worker.stop()
    shutil.rmtree(base)


def test_groups_beyond_the_16_of_auth_sys_count(place: Place) -> None:
    client = place.client(UID)
    client.create(place.worker.root(MANAGED), b"new").must()
    assert (place.base / "dir" / "new").stat().st_uid == UID
    assert client.create(place.worker.root(PLAIN), b"other").status == ACCES
    client.close()


def test_groups_that_only_the_client_claims_do_not_count(place: Place) -> None:
    """He is in SECRET here, but no more in what he claims to be in."""
    (place.base / "dir").chmod(0o700)
    os.chown(place.base / "dir", 0, 5000)
    (place.base / "dir").chmod(0o770)
    client = place.client(UID, 5000)
    assert client.create(place.worker.root(MANAGED), b"new").status == ACCES
    client.create(place.worker.root(PLAIN), b"new").must()
    client.close()


def test_a_user_unknown_here_keeps_the_groups_he_sent(place: Place) -> None:
    client = place.client(STRANGER, SECRET)
    client.create(place.worker.root(MANAGED), b"new").must()
    client.close()


def test_version_2_and_large_writes_wait_as_well(place: Place) -> None:
    """The waiting call keeps its own arguments."""
    (place.base / "dir" / "file").touch()
    (place.base / "dir" / "file").chmod(0o666)
    data = os.urandom(200_000)
    writer = place.client(UID)
    fh = Nfs3(writer.transport).lookup(place.worker.root(MANAGED), b"file").must().h
    writer.write(fh, data).must()
    assert (place.base / "dir" / "file").read_bytes() == data
    writer.close()
    old = Nfs2(place.worker.tcp(), auth_sys(STRANGER, GID, (SECRET,)))
    assert old.create(place.worker.root(MANAGED, vers=2), b"old").status == Nfsstat.OK
    old.close()


@pytest.mark.parametrize("stable", [UNSTABLE, FILE_SYNC])
def test_a_commit_or_a_stable_write_may_be_the_call_that_waits(place: Place, stable: int) -> None:
    """It then goes to the threads that wait for the disk, as any other."""
    (place.base / "dir" / "file").touch()
    (place.base / "dir" / "file").chmod(0o666)
    root, user = place.client(0), place.client(UID)
    fh = root.lookup(place.worker.root(MANAGED), b"file").must().h
    if stable == UNSTABLE:
        user.commit(fh).must()
    else:
        user.write(fh, b"data", stable=stable).must()
    user.read(fh).must()
    root.close()
    user.close()


def test_a_helper_that_hangs_delays_nobody_else_and_is_replaced(place: Place) -> None:
    first = place.client(STRANGER, SECRET)
    root, plain = place.worker.root(MANAGED), place.worker.root(PLAIN)
    first.getattr(root).must()
    [helper] = place.helpers()
    os.kill(helper, signal.SIGSTOP)
    waiting, other = place.client(UID), place.client(0)
    xid = waiting_call(waiting, root)
    for _ in range(100):
        other.getattr(plain).must()
    assert reply_status(waiting, xid) == JUKEBOX
    waiting.getattr(root).must()
    os.kill(helper, signal.SIGCONT)
    wait_until(lambda: helper not in place.helpers(), deadline_s=10, what="end of the helper that hung")
    for client in (first, waiting, other):
        client.close()


def waiting_call(client: Nfs3, fh: bytes) -> int:
    call = Call(NFS, V3, Proc.GETATTR, pack_opaque(fh), client.cred)
    client.transport.send(call.pack())
    return call.xid


def reply_status(client: Nfs3, xid: int) -> int:
    return int.from_bytes(receive(client.transport, xid).body[:4], "big")


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_the_helper_has_no_privilege_and_ends_with_its_worker(place: Place) -> None:
    client = place.client(UID)
    client.getattr(place.worker.root(MANAGED)).must()
    client.close()
    [helper] = place.helpers()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{helper}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65534"] * 4 and int(status["CapEff"], 16) == 0
    assert len(list(Path(f"/proc/{helper}/fd").iterdir())) == 4  # 0, 1, 2 and the socket
    place.worker.stop()
    wait_until(lambda: not runs(helper), deadline_s=10, what="end of the helper")
