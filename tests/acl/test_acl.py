"""GETACL and SETACL; getfacl(1) and setfacl(1) on the same files are the oracle."""
from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from nfssvc_shim import state
from tests.tools.nfs2 import Fattr, Nfs2
from tests.tools.nfs3 import ACCES, ACCESS_ALL, INVAL, NOTSUPP, PERM, ROFS, STALE, Fattr3
from tests.tools.nfsacl import (
    ACL,
    ACL_PROGRAM,
    COUNT,
    DEFAULT,
    DEFAULT_COUNT,
    GETACL,
    GROUP,
    GROUP_OBJ,
    IS_DEFAULT,
    MASK,
    OTHER,
    SETACL,
    USER,
    USER_OBJ,
    Ace,
    NfsAcl,
    pack_acl,
    pack_SETACLargs,
)
from tests.tools.rpc import GARBAGE_ARGS, PROC_UNAVAIL, PROG_MISMATCH, PROG_UNAVAIL, Call, RpcFailed, auth_sys, exchange
from tests.tools.worker import OneWorker, export_of

from .conftest import NOACL, RO, RW, Spot, getfacl, setfacl

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("setfacl"), reason="needs setfacl(1)")]

MINIMAL = ((USER_OBJ, 0, 6), (GROUP_OBJ, 0, 4), (OTHER, 0, 4))
FULL = ((USER_OBJ, 0, 7), (USER, 1000, 6), (USER, 1001, 4), (GROUP_OBJ, 0, 5), (GROUP, 2000, 3), (MASK, 0, 7), (OTHER, 0, 1))
FULL_TEXT = ["user::rwx", "user:1000:rw-", "user:1001:r--", "group::r-x", "group:2000:-wx", "mask::rwx", "other::--x"]
USER_1000 = auth_sys(1000, 1000)


# --- GETACL ---------------------------------------------------------------------------------------------------------------

def test_getacl_of_a_plain_file_is_its_mode_with_a_mask(spot: Spot) -> None:
    fh = spot.file(mode=0o754)
    res = spot.acl.getacl(fh)
    assert (res.status, res.mask, res.count, res.default_count) == (0, 15, 4, 0)
    assert res.acl == ((USER_OBJ, 0, 7), (GROUP_OBJ, 0, 5), (MASK, 0, 5), (OTHER, 0, 4))
    assert isinstance(res.attr, Fattr3) and res.attr == spot.nfs.getattr(fh).must().a


def test_getacl_agrees_with_setfacl(spot: Spot) -> None:
    fh = spot.dir()
    setfacl(spot.path / "dir", "-m", "u:1000:rw,u:1001:r,g:2000:wx,m::rwx,d:u:1000:rwx")
    os.chown(spot.path / "dir", 7, 8)
    res = spot.acl.getacl(fh)
    assert res.acl == ((USER_OBJ, 7, 7), (USER, 1000, 6), (USER, 1001, 4), (GROUP_OBJ, 8, 5), (GROUP, 2000, 3), (MASK, 0, 7),
                       (OTHER, 0, 5))
    assert [(kind & ~IS_DEFAULT, perm) for kind, _, perm in res.default] == [(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (MASK, 7),
                                                                            (OTHER, 5)]
    assert all(kind & IS_DEFAULT for kind, _, _ in res.default)


def test_getacl_gives_what_the_mask_asks_for(spot: Spot) -> None:
    fh = spot.dir()
    setfacl(spot.path / "dir", "-m", "d:u:1000:rwx")
    counts = spot.acl.getacl(fh, COUNT | DEFAULT_COUNT)
    assert (counts.count, counts.acl, counts.default_count, counts.default) == (4, (), 5, ())
    one = spot.acl.getacl(fh, ACL)
    assert len(one.acl) == 4 and one.default_count == 0
    assert spot.acl.getacl(fh, 0).count == 0
    assert spot.acl.getacl(fh, 16).status == INVAL


def test_getacl_of_a_symlink_is_its_mode(spot: Spot) -> None:
    os.symlink("none", spot.path / "link")
    assert [perm for _, _, perm in spot.acl.getacl(spot.lookup("link")).acl] == [7, 7, 7, 7]


# --- SETACL ---------------------------------------------------------------------------------------------------------------

def test_setacl_agrees_with_getfacl(spot: Spot) -> None:
    fh = spot.file()
    shuffled = tuple(reversed(FULL))
    res = spot.acl.setacl(fh, ACL, shuffled)
    assert res.status == 0 and isinstance(res.attr, Fattr3) and res.attr.mode == 0o771
    assert getfacl(spot.path / "file") == FULL_TEXT
    assert spot.acl.getacl(fh).acl == FULL


def defaults(path: Path) -> list[str]:
    return [line.removeprefix("default:") for line in getfacl(path) if line.startswith("default:")]


def test_setacl_of_a_default_acl(spot: Spot) -> None:
    fh = spot.dir()
    default = tuple((kind | IS_DEFAULT, one, perm) for kind, one, perm in FULL)
    assert spot.acl.setacl(fh, DEFAULT, (), default).status == 0
    assert defaults(spot.path / "dir") == FULL_TEXT
    assert spot.acl.setacl(fh, DEFAULT, (), ()).status == 0
    assert defaults(spot.path / "dir") == []


def test_setacl_leaves_what_the_mask_does_not_name(spot: Spot) -> None:
    """A mask without the bit must not remove the ACL (a hole that other servers had)."""
    fh = spot.dir()
    assert spot.acl.setacl(fh, ACL | DEFAULT, FULL, FULL).status == 0
    before = getfacl(spot.path / "dir")
    assert spot.acl.setacl(fh, 0).status == 0
    assert spot.acl.setacl(fh, COUNT | DEFAULT_COUNT).status == 0
    assert getfacl(spot.path / "dir") == before


def test_setacl_of_four_entries_without_a_say_is_the_mode_alone(spot: Spot) -> None:
    fh = spot.file()
    four = ((USER_OBJ, 0, 6), (GROUP_OBJ, 0, 5), (MASK, 0, 5), (OTHER, 0, 0))
    assert spot.acl.setacl(fh, ACL, four).status == 0
    assert stat.S_IMODE((spot.path / "file").stat().st_mode) == 0o650
    assert "system.posix_acl_access" not in os.listxattr(spot.path / "file")


@pytest.mark.parametrize("entries", [
    MINIMAL[:2],                                                    # no OTHER
    (*MINIMAL, (USER_OBJ, 0, 1)),                                   # twice
    (*MINIMAL, (USER, 1000, 4)),                                    # named, and no mask
    (*MINIMAL, (USER, 1000, 4), (USER, 1000, 5), (MASK, 0, 7)),     # one id twice
    (*MINIMAL, (USER, 0xFFFFFFFF, 4), (MASK, 0, 7)),                # no id
    (*MINIMAL, (3, 0, 4)),                                          # no such kind
    ((USER_OBJ, 0, 8), *MINIMAL[1:]),                               # no such permission
    ((0xFFFFFFFF, 0, 7), *MINIMAL[1:]),
])
def test_setacl_of_what_is_no_acl_is_inval(spot: Spot, entries: tuple[Ace, ...]) -> None:
    fh = spot.file()
    assert spot.acl.setacl(fh, ACL, entries).status == INVAL
    assert getfacl(spot.path / "file") == ["user::rw-", "group::r--", "other::r--"]


def test_setacl_with_too_many_entries(spot: Spot) -> None:
    fh = spot.file()
    many = (*MINIMAL, (MASK, 0, 7), *((USER, 5000 + i, 4) for i in range(1021)))
    with pytest.raises(RpcFailed) as failed:
        spot.acl.setacl(fh, ACL, many)
    assert failed.value.reply.accept_stat == GARBAGE_ARGS
    assert spot.acl.setacl(fh, ACL, many[:-1]).status != 0  # 1024 of them: more than ext4 stores, no more than we read
    wrong = ACL.to_bytes(4, "big") + pack_acl(MINIMAL, count=4) + pack_acl(())
    assert spot.acl.setacl_raw(fh, wrong).status == INVAL


def test_setacl_is_the_owners(spot: Spot) -> None:
    fh = spot.file()
    assert spot.acl.as_(USER_1000).setacl(fh, ACL, FULL).status == PERM
    os.chown(spot.path / "file", 1000, 1000)
    assert spot.acl.as_(USER_1000).setacl(fh, ACL, FULL).status == 0


def test_setacl_on_a_read_only_export_is_rofs(spot: Spot) -> None:
    """Whatever the mask says (CVE-2005-3623)."""
    root = spot.worker.root(RO)
    for mask in (0, ACL, DEFAULT, 15):
        assert spot.acl.setacl(root, mask, MINIMAL, MINIMAL).status == ROFS
    assert spot.acl.getacl(root).status == 0


def test_setacl_of_a_default_acl_on_a_file_and_of_any_on_a_symlink(spot: Spot) -> None:
    fh = spot.file()
    assert spot.acl.setacl(fh, DEFAULT, (), MINIMAL).status == ACCES
    assert spot.acl.setacl(fh, ACL | DEFAULT, MINIMAL, ()).status == 0
    os.symlink("file", spot.path / "link")
    assert spot.acl.setacl(spot.lookup("link"), ACL, FULL).status == NOTSUPP
    assert getfacl(spot.path / "file") == ["user::rw-", "group::r--", "other::r--"]


def test_an_acl_decides_at_once(spot: Spot) -> None:
    """What ACCESS and READ say follows the ACL, whatever was asked before."""
    fh = spot.file(mode=0o600)
    for _ in range(20):
        assert spot.as_(USER_1000).read(fh).status == ACCES
        assert spot.acl.setacl(fh, ACL, (*MINIMAL, (USER, 1000, 4), (MASK, 0, 7))).status == 0
        assert spot.as_(USER_1000).read(fh).status == 0
        assert spot.acl.setacl(fh, ACL, ((USER_OBJ, 0, 6), (GROUP_OBJ, 0, 0), (OTHER, 0, 0))).status == 0


def test_an_export_without_acls_refuses(spot: Spot) -> None:
    root = spot.worker.root(NOACL)
    assert spot.acl.getacl(root).status == NOTSUPP
    assert spot.acl.setacl(root, ACL, MINIMAL).status == NOTSUPP


def test_stale_and_forged_handles(spot: Spot) -> None:
    fh = spot.file()
    (spot.path / "file").unlink()
    assert spot.acl.getacl(fh).status == STALE
    assert spot.acl.getacl(fh[:-1] + bytes([fh[-1] ^ 1])).status == 10001


# --- version 2 ------------------------------------------------------------------------------------------------------------

def test_version_2_is_the_same_with_its_own_attributes(spot: Spot) -> None:
    fh3 = spot.dir()
    acl2, nfs2 = NfsAcl(spot.acl.transport, vers=2), Nfs2(spot.acl.transport)
    fh = nfs2.lookup(nfs2.lookup(spot.worker.root(RW, vers=2), os.fsencode(spot.path.name)).must().fh, b"dir").must().fh
    res = acl2.setacl(fh, ACL | DEFAULT, FULL, FULL)
    assert res.status == 0 and isinstance(res.attr, Fattr) and res.attr == nfs2.getattr(fh).must().a
    got, want = acl2.getacl(fh), spot.acl.getacl(fh3)
    assert (got.acl, got.default, got.mask) == (want.acl, want.default, want.mask)
    assert acl2.getattr2(fh).attr == got.attr
    assert acl2.access2(fh, ACCESS_ALL).access == spot.nfs.access(fh3, ACCESS_ALL).must().access
    assert acl2.as_(USER_1000).setacl(fh, ACL, MINIMAL).status == PERM
    assert acl2.getacl(b"\x02" + bytes(31)).status == STALE


# --- the edges ------------------------------------------------------------------------------------------------------------

def test_versions_and_procedures(spot: Spot) -> None:
    for vers in (2, 3):
        assert NfsAcl(spot.acl.transport, vers=vers).raw(0) == b""
    reply = exchange(spot.acl.transport, Call(ACL_PROGRAM, 4, 0))
    assert (reply.accept_stat, reply.low, reply.high) == (PROG_MISMATCH, 2, 3)
    assert exchange(spot.acl.transport, Call(ACL_PROGRAM, 3, 3)).accept_stat == PROC_UNAVAIL
    assert exchange(spot.acl.transport, Call(ACL_PROGRAM, 2, 5)).accept_stat == PROC_UNAVAIL


@pytest.mark.parametrize(("options", "accept", "low"), [((), PROG_MISMATCH, 3), (("--no-acl", "--v2"), PROG_UNAVAIL, 0)])
def test_range_without_version_2_and_switched_off(base: Path, tmp_path: Path, options: tuple[str, ...], accept: int,
                                                  low: int) -> None:
    with OneWorker(tmp_path, [export_of(base / "rw", RW)], *options) as worker:
        transport = worker.tcp()
        reply = exchange(transport, Call(ACL_PROGRAM, 2, 0))
        transport.close()
    assert (reply.accept_stat, reply.low) == (accept, low)


@pytest.mark.parametrize(("proc", "args"), [(GETACL, b"\0\0\0\1"), (SETACL, pack_SETACLargs(3, FULL, FULL))])
def test_arguments_cut_at_every_byte_do_not_decode(spot: Spot, proc: int, args: bytes) -> None:
    whole = spot.acl.fh(spot.file()) + args
    for size in range(len(whole)):
        with pytest.raises(RpcFailed) as failed:
            spot.acl.raw(proc, whole[:size])
        assert failed.value.reply.accept_stat == GARBAGE_ARGS, size
    assert getfacl(spot.path / "file") == ["user::rw-", "group::r--", "other::r--"]


def test_calls_are_counted(spot: Spot) -> None:
    before = spot.worker.row(state.S_ACL + GETACL)
    spot.acl.getacl(spot.fh)
    assert spot.worker.row(state.S_ACL + GETACL) == before + 1
