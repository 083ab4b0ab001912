"""Version 2 from MOUNT version 1 to the file, with all daemons: what an old machine does."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.nfs2 import NFS, V2, Nfs2
from tests.tools.nfs3 import connect
from tests.tools.nfsacl import ACL_PROGRAM
from tests.tools.rpc import PROG_MISMATCH, PROG_UNAVAIL, Call, exchange
from tests.tools.servers import OURS, ServerSet

pytestmark = [pytest.mark.root, pytest.mark.skipif(not OURS, reason="version 2 of our own server")]


@pytest.fixture
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfs2-"))
    made.chmod(0o755)
    (made / "export").mkdir()
    (made / "export/file").write_bytes(b"data")
    (made / "server").mkdir()
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_mount_1_and_nfs_2(base: Path, proto: str) -> None:
    exports = f'"{base / "export"}" 127.0.0.1(rw,no_root_squash,insecure)\n'
    with ServerSet(base / "server", exports, options=("-V", "2")) as server:
        mount = server.mount(proto=proto, vers=1)
        fh = mount.mnt(os.fsencode(base / "export")).fh
        mount.transport.close()
        assert len(fh) == 32
        nfs = Nfs2(connect(server.address, proto=proto))
        assert nfs.read(nfs.lookup(fh, b"file").must().fh).must().data == b"data"
        nfs.create(fh, b"new").must()
        assert (base / "export/new").exists()
        nfs.close()


def test_without_the_options_there_is_no_version_2_and_with_no_acl_no_acls(base: Path) -> None:
    exports = f'"{base / "export"}" 127.0.0.1(rw,no_root_squash,insecure)\n'
    with ServerSet(base / "server", exports, options=("--no-acl",)) as server:
        transport = connect(server.address, proto="tcp")
        refused = exchange(transport, Call(NFS, V2, 0))
        assert (refused.accept_stat, refused.low, refused.high) == (PROG_MISMATCH, 3, 3)
        assert exchange(transport, Call(ACL_PROGRAM, 3, 0)).accept_stat == PROG_UNAVAIL
        transport.close()
