"""A worker with exports of each kind, and a fresh directory for each test, on a file system that has ACLs."""
from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex, Nx
from tests.tools.nfs3 import Nfs3
from tests.tools.nfsacl import NfsAcl
from tests.tools.rpc import Auth
from tests.tools.worker import OneWorker, everyone, export_of

RW, RO, NOACL = 1, 2, 3


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfsacl-"))
    made.chmod(0o755)
    for name in ("rw", "ro", "server"):
        (made / name).mkdir()
    (made / "rw").chmod(0o777)
    try:
        os.getxattr(made, "system.posix_acl_access")
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            pytest.skip("no POSIX ACLs on the file system of the temporary directory")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def worker(base: Path) -> Iterator[OneWorker]:
    exports = [export_of(base / "rw", RW), export_of(base / "ro", RO, Ex(0), everyone(Nx.READONLY)),
               export_of(base / "rw", NOACL, Ex.NOACL)]
    with OneWorker(base / "server", exports, "--v2") as running:
        yield running


@dataclass
class Spot:
    """A directory that belongs to one test; fh: its handle for version 3."""

    worker: OneWorker
    nfs: Nfs3
    acl: NfsAcl
    path: Path
    fh: bytes

    def file(self, name: str = "file", mode: int = 0o644) -> bytes:
        (self.path / name).touch()
        (self.path / name).chmod(mode)
        return self.lookup(name)

    def dir(self, name: str = "dir", mode: int = 0o755) -> bytes:
        (self.path / name).mkdir()
        (self.path / name).chmod(mode)
        return self.lookup(name)

    def lookup(self, name: str) -> bytes:
        return self.nfs.lookup(self.fh, os.fsencode(name)).must().h

    def as_(self, cred: Auth) -> Nfs3:
        return self.nfs.as_(cred)


def setfacl(path: Path, *words: str) -> None:
    subprocess.run(["setfacl", *words, str(path)], check=True)


def getfacl(path: Path) -> list[str]:
    """Entries as getfacl(1) prints them, numeric."""
    done = subprocess.run(["getfacl", "-nEcp", str(path)], check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture
def spot(worker: OneWorker, base: Path) -> Iterator[Spot]:
    path = Path(tempfile.mkdtemp(dir=base / "rw"))
    path.chmod(0o777)
    transport = worker.tcp()
    nfs = Nfs3(transport)
    yield Spot(worker, nfs, NfsAcl(transport), path, nfs.lookup(worker.root(RW), os.fsencode(path.name)).must().h)
    transport.close()
