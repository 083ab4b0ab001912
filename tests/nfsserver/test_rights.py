"""What was found out about a caller's rights must not outlive a chmod(2), however coarse the clock of the file system is."""
from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, UNSTABLE, Nfs3
from tests.tools.rpc import auth_sys
from tests.tools.worker import OneWorker, export_of

from .test_fsid import Disks, disks  # noqa: F401

EXPORT = 1
TRIES = 8      # in some of them the worker's clock goes on between two calls, and it asks again anyway


@pytest.mark.root
def test_a_right_to_write_ends_with_a_chmod_in_the_same_second(disks: Disks, tmp_path: Path) -> None:  # noqa: F811
    """ext4 with small inodes has whole seconds: the ctime does not tell that the mode changed between two WRITEs."""
    place = tmp_path / "mnt"
    place.mkdir()
    (tmp_path / "server").mkdir()
    disks.mount(disks.image("coarse", "mkfs.ext4", "-q", "-I", "128"), place)
    place.chmod(0o777)
    statuses = set()
    with OneWorker(tmp_path / "server", [export_of(place, EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        user, root = nfs.as_(auth_sys(1000, 1000)), worker.root(EXPORT)
        for i in range(TRIES):
            file = place / f"file{i}"
            time.sleep(1 - time.time() % 1 + 0.02)
            file.touch()
            file.chmod(0o666)
            fh = nfs.lookup(root, os.fsencode(file.name)).must().h
            user.write(fh, b"x", stable=UNSTABLE).must()
            user.write(fh, b"y", stable=UNSTABLE).must()
            file.chmod(0o600)
            statuses.add(user.write(fh, b"z", stable=UNSTABLE).status)
        nfs.close()
    assert statuses == {ACCES}
