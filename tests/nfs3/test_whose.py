"""Whose ids each system call runs under: strace shows every change of identity of a thread and what it does then (attack B07)."""
from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.nfs3 import (
    GUARDED,
    NF3FIFO,
    Proc,
    Sattr3,
    pack_CREATE3args,
    pack_diropargs3,
    pack_LINK3args,
    pack_MKDIR3args,
    pack_MKNOD3args,
    pack_RENAME3args,
    pack_SETATTR3args,
    pack_SYMLINK3args,
    pack_WRITE3args,
    unpack_result,
)
from tests.tools.rpc import Auth, Call, auth_sys, pipeline
from tests.tools.strace import straced

from .conftest import Spot

pytestmark = [pytest.mark.root]
CHANGES = "mkdirat,openat,symlinkat,mknodat,linkat,renameat,renameat2,unlinkat,fchownat,utimensat,ftruncate"
IDENTITY = "setfsuid,setgroups"
GROUPS = {0: (7,), 1000: (5, 6), 2000: (), 3000: (6,), 65536: (5,)}   # of each user
CALLS = 400


@contextmanager
def shown(spot: Spot) -> Iterator[Path]:
    """While in it strace writes down identities and changes of all threads of the workers."""
    log = spot.server.directory / "whose.log"
    with straced(spot.server.worker_pids(), log, "-y", "-s", "64", "-e", f"trace={IDENTITY},{CHANGES}"):
        yield log


def cred_of(uid: int) -> Auth:
    return auth_sys(uid, uid, GROUPS[uid])


def some_call(rnd: random.Random, spot: Spot, folders: list[bytes], files: list[bytes]) -> Call:
    """A change by a random user, allowed or not, of a name that says whose it is."""
    uid, folder = rnd.choice(list(GROUPS)), rnd.choice(folders)
    name, other = (b"u%d-%d" % (uid, rnd.randrange(6)) for _ in range(2))
    attr = Sattr3(mode=0o666, mtime=(1, 2)) if rnd.random() < 0.5 else Sattr3(mode=0o644)
    proc, args = rnd.choice((
        (Proc.CREATE, pack_CREATE3args(folder, name, GUARDED, attr)), (Proc.MKDIR, pack_MKDIR3args(folder, name, attr)),
        (Proc.SYMLINK, pack_SYMLINK3args(folder, name, attr, b"target")),
        (Proc.MKNOD, pack_MKNOD3args(folder, name, NF3FIFO, attr, (0, 0))), (Proc.REMOVE, pack_diropargs3(folder, name)),
        (Proc.RMDIR, pack_diropargs3(folder, name)), (Proc.LINK, pack_LINK3args(rnd.choice(files), folder, name)),
        (Proc.RENAME, pack_RENAME3args(folder, name, rnd.choice(folders), other)),
        (Proc.WRITE, pack_WRITE3args(rnd.choice(files), 0, b"data", rnd.randrange(3))),
        (Proc.SETATTR, pack_SETATTR3args(rnd.choice(files), Sattr3(mode=0o600), None)),
    ))
    return Call(100003, 3, proc, args, cred_of(uid))


def test_every_change_runs_under_its_callers_ids(spot: Spot) -> None:
    """Users in turns on one connection, often refused: no refusal, and no thread, leaves its ids to the next."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rnd = random.Random(seed)
    folders = [spot.fh, spot.dir(b"everybody", 0o1777), spot.dir(b"private", 0o700), spot.dir(b"group", 0o2770)]
    files = [spot.file(b"u%d-file" % uid, b"data", 0o600) for uid in GROUPS]
    for uid in GROUPS:
        shutil.chown(spot.local(b"u%d-file" % uid), uid, uid)
    shutil.chown(spot.local(b"private"), 1000, 1000)
    shutil.chown(spot.local(b"group"), 0, 6)
    calls = [some_call(rnd, spot, folders, files) for _ in range(CALLS)]
    with shown(spot) as log:
        replies = list(pipeline(spot.nfs.transport, calls))
    refused = sum(not unpack_result(Proc(call.proc), reply.body).ok for call, reply in zip(calls, replies, strict=True))
    assert CALLS / 10 < refused < CALLS * 9 / 10
    seen = whose(log.read_text())
    assert {uid for uid, _, _ in seen} == set(GROUPS) and len(seen) > CALLS / 4
    assert [what for what in seen if (what[1], what[2]) != (what[0], GROUPS[what[0]])] == []


def whose(log: str) -> list[tuple[int, int, tuple[int, ...]]]:
    """(user of the name, fsuid, groups) of each change that names a user's object.  A thread counts from its first change on."""
    ids: dict[str, tuple[int, tuple[int, ...]]] = {}
    groups: dict[str, tuple[int, ...]] = {}
    seen = []
    for line in log.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if (got := re.match(r"setgroups\(\d+, (?:\[([\d, ]*)\]|NULL)", call)):
            groups[thread] = tuple(int(gid) for gid in (got[1] or "").split(", ") if gid)
        elif (got := re.match(r"setfsuid\((\d+)", call)):
            ids[thread] = int(got[1]), groups.get(thread, ())
        elif thread in ids and (got := changed(call)):
            seen.append((int(got[1]), *ids[thread]))
    return seen


def changed(call: str) -> re.Match[str] | None:
    """The user's name in a system call that changes something; opening what is there changes nothing."""
    if call.startswith("openat") and "O_CREAT" not in call:
        return None
    return re.match(r"\w+\(.*?u(\d+)-\d", call) if re.match(CHANGES.replace(",", "|"), call) else None
