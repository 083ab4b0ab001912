"""The public file handle (RFC 2054, RFC 2055) and what LOOKUP in it means."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs2 import Nfs2, Nfsstat
from tests.tools.nfs3 import ACCES, BADHANDLE, IO, NAMETOOLONG, NOENT, NOTDIR, Nfs3
from tests.tools.rpc import auth_sys
from tests.tools.worker import OneWorker, export_of

PRIVATE, PUBLIC = 1, 2
HANDLE3, HANDLE2 = b"", bytes(32)


@dataclass
class Place:
    worker: OneWorker
    web: Path
    nfs: Nfs3

    def fileid(self, path: bytes) -> int:
        return self.nfs.lookup(HANDLE3, path).must().a.fileid


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="nfsweb-"))
    made.chmod(0o755)
    for name in ("server", "private", "web", "web/a", "web/a/b", "web/closed", "web/100%"):
        (made / name).mkdir()
    for name in ("private/x", "web/page", "web/a/b/page", "web/a/index.html", "web/closed/x", "web/sp ace", "web/100%/x"):
        (made / name).write_text(name)
    (made / "web/closed").chmod(0o700)
    (made / "web/link").symlink_to("a")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Iterator[Place]:
    exports = [export_of(base / "private", PRIVATE), export_of(base / "web", PUBLIC, Ex.PUBLIC, index=b"index.html")]
    with OneWorker(tmp_path, exports, "--v2") as worker:
        nfs = Nfs3(worker.tcp())
        yield Place(worker, base / "web", nfs)
        nfs.close()


def test_the_public_handle_is_the_public_exports_root(place: Place) -> None:
    assert place.nfs.getattr(HANDLE3).must().a == place.nfs.getattr(place.worker.root(PUBLIC)).must().a
    assert place.fileid(b"") == place.web.stat().st_ino
    assert place.nfs.lookup(HANDLE3, b"").must().h == place.worker.root(PUBLIC)


@pytest.mark.parametrize(("path", "name"), [
    (b"page", "page"), (b"a/b/page", "a/b/page"), (b"a//b/./page", "a/b/page"), (b"a/b/", "a/b"), (b"sp%20ace", "sp ace"),
    (b"\x80sp ace", "sp ace"), (b"\x80100%/x", "100%/x"), (b"100%25/x", "100%/x"), (b"a/b/../b/page", "a/b/page"),
    (b"link", "link"), (b"../../..", "."),
])
def test_a_lookup_takes_a_whole_path(place: Place, path: bytes, name: str) -> None:
    assert place.fileid(path) == (place.web / name).lstat().st_ino


def test_a_path_of_the_servers_own_must_lie_in_the_export(place: Place) -> None:
    own = os.fsencode(place.web)
    assert place.fileid(own + b"/a/b/page") == (place.web / "a/b/page").stat().st_ino
    assert place.fileid(own) == place.web.stat().st_ino
    for path in (os.fsencode(place.web.parent / "private/x"), b"/etc/passwd", own + b"x", b"/"):
        assert place.nfs.lookup(HANDLE3, path).status == ACCES


@pytest.mark.parametrize(("path", "status"), [
    (b"none", NOENT), (b"page/x", NOTDIR), (b"link/b", NOTDIR), (b"a%2fb", ACCES), (b"a%00", ACCES), (b"%zz", NOENT),
    (b"%2", NOENT), (b"\x81x", IO), (b"x" * 256, NAMETOOLONG), (b"a/" * 600, NAMETOOLONG),
])
def test_paths_that_name_nothing(place: Place, path: bytes, status: int) -> None:
    assert place.nfs.lookup(HANDLE3, path).status == status


def test_a_directory_with_an_index_is_its_index(place: Place) -> None:
    assert place.fileid(b"a") == (place.web / "a/index.html").stat().st_ino
    assert place.fileid(b"a/b") == (place.web / "a/b").stat().st_ino


@pytest.mark.root
def test_each_component_is_looked_up_as_the_caller(place: Place) -> None:
    assert place.nfs.as_(auth_sys(1000, 1000)).lookup(HANDLE3, b"closed/x").status == ACCES
    assert place.nfs.lookup(HANDLE3, b"closed/x").must().a.size


def test_other_handles_take_one_name(place: Place) -> None:
    assert place.nfs.lookup(place.worker.root(PUBLIC), b"a/b").status == ACCES


def test_version_2_has_32_zero_bytes(place: Place) -> None:
    nfs2 = Nfs2(place.nfs.transport)
    if nfs2.lookup(HANDLE2, b"page").status == Nfsstat.IO and os.geteuid():
        pytest.skip("no handles of 32 bytes without privileges")
    assert nfs2.lookup(HANDLE2, b"a/b/page").must().a.size == len("web/a/b/page")
    assert nfs2.getattr(HANDLE2).must().a.nlink == place.web.stat().st_nlink


def test_without_a_public_export_the_handle_is_bad(place: Place, base: Path) -> None:
    place.worker.load([export_of(base / "private", PRIVATE)])
    assert place.nfs.getattr(HANDLE3).status == BADHANDLE
    assert place.nfs.lookup(HANDLE3, b"x").status == BADHANDLE
