"""A mount point below an export that does not cross: the directory under it is shown, as by a kernel server (covered.c)."""
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs3 import ACCES, Nfs3
from tests.tools.rpc import auth_sys
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks, run  # noqa: F401

pytestmark = pytest.mark.root

EXPORT, CROSSING = 1, 2


@contextmanager
def covered(made: Disks, directory: Path, *mkfs: str) -> Iterator[tuple[OneWorker, Nfs3, Path]]:
    """A disk with a directory `point`, in which a file is; over that another file system is mounted, with another file."""
    place = directory / "mnt"
    place.mkdir()
    (directory / "server").mkdir()
    if mkfs:
        made.mount(made.image("disk", *mkfs), place)
    else:
        run("mount", "-t", "tmpfs", "tmpfs", str(place))
        made.mounted.append(place)
    (place / "point").mkdir()
    (place / "point" / "under").touch()
    run("mount", "-t", "tmpfs", "tmpfs", str(place / "point"))
    (place / "point" / "over").touch()
    try:
        exports = [export_of(place, EXPORT), export_of(place, CROSSING, Ex.CROSSMNT)]
        with OneWorker(directory / "server", exports) as worker:
            nfs = Nfs3(worker.tcp())
            yield worker, nfs, place
            nfs.close()
    finally:
        subprocess.run(["umount", str(place / "point")], check=True)


def names(nfs: Nfs3, fh: bytes) -> set[bytes]:
    return {entry.name for entry in nfs.readdir(fh).must().entries} - {b".", b".."}


@pytest.mark.parametrize("kind", ["ext4", pytest.param("btrfs", marks=pytest.mark.skipif(not shutil.which("mkfs.btrfs"),
                                                                                         reason="needs mkfs.btrfs"))])
def test_the_directory_under_a_mount_point_is_shown(disks: Disks, tmp_path: Path, kind: str) -> None:  # noqa: F811
    """With the fileid that READDIR gives it, and in the export's own file system; not what is mounted there."""
    with covered(disks, tmp_path, f"mkfs.{kind}", "-q") as (worker, nfs, _place):
        root = worker.root(EXPORT)
        found = nfs.lookup(root, b"point").must()
        listed = {entry.name: entry.fileid for entry in nfs.readdir(root).must().entries}
        assert (found.a.fileid, found.a.fsid) == (listed[b"point"], nfs.getattr(root).must().a.fsid)
        assert names(nfs, found.h) == {b"under"}
        assert nfs.lookup(found.h, b"..").must().h == root
        assert nfs.getattr(nfs.lookup(found.h, b"under").must().h).ok
        assert names(nfs, nfs.lookup(worker.root(CROSSING), b"point").must().h) == {b"over"}
        plus = {entry.name: entry.fh for entry in nfs.readdirplus(root).must().entries}
        assert plus[b"point"] == found.h


def test_what_is_covered_is_under_the_callers_rights(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    with covered(disks, tmp_path, "mkfs.ext4", "-q") as (worker, nfs, place):
        root, user = worker.root(EXPORT), nfs.as_(auth_sys(1000, 1000))
        under = user.lookup(root, b"point").must().h
        assert user.create(under, b"new").status == ACCES
        place.chmod(0o700)
        nfs.mkdir(root, b"roots").must()  # the worker is root now, which looking up must not stay
        assert user.lookup(root, b"point").status == ACCES


def test_where_there_is_no_way_to_it_nothing_is_shown(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """tmpfs wants to know the generation."""
    with covered(disks, tmp_path) as (worker, nfs, _place):
        assert nfs.lookup(worker.root(EXPORT), b"point").status == ACCES
