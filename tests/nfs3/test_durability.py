"""What was acknowledged is on disk: the reply leaves after the fsync of all that changed, and a failed fsync is never an OK.

strace is the witness: it shows the order of system calls, and makes fsync fail.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    DATA_SYNC,
    EXCLUSIVE,
    FILE_SYNC,
    GUARDED,
    IO,
    NF3FIFO,
    NOSPC,
    OK,
    UNCHECKED,
    UNSTABLE,
    Proc,
    Res,
    Sattr3,
    pack_SETATTR3args,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.nfsacl import ACL, GROUP, GROUP_OBJ, MASK, OTHER, USER_OBJ, NfsAcl
from tests.tools.rpc import unpack_reply
from tests.tools.servers import wait_until
from tests.tools.strace import straced

from .conftest import Spot

SYNCS = "fsync,fdatasync,syncfs"
SLOW_S = 1.0   # the fsync that fails: time for another call to write and to wait
ENTRIES = ((USER_OBJ, 0, 6), (GROUP_OBJ, 0, 4), (GROUP, 4242, 6), (MASK, 0, 6), (OTHER, 0, 4))


@contextmanager
def watched(spot: Spot, *options: str) -> Iterator[Path]:
    """While in it, strace writes down what the workers sync and send; the log is whole after it."""
    log = spot.server.directory / "durable.log"
    with straced(spot.server.worker_pids(), log, "-y", "-xx", "-s", "8", *options):
        yield log


class Place:
    """A directory with a file, a directory, a symbolic link and names to make; each operation changes its own names."""

    def __init__(self, spot: Spot) -> None:
        self.spot, self.nfs, self.top = spot, spot.nfs, spot.fh
        self.file, self.other = spot.file(data=b"data"), spot.dir(b"other")
        for name in ("goes", "moves", "strays", "sized"):
            spot.local(name.encode()).write_bytes(b"data")
        spot.local(b"empty").mkdir()
        spot.local(b"link").symlink_to("target")
        self.link = self.nfs.lookup(self.top, b"link").must().h

    def set_acl(self) -> int:
        client = NfsAcl(self.nfs.transport, self.nfs.cred)
        return client.setacl(self.file, ACL, ENTRIES, ()).status


# What each operation has to have on disk: names below the test's directory, "" being itself; "*" is the whole file system.
OPERATIONS: dict[str, tuple[Callable[[Place], Res | int], set[str]]] = {
    "WRITE FILE_SYNC": (lambda p: p.nfs.write(p.file, b"x", stable=FILE_SYNC), {"file"}),
    "WRITE DATA_SYNC": (lambda p: p.nfs.write(p.file, b"x", stable=DATA_SYNC), {"file"}),
    "COMMIT": (lambda p: p.nfs.commit(p.file), {"file"}),
    "CREATE": (lambda p: p.nfs.create(p.top, b"plain", Sattr3(mode=0o600), mode=GUARDED), {""}),
    "CREATE with times": (lambda p: p.nfs.create(p.top, b"timed", Sattr3(mode=0o600, mtime=(1, 2)), mode=GUARDED), {"", "timed"}),
    "CREATE EXCLUSIVE": (lambda p: p.nfs.create(p.top, b"only", mode=EXCLUSIVE, verf=b"12345678"), {"", "only"}),
    "CREATE of size 0": (lambda p: p.nfs.create(p.top, b"sized", Sattr3(size=0), mode=UNCHECKED), {"", "sized"}),
    "CREATE setuid": (lambda p: p.nfs.create(p.top, b"setuid", Sattr3(mode=0o4700), mode=GUARDED), {"", "setuid"}),
    "MKDIR setgid": (lambda p: p.nfs.mkdir(p.top, b"setgid", Sattr3(mode=0o2755)), {"", "setgid"}),
    "SYMLINK with an owner": (lambda p: p.nfs.symlink(p.top, b"owned", b"target", Sattr3(uid=1000)), {"*"}),
    "MKNOD with an owner": (lambda p: p.nfs.mknod(p.top, b"owned fifo", NF3FIFO, Sattr3(mode=0o600, uid=1000)), {"*"}),
    "MKDIR": (lambda p: p.nfs.mkdir(p.top, b"folder"), {""}),
    "SYMLINK": (lambda p: p.nfs.symlink(p.top, b"pointer", b"target"), {""}),
    "MKNOD": (lambda p: p.nfs.mknod(p.top, b"fifo", NF3FIFO), {""}),
    "REMOVE": (lambda p: p.nfs.remove(p.top, b"goes"), {""}),
    "RMDIR": (lambda p: p.nfs.rmdir(p.top, b"empty"), {""}),
    "RENAME": (lambda p: p.nfs.rename(p.top, b"moves", p.top, b"moved"), {""}),
    "RENAME across": (lambda p: p.nfs.rename(p.top, b"strays", p.other, b"strayed"), {"", "other"}),
    "LINK": (lambda p: p.nfs.link(p.file, p.top, b"second"), {"", "file"}),
    "LINK of a link": (lambda p: p.nfs.link(p.link, p.top, b"pointed"), {"*"}),
    "SETATTR": (lambda p: p.nfs.setattr(p.file, Sattr3(mode=0o640)), {"file"}),
    "SETATTR size": (lambda p: p.nfs.setattr(p.file, Sattr3(size=1)), {"file"}),
    "SETATTR of a directory": (lambda p: p.nfs.setattr(p.other, Sattr3(mode=0o700)), {"other"}),
    "SETATTR of a link": (lambda p: p.nfs.setattr(p.link, Sattr3(mtime=(1, 2))), {"*"}),
    "SETACL": (lambda p: p.set_acl(), {"file"}),
}


def status_of(result: Res | int) -> int:
    return result if isinstance(result, int) else int(result.status)


@pytest.mark.root
def test_the_reply_leaves_after_all_that_changed_was_synced(spot: Spot) -> None:
    """Each operation under `sync`: fsync of every file and directory that it changed, then the reply (RFC 1813 section 4.8)."""
    place = Place(spot)
    place.nfs.write(place.file, b"unstable", stable=UNSTABLE).must()
    with watched(spot, "-e", f"trace={SYNCS},sendto") as log:
        for name, (operation, _) in OPERATIONS.items():
            assert status_of(operation(place)) == OK, name
    groups = synced_before_replies(log.read_text(), spot.path)
    assert len(groups) == len(OPERATIONS)
    for (name, (_, wanted)), synced in zip(OPERATIONS.items(), groups, strict=True):
        assert wanted <= synced, f"{name}: {sorted(synced)} were synced before the reply, not {sorted(wanted)}"


def synced_before_replies(log: str, top: Path) -> list[set[str]]:
    """For each reply in a log of strace what had been synced, with success, since the one before it."""
    groups: list[set[str]] = [set()]
    begun: dict[str, str] = {}
    for line in log.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if (started := re.match(r"(fsync|fdatasync|syncfs)\(\d+<([^>]*)>", call)):
            begun[pid] = "*" if started[1] == "syncfs" else plain(started[2], top)
        if re.search(r"(fsync|fdatasync|syncfs)( resumed>)?.*= 0$", call):
            groups[-1].add(begun[pid])
        if (sent := re.match(r"sendto\(\d+<([^>]*)>", call)) and plain(sent[1], top).startswith(("TCP", "socket")):
            groups.append(set())
    return groups[:-1]


def plain(path: str, top: Path) -> str:
    """strace's name of a descriptor, relative to the test's directory."""
    path = re.sub(r"(\\x[0-9a-f]{2})+", lambda found: bytes.fromhex(found[0].replace("\\x", "")).decode(), path)
    return path.removeprefix(str(top)).lstrip("/") if path.startswith(str(top)) else path


@pytest.mark.root
@pytest.mark.parametrize(("error", "wanted"), [("EIO", IO), ("EROFS", IO), ("ENOSPC", NOSPC)])
def test_no_operation_succeeds_whose_sync_failed(spot: Spot, error: str, wanted: int) -> None:
    """EROFS is what ext4 and btrfs say of a file system that they have given up: the data is as lost as with EIO."""
    place = Place(spot)
    verf = place.nfs.write(place.file, b"unstable", stable=UNSTABLE).must().verf
    with watched(spot, "-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:error={error}"):
        statuses = {name: status_of(operation(place)) for name, (operation, _) in OPERATIONS.items()}
    assert statuses == dict.fromkeys(OPERATIONS, wanted)
    assert place.nfs.commit(place.file).must().verf != verf, "who wrote unstably was not told to write again"


@pytest.mark.root
def test_a_failed_sync_is_that_of_all_who_waited_for_the_file(spot: Spot) -> None:
    """The kernel reports a failed write-back once and forgets the pages: a stable WRITE whose own fdatasync comes after the fsync
    that was told, another call's, has lost its data all the same."""
    place = Place(spot)
    place.nfs.write(place.file, b"x", stable=FILE_SYNC).must()   # from here on it is open for writing
    slow, lost = place.nfs.message(Proc.SETATTR, pack_SETATTR3args(place.file, Sattr3(mode=0o640), None)), \
        place.nfs.message(Proc.WRITE, pack_WRITE3args(place.file, 0, b"x", DATA_SYNC))
    with watched(spot, "-e", f"trace={SYNCS}", "-e", f"inject=fsync:error=EIO:delay_enter={int(SLOW_S * 1e6)}") as log:
        place.nfs.transport.send(slow.pack())
        wait_until(lambda: "fsync(" in log.read_text(), deadline_s=10, what="the fsync for SETATTR")
        place.nfs.transport.send(lost.pack())
        replies = {reply.xid: reply for reply in (unpack_reply(place.nfs.transport.recv()) for _ in range(2))}
    assert unpack_result(Proc.SETATTR, replies[slow.xid].body).status == IO
    assert unpack_result(Proc.WRITE, replies[lost.xid].body).status == IO


@pytest.mark.root
def test_a_sync_in_the_loop_that_fails_is_told(spot: Spot) -> None:
    """Without a descriptor to spare the file system of a symbolic link is synced at once, and its failure is the call's."""
    place = Place(spot)
    with watched(spot, "-e", f"trace={SYNCS},fcntl", "-e", "inject=syncfs:error=EIO", "-e", "inject=fcntl:error=EMFILE"):
        changed = place.nfs.setattr(place.link, Sattr3(mtime=(1, 2)))
        linked = place.nfs.link(place.link, place.top, b"new")
    assert (changed.status, linked.status) == (IO, IO)
