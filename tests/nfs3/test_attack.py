"""What one caller's rights, or an older export table, must not do for another: found by reading the engine as an attacker."""
from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs3 import INVAL, Nfs3, Sattr3
from tests.tools.rpc import auth_sys
from tests.tools.servers import wait_until
from tests.tools.worker import OneWorker, export_of

from .conftest import ME, Spot


def settled(path: Path) -> None:
    """Waits until the directory's ctime is older than the tick of the clock: only then is its listing kept."""
    wait_until(lambda: time.time_ns() - path.stat().st_ctime_ns > 30_000_000, deadline_s=5, what="a quiet directory")


@pytest.mark.root
def test_readdirplus_without_search_permission_gives_names_and_nothing_else(spot: Spot) -> None:
    """Another's listing was kept with handles: whoever may read the directory but not search it must not get them."""
    fh = spot.dir(b"d", mode=0o744)
    for i in range(3):
        (spot.local(b"d") / f"f{i}").write_bytes(b"secret")
    settled(spot.local(b"d"))
    root = spot.nfs.readdirplus(fh).must()
    assert all(entry.fh for entry in root.entries if entry.name.startswith(b"f"))
    res = spot.as_(auth_sys(1000, 1000)).readdirplus(fh).must()
    files = [entry for entry in res.entries if entry.name.startswith(b"f")]
    assert len(files) == 3
    assert [(entry.fh, entry.attr) for entry in files] == [(None, None)] * 3


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[OneWorker]:
    """One worker with three directories a, b, c, of which it exports a and b as 1 and 2."""
    for name in ("server", "a", "b", "c"):
        (tmp_path / name).mkdir()
    with OneWorker(tmp_path / "server", [export_of(tmp_path / "a", 1), export_of(tmp_path / "b", 2)]) as running:
        yield running


def test_reload_gives_cached_objects_the_flags_of_their_own_export(worker: OneWorker, tmp_path: Path) -> None:
    """The place of an export in the table changes with the table; an object that was met before must not keep the old place."""
    (tmp_path / "b" / "f").touch()
    (tmp_path / "b" / "f").chmod(0o711)
    nfs = Nfs3(worker.tcp(), ME)
    fh = worker.root(2)
    assert nfs.lookup(fh, b"f").must().a.mode == 0o711
    worker.load([export_of(tmp_path / "b", 2), export_of(tmp_path / "c", 3, Ex.READABLE_EXEC)])
    assert nfs.lookup(fh, b"f").must().a.mode == 0o711
    nfs.close()


@pytest.mark.parametrize("attr", [Sattr3(uid=0xFFFFFFFF), Sattr3(gid=0xFFFFFFFF)], ids=["uid", "gid"])
def test_setattr_of_an_id_that_is_none_is_invalid(spot: Spot, attr: Sattr3) -> None:
    """chown(2) takes -1 as "leave it": OK would claim what did not happen."""
    fh = spot.file()
    assert spot.nfs.setattr(fh, attr).status == INVAL


@pytest.mark.root
def test_lookup_of_dotdot_above_which_the_caller_may_not_search(spot: Spot) -> None:
    """The server's own climb to the export's root asks for no right of the caller's."""
    top = spot.dir(b"top", mode=0o700)
    (spot.local(b"top") / "mid").mkdir()
    (spot.local(b"top") / "mid").chmod(0o755)
    (spot.local(b"top") / "mid" / "low").mkdir()
    mid = spot.nfs.lookup(top, b"mid").must().h
    low = spot.nfs.lookup(mid, b"low").must().h
    assert spot.as_(auth_sys(1000, 1000)).lookup(low, b"..").must().h == mid


@contextmanager
def tmpfs(at: Path) -> Iterator[None]:
    """A file system in memory mounted at `at`; the block may unmount it itself."""
    subprocess.run(["mount", "-t", "tmpfs", "nfs3-test", str(at)], check=True)
    try:
        yield
    finally:
        if os.path.ismount(at):
            subprocess.run(["umount", "-l", str(at)], check=True)


def unmounted(at: Path) -> bool:
    return subprocess.run(["umount", str(at)], stderr=subprocess.DEVNULL).returncode == 0


@pytest.mark.root
def test_file_system_can_be_unmounted_when_it_is_exported_no_more(worker: OneWorker, tmp_path: Path) -> None:
    """The descriptor for its handles goes with the last export and object on it."""
    with tmpfs(tmp_path / "c"):
        worker.load([export_of(tmp_path / "b", 2), export_of(tmp_path / "c", 3)])
        nfs = Nfs3(worker.tcp(), ME)
        nfs.create(worker.root(3), b"f").must()
        worker.load([export_of(tmp_path / "b", 2)])
        wait_until(lambda: unmounted(tmp_path / "c"), deadline_s=5, what="umount")
        nfs.close()


@pytest.mark.root
def test_handle_below_a_crossmnt_export_after_another_file_system_came_to_the_same_place(tmp_path: Path) -> None:
    """A worker that knew the first one takes a handle of the second, which another worker gave out."""
    for name in ("server", "other", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "m").mkdir()
    exports = [export_of(tmp_path / "a", 1, Ex.CROSSMNT)]
    with tmpfs(tmp_path / "a" / "m"), OneWorker(tmp_path / "server", exports) as one:
        shutil.copy(tmp_path / "server" / "key", tmp_path / "other" / "key")
        with OneWorker(tmp_path / "other", exports) as two:
            first, second = Nfs3(one.tcp(), ME), Nfs3(two.tcp(), ME)
            below = first.lookup(one.root(1), b"m").must().h
            second.getattr(below).must()
            subprocess.run(["umount", "-l", str(tmp_path / "a" / "m")], check=True)
            with tmpfs(tmp_path / "a" / "m"):
                below = first.lookup(one.root(1), b"m").must().h
                second.getattr(below).must()
            first.close()
            second.close()
