"""What a new object gets from its directory: default ACL instead of the client's umask, group and setgid bit, sticky directories.

The same calls on a local directory, with umask 0 as the server has it, are the oracle.
"""
from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, GUARDED, NF3FIFO, PERM, UNCHECKED, Sattr3
from tests.tools.rpc import auth_sys

from .conftest import Spot, getfacl, setfacl

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("setfacl"), reason="needs setfacl(1)")]

MODES = [0o777, 0o666, 0o640, 0o700, 0o000, 0o755]
OWNER, OTHER_USER = auth_sys(1000, 1000, (1000,)), auth_sys(1001, 1001)


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """The oracle's: nfsd(8) has none."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def inheriting(spot: Spot) -> Path:
    """A local twin of the spot's directory; both have a default ACL."""
    twin = spot.path.with_name(spot.path.name + "-twin")
    twin.mkdir()
    twin.chmod(0o777)
    for path in (twin, spot.path):
        setfacl(path, "-m", "d:u::rwx,d:u:1000:rwx,d:g::rx,d:g:2000:rw,d:m::rwx,d:o::r")
    return twin


@pytest.mark.parametrize("mode", MODES)
def test_create_under_a_default_acl(spot: Spot, inheriting: Path, mode: int) -> None:
    spot.nfs.create(spot.fh, b"new", Sattr3(mode=mode), mode=UNCHECKED).must()
    os.close(os.open(inheriting / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    assert getfacl(spot.path / "new") == getfacl(inheriting / "new")


@pytest.mark.parametrize("mode", MODES)
def test_mkdir_under_a_default_acl(spot: Spot, inheriting: Path, mode: int) -> None:
    """The directory has it, too, and its own access ACL is not opened up to the mode that was asked for."""
    spot.nfs.mkdir(spot.fh, b"new", Sattr3(mode=mode)).must()
    (inheriting / "new").mkdir(mode)
    assert getfacl(spot.path / "new") == getfacl(inheriting / "new")


@pytest.mark.parametrize("mode", MODES)
def test_mknod_under_a_default_acl(spot: Spot, inheriting: Path, mode: int) -> None:
    spot.nfs.mknod(spot.fh, b"new", NF3FIFO, Sattr3(mode=mode)).must()
    os.mkfifo(inheriting / "new", mode)
    assert getfacl(spot.path / "new") == getfacl(inheriting / "new")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1777])
def test_special_bits_and_owner_do_not_widen_an_inherited_acl(spot: Spot, inheriting: Path, mode: int) -> None:
    """Both make a second chmod(2) necessary, which sets the mask of an ACL."""
    spot.nfs.create(spot.fh, b"new", Sattr3(mode=mode, uid=1000, gid=1000), mode=GUARDED).must()
    os.close(os.open(inheriting / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o777))
    assert getfacl(spot.path / "new")[-7:] == getfacl(inheriting / "new")[-7:]
    info = (spot.path / "new").stat()
    assert (info.st_mode & 0o7000, info.st_uid, info.st_gid) == (mode & 0o7000, 1000, 1000)


@pytest.mark.parametrize("mode", MODES)
def test_without_a_default_acl_the_mode_is_the_clients(spot: Spot, mode: int) -> None:
    """No umask of the daemon's (CVE-2020-24394)."""
    spot.nfs.create(spot.fh, b"file", Sattr3(mode=mode), mode=GUARDED).must()
    spot.nfs.mkdir(spot.fh, b"dir", Sattr3(mode=mode)).must()
    assert [stat.S_IMODE((spot.path / name).stat().st_mode) for name in ("file", "dir")] == [mode, mode]


def test_setgid_directory_gives_its_group(spot: Spot) -> None:
    spot.path.chmod(0o2777)
    os.chown(spot.path, -1, 2000)
    spot.path.chmod(0o2777)
    spot.as_(OWNER).create(spot.fh, b"file", Sattr3(mode=0o644)).must()
    spot.as_(OWNER).mkdir(spot.fh, b"dir", Sattr3(mode=0o755)).must()
    spot.as_(OWNER).symlink(spot.fh, b"link", b"x").must()
    file, directory, link = ((spot.path / name).lstat() for name in ("file", "dir", "link"))
    assert {info.st_gid for info in (file, directory, link)} == {2000}
    assert stat.S_IMODE(file.st_mode) == 0o644 and stat.S_IMODE(directory.st_mode) == 0o2755


def test_setgid_bit_of_a_group_that_is_not_the_callers_is_cleared(spot: Spot) -> None:
    """chmod(2): without the group there is no setgid bit."""
    os.chown(spot.path, -1, 2000)
    spot.path.chmod(0o2777)
    spot.as_(OWNER).create(spot.fh, b"file", Sattr3(mode=0o2755)).must()
    assert not (spot.path / "file").stat().st_mode & stat.S_ISGID
    fh = spot.lookup("file")
    spot.as_(OWNER).setattr(fh, Sattr3(mode=0o2755)).must()
    assert not (spot.path / "file").stat().st_mode & stat.S_ISGID


def test_write_of_another_clears_setuid_and_setgid(spot: Spot) -> None:
    fh = spot.file(mode=0o6777)
    spot.as_(OTHER_USER).write(fh, b"x").must()
    assert not (spot.path / "file").stat().st_mode & 0o6000


def test_sticky_directory_keeps_what_others_own(spot: Spot) -> None:
    spot.path.chmod(0o1777)
    spot.as_(OWNER).create(spot.fh, b"mine").must()
    spot.as_(OWNER).mkdir(spot.fh, b"dir").must()
    other = spot.as_(OTHER_USER)
    assert other.remove(spot.fh, b"mine").status in (ACCES, PERM)
    assert other.rmdir(spot.fh, b"dir").status in (ACCES, PERM)
    assert other.rename(spot.fh, b"mine", spot.fh, b"theirs").status in (ACCES, PERM)
    assert sorted(os.listdir(spot.path)) == ["dir", "mine"]
    spot.as_(OWNER).remove(spot.fh, b"mine").must()
