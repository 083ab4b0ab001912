"""Removable exports: nothing stays open between calls, an absent medium is an empty directory, one medium is not another."""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs2 import Nfs2, Nfsstat
from tests.tools.nfs3 import FILE_SYNC, NF3DIR, NOENT, ROFS, STALE, UNSTABLE, Nfs3
from tests.tools.servers import wait_until
from tests.tools.worker import OneWorker, export_of

EXPORT = 1


@dataclass
class Place:
    worker: OneWorker
    medium: Path
    nfs: Nfs3
    root: bytes

    def open_files(self) -> list[str]:
        """What the worker holds open below the medium, and directories that show no path."""
        found = []
        for fd in Path(f"/proc/{self.worker.process.pid}/fd").iterdir():
            try:
                found.append(os.readlink(fd))
            except FileNotFoundError:
                continue
        return [path for path in found if path.startswith(str(self.medium))]


@pytest.fixture
def place() -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="nfsmedia-"))
    base.chmod(0o755)
    (base / "server").mkdir()
    visible = ["--no-harden"] if os.geteuid() else []  # /proc/PID/fd of a hardened process is root's
    with OneWorker(base / "server", [export_of(base / "medium", EXPORT, Ex.REMOVABLE)], "--v2", *visible) as worker:
        nfs = Nfs3(worker.tcp())
        yield Place(worker, base / "medium", nfs, worker.root(EXPORT))
        nfs.close()
    shutil.rmtree(base)


def names(place: Place) -> set[bytes]:
    res = place.nfs.readdir(place.root).must()
    assert res.eof
    return {entry.name for entry in res.entries}


def test_an_absent_medium_is_an_empty_read_only_directory(place: Place) -> None:
    attr = place.nfs.getattr(place.root).must().a
    assert attr.type == NF3DIR and attr.mode & 0o222 == 0
    assert names(place) == {b".", b".."}
    assert place.nfs.lookup(place.root, b"x").status == NOENT
    assert place.nfs.lookup(place.root, b".").must().h == place.root
    assert place.nfs.lookup(place.root, b"..").must().h == place.root
    assert place.nfs.create(place.root, b"x").status == ROFS
    assert place.nfs.mkdir(place.root, b"x").status == ROFS
    place.nfs.fsstat(place.root).must()
    place.nfs.fsinfo(place.root).must()
    place.nfs.pathconf(place.root).must()


def test_an_empty_mount_point_is_no_medium(place: Place) -> None:
    """What a client wrote there would be on another file system, and hidden once the medium is in."""
    place.medium.mkdir(mode=0o777)
    attr = place.nfs.getattr(place.root).must().a
    assert attr.mode & 0o222 == 0 and attr.fileid != place.medium.stat().st_ino
    assert names(place) == {b".", b".."}
    assert place.nfs.create(place.root, b"x").status == ROFS
    assert not list(place.medium.iterdir())


def test_the_root_handle_shows_the_medium_once_it_is_in(place: Place) -> None:
    before = place.nfs.getattr(place.root).must().a
    place.medium.mkdir()
    (place.medium / "file").write_bytes(b"data")
    assert names(place) == {b".", b"..", b"file"}
    fh = place.nfs.lookup(place.root, b"file").must().h
    assert place.nfs.read(fh).must().data == b"data"
    attr = place.nfs.getattr(place.root).must().a
    assert attr.fsid == before.fsid and attr.fileid == place.medium.stat().st_ino
    assert place.nfs.lookup(place.root, b"..").must().h == place.root
    place.nfs.create(place.root, b"new").must()
    assert (place.medium / "new").exists()


def test_handles_are_stale_while_the_medium_is_out_and_good_again_after(place: Place) -> None:
    place.medium.mkdir()
    (place.medium / "file").write_bytes(b"data")
    fh = place.nfs.lookup(place.root, b"file").must().h
    away = place.medium.with_name("away")
    place.medium.rename(away)
    assert place.nfs.getattr(fh).status == STALE
    assert names(place) == {b".", b".."}
    away.rename(place.medium)
    assert place.nfs.read(fh).must().data == b"data"


def test_nothing_stays_open_between_calls(place: Place) -> None:
    place.medium.mkdir()
    (place.medium / "there").touch()
    fh = place.nfs.create(place.root, b"file").must().h
    for stable in (UNSTABLE, FILE_SYNC):
        place.nfs.write(fh, b"data", stable=stable).must()
        wait_until(lambda: not place.open_files(), deadline_s=5, what="end of all open files")
    place.nfs.read(fh).must()
    place.nfs.commit(fh).must()
    place.nfs.readdirplus(place.root).must()
    wait_until(lambda: not place.open_files(), deadline_s=5, what="end of all open files")


@pytest.mark.root
def test_a_new_table_keeps_the_handles(place: Place) -> None:
    place.medium.mkdir()
    (place.medium / "file").touch()
    fh = place.nfs.lookup(place.root, b"file").must().h
    place.worker.load(place.worker.exports)
    place.nfs.getattr(fh).must()
    place.nfs.getattr(place.root).must()
    place.worker.load([])
    assert place.nfs.getattr(place.root).status == STALE


@pytest.mark.root
def test_version_2_has_the_root_alone(place: Place) -> None:
    """Its handles have no room for what tells media apart."""
    place.medium.mkdir()
    (place.medium / "file").touch()
    nfs2 = Nfs2(place.nfs.transport)
    root = place.worker.root(EXPORT, vers=2)
    assert b"file" in {entry.name for entry in nfs2.readdir(root).must().entries}
    assert nfs2.lookup(root, b"file").status == Nfsstat.IO


@pytest.mark.root
def test_a_medium_can_be_unmounted_at_any_time_and_another_is_not_it(place: Place) -> None:
    """Two file systems whose inode numbers and generations may well be the same."""
    place.medium.mkdir()
    mounted = ["mount", "-t", "tmpfs", "medium", str(place.medium)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        fh = place.nfs.create(place.root, b"file").must().h
        place.nfs.write(fh, b"data").must()
        wait_until(lambda: not place.open_files(), deadline_s=5, what="end of all open files")
        subprocess.run(["umount", str(place.medium)], check=True)
        assert place.nfs.getattr(fh).status == STALE
        assert names(place) == {b".", b".."}
        subprocess.run(mounted, check=True)
        (place.medium / "file").touch()
        assert place.nfs.getattr(fh).status == STALE
    finally:
        subprocess.run(["umount", str(place.medium)], check=True)
