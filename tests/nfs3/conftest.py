"""The server set that the NFSv3 tests talk to, one a module, with an export of each kind; and a fresh directory for each test."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.nfs3 import Nfs3
from tests.tools.rpc import ROOT, Auth, auth_sys
from tests.tools.servers import OURS, ServerSet, wait_until

ANON_UID, ANON_GID = 65534, 65533   # of the squashing exports; different, so that a mixed-up pair shows
ME = auth_sys(os.geteuid(), os.getegid())
CRED = ROOT if os.geteuid() == 0 else ME   # who the tests are, as a client says it


@dataclass
class Exports:
    """The exported directories below `base`."""

    base: Path

    @property
    def table(self) -> str:
        anon = f"anonuid={ANON_UID},anongid={ANON_GID}"
        return "".join(f'"{self.base / name}" {clients}\n' for name, clients in {
            "rw": "127.0.0.0/8(rw,no_root_squash,insecure)",
            "ro": "127.0.0.0/8(ro,no_root_squash,insecure)",
            "squash": f"127.0.0.0/8(rw,root_squash,insecure,{anon})",
            "all": f"127.0.0.0/8(rw,all_squash,insecure,{anon})",
            "secure": "127.0.0.0/8(rw,no_root_squash,secure)",
            "hosts": "127.0.0.2(rw,no_root_squash,insecure) 127.0.0.3(ro,no_root_squash,insecure)",
        }.items())

    @classmethod
    def make(cls) -> Exports:
        base = Path(tempfile.mkdtemp(prefix="nfs3-"))
        base.chmod(0o755)
        for name in ("rw", "ro", "squash", "all", "secure", "hosts"):
            (base / name).mkdir()
            (base / name).chmod(0o777)
        (base / "server").mkdir()
        return cls(base)


@pytest.fixture(scope="module")
def exports() -> Iterator[Exports]:
    made = Exports.make()
    yield made
    for folder, dirs, _ in os.walk(made.base):  # an ordinary user cannot remove what lies below mode 0
        for name in dirs:
            if not (path := Path(folder, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(made.base)


@pytest.fixture(scope="module")
def server(exports: Exports) -> Iterator[ServerSet]:
    with ServerSet(exports.base / "server", exports.table) as running:
        yield running


@dataclass
class Spot:
    """A directory that belongs to one test: its local path, its handle, and a connection."""

    server: ServerSet
    nfs: Nfs3
    path: Path
    fh: bytes

    def as_(self, cred: Auth) -> Nfs3:
        return self.nfs.as_(cred)

    def file(self, name: bytes = b"file", data: bytes = b"", mode: int = 0o644) -> bytes:
        """Makes a local file; its handle."""
        path = self.local(name)
        path.write_bytes(data)
        path.chmod(mode)
        return self.nfs.lookup(self.fh, name).must().h

    def dir(self, name: bytes = b"dir", mode: int = 0o755) -> bytes:
        """Makes a local directory; its handle."""
        path = self.local(name)
        path.mkdir()
        path.chmod(mode)
        return self.nfs.lookup(self.fh, name).must().h

    def local(self, name: bytes) -> Path:
        return self.path / os.fsdecode(name)


def make_spot(server: ServerSet, export: Path, nfs: Nfs3, root: bytes, mode: int = 0o777) -> Spot:
    path = Path(tempfile.mkdtemp(dir=export))
    path.chmod(mode)
    return Spot(server, nfs, path, nfs.lookup(root, os.fsencode(path.name)).must().h)


@pytest.fixture
def nfs(server: ServerSet) -> Iterator[Nfs3]:
    """A connection as root; as the tests' own user where they do not run as root."""
    client = server.client(CRED)
    yield client
    client.close()


@pytest.fixture
def spot(server: ServerSet, exports: Exports, nfs: Nfs3) -> Spot:
    """A fresh directory, mode 0777, in the export that allows all."""
    return make_spot(server, exports.base / "rw", nfs, server.root(exports.base / "rw"))


def _obituary(server: ServerSet, before: list[int], logged: int) -> str:
    """What became of the workers, once the log says it."""
    now = server.worker_pids()
    stats = {pid: Path(f"/proc/{pid}/stat").read_text() if Path(f"/proc/{pid}").is_dir() else "gone" for pid in before}
    with suppress(TimeoutError, AssertionError):
        wait_until(lambda: "ended" in server.log()[logged:], deadline_s=5, what="a word of the log")
    return f"{before} became {now}, then {server.worker_pids()}; {stats}; the log since:\n{server.log()[logged:]}"


@pytest.fixture(autouse=True)
def nothing_died(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the same workers, and no traceback in the log.  `@pytest.mark.kills` tests kill workers themselves."""
    if not OURS or "server" not in request.fixturenames or "kills" in request.keywords:
        yield
        return
    server: ServerSet = request.getfixturevalue("server")
    before, logged = server.worker_pids(), len(server.log())
    yield
    if server.worker_pids() != before:
        pytest.fail(f"a worker died; {_obituary(server, before, logged)}")
    assert "Traceback" not in server.log()[logged:], server.log()[logged:]
