"""Two mounts of one file system, one of them read-only: each export is what its own mount says, however an object was reached."""
from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import FILE_SYNC, OK, ROFS, Nfs3, Nfs3Stat, Proc, Sattr3, pack_WRITE3args, unpack_result
from tests.tools.rpc import receive
from tests.tools.servers import ServerSet, wait_until

from .conftest import Spot
from .test_slow_disk import slowed

pytestmark = [pytest.mark.root]
SLOW_S = 2.0   # longer than a new table takes on a busy machine
OPTIONS = "127.0.0.0/8(rw,no_root_squash,insecure)\n"


def bind(source: Path, place: Path, *, read_only: bool) -> None:
    for command in (["mount", "--bind", str(source), str(place)],
                    *([["mount", "-o", "remount,bind,ro", str(place)]] if read_only else [])):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")


@pytest.fixture
def base() -> Iterator[Path]:
    """`plain`, which has a file, and `bound`, where it can be mounted."""
    made = Path(tempfile.mkdtemp(prefix="nfsbind-"))
    made.chmod(0o755)
    for name in ("plain", "bound", "server"):
        (made / name).mkdir()
    (made / "plain" / "file").write_bytes(b"data")
    yield made
    while subprocess.run(["umount", str(made / "bound")], capture_output=True).returncode == 0:
        pass
    shutil.rmtree(made)


def changes(nfs: Nfs3, top: bytes, file: bytes, name: bytes) -> set[Nfs3Stat]:
    """What a client may change there."""
    return {nfs.write(file, b"DATA").status, nfs.setattr(file, Sattr3(mode=0o600)).status, nfs.create(top, name).status}


def test_read_only_bind_mount_is_read_only_by_handle_too_and_the_other_is_not(base: Path) -> None:
    """Handles from before a restart, whose objects nobody has looked up since."""
    bind(base / "plain", base / "bound", read_only=True)
    with ServerSet(base / "server", f'"{base}/plain" {OPTIONS}"{base}/bound" {OPTIONS}') as server, \
            closing(server.client()) as nfs:
        tops = [server.root(base / name) for name in ("plain", "bound")]
        files = [nfs.lookup(top, b"file").must().h for top in tops]
        assert [changes(nfs, tops[at], files[at], b"%d" % at) for at in range(2)] == [{OK}, {ROFS}]
    with server, closing(server.client()) as nfs:
        assert [changes(nfs, tops[at], files[at], b"again %d" % at) for at in range(2)] == [{OK}, {ROFS}]


def take_its_place(base: Path, server: ServerSet, line: str) -> None:
    """A read-only mount in place of the one that the server has; the export table is read again."""
    subprocess.run(["umount", "-l", str(base / "bound")], check=True)
    bind(base / "plain", base / "bound", read_only=True)
    server.reload(line)


def test_mount_that_takes_another_ones_place_decides_after_reload(base: Path) -> None:
    """The same directory by a read-only mount: what was opened by the old one, which lives on in the server, ends with it."""
    bind(base / "plain", base / "bound", read_only=False)
    line = f'"{base}/bound" {OPTIONS}'
    with ServerSet(base / "server", line, workers=1) as server, closing(server.client()) as nfs:
        top = server.root(base / "bound")
        file = nfs.lookup(top, b"file").must().h
        assert changes(nfs, top, file, b"1") == {OK}
        take_its_place(base, server, line)
        wait_until(lambda: nfs.write(file, b"data").status == ROFS, deadline_s=10, what="the new mount is in force")
        assert changes(nfs, top, file, b"2") == {ROFS}


def test_an_object_of_the_old_mount_that_a_call_still_holds_ends_with_it_too(base: Path) -> None:
    """A WRITE waits for the disk while the table changes: it is done on the old mount, and what comes after it is not."""
    bind(base / "plain", base / "bound", read_only=False)
    line = f'"{base}/bound" {OPTIONS}'
    with ServerSet(base / "server", line, workers=1) as server, closing(server.client()) as nfs, \
            closing(server.client()) as other:
        top = server.root(base / "bound")
        file = nfs.lookup(top, b"file").must().h
        with slowed(Spot(server, nfs, base / "bound", top), "fdatasync,fsync", SLOW_S):
            waits = nfs.message(Proc.WRITE, pack_WRITE3args(file, 0, b"slow", FILE_SYNC))
            nfs.transport.send(waits.pack())
            take_its_place(base, server, line)
            wait_until(lambda: other.setattr(top, Sattr3(mode=0o755)).status == ROFS, deadline_s=10,
                       what="the new mount is in force")
            assert changes(other, top, file, b"2") == {ROFS}
            assert unpack_result(Proc.WRITE, receive(nfs.transport, waits.xid).body).status == OK
        assert changes(nfs, top, file, b"3") == {ROFS}
        assert (base / "plain" / "file").read_bytes() == b"slow"
