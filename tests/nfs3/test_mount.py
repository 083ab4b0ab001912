"""MOUNT version 3 and 1 (RFC 1813 section 5.2, RFC 1094 appendix A) beside NFS on one port (attacks E01)."""
from __future__ import annotations

import os

import pytest

from tests.tools.nfs3 import MOUNT, NFS, Mount, Nfs3, pack_opaque
from tests.tools.rpc import GARBAGE_ARGS, PROC_UNAVAIL, PROG_MISMATCH, Call, exchange
from tests.tools.servers import OURS, ServerSet

from .conftest import Exports

MNT3ERR_ACCES, MNT3ERR_NAMETOOLONG = 13, 63


@pytest.fixture(params=["tcp", "udp"])
def mount(request: pytest.FixtureRequest, server: ServerSet) -> Mount:
    made = server.mount(proto=request.param)
    request.addfinalizer(made.transport.close)
    return made


def test_mnt_gives_a_handle_and_auth_sys(mount: Mount, exports: Exports, server: ServerSet) -> None:
    res = mount.mnt(os.fsencode(exports.base / "rw"))
    assert res.status == 0 and 1 in res.flavors
    client = server.client()
    assert client.getattr(res.fh).must().a.fileid == (exports.base / "rw").stat().st_ino
    client.close()


def test_mnt_below_an_export_gives_the_directory(mount: Mount, exports: Exports, server: ServerSet) -> None:
    below = exports.base / "rw" / "below"
    below.mkdir(exist_ok=True)
    res = mount.mnt(os.fsencode(below))
    assert res.status == 0
    client = server.client()
    assert client.getattr(res.fh).must().a.fileid == below.stat().st_ino
    client.close()


@pytest.mark.parametrize("tail", ["/../..", "/..", "/../server", "/nosuch", "2"])
def test_mnt_of_what_is_not_exported_is_acces(mount: Mount, exports: Exports, tail: str) -> None:
    """E01: one answer for missing and for forbidden."""
    assert mount.mnt(os.fsencode(exports.base / "rw") + tail.encode()).status == MNT3ERR_ACCES


@pytest.mark.parametrize("path", [b"", b"/", b"rw", b"/etc", b"/nosuch", b"\0", b"/\xff\xfe"])
def test_mnt_of_other_paths_is_acces(mount: Mount, path: bytes) -> None:
    assert mount.mnt(path).status == MNT3ERR_ACCES


def test_mnt_of_a_path_with_nul_is_acces(mount: Mount, exports: Exports) -> None:
    assert mount.mnt(os.fsencode(exports.base / "rw") + b"\0").status == MNT3ERR_ACCES


def test_mnt_through_a_symlink_out_of_the_export_is_acces(mount: Mount, exports: Exports) -> None:
    """E03."""
    link = exports.base / "rw" / "out"
    if not link.is_symlink():
        link.symlink_to("/etc")
    assert mount.mnt(os.fsencode(link)).status == MNT3ERR_ACCES
    link.unlink()


@pytest.mark.parametrize("size", [1024, 1025, 30_000])
def test_mnt_of_a_long_path_is_refused(mount: Mount, size: int) -> None:
    reply = mount.raw(Mount.MNT, pack_opaque(b"/" * size))
    assert reply.accept_stat == GARBAGE_ARGS or int.from_bytes(reply.body[:4], "big") in (MNT3ERR_ACCES, MNT3ERR_NAMETOOLONG)


def test_mnt_is_judged_by_the_client_address(server: ServerSet, exports: Exports) -> None:
    path = os.fsencode(exports.base / "hosts")
    for source, status in (("127.0.0.1", MNT3ERR_ACCES), ("127.0.0.2", 0), ("127.0.0.3", 0), ("127.0.0.4", MNT3ERR_ACCES)):
        one = server.mount(source=source)
        assert one.mnt(path).status == status, source
        one.transport.close()


def test_export_lists_the_exports(mount: Mount, exports: Exports) -> None:
    listed = {path for path, _ in mount.export()}
    assert os.fsencode(exports.base / "rw") in listed and os.fsencode(exports.base / "ro") in listed


def test_dump_shows_a_mount_until_umnt(mount: Mount, exports: Exports) -> None:
    path = os.fsencode(exports.base / "ro")
    mount.mnt(path)
    assert path in {row[1] for row in mount.dump()}
    mount.umnt(path)
    assert path not in {row[1] for row in mount.dump()}
    mount.umntall()


def test_umnt_of_what_was_never_mounted_succeeds(mount: Mount) -> None:
    mount.umnt(b"/nosuch")


@pytest.mark.skipif(not OURS, reason="one port for both is our default")
def test_nfs_and_mount_mixed_on_one_connection(server: ServerSet, exports: Exports) -> None:
    client = server.client()
    for _ in range(20):
        fh = Mount(client.transport).mnt(os.fsencode(exports.base / "rw")).fh
        assert Nfs3(client.transport).getattr(fh).ok
    client.close()


def test_mount_version_range_and_procedures(server: ServerSet) -> None:
    mount = server.mount()
    reply = exchange(mount.transport, Call(MOUNT, 77, 0))
    assert reply.accept_stat == PROG_MISMATCH and reply.low == 1 and reply.high == 3
    assert exchange(mount.transport, Call(MOUNT, 3, 99)).accept_stat == PROC_UNAVAIL
    assert exchange(mount.transport, Call(MOUNT, 1, 0)).ok and exchange(mount.transport, Call(MOUNT, 3, 0)).ok
    mount.transport.close()


def test_nfs_version_range_is_3_to_3(server: ServerSet) -> None:
    client = server.client()
    for vers in (0, 1, 4, 5, 0xFFFFFFFF):
        reply = exchange(client.transport, Call(NFS, vers, 0))
        assert (reply.accept_stat, reply.high) == (PROG_MISMATCH, 3) and reply.low in (2, 3)
    client.close()
