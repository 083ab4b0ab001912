"""Calls of a caller who is known are answered in C (rows.c): the first to the last step, a wait for the disk in between."""
from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.nfs3 import FILE_SYNC, UNSTABLE, Nfs3, Sattr3
from tests.tools.nfsacl import ACL, GROUP_OBJ, OTHER, USER_OBJ, NfsAcl
from tests.tools.worker import TREE, OneWorker, export_of

EXPORT = 1
TELLS = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from nfsserver.worker import Worker
from oncrpc.server import Server
def tell(owner, name):
    real = getattr(owner, name)
    def told(*args):
        sys.stderr.write("a turn of Python\\n")
        sys.stderr.flush()
        real(*args)
    setattr(owner, name, told)
tell(Server, "_batch")
tell(Worker, "_finished")
runpy.run_module("nfsserver", run_name="__main__", alter_sys=True)
"""
MINIMAL = ((USER_OBJ, 0, 6), (GROUP_OBJ, 0, 4), (OTHER, 0, 4))


class Telling(OneWorker):
    """Its log tells when calls, new or waited for, are handed to Python."""

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-I", "-c", TELLS, str(TREE)]

    def turns(self) -> int:
        return self.log().count("a turn of Python")


@pytest.fixture(scope="module")
def worker() -> Iterator[Telling]:
    with tempfile.TemporaryDirectory(prefix="nfswithout-") as made:
        for name in ("export", "server"):
            (Path(made) / name).mkdir()
        running = Telling(Path(made) / "server", [export_of(Path(made) / "export", EXPORT)])
        with running:
            yield running


CALLS: dict[str, Callable[[Nfs3, NfsAcl, bytes, bytes], int]] = {
    "getattr": lambda nfs, acl, top, file: nfs.getattr(file).status,
    "lookup": lambda nfs, acl, top, file: nfs.lookup(top, b"file").status,
    "access": lambda nfs, acl, top, file: nfs.access(file).status,
    "read": lambda nfs, acl, top, file: nfs.read(file).status,
    "readdirplus": lambda nfs, acl, top, file: nfs.readdirplus(top).status,
    "getacl": lambda nfs, acl, top, file: acl.getacl(file).status,
    "setacl, durable": lambda nfs, acl, top, file: acl.setacl(file, ACL, MINIMAL).status,
    "setattr, durable": lambda nfs, acl, top, file: nfs.setattr(file, Sattr3(mode=0o640)).status,
    "create, durable": lambda nfs, acl, top, file: nfs.create(top, b"made").status,
    "remove, durable": lambda nfs, acl, top, file: nfs.remove(top, b"made").status,
    "write, unstable": lambda nfs, acl, top, file: nfs.write(file, b"data", stable=UNSTABLE).status,
    "commit": lambda nfs, acl, top, file: nfs.commit(file).status,
    "write, stable": lambda nfs, acl, top, file: nfs.write(file, b"data", stable=FILE_SYNC).status,
}


@pytest.mark.root
def test_no_call_of_a_known_caller_is_handed_to_python(worker: Telling) -> None:
    transport = worker.tcp()
    nfs, acl, top = Nfs3(transport), NfsAcl(transport), worker.root(EXPORT)
    file = nfs.create(top, b"file").must().h
    assert worker.turns()   # whose call it is was asked
    handed = []
    for name, call in CALLS.items():
        before = worker.turns()
        assert call(nfs, acl, top, file) == 0, name
        if worker.turns() != before:
            handed.append(name)
    nfs.close()
    assert not handed
