"""MKDIR, SYMLINK and MKNOD (RFC 1813 sections 3.3.9 to 3.3.11)."""
from __future__ import annotations

import os
import stat

import pytest

from tests.tools.nfs3 import (
    ACCES,
    BADTYPE,
    EXIST,
    INVAL,
    IO,
    NAMETOOLONG,
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3LNK,
    NF3REG,
    NF3SOCK,
    NOTDIR,
    PERM,
    STALE,
    Nfs3,
    Proc,
    Res,
    Sattr3,
    pack_diropargs3,
    pack_MKNOD3args,
    pack_uints,
    unpack_result,
)
from tests.tools.rpc import GARBAGE_ARGS, auth_sys

from .conftest import Spot

USER = auth_sys(1000, 1000)


def make(nfs: Nfs3, proc: Proc, fh: bytes, name: bytes, attr: Sattr3 = Sattr3()) -> Res:  # noqa: B008  frozen
    """Any of the calls that make a name."""
    if proc == Proc.CREATE:
        return nfs.create(fh, name, attr, mode=1)
    if proc == Proc.MKDIR:
        return nfs.mkdir(fh, name, attr)
    if proc == Proc.SYMLINK:
        return nfs.symlink(fh, name, b"target", attr)
    return nfs.mknod(fh, name, NF3FIFO, attr)


MAKERS = [Proc.CREATE, Proc.MKDIR, Proc.SYMLINK, Proc.MKNOD]
TYPES = {Proc.CREATE: NF3REG, Proc.MKDIR: NF3DIR, Proc.SYMLINK: NF3LNK, Proc.MKNOD: NF3FIFO}


@pytest.mark.parametrize("proc", [Proc.CREATE, Proc.MKDIR, Proc.MKNOD])
def test_make_without_a_mode_gives_no_right(spot: Spot, proc: Proc) -> None:
    """sattr3's mode is optional; Linux' own server takes 0 for it."""
    assert make(spot.nfs, proc, spot.fh, b"new").must().a.mode == 0
    assert stat.S_IMODE(spot.local(b"new").lstat().st_mode) == 0


@pytest.mark.parametrize("proc", MAKERS)
def test_make_gives_handle_attributes_and_wcc(spot: Spot, proc: Proc) -> None:
    res = make(spot.nfs, proc, spot.fh, b"new").must()
    assert res.a.type == TYPES[proc]
    assert res.a.fileid == spot.local(b"new").lstat().st_ino == spot.nfs.getattr(res.h).must().a.fileid
    assert res.wcc is not None and res.wcc.after is not None
    assert res.wcc.after.mtime == divmod(spot.path.stat().st_mtime_ns, 10**9)


@pytest.mark.parametrize("proc", MAKERS)
@pytest.mark.parametrize("kind", ["file", "dir", "link"])
def test_make_of_an_existing_name_is_exist(spot: Spot, proc: Proc, kind: str) -> None:
    if kind == "file":
        spot.file(b"x")
    elif kind == "dir":
        spot.dir(b"x")
    else:
        spot.local(b"x").symlink_to("nowhere")
    res = make(spot.nfs, proc, spot.fh, b"x")
    assert res.status == EXIST and res.wcc is not None and res.wcc.after is not None


@pytest.mark.parametrize("proc", MAKERS)
@pytest.mark.parametrize("name", [b".", b".."])
def test_make_of_dot_and_dotdot_is_exist(spot: Spot, proc: Proc, name: bytes) -> None:
    assert make(spot.nfs, proc, spot.fh, name).status in (EXIST, INVAL)


@pytest.mark.parametrize("proc", MAKERS)
@pytest.mark.parametrize(("name", "status"), [(b"n" * 256, (NAMETOOLONG,)), (b"a/b", (ACCES, INVAL)), (b"", (ACCES, INVAL)),
                                              (b"a\0b", (ACCES, INVAL))])
def test_make_of_a_bad_name_is_refused(spot: Spot, proc: Proc, name: bytes, status: tuple[int, ...]) -> None:
    assert make(spot.nfs, proc, spot.fh, name).status in status
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("proc", MAKERS)
def test_make_in_a_file_is_notdir(spot: Spot, proc: Proc) -> None:
    assert make(spot.nfs, proc, spot.file(), b"new").status == NOTDIR


@pytest.mark.parametrize("proc", MAKERS)
def test_make_in_a_removed_directory_is_stale(spot: Spot, proc: Proc) -> None:
    fh = spot.dir()
    spot.local(b"dir").rmdir()
    assert make(spot.nfs, proc, fh, b"new").status == STALE


@pytest.mark.root
@pytest.mark.parametrize("proc", MAKERS)
def test_make_without_write_right_is_acces(spot: Spot, proc: Proc) -> None:
    fh = spot.dir(mode=0o755)
    assert make(spot.as_(USER), proc, fh, b"new").status == ACCES


@pytest.mark.root
@pytest.mark.parametrize("proc", MAKERS)
def test_make_belongs_to_the_caller(spot: Spot, proc: Proc) -> None:
    make(spot.as_(auth_sys(1000, 2000)), proc, spot.fh, b"new", Sattr3(mode=0o700)).must()
    info = spot.local(b"new").lstat()
    assert (info.st_uid, info.st_gid) == (1000, 2000)


@pytest.mark.root
@pytest.mark.parametrize("proc", MAKERS)
def test_make_takes_owner_group_and_times_at_creation(spot: Spot, proc: Proc) -> None:
    attr = Sattr3(mode=0o750, uid=1234, gid=4321, atime=(11, 22), mtime=(33, 44))
    res = make(spot.nfs, proc, spot.fh, b"new", attr).must()
    info = spot.local(b"new").lstat()
    assert (info.st_uid, info.st_gid, info.st_mtime_ns) == (1234, 4321, 33_000_000_044)
    assert (res.a.uid, res.a.gid, res.a.mtime) == (1234, 4321, (33, 44))
    if proc != Proc.SYMLINK:  # a symbolic link has no mode of its own on Linux
        assert stat.S_IMODE(info.st_mode) == 0o750


@pytest.mark.parametrize("proc", [Proc.MKDIR, Proc.SYMLINK, Proc.MKNOD])
def test_make_passes_over_a_size(spot: Spot, proc: Proc) -> None:
    """sattr3 has one for every type; what has none is made as if it had not been sent."""
    make(spot.nfs, proc, spot.fh, b"new", Sattr3(mode=0o700, size=1 << 63)).must()
    assert spot.local(b"new").is_symlink() or spot.local(b"new").exists()


@pytest.mark.parametrize("mode", [0o000, 0o777, 0o1777])
def test_mkdir_sets_the_mode_without_a_umask(spot: Spot, mode: int) -> None:
    spot.nfs.mkdir(spot.fh, b"new", Sattr3(mode=mode)).must()
    assert stat.S_IMODE(spot.local(b"new").stat().st_mode) == mode


@pytest.mark.root
def test_mkdir_in_a_setgid_directory_inherits_group_and_bit(spot: Spot) -> None:
    fh = spot.dir()
    os.chown(spot.local(b"dir"), 0, 4242)
    spot.local(b"dir").chmod(0o2777)
    spot.as_(USER).mkdir(fh, b"new", Sattr3(mode=0o755)).must()
    info = spot.local(b"dir/new").stat()
    assert (info.st_gid, stat.S_IMODE(info.st_mode)) == (4242, 0o2755)


def test_mkdir_counts_in_the_parents_links(spot: Spot) -> None:
    res = spot.nfs.mkdir(spot.fh, b"new", Sattr3(mode=0o755)).must()
    assert res.a.nlink == 2
    assert spot.nfs.getattr(spot.fh).must().a.nlink == spot.path.stat().st_nlink


# --- SYMLINK --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", [b"a", b"/etc/passwd", b"\xff\xfe", b"x" * 4095])
def test_symlink_keeps_the_bytes_of_the_target(spot: Spot, target: bytes) -> None:
    res = spot.nfs.symlink(spot.fh, b"link", target).must()
    assert os.readlink(os.fsencode(spot.local(b"link"))) == target
    assert spot.nfs.readlink(res.h).must().data == target


def test_symlink_to_nothing_is_inval(spot: Spot) -> None:
    assert spot.nfs.symlink(spot.fh, b"link", b"").status == INVAL
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("target", [b"\0", b"a\0b", b"a\0"])
def test_symlink_with_nul_is_inval(spot: Spot, target: bytes) -> None:
    """D09: a target cut at the NUL would be another link than asked for."""
    assert spot.nfs.symlink(spot.fh, b"link", target).status == INVAL
    assert os.listdir(spot.path) == []


def test_symlink_of_4096_bytes_is_nametoolong(spot: Spot) -> None:
    assert spot.nfs.symlink(spot.fh, b"link", b"x" * 4096).status == NAMETOOLONG


def test_symlink_of_100000_bytes_is_refused(spot: Spot) -> None:
    args = pack_diropargs3(spot.fh, b"link") + pack_uints(0, 0, 0, 0, 0, 0, 100_000) + b"x" * 100_000
    reply = spot.nfs.raw(Proc.SYMLINK, args)
    assert reply.accept_stat == GARBAGE_ARGS or unpack_result(Proc.SYMLINK, reply.body).status == NAMETOOLONG


# --- MKNOD ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "is_kind"), [(NF3FIFO, stat.S_ISFIFO), (NF3SOCK, stat.S_ISSOCK)])
def test_mknod_of_fifo_and_socket(spot: Spot, kind: int, is_kind: object) -> None:
    res = spot.nfs.mknod(spot.fh, b"node", kind, Sattr3(mode=0o640)).must()
    info = spot.local(b"node").lstat()
    assert callable(is_kind) and is_kind(info.st_mode)
    assert (res.a.type, res.a.mode) == (kind, 0o640)


@pytest.mark.root
@pytest.mark.parametrize("kind", [NF3CHR, NF3BLK])
@pytest.mark.parametrize("rdev", [(1, 3), (300, 70_000), (0, 0)])
def test_mknod_of_a_device_by_root(spot: Spot, kind: int, rdev: tuple[int, int]) -> None:
    res = spot.nfs.mknod(spot.fh, b"node", kind, Sattr3(mode=0o600), rdev=rdev).must()
    info = spot.local(b"node").lstat()
    assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == rdev == res.a.rdev


@pytest.mark.root
@pytest.mark.parametrize("kind", [NF3CHR, NF3BLK])
def test_mknod_of_a_device_by_a_user_is_refused(spot: Spot, kind: int) -> None:
    """PERM as every server says, or IO, the nearest of the statuses that section 3.3.11 lists."""
    assert spot.as_(USER).mknod(spot.fh, b"node", kind, rdev=(1, 3)).status in (PERM, ACCES, IO)
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("kind", [NF3REG, NF3DIR, NF3LNK])
def test_mknod_of_a_type_with_its_own_call_is_badtype(spot: Spot, kind: int) -> None:
    assert spot.nfs.mknod(spot.fh, b"node", kind).status == BADTYPE
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("kind", [0, 8, 0xFFFFFFFF])
def test_mknod_of_an_unknown_type_is_badtype_or_garbage(spot: Spot, kind: int) -> None:
    reply = spot.nfs.raw(Proc.MKNOD, pack_MKNOD3args(spot.fh, b"node", kind, Sattr3(), (0, 0)))
    assert reply.accept_stat == GARBAGE_ARGS or unpack_result(Proc.MKNOD, reply.body).status == BADTYPE
    assert os.listdir(spot.path) == []
