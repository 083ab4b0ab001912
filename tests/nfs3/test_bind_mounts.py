"""Two mounts of one file system, one of them read-only: each export is what its own mount says, however an object was reached."""
from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import OK, ROFS, Nfs3, Nfs3Stat, Sattr3
from tests.tools.servers import ServerSet, wait_until

pytestmark = [pytest.mark.root]
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


def test_mount_that_takes_another_ones_place_decides_after_reload(base: Path) -> None:
    """The same directory by a read-only mount: what was opened by the old one, which lives on in the server, ends with it."""
    bind(base / "plain", base / "bound", read_only=False)
    line = f'"{base}/bound" {OPTIONS}'
    with ServerSet(base / "server", line, workers=1) as server, closing(server.client()) as nfs:
        top = server.root(base / "bound")
        file = nfs.lookup(top, b"file").must().h
        assert changes(nfs, top, file, b"1") == {OK}
        subprocess.run(["umount", "-l", str(base / "bound")], check=True)
        bind(base / "plain", base / "bound", read_only=True)
        server.reload(line)
        wait_until(lambda: nfs.write(file, b"data").status == ROFS, deadline_s=10, what="the new mount is in force")
        assert changes(nfs, top, file, b"2") == {ROFS}
