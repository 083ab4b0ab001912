"""Full, read-only and vanished file systems (faults F16, F19, F20; attack B15), and restarts of the whole set (F08, F40)."""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    BADHANDLE,
    EXCLUSIVE,
    FILE_SYNC,
    GUARDED,
    NF3FIFO,
    NOENT,
    NOSPC,
    OK,
    ROFS,
    STALE,
    UNSTABLE,
    Nfs3,
    Proc,
    Sattr3,
    pack_MKDIR3args,
    unpack_result,
)
from tests.tools.rpc import ROOT, auth_sys, exchange
from tests.tools.servers import ServerSet, wait_until

pytestmark = [pytest.mark.root, pytest.mark.kills]
USER = auth_sys(1000, 1000)
SMALL = "size=1m,nr_inodes=32,mode=1777"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{command[0]}: {done.stderr.strip()}")


class Mounted:
    """A file system mounted in a directory of its own, exported by a server of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.export = base, base / "fs"
        self.export.mkdir()
        (base / "server").mkdir()
        self.server = ServerSet(base / "server", f'"{self.export}" 127.0.0.0/8(rw,no_root_squash,insecure)\n')

    def client(self) -> tuple[Nfs3, bytes]:
        return self.server.client(ROOT), self.server.root(self.export)


def make(kind: str) -> Iterator[Mounted]:
    base = Path(tempfile.mkdtemp(prefix="nfs3-"))
    base.chmod(0o755)
    mounted = Mounted(base)
    try:
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", SMALL, "nfs3-test", str(mounted.export))
        else:
            make_image(base / "image")
            run("mount", "-o", "loop", str(base / "image"), str(mounted.export))
            mounted.export.chmod(0o1777)
        try:
            with mounted.server:
                yield mounted
        finally:
            subprocess.run(["umount", str(mounted.export)], check=True)
    finally:
        shutil.rmtree(base)


def make_image(path: Path) -> None:
    """An ext4 of 16 MiB, a quarter of it reserved for root."""
    with path.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", "-m", "25", "-F", str(path))


@pytest.fixture
def tmpfs() -> Iterator[Mounted]:
    yield from make("tmpfs")


@pytest.fixture
def ext4() -> Iterator[Mounted]:
    yield from make("ext4")


def fill(nfs: Nfs3, fh: bytes) -> int:
    """Writes until NOSPC; the bytes that were taken."""
    size, res = 0, nfs.write(fh, bytes(65536), 0)
    while res.ok:
        assert 0 < res.count <= 65536
        size += res.count
        res = nfs.write(fh, bytes(65536), size)
    assert res.status == NOSPC
    return size


def test_write_to_a_full_file_system_is_nospc_and_remove_works(tmpfs: Mounted) -> None:
    """F16: what was acknowledged is there, the rest is refused, and room can be made."""
    nfs, top = tmpfs.client()
    fh = nfs.create(top, b"big").must().h
    size = fill(nfs, fh)
    assert (tmpfs.export / "big").stat().st_size == size >= 512 << 10
    assert nfs.remove(top, b"big").ok
    assert nfs.write(nfs.create(top, b"again").must().h, b"x").ok
    nfs.close()


def test_making_names_without_inodes_is_nospc(tmpfs: Mounted) -> None:
    nfs, top = tmpfs.client()
    number = 0
    while (res := nfs.create(top, b"%d" % number)).ok:
        number += 1
    assert res.status == NOSPC
    for other in (nfs.mkdir(top, b"d"), nfs.symlink(top, b"l", b"target" * 20), nfs.mknod(top, b"f", NF3FIFO),
                  nfs.create(top, b"g", mode=GUARDED), nfs.create(top, b"e", mode=EXCLUSIVE, verf=b"12345678")):
        assert other.status == NOSPC
    assert nfs.remove(top, b"0").ok and nfs.mkdir(top, b"d").ok
    nfs.close()


def test_fsstat_of_a_full_file_system_has_no_room(tmpfs: Mounted) -> None:
    nfs, top = tmpfs.client()
    fill(nfs, nfs.create(top, b"big").must().h)
    info = nfs.fsstat(top).must().info
    assert info is not None and info["abytes"] < 65536
    nfs.close()


def test_reserved_blocks_are_not_for_users(ext4: Mounted) -> None:
    """B15: the kernel's judgement by fsuid and capabilities: a user stops where the reserve begins, root goes on."""
    nfs, top = ext4.client()
    fh = nfs.as_(USER).create(top, b"user", Sattr3(mode=0o600)).must().h
    size = fill(nfs.as_(USER), fh)
    reserve = os.statvfs(ext4.export)
    assert reserve.f_bavail * reserve.f_frsize < 1 << 20 < reserve.f_bfree * reserve.f_frsize
    assert (ext4.export / "user").stat().st_size == size
    nfs.close()


def test_file_system_remounted_read_only_is_rofs_and_reads_go_on(ext4: Mounted) -> None:
    """F19."""
    nfs, top = ext4.client()
    fh = nfs.create(top, b"file").must().h
    nfs.write(fh, b"content", stable=FILE_SYNC).must()
    run("mount", "-o", "remount,ro", str(ext4.export))
    for res in (nfs.write(fh, b"x"), nfs.create(top, b"new"), nfs.mkdir(top, b"d"), nfs.remove(top, b"file"),
                nfs.setattr(fh, Sattr3(mode=0o600)), nfs.rename(top, b"file", top, b"other"), nfs.symlink(top, b"l", b"t"),
                nfs.link(fh, top, b"other")):
        assert res.status == ROFS
    assert nfs.read(fh).must().data == b"content"
    run("mount", "-o", "remount,rw", str(ext4.export))
    assert nfs.write(fh, b"CON").ok
    nfs.close()


def test_another_disk_at_the_same_place_is_not_the_first_and_the_first_comes_back(ext4: Mounted) -> None:
    """F20: taken out of the exports it can be unmounted; while another is there its handles are STALE, and then good again."""
    nfs, top = ext4.client()
    fh = nfs.create(top, b"file").must().h
    nfs.write(fh, b"content", stable=FILE_SYNC).must()
    make_image(ext4.base / "other")
    line = f'"{ext4.export}" 127.0.0.0/8(rw,no_root_squash,insecure)\n'

    def swap(image: str) -> None:
        """HUP without the export, the other disk, HUP with it."""
        ext4.server.reload("")
        wait_until(lambda: subprocess.run(["umount", str(ext4.export)], stderr=subprocess.DEVNULL).returncode == 0,
                   deadline_s=60, what="umount")
        assert nfs.getattr(fh).status in (STALE, BADHANDLE)
        run("mount", "-o", "loop", str(ext4.base / image), str(ext4.export))
        ext4.server.reload(line)
        wait_until(lambda: mounts(ext4), deadline_s=15, what="the export is back")

    swap("other")
    assert nfs.getattr(fh).status == STALE
    assert nfs.getattr(top).status == STALE
    assert nfs.lookup(ext4.server.root(ext4.export), b"file").status == NOENT
    swap("image")
    assert nfs.read(fh).must().data == b"content"
    assert ext4.server.root(ext4.export) == top
    nfs.close()


def mounts(mounted: Mounted) -> bool:
    mount = mounted.server.mount()
    with closing(mount.transport):
        return mount.mnt(os.fsencode(mounted.export)).status == 0


# --- restarts -------------------------------------------------------------------------------------------------------------

@pytest.fixture
def plain() -> Iterator[Mounted]:
    """A directory of the temporary file system, and a server that the test starts and stops itself."""
    base = Path(tempfile.mkdtemp(prefix="nfs3-"))
    base.chmod(0o755)
    made = Mounted(base)
    made.export.chmod(0o777)
    yield made
    shutil.rmtree(base)


def test_restart_keeps_handles_cookies_and_the_exclusive_verifier(plain: Mounted) -> None:
    """Clients do not notice: handles, READDIR cookies and the verifier of CREATE EXCLUSIVE hold over a clean restart."""
    verf = b"verifier"
    with plain.server, closing(plain.server.client()) as nfs:
        top = plain.server.root(plain.export)
        fh = nfs.create(top, b"x", mode=EXCLUSIVE, verf=verf).must().h
        for number in range(100):
            (plain.export / f"file-{number}").touch()
        first = nfs.readdir(top, count=1024).must()
    with plain.server, closing(plain.server.client()) as nfs:
        assert nfs.getattr(fh).ok and nfs.getattr(top).ok
        assert nfs.create(top, b"x", mode=EXCLUSIVE, verf=verf).must().h == fh
        names = [entry.name for entry in first.entries]
        cookie, last, eof = first.entries[-1].cookie, first.verf, False
        while not eof:
            res = nfs.readdir(top, cookie, last, count=1024).must()
            names += [entry.name for entry in res.entries]
            cookie, last, eof = res.entries[-1].cookie if res.entries else cookie, res.verf, res.eof
        assert len(names) == len(set(names)) == 103


def test_restart_keeps_the_export_of_a_removed_file_stale(plain: Mounted) -> None:
    with plain.server, closing(plain.server.client()) as nfs:
        fh = nfs.create(plain.server.root(plain.export), b"x").must().h
    (plain.export / "x").unlink()
    with plain.server, closing(plain.server.client()) as nfs:
        assert nfs.getattr(fh).status == STALE


def test_restart_with_another_key_makes_every_handle_stale(plain: Mounted) -> None:
    """C07: handles of the old key are refused, none opens anything."""
    for number, good in enumerate((True, True, False)):
        key = plain.base / ("key" if good else "other")
        plain.server.options = ("--key", str(key))
        with plain.server, closing(plain.server.client()) as nfs:
            if number == 0:
                handles = [plain.server.root(plain.export), nfs.create(plain.server.root(plain.export), b"x").must().h]
            statuses = {nfs.getattr(fh).status for fh in handles}
            assert statuses == {OK} if good else statuses <= {STALE, BADHANDLE}


def test_restart_answers_a_retransmission_of_before(plain: Mounted) -> None:
    """The reply cache lies in the state file, which outlives the master of the same boot."""
    with plain.server, closing(plain.server.client()) as nfs:
        call = nfs.message(Proc.MKDIR, pack_MKDIR3args(plain.server.root(plain.export), b"d", Sattr3(mode=0o755)))
        first = exchange(nfs.transport, call)
        assert unpack_result(Proc.MKDIR, first.body).status == OK
    with plain.server, closing(plain.server.client()) as nfs:
        assert exchange(nfs.transport, call) == first


def test_clean_restart_keeps_the_write_verifier_of_committed_data(plain: Mounted) -> None:
    with plain.server, closing(plain.server.client()) as nfs:
        fh = nfs.create(plain.server.root(plain.export), b"x").must().h
        nfs.write(fh, b"data", stable=UNSTABLE).must()
        verf = nfs.commit(fh).must().verf
    with plain.server, closing(plain.server.client()) as nfs:
        assert nfs.commit(fh).must().verf == verf
