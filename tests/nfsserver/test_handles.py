"""Handles and an export's options: password, 32-bit cookies and fileids, offline."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex, Nx
from tests.tools.nfs2 import Nfs2, Nfsstat
from tests.tools.nfs3 import BAD_COOKIE, BADHANDLE, JUKEBOX, STALE, Nfs3
from tests.tools.worker import OneWorker, everyone, export_of

PLAIN, SECRET, SHORT, CLIENTS = 1, 2, 3, 4
N_NAMES = 3000


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfsfh-"))
    made.chmod(0o755)
    (made / "many").mkdir()
    for number in range(N_NAMES):
        (made / "many" / f"name-{number:05}").touch()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def worker(base: Path, tmp_path: Path) -> Iterator[OneWorker]:
    many = base / "many"
    exports = [export_of(many, PLAIN), export_of(many, SECRET, password=b"gazonk"), export_of(many, SHORT, Ex.FILEID32),
               export_of(many, CLIENTS, Ex(0), everyone(Nx.CLIENTS32))]
    with OneWorker(tmp_path, exports, "--v2") as running:
        yield running


@pytest.fixture
def nfs(worker: OneWorker) -> Iterator[Nfs3]:
    client = Nfs3(worker.tcp())
    yield client
    client.close()


def test_another_password_is_another_handle(worker: OneWorker, nfs: Nfs3) -> None:
    """unfsd(8): who changes the password makes all clients mount again.  What says STALE knew the handle before."""
    root = worker.root(SECRET)
    fh = nfs.lookup(root, b"name-00001").must().h
    worker.load([replace(export, password=b"other" if export.expid == SECRET else b"") for export in worker.exports])
    assert nfs.getattr(fh).status in (STALE, BADHANDLE)
    assert nfs.getattr(root).status in (STALE, BADHANDLE)
    worker.load([replace(export, password=b"gazonk" if export.expid == SECRET else b"") for export in worker.exports])
    nfs.getattr(fh).must()


def test_no_password_is_not_an_empty_one(worker: OneWorker, nfs: Nfs3) -> None:
    root = worker.root(SECRET)
    worker.load([replace(export, password=b"") for export in worker.exports])
    assert nfs.getattr(root).status in (STALE, BADHANDLE)
    plain = worker.root(SECRET)
    worker.load([replace(export, password=b"gazonk") for export in worker.exports])
    assert nfs.getattr(plain).status in (STALE, BADHANDLE)


@pytest.mark.parametrize("expid", [SHORT, CLIENTS])
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("count", [600, 4096, 32768])
def test_32_bit_cookies_give_each_name_once(worker: OneWorker, nfs: Nfs3, expid: int, plus: bool, count: int) -> None:
    root, names, cookie, eof = worker.root(expid), list[bytes](), 0, False
    while not eof:
        page = (nfs.readdirplus(root, cookie, maxcount=count) if plus else nfs.readdir(root, cookie, count=count)).must()
        assert page.size_bytes <= count and all(entry.cookie < 1 << 32 for entry in page.entries)
        assert page.entries or page.eof
        names += [entry.name for entry in page.entries]
        cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
    assert len(names) == len(set(names)) == N_NAMES + 2


def test_a_cookie_over_32_bits_is_bad_there(worker: OneWorker, nfs: Nfs3) -> None:
    assert nfs.readdir(worker.root(SHORT), 1 << 32).status == BAD_COOKIE


def test_32_bit_fileids_are_the_same_everywhere(worker: OneWorker, nfs: Nfs3) -> None:
    root = worker.root(SHORT)
    entry = next(entry for entry in nfs.readdir(root).must().entries if entry.name.startswith(b"name"))
    attr = nfs.lookup(root, entry.name).must().a
    assert attr.fileid == entry.fileid < 1 << 32


@pytest.mark.root
def test_an_export_that_is_offline(worker: OneWorker, nfs: Nfs3) -> None:
    """-offline of macOS: JUKEBOX, STALE in version 2, which has nothing like it."""
    root, root2 = worker.root(PLAIN), worker.root(PLAIN, vers=2)
    worker.load([replace(export, flags=Ex.OFFLINE) for export in worker.exports])
    assert nfs.getattr(root).status == JUKEBOX
    assert Nfs2(nfs.transport).getattr(root2).status == Nfsstat.STALE


def test_handles_outlive_the_worker(base: Path, tmp_path: Path) -> None:
    exports, handles = [export_of(base / "many", PLAIN), export_of(base / "many", SECRET, password=b"x")], list[bytes]()
    for turn in range(2):
        with OneWorker(tmp_path, exports) as worker:
            nfs = Nfs3(worker.tcp())
            if not turn:
                handles = [nfs.lookup(worker.root(one), os.fsencode("name-00007")).must().h for one in (PLAIN, SECRET)]
            assert len({nfs.getattr(fh).must().a.fileid for fh in handles}) == 1
            nfs.close()
