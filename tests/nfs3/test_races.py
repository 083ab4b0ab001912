"""Calls that race with local processes and with each other: always the object that the handle names, always the caller's ids."""
from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from tests.tools.nfs3 import ACCES, EXIST, GUARDED, JUKEBOX, NFS, NOENT, STALE, Proc, Sattr3, pack_CREATE3args, unpack_result
from tests.tools.rpc import Call, Tcp, auth_sys, pipeline

from .conftest import Spot

SWAP = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
while os.path.exists("."):
    os.rename("a", "t"); os.rename("b", "a"); os.rename("t", "b")
"""
REMAKE = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
number = 0
while os.path.exists("."):
    number += 1
    with open("new", "w") as file:
        file.write("other %d" % number)
    os.rename("new", "a")
    os.unlink("a")
"""


SHRINK = """
import os, sys
os.chdir(sys.argv[1])
print("ready", flush=True)
fd, whole = os.open("a", os.O_RDWR), b"x" * (1 << 20)
while os.path.exists("a"):
    os.ftruncate(fd, 0)
    os.pwrite(fd, whole, 0)
    os.ftruncate(fd, 5000)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, whole, 0)
"""


@contextmanager
def racing(spot: Spot, script: str) -> Iterator[None]:
    """A local process that runs `script` in the test's directory until the end of the block."""
    with subprocess.Popen([sys.executable, "-I", "-c", script, str(spot.path)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def test_handle_is_its_object_while_names_are_swapped(spot: Spot) -> None:
    """READ, WRITE, GETATTR and SETATTR by handle, while another process swaps the two names all the time."""
    one, two = spot.file(b"a", b"1" * 64), spot.file(b"b", b"2" * 64)
    inodes = spot.nfs.getattr(one).must().a.fileid, spot.nfs.getattr(two).must().a.fileid
    with racing(spot, SWAP):
        for turn in range(500):
            assert spot.nfs.getattr(one).must().a.fileid == inodes[0]
            assert spot.nfs.read(one, 1).must().data == b"1" * 63 and spot.nfs.read(two, 1).must().data == b"2" * 63
            spot.nfs.write(one, b"1", 0).must()
            spot.nfs.write(two, b"2", 0).must()
            spot.nfs.setattr(one, Sattr3(mode=0o600 + turn % 64)).must()
            assert spot.nfs.getattr(two).must().a.mode == 0o644
    assert spot.nfs.read(one).must().data == b"1" * 64 and spot.nfs.read(two).must().data == b"2" * 64


def test_lookup_while_names_are_swapped_gives_handle_and_attributes_of_one_object(spot: Spot) -> None:
    handles = {spot.file(b"a", b"1"): 0, spot.file(b"b", b"22"): 0}
    inodes = {fh: spot.nfs.getattr(fh).must().a.fileid for fh in handles}
    with racing(spot, SWAP):
        for _ in range(1000):
            res = spot.nfs.lookup(spot.fh, b"a")
            assert res.ok or res.status == NOENT
            assert not res.ok or (res.fh in inodes and res.a.fileid == inodes[res.h])


def test_readdirplus_while_names_are_swapped_pairs_handles_and_attributes(spot: Spot) -> None:
    for name in (b"a", b"b"):
        spot.file(name, name * 7)
    inodes = {spot.nfs.lookup(spot.fh, name).must().h: spot.local(name).stat().st_ino for name in (b"a", b"b")}
    with racing(spot, SWAP):
        for _ in range(300):
            for entry in spot.nfs.list(spot.fh, plus=True):
                if entry.fh in inodes and entry.attr is not None:
                    assert entry.attr.fileid == inodes[entry.fh]


def test_handle_of_a_removed_file_never_reaches_its_successors(spot: Spot) -> None:
    """The name is made anew thousands of times; the first handle stays stale, and WRITE through it changes none of them.

    JUKEBOX (ask again) is what remains of the moment in which the kernel gives the inode number to a new file.
    """
    fh = spot.file(b"a", b"first")
    spot.nfs.read(fh).must()
    spot.local(b"a").unlink()
    with racing(spot, REMAKE):
        for _ in range(1000):
            assert spot.nfs.read(fh).status in (STALE, JUKEBOX)
            assert spot.nfs.write(fh, b"X" * 40).status in (STALE, JUKEBOX)
    assert spot.nfs.read(fh).status == STALE
    for name in os.listdir(spot.path):
        assert not spot.local(os.fsencode(name)).read_bytes().startswith(b"X")


def test_read_of_a_file_that_shrinks_and_grows_is_whole_or_the_connection_ends(spot: Spot) -> None:
    """Large READs while another process truncates the file: each reply is consistent, no byte is not the file's."""
    size = 1 << 20
    fh, closed = spot.file(b"a", b"x" * size), 0
    client = spot.server.client(spot.nfs.cred)
    with racing(spot, SHRINK):
        for _ in range(300):
            try:
                res = client.read(fh, 0, size).must()
            except (EOFError, ConnectionError):  # better than a record of the wrong length
                closed += 1
                client = spot.server.client(spot.nfs.cred)
                continue
            assert set(res.data) <= {0, ord("x")} and (res.eof or res.data)
    client.close()
    assert closed < 300


def test_create_guarded_by_many_is_won_by_one(spot: Spot) -> None:
    """Eight connections make the same 100 names: each name has one winner."""
    def work(number: int) -> list[bytes]:
        with closing(spot.server.client(spot.nfs.cred)) as client:
            results = [(client.create(spot.fh, b"%d" % name, mode=GUARDED), b"%d" % name) for name in range(100)]
        assert {res.status for res, _ in results} <= {0, EXIST}
        return [name for res, name in results if res.ok]

    with ThreadPoolExecutor(8) as pool:
        won = [name for part in pool.map(work, range(8)) for name in part]
    assert sorted(won) == sorted(b"%d" % name for name in range(100))


def test_appends_of_one_size_by_many_leave_no_torn_record(spot: Spot) -> None:
    """Sixteen writers, each its own records of 100 bytes; every record is whole afterwards."""
    fh = spot.file()

    def work(number: int) -> None:
        with closing(spot.server.client(spot.nfs.cred)) as client:
            for turn in range(50):
                client.write(fh, bytes([65 + number]) * 100, (turn * 16 + number) * 100).must()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    data = spot.local(b"file").read_bytes()
    assert len(data) == 16 * 50 * 100
    for index in range(16 * 50):
        assert data[index * 100:index * 100 + 100] == bytes([65 + index % 16]) * 100


@pytest.mark.root
def test_users_mixed_over_connections_and_workers_own_what_they_make(spot: Spot) -> None:
    """Eight connections, five users on each, 32 calls in flight: every file belongs to the uid and gid of its call."""
    users = [(0, 0), (1000, 1000), (1001, 2001), (65536, 65536), (4_000_000_000, 7)]

    def work(number: int) -> None:
        rng = random.Random(number)
        with closing(Tcp(spot.server.address, timeout_s=30)) as transport:
            for start in range(0, 320, 32):
                made = [(b"%d-%d" % (number, start + at), rng.choice(users)) for at in range(32)]
                calls = [Call(NFS, 3, Proc.CREATE, pack_CREATE3args(spot.fh, name, GUARDED, Sattr3(mode=0o600)), auth_sys(*user))
                         for name, user in made]
                for reply, (_, user) in zip(pipeline(transport, calls), made, strict=True):
                    attr = unpack_result(Proc.CREATE, reply.body).must().a
                    assert (attr.uid, attr.gid) == user
                for name, user in made:
                    info = spot.local(name).stat()
                    assert (info.st_uid, info.st_gid) == user

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.root
def test_reads_of_mixed_users_get_what_each_may_read(spot: Spot) -> None:
    """Descriptors and verdicts are cached by caller: 8 connections read 0600 files of four users, right and wrong."""
    owners = [1000, 1001, 1002, 1003]
    handles = {uid: spot.file(b"%d" % uid, b"secret of %d" % uid, 0o600) for uid in owners}
    for uid in owners:
        os.chown(spot.local(b"%d" % uid), uid, uid)

    def work(number: int) -> None:
        rng = random.Random(number)
        with closing(spot.server.client(spot.nfs.cred)) as client:
            for _ in range(300):
                uid, target = rng.choice(owners), rng.choice(owners)
                res = client.as_(auth_sys(uid, uid)).read(handles[target])
                if uid == target:
                    assert res.must().data == b"secret of %d" % uid
                else:
                    assert res.status == ACCES

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
