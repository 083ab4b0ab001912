"""NFS version 2 (RFC 1094), procedure by procedure, on a real directory as oracle."""
from __future__ import annotations

import os
import stat
import struct
import time
from pathlib import Path

import pytest

from nfssvc_shim import state
from tests.tools.nfs2 import (
    FHSIZE,
    NFBLK,
    NFCHR,
    NFDIR,
    NFLNK,
    NFNON,
    NFREG,
    NFS,
    UNSET,
    V2,
    Nfs2,
    Nfsstat,
    Proc,
    Res,
    Sattr,
    opaque,
    pack_diropargs,
    unpack_result,
    words,
)
from tests.tools.nfs3 import Nfs3
from tests.tools.rpc import GARBAGE_ARGS, PROC_UNAVAIL, PROG_MISMATCH, Call, RpcFailed, auth_sys, exchange
from tests.tools.worker import OneWorker, export_of

from .conftest import RO, RW, Spot

pytestmark = pytest.mark.root  # handles of 32 bytes are the kernel's


def fold(value: int) -> int:
    return (value ^ value >> 32) & 0xFFFFFFFF


def local(spot: Spot, name: str) -> Path:
    return spot.path / name


# --- attributes -----------------------------------------------------------------------------------------------------------

def test_getattr_agrees_with_stat(spot: Spot) -> None:
    fh = spot.file(data=b"x" * 1000, mode=0o4751)
    os.utime(local(spot, "file"), ns=(1_000_000_123_456_789, 2_000_000_987_654_321))
    info, attr = local(spot, "file").stat(), spot.nfs.getattr(fh).must().a
    assert (attr.type, attr.mode, attr.nlink, attr.size) == (NFREG, info.st_mode, 1, 1000)
    assert (attr.uid, attr.gid, attr.fileid) == (info.st_uid, info.st_gid, fold(info.st_ino))
    assert attr.atime == (1_000_000, 123_456) and attr.mtime == (2_000_000, 987_654)
    assert attr.blocks == info.st_blocks and attr.fsid == spot.nfs.getattr(spot.fh).must().a.fsid


def test_getattr_of_a_file_over_4_gib_shows_the_largest_size(spot: Spot) -> None:
    fh = spot.file()
    os.truncate(local(spot, "file"), 5 << 30)
    assert spot.nfs.getattr(fh).must().a.size == 0xFFFFFFFF


def test_setattr_leaves_what_is_minus_one(spot: Spot) -> None:
    fh = spot.file(data=b"abcdef")
    before = local(spot, "file").stat()
    attr = spot.nfs.setattr(fh, Sattr(mode=0o100600)).must().a
    after = local(spot, "file").stat()
    assert stat.S_IMODE(after.st_mode) == 0o600 and attr.mode == after.st_mode
    assert (after.st_size, after.st_uid, after.st_mtime_ns) == (6, before.st_uid, before.st_mtime_ns)


def test_setattr_sets_owner_size_and_times(spot: Spot) -> None:
    fh = spot.file(data=b"abcdef")
    spot.nfs.setattr(fh, Sattr(uid=1000, gid=2000, size=3, atime=(5, 6), mtime=(7, 999_999))).must()
    info = local(spot, "file").stat()
    assert (info.st_uid, info.st_gid, info.st_size) == (1000, 2000, 3)
    assert (info.st_atime_ns, info.st_mtime_ns) == (5_000_006_000, 7_999_999_000)


def test_setattr_a_million_microseconds_is_the_servers_time(spot: Spot) -> None:
    fh = spot.file()
    os.utime(local(spot, "file"), (1, 1))
    spot.nfs.setattr(fh, Sattr(mtime=(5, 1_000_000))).must()
    info = local(spot, "file").stat()
    assert abs(info.st_mtime - time.time()) < 60 and abs(info.st_atime - time.time()) < 60


def test_setattr_microseconds_out_of_range_is_io(spot: Spot) -> None:
    """INVAL is not among the statuses of version 2."""
    assert spot.nfs.setattr(spot.file(), Sattr(mtime=(5, 1_000_001))).status == Nfsstat.IO


# --- names ----------------------------------------------------------------------------------------------------------------

def test_lookup_statuses(spot: Spot) -> None:
    spot.file()
    assert spot.nfs.lookup(spot.fh, b"none").status == Nfsstat.NOENT
    assert spot.nfs.lookup(spot.fh, b"x" * 255).status == Nfsstat.NOENT
    assert spot.nfs.lookup(spot.fh, b"x" * 256).status == Nfsstat.NAMETOOLONG
    assert spot.nfs.lookup(spot.fh, b"a/b").status == Nfsstat.ACCES
    assert spot.nfs.lookup(spot.fh, b"").status == Nfsstat.ACCES
    assert spot.nfs.lookup(spot.nfs.lookup(spot.fh, b"file").must().fh, b"x").status == Nfsstat.NOTDIR


def test_handle_is_the_same_object_as_version_3s(spot: Spot) -> None:
    """A file made by version 2 is found by version 3; a handle of the one is none of the other, but both name one object."""
    spot.nfs.create(spot.fh, b"new").must()
    nfs3 = Nfs3(spot.worker.tcp())
    here = nfs3.lookup(spot.worker.root(RW), os.fsencode(spot.path.name)).must().h
    fh3 = nfs3.lookup(here, b"new").must()
    assert fh3.a.fileid == local(spot, "new").stat().st_ino
    objects = spot.worker.row(state.S_FH_MISSES)
    spot.nfs.getattr(spot.nfs.lookup(spot.fh, b"new").must().fh).must()
    assert spot.worker.row(state.S_FH_MISSES) == objects
    nfs3.close()


def test_handle_with_any_flipped_bit_is_stale(spot: Spot) -> None:
    fh = spot.file()
    for bit in range(FHSIZE * 8):
        forged = bytearray(fh)
        forged[bit // 8] ^= 1 << bit % 8
        assert spot.nfs.getattr(bytes(forged)).status == Nfsstat.STALE, bit


def test_handle_of_a_removed_file_is_stale(spot: Spot) -> None:
    fh = spot.file()
    local(spot, "file").unlink()
    assert spot.nfs.getattr(fh).status == Nfsstat.STALE


def test_symlink_and_readlink(spot: Spot) -> None:
    spot.nfs.symlink(spot.fh, b"link", b"some/where").must()
    assert os.readlink(local(spot, "link")) == "some/where"
    found = spot.nfs.lookup(spot.fh, b"link").must()
    assert found.a.type == NFLNK
    assert spot.nfs.readlink(found.fh).must().data == b"some/where"
    assert spot.nfs.readlink(spot.file()).status == Nfsstat.IO
    assert spot.nfs.symlink(spot.fh, b"long", b"x" * 1025).status == Nfsstat.NAMETOOLONG


def test_readlink_of_a_text_over_1024_is_an_error(spot: Spot) -> None:
    os.symlink("x" * 1025, local(spot, "link"))
    assert spot.nfs.readlink(spot.nfs.lookup(spot.fh, b"link").must().fh).status == Nfsstat.IO


# --- data -----------------------------------------------------------------------------------------------------------------

def test_write_and_read(spot: Spot) -> None:
    fh = spot.nfs.create(spot.fh, b"new").must().fh
    data = os.urandom(8192)
    assert spot.nfs.write(fh, data).must().a.size == 8192
    assert spot.nfs.write(fh, b"tail", offset=8192).must().a.size == 8196
    assert local(spot, "new").read_bytes() == data + b"tail"
    first = spot.nfs.read(fh).must()
    assert first.data == data and first.a.size == 8196
    assert spot.nfs.read(fh, 8192).must().data == b"tail"
    assert spot.nfs.read(fh, 9000).must().data == b""
    assert spot.nfs.read(fh, 1, 3).must().data == data[1:4]


def test_read_of_more_than_8_kib_gives_8_kib(spot: Spot) -> None:
    fh = spot.file(data=b"x" * 20000)
    assert len(spot.nfs.read(fh, 0, 0xFFFFFFFF).must().data) == 8192


def test_write_of_more_than_8_kib_does_not_decode(spot: Spot) -> None:
    fh = spot.file()
    with pytest.raises(RpcFailed) as failed:
        spot.nfs.write(fh, b"x" * 8193)
    assert failed.value.reply.accept_stat == GARBAGE_ARGS
    assert local(spot, "file").stat().st_size == 0


def test_read_and_write_of_a_directory(spot: Spot) -> None:
    assert spot.nfs.read(spot.fh).status == Nfsstat.ISDIR
    assert spot.nfs.write(spot.fh, b"x").status == Nfsstat.ISDIR


# --- making and removing --------------------------------------------------------------------------------------------------

def test_create_with_all_attributes(spot: Spot) -> None:
    made = spot.nfs.create(spot.fh, b"new", Sattr(mode=0o100640, uid=1000, gid=2000, size=0, mtime=(9, 0), atime=(8, 0))).must()
    info = local(spot, "new").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime, info.st_atime) == (0o640, 1000, 2000, 9.0, 8.0)
    assert made.a.fileid == fold(info.st_ino) and spot.nfs.getattr(made.fh).must().a == made.a


def test_create_of_an_existing_file_truncates_it(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    assert spot.nfs.create(spot.fh, b"file", Sattr(mode=0o100600, size=0)).must().fh == fh
    info = local(spot, "file").stat()
    assert info.st_size == 0 and stat.S_IMODE(info.st_mode) == 0o644


@pytest.mark.parametrize(("mode", "size", "kind", "type_", "rdev"), [
    (stat.S_IFIFO | 0o600, UNSET, stat.S_IFIFO, NFCHR, UNSET),
    (stat.S_IFCHR | 0o600, UNSET, stat.S_IFIFO, NFCHR, UNSET),
    (stat.S_IFCHR | 0o600, 0x0103, stat.S_IFCHR, NFCHR, 0x0103),
    (stat.S_IFBLK | 0o600, 0x10305, stat.S_IFBLK, NFBLK, 0x10305),
    (stat.S_IFSOCK | 0o600, UNSET, stat.S_IFSOCK, NFNON, 0),
])
def test_create_makes_special_files(spot: Spot, mode: int, size: int, kind: int, type_: int, rdev: int) -> None:
    """The type bits of the mode and, for devices, the size: RFC 1094 section 2.2.10 says nothing, all servers do it so."""
    made = spot.nfs.create(spot.fh, b"special", Sattr(mode=mode, size=size)).must()
    info = local(spot, "special").lstat()
    assert stat.S_IFMT(info.st_mode) == kind and stat.S_IMODE(info.st_mode) == 0o600
    assert (made.a.type, made.a.rdev) == (type_, rdev)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (size >> 8, size & 0xFF)


def test_mkdir_rmdir_remove(spot: Spot) -> None:
    made = spot.nfs.mkdir(spot.fh, b"dir", Sattr(mode=0o750)).must()
    assert made.a.type == NFDIR and stat.S_IMODE(local(spot, "dir").stat().st_mode) == 0o750
    assert spot.nfs.mkdir(spot.fh, b"dir").status == Nfsstat.EXIST
    assert spot.nfs.remove(spot.fh, b"dir").status == Nfsstat.ISDIR
    spot.nfs.create(made.fh, b"x").must()
    assert spot.nfs.rmdir(spot.fh, b"dir").status == Nfsstat.NOTEMPTY
    spot.nfs.remove(made.fh, b"x").must()
    spot.nfs.rmdir(spot.fh, b"dir").must()
    assert spot.nfs.remove(spot.fh, b"dir").status == Nfsstat.NOENT


def test_rename_and_link(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    spot.nfs.link(fh, spot.fh, b"second").must()
    spot.nfs.rename(spot.fh, b"file", spot.fh, b"third").must()
    assert sorted(os.listdir(spot.path)) == ["second", "third"]
    assert spot.nfs.getattr(fh).must().a.nlink == 2
    assert spot.nfs.rename(spot.fh, b"none", spot.fh, b"x").status == Nfsstat.NOENT


def test_changes_on_a_read_only_export_are_refused(spot: Spot) -> None:
    root = spot.worker.root(RO, vers=2)
    assert spot.nfs.create(root, b"x").status == Nfsstat.ROFS
    assert spot.nfs.setattr(root, Sattr(mode=0)).status == Nfsstat.ROFS
    assert spot.nfs.mkdir(root, b"x").status == Nfsstat.ROFS
    assert spot.nfs.write(root, b"x").status == Nfsstat.ROFS


def test_rights_are_the_callers(spot: Spot) -> None:
    fh, other = spot.file(data=b"x", mode=0o600), spot.nfs.as_(auth_sys(1000, 1000))
    assert other.read(fh).status == Nfsstat.ACCES
    assert other.setattr(fh, Sattr(mode=0o666)).status == Nfsstat.PERM
    other.create(spot.fh, b"mine").must()
    assert local(spot, "mine").stat().st_uid == 1000


def test_retransmitted_remove_gets_the_first_answer(spot: Spot) -> None:
    spot.file()
    call = Call(NFS, V2, Proc.REMOVE, pack_diropargs(spot.fh, b"file"))
    replies = [exchange(spot.nfs.transport, call).body for _ in range(3)]
    assert replies == [struct.pack(">I", 0)] * 3


def test_retransmitted_create_gets_the_same_bytes(spot: Spot) -> None:
    call = Call(NFS, V2, Proc.CREATE, pack_diropargs(spot.fh, b"new") + Sattr(mode=0o600).pack())
    first = exchange(spot.nfs.transport, call).body
    local(spot, "new").write_bytes(b"changed")
    assert exchange(spot.nfs.transport, call).body == first
    assert unpack_result(Proc.CREATE, first).must().a.size == 0


# --- directories ----------------------------------------------------------------------------------------------------------

def read_all(nfs: Nfs2, fh: bytes, count: int) -> list[bytes]:
    names: list[bytes] = []
    cookie, eof = 0, False
    while not eof:
        page = nfs.readdir(fh, cookie, count).must()
        assert page.entries or page.eof, "a page without progress"
        assert page.size_bytes <= count
        names += [entry.name for entry in page.entries]
        cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
    return names


@pytest.mark.parametrize("count", [512, 1024, 8192])
def test_readdir_of_1000_names_gives_each_once(spot: Spot, count: int) -> None:
    wanted = [f"name-{number:04}".encode() for number in range(1000)]
    for name in wanted:
        (spot.path / os.fsdecode(name)).touch()
    assert sorted(read_all(spot.nfs, spot.fh, count)) == sorted([b".", b"..", *wanted])


def test_readdir_fileids_agree_with_lookup(spot: Spot) -> None:
    fh = spot.file()
    entries = {entry.name: entry.fileid for entry in spot.nfs.readdir(spot.fh).must().entries}
    assert entries[b"file"] == spot.nfs.getattr(fh).must().a.fileid
    assert entries[b"."] == spot.nfs.getattr(spot.fh).must().a.fileid


def test_readdir_goes_on_after_the_entry_of_its_cookie_was_removed(spot: Spot) -> None:
    for number in range(300):
        (spot.path / f"{number:03}").touch()
    first = spot.nfs.readdir(spot.fh, 0, 1024).must()
    for entry in first.entries:
        if entry.name not in (b".", b".."):
            (spot.path / os.fsdecode(entry.name)).unlink()
    rest, cookie, eof = set[bytes](), first.entries[-1].cookie, False
    while not eof:
        page = spot.nfs.readdir(spot.fh, cookie, 1024).must()
        rest |= {entry.name for entry in page.entries}
        cookie, eof = page.entries[-1].cookie if page.entries else cookie, page.eof
    assert rest - {b".", b".."} == {os.fsencode(name) for name in os.listdir(spot.path)}


def test_readdir_of_a_file_and_of_no_room(spot: Spot) -> None:
    assert spot.nfs.readdir(spot.file()).status == Nfsstat.NOTDIR
    assert spot.nfs.readdir(spot.fh, 0, 8).status == Nfsstat.IO


def test_statfs_numbers_fit(spot: Spot) -> None:
    tsize, bsize, blocks, bfree, bavail = spot.nfs.statfs(spot.fh).must().info
    real = os.statvfs(spot.path)
    assert tsize == 8192 and blocks >= bfree >= bavail
    assert abs(blocks * bsize - real.f_blocks * real.f_frsize) < bsize


# --- the edges ------------------------------------------------------------------------------------------------------------

def test_root_and_writecache_are_unavailable(spot: Spot) -> None:
    for proc in (Proc.ROOT, Proc.WRITECACHE, 18):
        with pytest.raises(RpcFailed) as failed:
            spot.nfs.raw(proc)
        assert failed.value.reply.accept_stat == PROC_UNAVAIL
    spot.nfs.null()


def test_versions_are_2_to_3(spot: Spot) -> None:
    reply = exchange(spot.nfs.transport, Call(NFS, 4, 0))
    assert (reply.accept_stat, reply.low, reply.high) == (PROG_MISMATCH, 2, 3)


def test_version_2_is_off_by_default(base: Path, tmp_path: Path) -> None:
    with OneWorker(tmp_path, [export_of(base / "rw", RW)]) as worker:
        transport = worker.tcp()
        reply = exchange(transport, Call(NFS, V2, 0))
        transport.close()
    assert (reply.accept_stat, reply.low, reply.high) == (PROG_MISMATCH, 3, 3)


def arguments(fh: bytes) -> dict[Proc, bytes]:
    name, sattr = pack_diropargs(fh, b"name"), Sattr(mode=0o600).pack()
    return {Proc.GETATTR: fh, Proc.SETATTR: fh + sattr, Proc.LOOKUP: name, Proc.READLINK: fh, Proc.READ: fh + words(0, 1, 0),
            Proc.WRITE: fh + words(0, 0, 0) + opaque(b"data5"), Proc.CREATE: name + sattr,
            Proc.REMOVE: name, Proc.RENAME: name + name,
            Proc.LINK: fh + name, Proc.SYMLINK: name + opaque(b"text") + sattr, Proc.MKDIR: name + sattr, Proc.RMDIR: name,
            Proc.READDIR: fh + words(0, 512), Proc.STATFS: fh}


@pytest.mark.parametrize("proc", [proc for proc in Proc if proc not in (Proc.NULL, Proc.ROOT, Proc.WRITECACHE)])
def test_arguments_cut_at_every_byte_do_not_decode(spot: Spot, proc: Proc) -> None:
    whole = arguments(spot.fh)[proc]
    used = len(whole) - 4 if proc == Proc.READ else len(whole)  # totalcount is not looked at
    for size in range(used):
        with pytest.raises(RpcFailed) as failed:
            spot.nfs.raw(proc, whole[:size])
        assert failed.value.reply.accept_stat == GARBAGE_ARGS, size
    assert os.listdir(spot.path) == []


def test_calls_are_counted_by_procedure(spot: Spot) -> None:
    before = spot.worker.row(state.S_V2 + Proc.STATFS)
    spot.nfs.statfs(spot.fh).must()
    spot.nfs.statfs(spot.fh).must()
    assert spot.worker.row(state.S_V2 + Proc.STATFS) == before + 2


def test_result_record_is_what_tests_use() -> None:
    """The client refuses a result with a byte too many."""
    with pytest.raises(Exception, match="too many"):
        unpack_result(Proc.REMOVE, b"\0" * 8)
    assert unpack_result(Proc.REMOVE, b"\0" * 4) == Res(Nfsstat.OK)
