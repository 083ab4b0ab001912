"""Weak cache consistency (RFC 1813 section 2.6): what is before is before, what is after is after; D15."""
from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tools.nfs3 import EXCLUSIVE, GUARDED, NF3FIFO, Fattr3, Nfs3, Res, Sattr3, WccAttr, WccData

from .conftest import Spot


def wcc_of(attr: Fattr3) -> WccAttr:
    return WccAttr(attr.size, attr.mtime, attr.ctime)


CHANGES: dict[str, Callable[[Nfs3, bytes], Res]] = {
    "create": lambda nfs, fh: nfs.create(fh, b"new", mode=GUARDED),
    "exclusive": lambda nfs, fh: nfs.create(fh, b"new", mode=EXCLUSIVE, verf=b"12345678"),
    "mkdir": lambda nfs, fh: nfs.mkdir(fh, b"new"),
    "symlink": lambda nfs, fh: nfs.symlink(fh, b"new", b"target"),
    "mknod": lambda nfs, fh: nfs.mknod(fh, b"new", NF3FIFO),
    "remove": lambda nfs, fh: nfs.remove(fh, b"file"),
    "rmdir": lambda nfs, fh: nfs.rmdir(fh, b"dir"),
    "rename": lambda nfs, fh: nfs.rename(fh, b"file", fh, b"renamed"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_wcc_of_the_directory_is_before_and_after(spot: Spot, name: str) -> None:
    """before: as GETATTR said just before, or absent; after: as GETATTR says now."""
    spot.file()
    spot.dir()
    before = spot.nfs.getattr(spot.fh).must().a
    res = CHANGES[name](spot.nfs, spot.fh).must()
    after = spot.nfs.getattr(spot.fh).must().a
    assert res.wcc is not None and res.wcc.after is not None
    assert res.wcc.before in (None, wcc_of(before))
    assert wcc_of(res.wcc.after) == wcc_of(after)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_wcc_of_a_failed_change_has_the_state_of_the_directory(spot: Spot, name: str) -> None:
    """Section 3.3: wcc_data also on failure, where the handle was good."""
    spot.local(b"new").mkdir()
    before = spot.nfs.getattr(spot.fh).must().a
    res = CHANGES[name](spot.nfs, spot.fh)
    assert not res.ok and res.wcc is not None and res.wcc.after is not None
    assert wcc_of(res.wcc.after) == wcc_of(before)
    assert res.wcc.before in (None, wcc_of(before))


@pytest.mark.parametrize("attr", [Sattr3(mode=0o600), Sattr3(size=1), Sattr3(mtime=(1, 2)), Sattr3()])
def test_wcc_of_setattr(spot: Spot, attr: Sattr3) -> None:
    fh = spot.file(data=b"abc")
    before = spot.nfs.getattr(fh).must().a
    res = spot.nfs.setattr(fh, attr).must()
    assert res.wcc is not None and res.wcc.after is not None
    assert res.wcc.before in (None, wcc_of(before))
    assert wcc_of(res.wcc.after) == wcc_of(spot.nfs.getattr(fh).must().a)


def test_wcc_of_write_and_commit(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    before = spot.nfs.getattr(fh).must().a
    res = spot.nfs.write(fh, b"defg").must()
    assert res.wcc is not None and res.wcc.before in (None, wcc_of(before))
    now = spot.nfs.getattr(fh).must().a
    assert res.wcc.after is not None and wcc_of(res.wcc.after) == wcc_of(now)
    commit = spot.nfs.commit(fh).must()
    assert commit.wcc is not None and commit.wcc.before in (None, wcc_of(now))


def test_wcc_of_rename_is_of_both_directories(spot: Spot) -> None:
    spot.file()
    to = spot.dir()
    res = spot.nfs.rename(spot.fh, b"file", to, b"file").must()
    assert res.wcc is not None and res.wcc.after is not None and res.wcc2 is not None and res.wcc2.after is not None
    assert res.wcc.after.fileid == spot.path.stat().st_ino
    assert res.wcc2.after.fileid == spot.local(b"dir").stat().st_ino


def test_wcc_of_link_has_the_new_link_count(spot: Spot) -> None:
    res = spot.nfs.link(spot.file(), spot.fh, b"second").must()
    assert res.a.nlink == 2 and res.wcc is not None and res.wcc.after is not None


def _ctimes(wcc: WccData | None) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    assert wcc is not None and wcc.after is not None
    return (wcc.before.ctime if wcc.before else None), wcc.after.ctime


def test_wcc_before_is_never_later_than_after_under_eight_writers(spot: Spot) -> None:
    """D15: eight connections change one directory; each pair of one reply is in order, and a `before` is a state someone left."""
    def work(number: int) -> list[tuple[tuple[int, int] | None, tuple[int, int]]]:
        client, pairs = spot.server.client(spot.nfs.cred), []
        for turn in range(40):
            name = b"%d-%d" % (number, turn)
            pairs.append(_ctimes(client.create(spot.fh, name).must().wcc))
            pairs.append(_ctimes(client.remove(spot.fh, name).must().wcc))
        client.close()
        return pairs

    start = divmod(spot.path.stat().st_ctime_ns, 10**9)
    with ThreadPoolExecutor(8) as pool:
        pairs = [pair for part in pool.map(work, range(8)) for pair in part]
    states = {start} | {after for _, after in pairs}
    for before, after in pairs:
        assert before is None or (before <= after and before in states)
    assert os.listdir(spot.path) == []
