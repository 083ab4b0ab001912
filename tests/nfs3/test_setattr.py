"""SETATTR (RFC 1813 section 3.3.2): each attribute, the guard, who may, times to the nanosecond."""
from __future__ import annotations

import os
import stat
import time

import pytest

from tests.tools.nfs3 import (
    ACCES,
    FBIG,
    INVAL,
    ISDIR,
    NOT_SYNC,
    OK,
    PERM,
    Proc,
    Sattr3,
    pack_opaque,
    pack_SETATTR3args,
    pack_uints,
)
from tests.tools.rpc import GARBAGE_ARGS, auth_sys

from .conftest import Spot

USER = auth_sys(1000, 1000)


def test_setattr_of_nothing_succeeds_and_changes_nothing(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    before = spot.nfs.getattr(fh).must().a
    res = spot.nfs.setattr(fh).must()
    assert res.wcc is not None and res.wcc.after is not None
    assert (res.wcc.after.mode, res.wcc.after.size, res.wcc.after.mtime) == (before.mode, before.size, before.mtime)


@pytest.mark.parametrize("mode", [0, 0o600, 0o7777, 0o1755, 0o2750])
@pytest.mark.root
def test_setattr_mode_sets_all_twelve_bits(spot: Spot, mode: int) -> None:
    fh = spot.file()
    spot.nfs.setattr(fh, Sattr3(mode=mode)).must()
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == mode


def test_setattr_mode_with_bits_above_twelve_ignores_them(spot: Spot) -> None:
    """mode3 has twelve bits (section 2.3.4); a client may send st_mode whole."""
    fh = spot.file()
    res = spot.nfs.setattr(fh, Sattr3(mode=0o100640))
    assert res.status in (OK, INVAL)
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == (0o640 if res.ok else 0o644)


def test_setattr_mode_of_a_symlink_is_passed_over(spot: Spot) -> None:
    """lchmod(2) of BSD clients: a link has no mode here; a kernel server says OK, too."""
    spot.local(b"target").write_bytes(b"")
    spot.local(b"target").chmod(0o644)
    spot.local(b"link").symlink_to("target")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    spot.nfs.setattr(fh, Sattr3(mode=0o600, mtime=(5, 0))).must()
    assert spot.nfs.getattr(fh).must().a.mtime == (5, 0)
    assert stat.S_IMODE(spot.local(b"target").stat().st_mode) == 0o644


@pytest.mark.root
def test_setattr_owner_and_group_by_root(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.setattr(fh, Sattr3(uid=1234, gid=4321)).must()
    info = spot.local(b"file").stat()
    assert (info.st_uid, info.st_gid) == (1234, 4321)


@pytest.mark.root
def test_setattr_owner_of_a_symlink_changes_the_link(spot: Spot) -> None:
    spot.file()
    spot.local(b"link").symlink_to("file")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    spot.nfs.setattr(fh, Sattr3(uid=1234)).must()
    assert spot.local(b"link").lstat().st_uid == 1234
    assert spot.local(b"file").stat().st_uid == 0


@pytest.mark.root
def test_setattr_owner_by_a_user_is_perm(spot: Spot) -> None:
    fh = spot.file()
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(USER).setattr(fh, Sattr3(uid=1001)).status == PERM


@pytest.mark.root
def test_setattr_group_by_the_owner_only_to_one_of_his_groups(spot: Spot) -> None:
    fh = spot.file()
    os.chown(spot.local(b"file"), 1000, 1000)
    caller = spot.as_(auth_sys(1000, 1000, (77,)))
    assert caller.setattr(fh, Sattr3(gid=77)).ok
    assert caller.setattr(fh, Sattr3(gid=78)).status == PERM
    assert spot.local(b"file").stat().st_gid == 77


@pytest.mark.root
def test_setattr_owner_to_himself_by_the_owner_succeeds(spot: Spot) -> None:
    """Clients send the whole of what cp -p wants; the same uid is no change."""
    fh = spot.file()
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(USER).setattr(fh, Sattr3(mode=0o600, uid=1000, gid=1000)).ok


@pytest.mark.root
@pytest.mark.parametrize("attr", [Sattr3(mode=0o777), Sattr3(uid=1000), Sattr3(gid=1000), Sattr3(mtime=(1, 1))])
def test_setattr_by_a_stranger_is_perm_or_acces(spot: Spot, attr: Sattr3) -> None:
    fh = spot.file(mode=0o644)
    assert spot.as_(USER).setattr(fh, attr).status in (PERM, ACCES)
    info = spot.local(b"file").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o644, 0)


@pytest.mark.root
def test_setattr_chown_clears_setuid_and_setgid(spot: Spot) -> None:
    fh = spot.file(mode=0o6755)
    spot.nfs.setattr(fh, Sattr3(uid=1000)).must()
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == 0o755


@pytest.mark.root
def test_setattr_mode_by_owner_outside_the_group_loses_setgid(spot: Spot) -> None:
    fh = spot.file()
    os.chown(spot.local(b"file"), 1000, 555)
    spot.as_(USER).setattr(fh, Sattr3(mode=0o2755)).must()
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == 0o755


# --- size -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 3, 10, 1 << 33])
def test_setattr_size_cuts_or_extends_with_zeros(spot: Spot, size: int) -> None:
    fh = spot.file(data=b"0123456789")
    res = spot.nfs.setattr(fh, Sattr3(size=size)).must()
    assert res.wcc is not None and res.wcc.after is not None and res.wcc.after.size == size
    with spot.local(b"file").open("rb") as file:
        assert file.read(16) == (b"0123456789"[:size] + bytes(16))[: min(size, 16)]


def test_setattr_size_sets_mtime_even_if_it_is_the_same(spot: Spot) -> None:
    """Section 3.3.2: a size that is given changes mtime."""
    fh = spot.file(data=b"abc")
    os.utime(spot.local(b"file"), (5, 5))
    spot.nfs.setattr(fh, Sattr3(size=3)).must()
    assert spot.local(b"file").stat().st_mtime > 5


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_setattr_size_beyond_the_file_system_is_fbig_or_inval(spot: Spot, size: int) -> None:
    fh = spot.file(data=b"abc")
    assert spot.nfs.setattr(fh, Sattr3(size=size)).status in (FBIG, INVAL)
    assert spot.local(b"file").stat().st_size == 3


def test_setattr_size_of_a_directory_is_isdir_or_inval(spot: Spot) -> None:
    assert spot.nfs.setattr(spot.dir(), Sattr3(size=0)).status in (ISDIR, INVAL)


def test_setattr_size_of_a_fifo_is_inval_at_once(spot: Spot) -> None:
    os.mkfifo(spot.local(b"fifo"))
    fh = spot.nfs.lookup(spot.fh, b"fifo").must().h
    assert spot.nfs.setattr(fh, Sattr3(size=0)).status == INVAL


def test_setattr_size_of_a_symlink_is_inval_and_leaves_the_target(spot: Spot) -> None:
    spot.file(data=b"abc")
    spot.local(b"link").symlink_to("file")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    assert spot.nfs.setattr(fh, Sattr3(size=0)).status == INVAL
    assert spot.local(b"file").read_bytes() == b"abc"


@pytest.mark.root
def test_setattr_size_needs_write_permission(spot: Spot) -> None:
    fh = spot.file(data=b"abc", mode=0o444)
    assert spot.as_(USER).setattr(fh, Sattr3(size=0)).status == ACCES
    assert spot.local(b"file").read_bytes() == b"abc"


@pytest.mark.root
def test_setattr_size_by_the_owner_of_a_read_only_file_succeeds(spot: Spot) -> None:
    """Owner override (section 4.4): open with O_TRUNC was checked by the client."""
    fh = spot.file(data=b"abc", mode=0o444)
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(USER).setattr(fh, Sattr3(size=0)).ok


@pytest.mark.root
def test_setattr_size_and_mode_zero_together(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    os.chown(spot.local(b"file"), 1000, 1000)
    spot.as_(USER).setattr(fh, Sattr3(mode=0, size=1)).must()
    info = spot.local(b"file").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_size) == (0, 1)


@pytest.mark.root
def test_setattr_size_clears_setuid_for_a_user(spot: Spot) -> None:
    fh = spot.file(data=b"abc", mode=0o6777)
    spot.as_(USER).setattr(fh, Sattr3(size=1)).must()
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) & 0o4000 == 0


# --- times ----------------------------------------------------------------------------------------------------------------

def test_setattr_client_times_to_the_nanosecond(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.setattr(fh, Sattr3(atime=(1_000_000_007, 123_456_789), mtime=(1_234_567_890, 987_654_321))).must()
    info = spot.local(b"file").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (1_000_000_007_123_456_789, 1_234_567_890_987_654_321)
    attr = spot.nfs.getattr(fh).must().a
    assert (attr.atime, attr.mtime) == ((1_000_000_007, 123_456_789), (1_234_567_890, 987_654_321))


def test_setattr_one_time_leaves_the_other(spot: Spot) -> None:
    fh = spot.file()
    os.utime(spot.local(b"file"), ns=(11_000_000_022, 33_000_000_044))
    spot.nfs.setattr(fh, Sattr3(mtime=(55, 66))).must()
    info = spot.local(b"file").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (11_000_000_022, 55_000_000_066)


def test_setattr_server_time_is_now(spot: Spot) -> None:
    fh = spot.file()
    os.utime(spot.local(b"file"), (5, 5))
    start = time.time()
    spot.nfs.setattr(fh, Sattr3(atime="server", mtime="server")).must()
    info = spot.local(b"file").stat()
    assert start - 1 <= info.st_mtime <= time.time() + 1 and start - 1 <= info.st_atime <= time.time() + 1


def test_setattr_time_of_a_symlink_changes_the_link(spot: Spot) -> None:
    spot.file()
    spot.local(b"link").symlink_to("file")
    fh = spot.nfs.lookup(spot.fh, b"link").must().h
    spot.nfs.setattr(fh, Sattr3(mtime=(77, 88))).must()
    assert spot.local(b"link").lstat().st_mtime_ns == 77_000_000_088
    assert spot.local(b"file").stat().st_mtime > 1000


@pytest.mark.parametrize("nseconds", [10**9, 0xFFFFFFFF, 0x3FFFFFFF, 0x3FFFFFFE])
@pytest.mark.parametrize("which", ["atime", "mtime"])
def test_setattr_nseconds_out_of_range_is_inval(spot: Spot, nseconds: int, which: str) -> None:
    """0x3fffffff and ...fe are UTIME_NOW and UTIME_OMIT of Linux: they must not reach utimensat(2)."""
    fh = spot.file()
    os.utime(spot.local(b"file"), (5, 5))
    assert spot.nfs.setattr(fh, Sattr3(atime=(1, nseconds)) if which == "atime" else Sattr3(mtime=(1, nseconds))).status == INVAL
    info = spot.local(b"file").stat()
    assert (info.st_atime, info.st_mtime) == (5, 5)


@pytest.mark.root
def test_setattr_server_time_needs_write_permission_only(spot: Spot) -> None:
    fh = spot.file(mode=0o666)
    assert spot.as_(USER).setattr(fh, Sattr3(atime="server", mtime="server")).ok
    assert spot.as_(USER).setattr(fh, Sattr3(mtime=(1, 1))).status == PERM


@pytest.mark.parametrize("attr", [Sattr3(mtime="server"), Sattr3(atime="server"), Sattr3(size=0, mtime="server")], ids=str)
@pytest.mark.root
def test_setattr_one_server_time_needs_write_permission_only(spot: Spot, attr: Sattr3) -> None:
    """Linux sends size 0 and mtime for open(O_TRUNC), mtime alone when the file is empty already: `>file` by who may write."""
    fh = spot.file(data=b"data", mode=0o666)
    os.utime(spot.local(b"file"), (1, 1))
    spot.as_(USER).setattr(fh, attr).must()
    info = spot.local(b"file").stat()
    assert [info.st_atime > 1, info.st_mtime > 1] == [attr.atime is not None, attr.mtime is not None]
    spot.local(b"file").chmod(0o644)
    assert spot.as_(USER).setattr(fh, attr).status in (PERM, ACCES)


@pytest.mark.root
def test_setattr_server_and_client_time_need_the_owner(spot: Spot) -> None:
    fh = spot.file(mode=0o666)
    for attr in (Sattr3(mtime=(5, 0)), Sattr3(atime="server", mtime=(5, 0)), Sattr3(atime=(5, 0), mtime="server")):
        assert spot.as_(USER).setattr(fh, attr).status in (PERM, ACCES)


def test_setattr_times_after_2038(spot: Spot) -> None:
    """nfstime3 seconds are unsigned (section 2.3.4)."""
    fh = spot.file()
    spot.nfs.setattr(fh, Sattr3(mtime=(0x90000000, 0))).must()
    assert spot.local(b"file").stat().st_mtime == 0x90000000
    assert spot.nfs.getattr(fh).must().a.mtime == (0x90000000, 0)


# --- guard ----------------------------------------------------------------------------------------------------------------

def test_setattr_guard_that_matches_ctime_is_done(spot: Spot) -> None:
    fh = spot.file()
    ctime = spot.nfs.getattr(fh).must().a.ctime
    assert spot.nfs.setattr(fh, Sattr3(mode=0o600), guard=ctime).ok


@pytest.mark.parametrize("delta", [(1, 0), (-1, 0), (0, 1)])
def test_setattr_guard_that_does_not_match_is_not_sync(spot: Spot, delta: tuple[int, int]) -> None:
    fh = spot.file()
    seconds, nseconds = spot.nfs.getattr(fh).must().a.ctime
    res = spot.nfs.setattr(fh, Sattr3(mode=0o600), guard=(seconds + delta[0], nseconds + delta[1]))
    assert res.status == NOT_SYNC
    assert res.wcc is not None and res.wcc.after is not None
    assert stat.S_IMODE(spot.local(b"file").stat().st_mode) == 0o644


# --- enums ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attr", [Sattr3(atime=3), Sattr3(atime=7), Sattr3(mtime=0xFFFFFFFF)])
def test_setattr_unknown_time_how_is_garbage(spot: Spot, attr: Sattr3) -> None:
    reply = spot.nfs.raw(Proc.SETATTR, pack_SETATTR3args(spot.file(), attr, None))
    assert reply.accept_stat == GARBAGE_ARGS


@pytest.mark.parametrize("place", range(4))
def test_setattr_bool_of_2_is_garbage(spot: Spot, place: int) -> None:
    """RFC 4506 section 4.4: bool is an enum of 0 and 1."""
    flags = [0, 0, 0, 0]
    flags[place] = 2
    reply = spot.nfs.raw(Proc.SETATTR, pack_opaque(spot.file()) + pack_uints(*flags, 0, 0, 0) + bytes(16))
    assert reply.accept_stat == GARBAGE_ARGS


def test_setattr_guard_bool_of_2_is_garbage(spot: Spot) -> None:
    args = pack_SETATTR3args(spot.file(), Sattr3(), None)
    assert spot.nfs.raw(Proc.SETATTR, args[:-4] + pack_uints(2, 0, 0)).accept_stat == GARBAGE_ARGS
