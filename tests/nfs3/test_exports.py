"""Exports are enforced on every call: read-only, client addresses, ports, reload (attacks B11, B17, C05)."""
from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import pytest

from tests.tools.nfs3 import (
    ACCES,
    ACCESS_ALL,
    ACCESS_DELETE,
    ACCESS_EXTEND,
    ACCESS_MODIFY,
    BADHANDLE,
    EXCLUSIVE,
    NF3FIFO,
    PERM,
    ROFS,
    STALE,
    Mount,
    Nfs3,
    Res,
    Sattr3,
)
from tests.tools.rpc import ROOT
from tests.tools.servers import ServerSet, wait_until

from .conftest import CRED, Exports, Spot

Client = TypeVar("Client", Mount, Nfs3)

WRITES = ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE

CHANGES: dict[str, Callable[[Nfs3, bytes, bytes], Res]] = {
    "SETATTR": lambda nfs, top, fh: nfs.setattr(fh, Sattr3(mode=0o600)),
    "SETATTR of nothing": lambda nfs, top, fh: nfs.setattr(fh),
    "WRITE": lambda nfs, top, fh: nfs.write(fh, b"x"),
    "CREATE": lambda nfs, top, fh: nfs.create(top, b"new"),
    "CREATE of what exists": lambda nfs, top, fh: nfs.create(top, b"file", Sattr3(size=0)),
    "CREATE EXCLUSIVE": lambda nfs, top, fh: nfs.create(top, b"new", mode=EXCLUSIVE, verf=b"12345678"),
    "MKDIR": lambda nfs, top, fh: nfs.mkdir(top, b"new"),
    "SYMLINK": lambda nfs, top, fh: nfs.symlink(top, b"new", b"target"),
    "MKNOD": lambda nfs, top, fh: nfs.mknod(top, b"new", NF3FIFO),
    "REMOVE": lambda nfs, top, fh: nfs.remove(top, b"file"),
    "RMDIR": lambda nfs, top, fh: nfs.rmdir(top, b"dir"),
    "RENAME": lambda nfs, top, fh: nfs.rename(top, b"file", top, b"other"),
    "LINK": lambda nfs, top, fh: nfs.link(fh, top, b"other"),
    "COMMIT": lambda nfs, top, fh: nfs.commit(fh),
}


@pytest.fixture
def ro(server: ServerSet, exports: Exports, nfs: Nfs3) -> tuple[bytes, bytes]:
    """Handles of the read-only export's root and of `file` in it."""
    (exports.base / "ro" / "file").write_bytes(b"content")
    (exports.base / "ro" / "dir").mkdir(exist_ok=True)
    top = server.root(exports.base / "ro")
    return top, nfs.lookup(top, b"file").must().h


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_read_only_export_refuses_each_change_with_rofs(exports: Exports, nfs: Nfs3, ro: tuple[bytes, bytes], name: str) -> None:
    """B17."""
    res = CHANGES[name](nfs, *ro)
    assert res.status == ROFS
    assert sorted(os.listdir(exports.base / "ro")) == ["dir", "file"]
    assert (exports.base / "ro" / "file").read_bytes() == b"content"


def test_read_only_export_is_read(nfs: Nfs3, ro: tuple[bytes, bytes]) -> None:
    top, fh = ro
    assert nfs.read(fh).must().data == b"content"
    assert b"file" in {entry.name for entry in nfs.list(top, plus=True)}
    assert nfs.fsinfo(top).ok and nfs.fsstat(top).ok and nfs.pathconf(fh).ok


def test_read_only_export_has_no_write_bits_in_access(nfs: Nfs3, ro: tuple[bytes, bytes]) -> None:
    """ACCESS agrees with what the operation then does."""
    for fh in ro:
        access = nfs.access(fh, ACCESS_ALL).must().access
        assert access is not None and access & WRITES == 0


def test_client_address_decides_on_every_call(server: ServerSet, exports: Exports) -> None:
    """127.0.0.2 may write, 127.0.0.3 may read, 127.0.0.1 is not listed: the handle that leaked helps nobody."""
    (exports.base / "hosts" / "file").write_bytes(b"content")
    top = server.root(exports.base / "hosts", source="127.0.0.2")
    with (closing(server.client(CRED, source="127.0.0.2")) as writer, closing(server.client(CRED, source="127.0.0.3")) as reader,
          closing(server.client(CRED)) as stranger):
        fh = writer.lookup(top, b"file").must().h
        assert writer.write(fh, b"CON").ok
        assert reader.read(fh).must().data == b"CONtent" and reader.write(fh, b"x").status == ROFS
        for res in (stranger.getattr(fh), stranger.read(fh), stranger.write(fh, b"x"), stranger.lookup(top, b"file"),
                    stranger.readdir(top), stranger.fsinfo(top), stranger.access(fh)):
            assert res.status in (ACCES, STALE, PERM, BADHANDLE)
    assert (exports.base / "hosts" / "file").read_bytes() == b"CONtent"


def test_client_address_decides_over_udp_too(server: ServerSet, exports: Exports) -> None:
    top = server.root(exports.base / "hosts", source="127.0.0.2")
    with (closing(server.client(CRED, proto="udp", source="127.0.0.2")) as writer,
          closing(server.client(CRED, proto="udp")) as stranger):
        assert writer.getattr(top).ok
        assert stranger.getattr(top).status in (ACCES, STALE, PERM, BADHANDLE)


def _from_reserved_port(connect: Callable[[int], Client]) -> Client:
    """`connect` with the first port that only root may have and nobody else has now."""
    for port in range(1023, 600, -1):
        try:
            return connect(port)
        except OSError as e:
            if e.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
    raise AssertionError("no reserved port is free")


@pytest.mark.root
@pytest.mark.parametrize("call", ["getattr", "lookup", "read", "readdir", "create"])
def test_secure_export_refuses_calls_from_high_ports(server: ServerSet, exports: Exports, call: str) -> None:
    """B11: PERM as the kernel server answers; also for handles that were found from a reserved port."""
    (exports.base / "secure" / "file").write_bytes(b"content")
    with (closing(_from_reserved_port(lambda port: server.client(ROOT, source="127.0.0.1", source_port=port))) as low,
          closing(server.client(ROOT)) as high):
        mount = _from_reserved_port(lambda port: server.mount(source="127.0.0.1", source_port=port))
        top = mount.mnt(os.fsencode(exports.base / "secure")).fh
        mount.transport.close()
        fh = low.lookup(top, b"file").must().h
        assert low.read(fh).ok
        res = {"getattr": lambda: high.getattr(fh), "lookup": lambda: high.lookup(top, b"file"), "read": lambda: high.read(fh),
               "readdir": lambda: high.readdir(top), "create": lambda: high.create(top, b"new")}[call]()
        assert res.status in (PERM, ACCES)


@pytest.mark.root
def test_secure_export_refuses_mnt_from_high_ports(server: ServerSet, exports: Exports) -> None:
    mount = server.mount()
    assert mount.mnt(os.fsencode(exports.base / "secure")).status == 13
    mount.transport.close()


def test_handle_of_a_read_only_export_stays_read_only_beside_a_writable_one(spot: Spot, exports: Exports) -> None:
    """C05: both exports lie on one file system; the handle says through which one it came."""
    (exports.base / "ro" / "other").write_bytes(b"content")
    top = spot.server.root(exports.base / "ro")
    fh = spot.nfs.lookup(top, b"other").must().h
    assert spot.nfs.rename(top, b"other", spot.fh, b"stolen").status != 0
    assert spot.nfs.link(fh, spot.fh, b"stolen").status != 0
    (exports.base / "ro" / "other").unlink()
    assert os.listdir(spot.path) == []


def test_reload_takes_an_export_away_at_once_and_gives_it_back(server: ServerSet, exports: Exports, nfs: Nfs3) -> None:
    """HUP: no worker serves under the old table when EXPORT shows the new one; handles live on when it comes back."""
    top = server.root(exports.base / "all")
    shorter = "".join(line + "\n" for line in exports.table.splitlines() if "/all" not in line)
    path = os.fsencode(exports.base / "all")

    def listed() -> bool:
        with closing(server.mount().transport) as transport:
            return path in {row[0] for row in type(server.mount())(transport).export()}

    assert listed() and nfs.getattr(top).ok
    server.reload(shorter)
    wait_until(lambda: not listed(), deadline_s=10, what="the shorter table")
    for _ in range(8):
        with closing(server.client(CRED)) as client:
            assert client.getattr(top).status in (STALE, ACCES, BADHANDLE)
    server.reload(exports.table)
    wait_until(listed, deadline_s=10, what="the full table")
    for _ in range(8):
        with closing(server.client(CRED)) as client:
            assert client.getattr(top).ok


def test_reload_of_a_broken_file_keeps_the_table(server: ServerSet, exports: Exports, nfs: Nfs3) -> None:
    """F13: the last good table stays whole; the error is shown with file and line."""
    top, logged = server.root(exports.base / "rw"), len(server.log())
    server.reload(exports.table + "/nowhere 10.0.0.1(rw,nosuchoption)\n")
    wait_until(lambda: "exports" in server.log()[logged:], deadline_s=10, what="the error in the log")
    assert nfs.getattr(top).ok
    assert server.root(exports.base / "ro") and server.root(exports.base / "all")
    server.reload(exports.table)
