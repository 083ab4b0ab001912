"""A whole session, every procedure over TCP and UDP, decoded by tshark with zero malformed packets."""
from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.capture import Capture, why_not
from tests.tools.nfs3 import EXCLUSIVE, GUARDED, NF3FIFO, UNSTABLE, Mount, Nfs3, Proc, Sattr3
from tests.tools.servers import ServerSet

from .conftest import CRED, Exports

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "tshark")


def session(mount: Mount, nfs: Nfs3, export: Path, tag: bytes) -> set[Proc]:
    """Every procedure with a success and most with a failure; the procedures that were called."""
    nfs.null()
    top = mount.mnt(os.fsencode(export)).fh
    mount.export()
    mount.dump()
    work = nfs.mkdir(top, b"work" + tag, Sattr3(mode=0o755)).must().h
    fh = nfs.create(work, b"file", Sattr3(mode=0o644), mode=GUARDED).must().h
    nfs.create(work, b"file", mode=GUARDED)
    nfs.create(work, b"exclusive", mode=EXCLUSIVE, verf=b"12345678").must()
    nfs.symlink(work, b"link", b"file").must()
    nfs.mknod(work, b"fifo", NF3FIFO).must()
    nfs.write(fh, b"x" * 5000, stable=UNSTABLE).must()
    nfs.commit(fh).must()
    nfs.read(fh, 0, 4000).must()
    nfs.read(work)
    nfs.setattr(fh, Sattr3(size=100, mtime=(1, 2))).must()
    nfs.getattr(fh).must()
    nfs.getattr(b"\0" * 32)
    nfs.access(fh).must()
    nfs.lookup(work, b"missing")
    nfs.readlink(nfs.lookup(work, b"link").must().h).must()
    list(nfs.list(work, count=512))
    list(nfs.list(work, plus=True, count=1024))
    nfs.link(fh, work, b"second").must()
    nfs.rename(work, b"second", work, b"third").must()
    for call in (nfs.fsstat, nfs.fsinfo, nfs.pathconf):
        call(work).must()
    for name in (b"file", b"exclusive", b"link", b"fifo", b"third", b"missing"):
        nfs.remove(work, name)
    nfs.rmdir(top, b"work" + tag).must()
    mount.umnt(os.fsencode(export))
    return set(Proc)


def test_session_is_decoded_without_a_malformed_packet(server: ServerSet, exports: Exports, tmp_path: Path) -> None:
    with Capture(tmp_path / "session.pcapng", [server.port]) as capture:
        for proto in ("tcp", "udp"):
            mount = server.mount(proto=proto, cred=CRED)
            with closing(server.client(CRED, proto=proto)) as nfs:
                assert session(mount, nfs, exports.base / "rw", proto.encode()) == set(Proc)
            mount.transport.close()
    assert capture.faults() == []
