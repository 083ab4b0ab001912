"""That an object has no ACL is remembered by the server while its ctime stands, and no longer."""
from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from tests.nfsserver.test_fsid import Disks, disks  # noqa: F401
from tests.tools.nfs3 import Nfs3
from tests.tools.nfsacl import ACL, DEFAULT_COUNT, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, NfsAcl
from tests.tools.strace import strace_path
from tests.tools.worker import OneWorker, export_of

from .conftest import RW

pytestmark = pytest.mark.root

ACCESS_XATTR, DEFAULT_XATTR = "system.posix_acl_access", "system.posix_acl_default"
SETTLED_S = 10.0
FIVE = ((USER_OBJ, 0, 6), (USER, 1000, 4), (GROUP_OBJ, 0, 4), (MASK, 0, 4), (OTHER, 0, 4))


def xattr(entries: tuple[tuple[int, int, int], ...]) -> bytes:
    """linux/posix_acl_xattr.h"""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, id_ or 0xFFFFFFFF) for tag, id_, perm in entries)


def test_an_acl_shows_at_once_where_ctimes_are_whole_seconds(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """ext4 with small inodes: the ctime does not tell that an ACL came or went within its second."""
    place, file, directory = (tmp_path / name for name in ("mnt", "mnt/file", "mnt/dir"))
    for made in (place, tmp_path / "server"):
        made.mkdir()
    disks.mount(disks.image("coarse", "mkfs.ext4", "-q", "-I", "128"), place)
    file.touch()
    directory.mkdir()
    with OneWorker(tmp_path / "server", [export_of(place, RW)]) as worker:
        transport = worker.tcp()
        acl, nfs = NfsAcl(transport), Nfs3(transport)
        of_file, of_dir = (nfs.lookup(worker.root(RW), os.fsencode(path.name)).must().h for path in (file, directory))

        def counts() -> tuple[int, int]:
            return acl.getacl(of_file, ACL).count, acl.getacl(of_dir, DEFAULT_COUNT).default_count

        for _ in range(50):
            assert counts() == (4, 0)
            os.setxattr(file, ACCESS_XATTR, xattr(FIVE))
            os.setxattr(directory, DEFAULT_XATTR, xattr(FIVE))
            assert counts() == (5, 5)
            os.removexattr(file, ACCESS_XATTR)
            os.removexattr(directory, DEFAULT_XATTR)
        transport.close()


def test_an_object_without_acls_is_asked_about_once(base: Path, tmp_path: Path) -> None:
    """... when its ctime is old enough that a change must show in it; a change of the ctime asks again."""
    log, place = tmp_path / "strace", base / "rw" / "asked-about"
    place.touch()
    wrapper = (strace_path(), "-f", "-o", str(log), "-e", "trace=getxattr,fgetxattr")
    (tmp_path / "server").mkdir()
    with OneWorker(tmp_path / "server", [export_of(base / "rw", RW)], wrapper=wrapper) as worker:
        transport = worker.tcp()
        fh = Nfs3(transport).lookup(worker.root(RW), os.fsencode(place.name)).must().h

        def asked() -> int:
            before = log.read_text().count("xattr(")
            assert NfsAcl(transport).getacl(fh).count == 4
            return log.read_text().count("xattr(") - before

        def asked_until_settled() -> list[int]:
            times, end = [asked()], time.monotonic() + SETTLED_S
            while times[-1] and time.monotonic() < end:
                times.append(asked())
            return times

        first = asked_until_settled()
        assert first[0] and not first[-1], first
        assert not asked()
        os.setxattr(place, ACCESS_XATTR, xattr(FIVE))
        os.removexattr(place, ACCESS_XATTR)
        assert asked()
        transport.close()
    place.unlink()
