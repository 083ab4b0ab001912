"""The system fails in the middle of a call, or somebody steps in between two system calls of it: strace makes both happen."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCESS_READ, EXCLUSIVE, GUARDED, NF3FIFO, OK, Proc, Sattr3, pack_MKDIR3args, unpack_result
from tests.tools.rpc import auth_sys, receive
from tests.tools.servers import wait_until
from tests.tools.strace import straced

from .conftest import Spot

pytestmark = [pytest.mark.root]
USER = auth_sys(1000, 1000)
GAP_S = 1.0   # between a system call and the next: time for another program


@contextmanager
def injected(spot: Spot, call: str, what: str) -> Iterator[Path]:
    """While in it `what` happens to each such system call of the workers.  strace's log."""
    log = spot.server.directory / "injected.log"
    with straced(spot.server.worker_pids(), log, "-e", f"trace={call}", "-e", f"inject={call}:{what}"):
        yield log


def old_file(spot: Spot, name: bytes) -> bytes:
    """A file whose last change can be told from the next."""
    fh = spot.file(name, b"data", 0o644)
    born = spot.local(name).stat().st_ctime_ns
    probe = spot.path.parent / "probe"

    def later() -> bool:
        probe.touch()
        return probe.stat().st_ctime_ns > born + 50_000_000

    wait_until(later, deadline_s=5, what="the clock of the file system")
    probe.unlink()
    return fh


@pytest.mark.parametrize("error", ["EIO", "ENOMEM"])
def test_a_question_about_rights_that_failed_is_no_answer(spot: Spot, error: str) -> None:
    """What the kernel could not tell once is not kept as a refusal for as long as the file stands."""
    fh, user = old_file(spot, b"readable"), spot.as_(USER)
    with injected(spot, "faccessat2", f"error={error}"):
        assert not user.access(fh, ACCESS_READ).access
    assert user.access(fh, ACCESS_READ).must().access == ACCESS_READ
    assert user.read(fh).must().data == b"data"


def test_what_was_made_without_a_descriptor_left_is_made(spot: Spot) -> None:
    """Refused with JUKEBOX it would be asked for again, and be there then: EXIST to who made it himself."""
    with injected(spot, "openat", "error=EMFILE"):
        made = [spot.nfs.mkdir(spot.fh, b"folder"), spot.nfs.symlink(spot.fh, b"link", b"target"),
                spot.nfs.mknod(spot.fh, b"fifo", NF3FIFO)]
    assert [res.status for res in made] == [OK] * 3
    assert spot.local(b"folder").is_dir() and spot.local(b"link").is_symlink() and spot.local(b"fifo").is_fifo()


@pytest.mark.parametrize("how", [GUARDED, EXCLUSIVE])
def test_a_file_that_took_the_last_descriptor_is_made(spot: Spot, how: int) -> None:
    with injected(spot, "openat", "error=EMFILE:when=2+"), closing(spot.server.client(spot.nfs.cred)) as nfs:
        res = nfs.create(spot.fh, b"new", Sattr3(mode=0o640, mtime=(1, 2)), mode=how, verf=b"12345678")
    assert res.status == OK and spot.nfs.write(res.h, b"data").status == OK
    if how == GUARDED:
        assert spot.local(b"new").stat().st_mode & 0o777 == 0o640


def test_mkdir_does_not_dress_what_another_put_in_its_place(spot: Spot) -> None:
    """Between the two system calls somebody who may write there replaces the directory by a file, which stays as it was."""
    call = spot.nfs.message(Proc.MKDIR, pack_MKDIR3args(spot.fh, b"new", Sattr3(mode=0o700, uid=1000, gid=1000)))
    spot.local(b"file").write_bytes(b"another's")
    with injected(spot, "mkdirat", f"delay_exit={int(GAP_S * 1e6)}"):
        spot.nfs.transport.send(call.pack())
        wait_until(lambda: spot.local(b"new").exists(), deadline_s=10, what="the directory")
        spot.local(b"new").rmdir()
        spot.local(b"file").rename(spot.local(b"new"))
        res = unpack_result(Proc.MKDIR, receive(spot.nfs.transport, call.xid).body)
    assert res.status != OK
    assert spot.local(b"new").stat().st_uid == 0 and spot.local(b"new").read_bytes() == b"another's"


@pytest.mark.parametrize("nth", [1, 2])
def test_an_export_that_finds_no_descriptor_takes_an_objects(spot: Spot, nth: int) -> None:
    """Left out of the new table its handles would be STALE until the next one."""
    for number in range(8):
        spot.file(b"%d" % number)
    others = [spot.server.client(spot.nfs.cred) for _ in range(4)]   # so that each worker has objects
    for client in others:
        for number in range(8):
            client.lookup(spot.fh, b"%d" % number).must()
    generation = spot.server.status()["generation"]
    with injected(spot, "openat", f"error=EMFILE:when={nth}"):
        spot.server.reload(spot.server.exports_file.read_text())
        wait_until(lambda: spot.server.status()["generation"] > generation, deadline_s=10, what="the new table")
        assert spot.nfs.getattr(spot.fh).status == OK
    assert "Too many open files" not in spot.server.log()
    for client in others:
        client.close()
