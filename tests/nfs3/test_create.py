"""CREATE (RFC 1813 section 3.3.8): the three modes, attributes at creation, what stands in the way."""
from __future__ import annotations

import os
import stat

import pytest

from tests.tools.nfs3 import (
    ACCES,
    EXCLUSIVE,
    EXIST,
    FBIG,
    GUARDED,
    INVAL,
    ISDIR,
    NAMETOOLONG,
    NF3REG,
    NOTDIR,
    OK,
    STALE,
    Proc,
    Sattr3,
    pack_CREATE3args,
    pack_diropargs3,
    pack_sattr3,
    pack_uints,
)
from tests.tools.rpc import GARBAGE_ARGS, auth_sys

from .conftest import Spot

USER = auth_sys(1000, 1000, (77,))


def test_create_gives_handle_attributes_and_wcc(spot: Spot) -> None:
    res = spot.nfs.create(spot.fh, b"new", Sattr3(mode=0o640)).must()
    info = spot.local(b"new").stat()
    assert (res.a.type, res.a.mode, res.a.fileid) == (NF3REG, 0o640, info.st_ino)
    assert spot.nfs.getattr(res.h).must().a.fileid == info.st_ino
    assert res.wcc is not None and res.wcc.after is not None and res.wcc.after.fileid == spot.path.stat().st_ino


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o644, 0o777, 0o1777])
def test_create_sets_the_mode_without_a_umask(spot: Spot, mode: int) -> None:
    """The client sends the final mode; the server's umask plays no part (B13)."""
    spot.nfs.create(spot.fh, b"new", Sattr3(mode=mode)).must()
    assert stat.S_IMODE(spot.local(b"new").stat().st_mode) == mode


@pytest.mark.root
@pytest.mark.parametrize(("sent", "want"), [(0o4777, 0o4777), (0o2755, 0o2755), (0xFFFFFFFF, 0o7777), (0o100644, 0o644)])
def test_create_mode_by_a_user_has_twelve_bits_at_the_most(spot: Spot, sent: int, want: int) -> None:
    res = spot.as_(USER).create(spot.fh, b"new", Sattr3(mode=sent))
    assert res.status in (OK, INVAL)
    if res.ok:
        assert stat.S_IMODE(spot.local(b"new").stat().st_mode) == want


@pytest.mark.root
def test_create_belongs_to_the_caller(spot: Spot) -> None:
    spot.as_(auth_sys(1000, 2000)).create(spot.fh, b"new", Sattr3(mode=0o644)).must()
    info = spot.local(b"new").stat()
    assert (info.st_uid, info.st_gid) == (1000, 2000)


@pytest.mark.root
def test_create_in_a_setgid_directory_takes_its_group(spot: Spot) -> None:
    fh = spot.dir(mode=0o777)
    os.chown(spot.local(b"dir"), 0, 4242)
    spot.local(b"dir").chmod(0o2777)
    spot.as_(auth_sys(1000, 2000)).create(fh, b"new", Sattr3(mode=0o644)).must()
    assert spot.local(b"dir/new").stat().st_gid == 4242


def test_create_takes_times_and_size_at_creation(spot: Spot) -> None:
    """All of sattr3 is honoured in one call (unfsd's documented gap)."""
    res = spot.nfs.create(spot.fh, b"new", Sattr3(mode=0o600, size=1000, atime=(11, 22), mtime=(33, 44)), mode=GUARDED).must()
    info = spot.local(b"new").stat()
    assert (info.st_size, info.st_atime_ns, info.st_mtime_ns) == (1000, 11_000_000_022, 33_000_000_044)
    assert (res.a.size, res.a.atime, res.a.mtime) == (1000, (11, 22), (33, 44))


@pytest.mark.root
def test_create_takes_owner_and_group_at_creation_from_root(spot: Spot) -> None:
    spot.nfs.create(spot.fh, b"new", Sattr3(mode=0o600, uid=1234, gid=4321)).must()
    info = spot.local(b"new").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 4321, 0o600)


@pytest.mark.root
def test_create_takes_a_group_of_the_caller(spot: Spot) -> None:
    spot.as_(USER).create(spot.fh, b"new", Sattr3(mode=0o600, gid=77)).must()
    assert spot.local(b"new").stat().st_gid == 77


@pytest.mark.root
def test_create_for_another_owner_by_a_user_leaves_no_such_file(spot: Spot) -> None:
    """A user cannot give files away; what is refused must not stay behind as another's."""
    res = spot.as_(USER).create(spot.fh, b"new", Sattr3(mode=0o600, uid=1234))
    assert not spot.local(b"new").exists() or (not res.ok or res.a.uid == 1000)
    assert not spot.local(b"new").exists() or spot.local(b"new").stat().st_uid == 1000


# --- UNCHECKED and GUARDED on what exists ---------------------------------------------------------------------------------

def test_create_unchecked_on_a_file_keeps_it(spot: Spot) -> None:
    fh = spot.file(b"f", b"content", 0o640)
    res = spot.nfs.create(spot.fh, b"f", Sattr3(mode=0o777)).must()
    assert spot.local(b"f").read_bytes() == b"content"
    assert res.a.fileid == spot.nfs.getattr(fh).must().a.fileid


def test_create_unchecked_on_a_file_with_size_0_empties_it(spot: Spot) -> None:
    """What open(O_CREAT|O_TRUNC) of a client sends."""
    spot.file(b"f", b"content")
    assert spot.nfs.create(spot.fh, b"f", Sattr3(size=0)).must().a.size == 0
    assert spot.local(b"f").read_bytes() == b""


@pytest.mark.root
def test_create_unchecked_with_size_0_needs_write_permission(spot: Spot) -> None:
    spot.file(b"f", b"content", 0o644)
    assert spot.as_(USER).create(spot.fh, b"f", Sattr3(size=0)).status == ACCES
    assert spot.local(b"f").read_bytes() == b"content"


def test_create_guarded_on_a_file_is_exist(spot: Spot) -> None:
    spot.file(b"f", b"content")
    res = spot.nfs.create(spot.fh, b"f", Sattr3(size=0), mode=GUARDED)
    assert res.status == EXIST and res.wcc is not None and res.wcc.after is not None
    assert spot.local(b"f").read_bytes() == b"content"


def test_create_guarded_over_a_directory_is_exist(spot: Spot) -> None:
    spot.dir(b"d")
    assert spot.nfs.create(spot.fh, b"d", Sattr3(size=0), mode=GUARDED).status == EXIST


@pytest.mark.parametrize("kind", ["dir", "fifo", "symlink"])
def test_create_unchecked_over_what_is_no_file_gives_it_untouched(spot: Spot, kind: str) -> None:
    """A client whose cache lacks the name asks with CREATE alone: open(2) of a FIFO then works, of a directory says EISDIR."""
    path = spot.local(b"there")
    {"dir": path.mkdir, "fifo": lambda: os.mkfifo(path), "symlink": lambda: path.symlink_to(spot.path / "made")}[kind]()
    before = spot.nfs.lookup(spot.fh, b"there").must()
    res = spot.nfs.create(spot.fh, b"there", Sattr3(mode=0o666, size=0)).must()
    assert (res.a, res.h) == (before.a, before.h)
    assert not spot.local(b"made").exists()


@pytest.mark.parametrize("name", [b".", b".."])
def test_create_of_dot_and_dotdot_is_exist(spot: Spot, name: bytes) -> None:
    assert spot.nfs.create(spot.fh, name).status in (EXIST, ISDIR, INVAL)


# --- refused --------------------------------------------------------------------------------------------------------------

@pytest.mark.root
def test_create_without_write_right_on_the_directory_is_acces(spot: Spot) -> None:
    fh = spot.dir(mode=0o755)
    assert spot.as_(USER).create(fh, b"new").status == ACCES


def test_create_in_a_file_is_notdir(spot: Spot) -> None:
    assert spot.nfs.create(spot.file(), b"new").status == NOTDIR


def test_create_in_a_removed_directory_is_stale(spot: Spot) -> None:
    fh = spot.dir()
    spot.local(b"dir").rmdir()
    assert spot.nfs.create(fh, b"new").status == STALE


@pytest.mark.parametrize(("name", "status"), [(b"n" * 256, (NAMETOOLONG,)), (b"a/b", (ACCES, INVAL)), (b"", (ACCES, INVAL)),
                                              (b"a\0b", (ACCES, INVAL))])
def test_create_of_a_bad_name_is_refused(spot: Spot, name: bytes, status: tuple[int, ...]) -> None:
    assert spot.nfs.create(spot.fh, name).status in status
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("mode", [3, 0xFFFFFFFF])
def test_create_unknown_createmode_is_garbage(spot: Spot, mode: int) -> None:
    args = pack_diropargs3(spot.fh, b"new") + pack_uints(mode) + pack_sattr3(Sattr3())
    assert spot.nfs.raw(Proc.CREATE, args).accept_stat == GARBAGE_ARGS


# --- EXCLUSIVE ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("verf", [b"\1\2\3\4\5\6\7\x08", bytes(8), b"\xff" * 8, b"\x80" + bytes(7)])
def test_create_exclusive_again_with_the_same_verifier_is_the_same_file(spot: Spot, verf: bytes) -> None:
    """D13: a retransmission finds its own file."""
    first = spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).must()
    again = spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).must()
    assert first.a.fileid == again.a.fileid


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 62, 63])
def test_create_exclusive_with_another_verifier_is_exist(spot: Spot, bit: int) -> None:
    verf = 0x0123456789ABCDEF
    spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf.to_bytes(8, "big")).must()
    other = (verf ^ 1 << bit).to_bytes(8, "big")
    assert spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=other).status == EXIST


def test_create_exclusive_over_a_file_is_exist(spot: Spot) -> None:
    spot.file(b"x", b"content")
    assert spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=bytes(8)).status == EXIST


def test_create_exclusive_after_the_client_set_attributes_is_exist(spot: Spot) -> None:
    """The verifier lives until SETATTR (section 3.3.8)."""
    verf = b"verifier"
    fh = spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).must().h
    spot.nfs.setattr(fh, Sattr3(mode=0o644, atime="server", mtime="server")).must()
    assert spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).status == EXIST


def test_create_exclusive_is_not_confused_by_a_local_touch(spot: Spot) -> None:
    """Times that a local user chose are no verifier: taken from one file they must not fit another."""
    verf = b"verifier"
    spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).must()
    info = spot.local(b"x").stat()
    spot.local(b"y").write_bytes(b"")
    os.utime(spot.local(b"y"), ns=(info.st_atime_ns, info.st_mtime_ns))
    assert spot.nfs.create(spot.fh, b"y", mode=EXCLUSIVE, verf=verf).status == EXIST
    os.utime(spot.local(b"x"))
    assert spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=verf).status == EXIST


def test_create_exclusive_survives_a_read(spot: Spot) -> None:
    """A READ between must not move the time that holds the verifier (relatime moves an atime that lies before mtime)."""
    for number in range(16):
        name, verf = b"x%d" % number, bytes([number * 16]) * 8
        fh = spot.nfs.create(spot.fh, name, mode=EXCLUSIVE, verf=verf).must().h
        spot.nfs.read(fh).must()
        assert spot.nfs.create(spot.fh, name, mode=EXCLUSIVE, verf=verf).ok, number


def test_create_exclusive_over_a_directory_or_symlink_is_exist(spot: Spot) -> None:
    spot.dir(b"d")
    spot.local(b"l").symlink_to("nowhere")
    for name in (b"d", b"l"):
        assert spot.nfs.create(spot.fh, name, mode=EXCLUSIVE, verf=bytes(8)).status == EXIST


def test_create_exclusive_makes_an_empty_regular_file_of_the_caller(spot: Spot) -> None:
    res = spot.nfs.create(spot.fh, b"x", mode=EXCLUSIVE, verf=b"12345678").must()
    assert (res.a.type, res.a.size, res.a.uid) == (NF3REG, 0, os.geteuid())
    assert res.a.mode == 0, "no right before the SETATTR that follows, as from a kernel server"


def test_create_with_a_size_beyond_all_files_is_fbig_and_makes_none(spot: Spot) -> None:
    assert spot.nfs.create(spot.fh, b"x", Sattr3(mode=0o644, size=1 << 63)).status == FBIG
    assert not spot.local(b"x").exists()


def test_create_exclusive_with_a_short_verifier_is_garbage(spot: Spot) -> None:
    args = pack_CREATE3args(spot.fh, b"x", EXCLUSIVE, b"1234")
    assert spot.nfs.raw(Proc.CREATE, args).accept_stat == GARBAGE_ARGS
