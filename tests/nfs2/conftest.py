"""A worker that answers version 2, an export that allows all and a read-only one, and a fresh directory for each test."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex, Nx
from tests.tools.nfs2 import Nfs2
from tests.tools.worker import OneWorker, everyone, export_of

RW, RO = 1, 2


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfs2-"))
    made.chmod(0o755)
    for name in ("rw", "ro", "server"):
        (made / name).mkdir()
    (made / "rw").chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def worker(base: Path) -> Iterator[OneWorker]:
    exports = [export_of(base / "rw", RW), export_of(base / "ro", RO, Ex(0), everyone(Nx.READONLY))]
    with OneWorker(base / "server", exports, "--v2") as running:
        yield running


@dataclass
class Spot:
    """A directory that belongs to one test."""

    worker: OneWorker
    nfs: Nfs2
    path: Path
    fh: bytes

    def file(self, name: bytes = b"file", data: bytes = b"", mode: int = 0o644) -> bytes:
        path = self.path / os.fsdecode(name)
        path.write_bytes(data)
        path.chmod(mode)
        return self.nfs.lookup(self.fh, name).must().fh


@pytest.fixture(params=["tcp", "udp"])
def spot(request: pytest.FixtureRequest, worker: OneWorker, base: Path) -> Iterator[Spot]:
    path = Path(tempfile.mkdtemp(dir=base / "rw"))
    path.chmod(0o777)
    nfs = Nfs2(worker.tcp() if request.param == "tcp" else worker.udp())
    yield Spot(worker, nfs, path, nfs.lookup(worker.root(RW, vers=2), os.fsencode(path.name)).must().fh)
    nfs.close()
