"""Exports with a password, from MNT to READ (unfsd(8), option password; doc/passwords.txt of unfs3)."""
from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, STALE
from tests.tools.rpc import ROOT
from tests.tools.servers import OURS, ServerSet, wait_until

pytestmark = pytest.mark.skipif(not OURS, reason="exports with a password of our unfsd")


@pytest.fixture
def server() -> Iterator[ServerSet]:
    """Exports `locked` with the password gazonk and `open` without one; `file` in both."""
    with tempfile.TemporaryDirectory(prefix="nfs3-") as name:
        base = Path(name)
        base.chmod(0o755)
        for part in ("locked", "open", "server"):
            (base / part).mkdir()
            (base / part / "file").write_text(part)
        with ServerSet(base / "server", exports(base, "gazonk")) as running:
            yield running


def exports(base: Path, password: str) -> str:
    return f"{base}/locked 127.0.0.0/8(rw,insecure,password={password})\n{base}/open 127.0.0.1(rw,insecure)\n"


def mnt(server: ServerSet, path: bytes, *, source: str = "") -> tuple[int, bytes]:
    mount = server.mount(source=source)
    with closing(mount.transport):
        res = mount.mnt(path)
    return res.status, res.fh


def locked(server: ServerSet) -> bytes:
    return os.fsencode(server.directory.parent / "locked")


def content(server: ServerSet, top: bytes) -> bytes:
    with closing(server.client(ROOT)) as nfs:
        return bytes(nfs.read(nfs.lookup(top, b"file").must().h).must().data)


def test_clear_password_opens_its_export_and_nothing_else_does(server: ServerSet) -> None:
    path = locked(server)
    for wrong in (path, b"@password:" + path, b"@password:wrong" + path, b"@password:gazonk2" + path, b"@otp:" + path):
        assert mnt(server, wrong)[0] == ACCES
    status, top = mnt(server, b"@password:gazonk" + path)
    assert (status, content(server, top)) == (0, b"locked")
    assert "gazonk" not in server.log()


def test_one_time_password_is_good_once_and_for_who_asked(server: ServerSet) -> None:
    path = locked(server)

    def answer(nonce: bytes) -> bytes:
        return b"@otp:" + hashlib.md5(nonce + b"gazonk").hexdigest().encode() + path

    right = answer(mnt(server, b"@getnonce")[1])
    assert mnt(server, right, source="127.0.0.2")[0] == ACCES
    status, top = mnt(server, right)
    assert (status, content(server, top)) == (0, b"locked")
    assert mnt(server, right)[0] == ACCES
    mnt(server, b"@getnonce")
    assert mnt(server, answer(b"guessed"))[0] == ACCES, "and the nonce is used up"


def test_another_password_makes_every_old_handle_stale(server: ServerSet) -> None:
    path = locked(server)
    top = mnt(server, b"@password:gazonk" + path)[1]
    base = Path(os.fsdecode(path)).parent
    other = server.root(base / "open")
    server.reload(exports(base, "changed"))
    with closing(server.client(ROOT)) as nfs:
        wait_until(lambda: nfs.getattr(top).status == STALE, deadline_s=60, what="the old password's handle is stale")
        nfs.getattr(other).must()
    assert mnt(server, b"@password:gazonk" + path)[0] == ACCES
    assert content(server, mnt(server, b"@password:changed" + path)[1]) == b"locked"
