"""REMOVE, RMDIR, RENAME and LINK (RFC 1813 sections 3.3.12 to 3.3.15)."""
from __future__ import annotations

import os

import pytest

from tests.tools.nfs3 import (
    ACCES,
    EXIST,
    INVAL,
    ISDIR,
    NAMETOOLONG,
    NOENT,
    NOTDIR,
    NOTEMPTY,
    OK,
    PERM,
    STALE,
    XDEV,
    Sattr3,
)
from tests.tools.rpc import auth_sys

from .conftest import Exports, Spot

USER, OTHER = auth_sys(1000, 1000), auth_sys(1001, 1001)
BAD_NAMES = [(b"n" * 256, (NAMETOOLONG,)), (b"a/b", (ACCES, INVAL)), (b"", (ACCES, INVAL)), (b"a\0b", (ACCES, INVAL))]


# --- REMOVE ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_remove_takes_the_name_away(spot: Spot, kind: str) -> None:
    path = spot.local(b"x")
    if kind == "file":
        path.write_bytes(b"x")
    elif kind == "link":
        path.symlink_to("y")
    else:
        os.mkfifo(path)
    res = spot.nfs.remove(spot.fh, b"x").must()
    assert os.listdir(spot.path) == []
    assert res.wcc is not None and res.wcc.after is not None
    assert res.wcc.after.mtime == divmod(spot.path.stat().st_mtime_ns, 10**9)


def test_remove_of_a_symlink_leaves_its_target(spot: Spot) -> None:
    spot.file()
    spot.local(b"link").symlink_to("file")
    spot.nfs.remove(spot.fh, b"link").must()
    assert os.listdir(spot.path) == ["file"]


def test_remove_of_a_missing_name_is_noent(spot: Spot) -> None:
    assert spot.nfs.remove(spot.fh, b"missing").status == NOENT


def test_remove_of_a_directory_is_isdir_or_perm_and_leaves_it(spot: Spot) -> None:
    spot.dir(b"d")
    assert spot.nfs.remove(spot.fh, b"d").status in (ISDIR, PERM)
    assert spot.local(b"d").is_dir()


@pytest.mark.parametrize("name", [b".", b".."])
def test_remove_of_dot_and_dotdot_is_refused(spot: Spot, name: bytes) -> None:
    assert spot.nfs.remove(spot.fh, name).status in (ISDIR, PERM, INVAL, ACCES, EXIST, NOTEMPTY)


@pytest.mark.parametrize(("name", "status"), BAD_NAMES)
def test_remove_and_rmdir_of_a_bad_name(spot: Spot, name: bytes, status: tuple[int, ...]) -> None:
    assert spot.nfs.remove(spot.fh, name).status in status
    assert spot.nfs.rmdir(spot.fh, name).status in status


def test_remove_and_rmdir_in_a_file_are_notdir(spot: Spot) -> None:
    fh = spot.file()
    assert spot.nfs.remove(fh, b"x").status == NOTDIR
    assert spot.nfs.rmdir(fh, b"x").status == NOTDIR


@pytest.mark.root
def test_remove_and_rmdir_without_write_right_are_acces(spot: Spot) -> None:
    fh = spot.dir()
    spot.local(b"dir/f").write_bytes(b"")
    spot.local(b"dir/d").mkdir()
    assert spot.as_(USER).remove(fh, b"f").status == ACCES
    assert spot.as_(USER).rmdir(fh, b"d").status == ACCES


@pytest.mark.root
def test_remove_in_a_sticky_directory_is_for_the_owner(spot: Spot) -> None:
    fh = spot.dir(mode=0o1777)
    spot.as_(USER).create(fh, b"mine").must()
    assert spot.as_(OTHER).remove(fh, b"mine").status in (ACCES, PERM)
    assert spot.as_(USER).remove(fh, b"mine").ok


def test_remove_of_one_of_two_links_leaves_the_object(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    os.link(spot.local(b"file"), spot.local(b"second"))
    spot.nfs.remove(spot.fh, b"file").must()
    assert spot.nfs.getattr(fh).must().a.nlink == 1
    assert spot.nfs.read(fh).must().data == b"abc"


def test_remove_of_the_last_link_makes_the_handle_stale(spot: Spot) -> None:
    fh = spot.file()
    spot.nfs.remove(spot.fh, b"file").must()
    assert spot.nfs.getattr(fh).status == STALE


# --- RMDIR ----------------------------------------------------------------------------------------------------------------

def test_rmdir_takes_an_empty_directory_away(spot: Spot) -> None:
    fh = spot.dir(b"d")
    spot.nfs.rmdir(spot.fh, b"d").must()
    assert os.listdir(spot.path) == []
    assert spot.nfs.getattr(fh).status == STALE


def test_rmdir_of_a_full_directory_is_notempty(spot: Spot) -> None:
    spot.dir(b"d")
    spot.local(b"d/x").write_bytes(b"")
    assert spot.nfs.rmdir(spot.fh, b"d").status in (NOTEMPTY, EXIST)


def test_rmdir_of_a_missing_name_is_noent(spot: Spot) -> None:
    assert spot.nfs.rmdir(spot.fh, b"missing").status == NOENT


def test_rmdir_of_a_file_or_symlink_is_notdir(spot: Spot) -> None:
    spot.file(b"f")
    spot.dir(b"d")
    spot.local(b"l").symlink_to("d")
    assert spot.nfs.rmdir(spot.fh, b"f").status == NOTDIR
    assert spot.nfs.rmdir(spot.fh, b"l").status == NOTDIR


def test_rmdir_of_dot_is_inval_and_of_dotdot_exist(spot: Spot) -> None:
    """Section 3.3.13 names both."""
    fh = spot.dir(b"d")
    assert spot.nfs.rmdir(fh, b".").status == INVAL
    assert spot.nfs.rmdir(fh, b"..").status in (EXIST, NOTEMPTY, INVAL)
    assert spot.local(b"d").is_dir()


# --- RENAME ---------------------------------------------------------------------------------------------------------------

def test_rename_in_one_directory(spot: Spot) -> None:
    fh = spot.file(b"a", b"abc")
    res = spot.nfs.rename(spot.fh, b"a", spot.fh, b"b").must()
    assert os.listdir(spot.path) == ["b"]
    assert spot.nfs.read(fh).must().data == b"abc"
    assert res.wcc is not None and res.wcc2 is not None and res.wcc.after is not None and res.wcc2.after is not None


def test_rename_into_another_directory_keeps_the_handle(spot: Spot) -> None:
    fh, to = spot.file(b"a", b"abc"), spot.dir(b"d")
    spot.nfs.rename(spot.fh, b"a", to, b"b").must()
    assert spot.local(b"d/b").read_bytes() == b"abc"
    assert spot.nfs.read(fh).must().data == b"abc"


def test_rename_of_a_directory_keeps_handles_below(spot: Spot) -> None:
    spot.dir(b"d")
    spot.local(b"d/f").write_bytes(b"abc")
    fh, to = spot.nfs.walk(spot.fh, b"d/f"), spot.dir(b"e")
    spot.nfs.rename(spot.fh, b"d", to, b"moved").must()
    assert spot.nfs.read(fh).must().data == b"abc"
    assert spot.nfs.lookup(spot.nfs.lookup(to, b"moved").must().h, b"..").must().a.fileid == spot.local(b"e").stat().st_ino


def test_rename_over_a_file_replaces_it(spot: Spot) -> None:
    spot.file(b"a", b"new")
    old = spot.file(b"b", b"old")
    spot.nfs.rename(spot.fh, b"a", spot.fh, b"b").must()
    assert spot.local(b"b").read_bytes() == b"new"
    assert spot.nfs.getattr(old).status == STALE


def test_rename_over_an_empty_directory_replaces_it(spot: Spot) -> None:
    spot.dir(b"a")
    spot.dir(b"b")
    assert spot.nfs.rename(spot.fh, b"a", spot.fh, b"b").ok


def test_rename_over_a_full_directory_is_exist_or_notempty(spot: Spot) -> None:
    spot.dir(b"a")
    spot.dir(b"b")
    spot.local(b"b/x").write_bytes(b"")
    assert spot.nfs.rename(spot.fh, b"a", spot.fh, b"b").status in (EXIST, NOTEMPTY)


def test_rename_between_file_and_directory_is_refused(spot: Spot) -> None:
    spot.file(b"f")
    spot.dir(b"d")
    assert spot.nfs.rename(spot.fh, b"f", spot.fh, b"d").status in (EXIST, ISDIR)
    assert spot.nfs.rename(spot.fh, b"d", spot.fh, b"f").status in (EXIST, NOTDIR)


def test_rename_to_itself_succeeds(spot: Spot) -> None:
    spot.file(b"a")
    assert spot.nfs.rename(spot.fh, b"a", spot.fh, b"a").ok
    assert os.listdir(spot.path) == ["a"]


def test_rename_of_two_links_of_one_object_does_nothing(spot: Spot) -> None:
    """Section 3.3.14: the same object under both names: OK, and no action."""
    spot.file(b"a")
    os.link(spot.local(b"a"), spot.local(b"b"))
    assert spot.nfs.rename(spot.fh, b"a", spot.fh, b"b").ok
    assert sorted(os.listdir(spot.path)) == ["a", "b"]


def test_rename_of_a_missing_name_is_noent(spot: Spot) -> None:
    assert spot.nfs.rename(spot.fh, b"missing", spot.fh, b"b").status == NOENT


def test_rename_of_a_directory_into_itself_is_inval(spot: Spot) -> None:
    fh = spot.dir(b"d")
    assert spot.nfs.rename(spot.fh, b"d", fh, b"x").status == INVAL


@pytest.mark.parametrize("name", [b".", b".."])
def test_rename_of_and_to_dot_and_dotdot_is_refused(spot: Spot, name: bytes) -> None:
    fh = spot.dir(b"d")
    spot.local(b"d/x").write_bytes(b"")
    refused = (INVAL, EXIST, ISDIR, NOTEMPTY, PERM, ACCES)
    assert spot.nfs.rename(fh, name, spot.fh, b"new").status in refused
    assert spot.nfs.rename(fh, b"x", fh, name).status in refused


@pytest.mark.parametrize(("name", "status"), BAD_NAMES)
def test_rename_and_link_with_a_bad_name(spot: Spot, name: bytes, status: tuple[int, ...]) -> None:
    fh = spot.file(b"f")
    assert spot.nfs.rename(spot.fh, name, spot.fh, b"x").status in status
    assert spot.nfs.rename(spot.fh, b"f", spot.fh, name).status in status
    assert spot.nfs.link(fh, spot.fh, name).status in status
    assert os.listdir(spot.path) == ["f"]


def test_rename_and_link_with_a_file_as_directory_are_notdir(spot: Spot) -> None:
    fh = spot.file(b"f")
    assert spot.nfs.rename(fh, b"x", spot.fh, b"y").status == NOTDIR
    assert spot.nfs.rename(spot.fh, b"f", fh, b"y").status == NOTDIR
    assert spot.nfs.link(fh, fh, b"y").status == NOTDIR


@pytest.mark.root
def test_rename_without_write_right_on_either_directory_is_acces(spot: Spot) -> None:
    closed, open_ = spot.dir(b"closed", 0o755), spot.dir(b"open", 0o777)
    spot.local(b"closed/a").write_bytes(b"")
    spot.local(b"open/b").write_bytes(b"")
    assert spot.as_(USER).rename(closed, b"a", open_, b"x").status == ACCES
    assert spot.as_(USER).rename(open_, b"b", closed, b"x").status == ACCES


@pytest.mark.root
def test_rename_in_a_sticky_directory_is_for_the_owner(spot: Spot) -> None:
    fh = spot.dir(mode=0o1777)
    spot.as_(USER).create(fh, b"mine").must()
    assert spot.as_(OTHER).rename(fh, b"mine", fh, b"yours").status in (ACCES, PERM)


def test_rename_and_link_across_exports_are_xdev(spot: Spot, exports: Exports) -> None:
    """Two exports of one file system: the kernel would do it, the server must not."""
    other = spot.server.root(exports.base / "all")
    fh = spot.file(b"f")
    assert spot.nfs.rename(spot.fh, b"f", other, b"x").status == XDEV
    assert spot.nfs.link(fh, other, b"x").status == XDEV
    assert os.listdir(spot.path) == ["f"] and os.listdir(exports.base / "all") == []


# --- LINK -----------------------------------------------------------------------------------------------------------------

def test_link_gives_a_second_name(spot: Spot) -> None:
    fh = spot.file(data=b"abc")
    res = spot.nfs.link(fh, spot.fh, b"second").must()
    assert res.a.nlink == 2 and res.wcc is not None and res.wcc.after is not None
    assert spot.local(b"second").read_bytes() == b"abc"


@pytest.mark.root
def test_link_to_a_file_of_another_user_is_not_for_local_rules_to_refuse(spot: Spot) -> None:
    """fs.protected_hardlinks is about local programs; Linux' own server does not follow it.  The directory's rights count."""
    fh, closed = spot.file(mode=0o4755), spot.dir(mode=0o755)
    user = spot.as_(auth_sys(1000, 1000))
    assert user.link(fh, spot.fh, b"second").must().a.nlink == 2
    assert user.link(fh, closed, b"third").status == ACCES
    assert user.setattr(fh, Sattr3(mode=0o644)).status == PERM, "the right to link is no right to change"
    spot.local(b"file").write_bytes(b"of root")
    spot.local(b"file").chmod(0o600)
    assert user.read(fh).status == ACCES


def test_link_into_another_directory(spot: Spot) -> None:
    fh, to = spot.file(), spot.dir(b"d")
    spot.nfs.link(fh, to, b"second").must()
    assert spot.local(b"d/second").stat().st_ino == spot.local(b"file").stat().st_ino


def test_link_of_a_symlink_links_the_link(spot: Spot) -> None:
    spot.local(b"l").symlink_to("nowhere")
    res = spot.nfs.link(spot.nfs.lookup(spot.fh, b"l").must().h, spot.fh, b"m")
    assert res.status == OK and os.readlink(spot.local(b"m")) == "nowhere"


def test_link_to_an_existing_name_is_exist(spot: Spot) -> None:
    fh = spot.file(b"a")
    spot.file(b"b", b"old")
    assert spot.nfs.link(fh, spot.fh, b"b").status == EXIST
    assert spot.local(b"b").read_bytes() == b"old"


def test_link_of_a_directory_is_refused(spot: Spot) -> None:
    assert spot.nfs.link(spot.dir(b"d"), spot.fh, b"e").status in (PERM, ISDIR, INVAL, ACCES)


def test_link_of_a_removed_file_is_stale(spot: Spot) -> None:
    fh = spot.file()
    spot.local(b"file").unlink()
    assert spot.nfs.link(fh, spot.fh, b"again").status == STALE
    assert os.listdir(spot.path) == []


@pytest.mark.root
def test_link_without_write_right_on_the_directory_is_acces(spot: Spot) -> None:
    fh, to = spot.file(mode=0o666), spot.dir(b"d")
    assert spot.as_(USER).link(fh, to, b"x").status in (ACCES, PERM)


@pytest.mark.parametrize("proc", ["remove", "rmdir", "rename", "link"])
def test_calls_in_a_removed_directory_are_stale(spot: Spot, proc: str) -> None:
    fh, gone = spot.file(), spot.dir()
    spot.local(b"dir").rmdir()
    res = {"remove": lambda: spot.nfs.remove(gone, b"x"), "rmdir": lambda: spot.nfs.rmdir(gone, b"x"),
           "rename": lambda: spot.nfs.rename(spot.fh, b"file", gone, b"x"), "link": lambda: spot.nfs.link(fh, gone, b"x")}[proc]()
    assert res.status == STALE
