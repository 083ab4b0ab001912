"""What was found out about a caller's rights must not outlive a chmod or setfacl, however coarse the file system's clock is."""
from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, UNSTABLE, Nfs3
from tests.tools.rpc import auth_sys
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks  # noqa: F401

EXPORT = 1
TRIES = 8      # in some of them the worker's clock goes on between two calls, and it asks again anyway
MOST = 40      # of which so many fall within one second


def chmod(file: Path) -> None:
    file.chmod(0o600)


def setfacl(file: Path) -> None:
    """setfacl -m u:1000:-, which leaves the mode as it is."""
    entries = [(0x01, 6, -1), (0x02, 0, 1000), (0x04, 6, -1), (0x10, 6, -1), (0x20, 6, -1)]   # linux/posix_acl_xattr.h
    mode = file.stat().st_mode
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(file, "system.posix_acl_access", acl)
    assert file.stat().st_mode == mode


@pytest.mark.root
@pytest.mark.parametrize("revoke", [chmod, setfacl])
def test_a_right_to_write_ends_with_a_change_of_rights_in_the_same_second(
        disks: Disks, tmp_path: Path, revoke: Callable[[Path], None]) -> None:  # noqa: F811
    """ext4 with small inodes has whole seconds: the ctime does not tell that the rights changed between two WRITEs."""
    place = tmp_path / "mnt"
    place.mkdir()
    (tmp_path / "server").mkdir()
    disks.mount(disks.image("coarse", "mkfs.ext4", "-q", "-I", "128"), place)
    place.chmod(0o777)
    statuses = []
    with OneWorker(tmp_path / "server", [export_of(place, EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        user, root = nfs.as_(auth_sys(1000, 1000)), worker.root(EXPORT)
        for i in range(MOST):
            file = place / f"file{i}"
            file.touch()
            file.chmod(0o666)
            second = file.stat().st_ctime
            fh = nfs.lookup(root, os.fsencode(file.name)).must().h
            user.write(fh, b"x", stable=UNSTABLE).must()
            user.write(fh, b"y", stable=UNSTABLE).must()
            revoke(file)
            if file.stat().st_ctime == second:  # else the ctime tells
                statuses.append(user.write(fh, b"z", stable=UNSTABLE).status)
            if len(statuses) == TRIES:
                break
        nfs.close()
    assert statuses == [ACCES] * TRIES
