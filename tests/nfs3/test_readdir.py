"""READDIR and READDIRPLUS (RFC 1813 sections 3.3.16, 3.3.17): paging, limits, cookies, changes meanwhile."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, BAD_COOKIE, NF3DIR, NF3LNK, NOTDIR, STALE, TOOSMALL, Entry, Res
from tests.tools.rpc import auth_sys
from tests.tools.servers import wait_until
from tests.tools.strace import straced

from .conftest import Exports, Spot

PLUS = pytest.mark.parametrize("plus", [False, True], ids=["READDIR", "READDIRPLUS"])
USER = auth_sys(1000, 1000)


def page(spot: Spot, fh: bytes, plus: bool, cookie: int = 0, verf: bytes = bytes(8), size: int = 4096) -> Res:
    if plus:
        return spot.nfs.readdirplus(fh, cookie, verf, dircount=size, maxcount=size)
    return spot.nfs.readdir(fh, cookie, verf, count=size)


def fill(spot: Spot, count: int, size: int = 8) -> set[bytes]:
    """Makes `count` files; their names with "." and ".."."""
    names = {b"%0*d" % (size, i) for i in range(count)}
    for name in names:
        spot.local(name).touch()
    return names | {b".", b".."}


def names_of(entries: list[Entry] | tuple[Entry, ...]) -> list[bytes]:
    return [entry.name for entry in entries]


@PLUS
def test_readdir_of_an_empty_directory_has_dot_and_dotdot(spot: Spot, plus: bool) -> None:
    res = page(spot, spot.fh, plus).must()
    assert sorted(names_of(res.entries)) == [b".", b".."] and res.eof
    fileids = {entry.name: entry.fileid for entry in res.entries}
    assert fileids[b"."] == spot.path.stat().st_ino
    assert res.dir_attr is not None and res.dir_attr.fileid == spot.path.stat().st_ino


@PLUS
@pytest.mark.parametrize("size", [300, 512, 1024, 4096, 65536])
def test_readdir_in_pages_lists_each_name_once(spot: Spot, plus: bool, size: int) -> None:
    names = fill(spot, 300)
    got = names_of(list(spot.nfs.list(spot.fh, plus=plus, count=size)))
    assert len(got) == len(names) and set(got) == names


@PLUS
@pytest.mark.parametrize("size", [300, 400, 512, 1000, 4096, 8192, 32768])
def test_readdir_reply_is_never_larger_than_asked(spot: Spot, plus: bool, size: int) -> None:
    """count is of READDIR3resok, maxcount of READDIRPLUS3resok: all of the result after the status."""
    fill(spot, 200)
    cookie, verf, eof = 0, bytes(8), False
    while not eof:
        res = page(spot, spot.fh, plus, cookie, verf, size).must()
        assert res.size_bytes - 4 <= size
        cookie, verf, eof = res.entries[-1].cookie, res.verf, res.eof


@PLUS
def test_readdir_reply_is_filled(spot: Spot, plus: bool) -> None:
    """A page that is not the last has no room left for a further entry."""
    fill(spot, 400)
    res = page(spot, spot.fh, plus, size=8192).must()
    entry = 24 + 8 + (88 + 76 if plus else 0)
    assert not res.eof and res.size_bytes >= 8192 - 2 * entry


@PLUS
@pytest.mark.parametrize("size", [0, 1, 8, 16, 100])
def test_readdir_too_small_for_one_entry_is_toosmall(spot: Spot, plus: bool, size: int) -> None:
    """D07.  With attributes of the directory, verifier and end, one entry needs more than 100 bytes."""
    res = page(spot, spot.fh, plus, size=size)
    assert res.status == TOOSMALL


@PLUS
def test_readdir_with_the_largest_count_is_bounded(spot: Spot, plus: bool) -> None:
    names = fill(spot, 3000, 200)
    res = page(spot, spot.fh, plus, size=0xFFFFFFFF).must()
    assert 0 < res.size_bytes <= (1 << 20) + 4
    assert set(names_of(res.entries)) <= names


def test_readdirplus_with_dircount_0_still_makes_progress(spot: Spot) -> None:
    """D07: dircount is a hint for the names; 0 must not stop a listing for ever."""
    fill(spot, 50)
    res = spot.nfs.readdirplus(spot.fh, dircount=0, maxcount=4096)
    assert res.status == TOOSMALL or res.entries


@pytest.mark.parametrize("dircount", [512, 8192, 65536])
def test_readdirplus_is_filled_to_maxcount(spot: Spot, dircount: int) -> None:
    """Linux' client sends an eighth of maxcount as dircount, and a kernel server does not let that leave replies half empty."""
    fill(spot, 600, 12)
    res = spot.nfs.readdirplus(spot.fh, dircount=dircount, maxcount=65536).must()
    assert not res.eof and 65536 - 300 < res.size_bytes <= 65536


def test_readdirplus_entries_have_attributes_and_handles(spot: Spot) -> None:
    spot.file(b"f", b"12345")
    spot.dir(b"d")
    spot.local(b"l").symlink_to("nowhere")
    entries = {entry.name: entry for entry in spot.nfs.list(spot.fh, plus=True)}
    for name in (b"f", b"d", b"l"):
        info, entry = spot.local(name).lstat(), entries[name]
        assert entry.attr is not None and entry.fh is not None
        assert (entry.fileid, entry.attr.fileid, entry.attr.size) == (info.st_ino, info.st_ino, info.st_size)
        assert spot.nfs.getattr(entry.fh).must().a.fileid == info.st_ino
    assert entries[b"l"].attr is not None and entries[b"l"].attr.type == NF3LNK
    assert entries[b"."].attr is not None and entries[b"."].attr.type == NF3DIR


def test_readdirplus_handle_is_the_one_of_lookup(spot: Spot) -> None:
    fh = spot.file(b"f")
    entries = {entry.name: entry for entry in spot.nfs.list(spot.fh, plus=True)}
    assert entries[b"f"].fh == fh


@PLUS
def test_readdir_of_the_export_root_does_not_show_its_parent(spot: Spot, exports: Exports, plus: bool) -> None:
    root = spot.server.root(exports.base / "rw")
    entries = {entry.name: entry for entry in spot.nfs.list(root, plus=plus)}
    inside, outside = (exports.base / "rw").stat().st_ino, exports.base.stat().st_ino
    assert entries[b".."].fileid == inside != outside
    assert entries[b".."].attr is None or entries[b".."].attr.fileid == inside


@PLUS
def test_readdir_fileids_agree_with_getattr(spot: Spot, plus: bool) -> None:
    fill(spot, 20)
    for entry in spot.nfs.list(spot.fh, plus=plus):
        if entry.name not in (b".", b".."):
            assert entry.fileid == spot.nfs.lookup(spot.fh, entry.name).must().a.fileid


@PLUS
def test_readdir_cookies_are_distinct_and_each_continues_after_its_entry(spot: Spot, plus: bool) -> None:
    fill(spot, 30)
    res = page(spot, spot.fh, plus, size=32768).must()
    assert len({entry.cookie for entry in res.entries}) == len(res.entries)
    assert 0 not in {entry.cookie for entry in res.entries}
    for index, entry in enumerate(res.entries):
        rest = page(spot, spot.fh, plus, entry.cookie, res.verf, 32768).must()
        assert names_of(rest.entries) == names_of(res.entries[index + 1:]) and rest.eof


@PLUS
def test_readdir_after_the_last_entry_is_empty_and_eof(spot: Spot, plus: bool) -> None:
    res = page(spot, spot.fh, plus).must()
    after = page(spot, spot.fh, plus, res.entries[-1].cookie, res.verf).must()
    assert not after.entries and after.eof


@PLUS
def test_readdir_cookie_works_on_another_connection(spot: Spot, plus: bool) -> None:
    """Any worker continues what another began."""
    names = fill(spot, 200)
    got, cookie, verf, eof = [], 0, bytes(8), False
    while not eof:
        client = spot.server.client(spot.nfs.cred)
        here = Spot(spot.server, client, spot.path, spot.fh)
        res = page(here, spot.fh, plus, cookie, verf, 2048)
        client.close()
        got += names_of(res.must().entries)
        cookie, verf, eof = res.entries[-1].cookie if res.entries else cookie, res.verf, res.eof
    assert len(got) == len(names) and set(got) == names


@PLUS
def test_readdir_while_files_come_and_go_loses_none_that_stands_still(spot: Spot, plus: bool) -> None:
    names = fill(spot, 300)
    got: list[bytes] = []
    cookie, verf, eof, turn = 0, bytes(8), False, 0
    while not eof:
        res = page(spot, spot.fh, plus, cookie, verf, 2048).must()
        got += names_of(res.entries)
        cookie, verf, eof = res.entries[-1].cookie, res.verf, res.eof
        for name in (b"new-%d" % turn, b"gone-%d" % turn):
            spot.local(name).touch()
        spot.local(b"gone-%d" % turn).unlink()
        turn += 1
    still = [name for name in got if name in names]
    assert len(still) == len(names) and set(still) == names
    assert len(got) == len(set(got))


@PLUS
def test_readdir_while_removing_all_listed_sees_every_name(spot: Spot, plus: bool) -> None:
    """What rm -r of a client does: list, remove what was listed, go on from the cookie."""
    names = fill(spot, 300) - {b".", b".."}
    seen: set[bytes] = set()
    cookie, verf, eof = 0, bytes(8), False
    while not eof:
        res = page(spot, spot.fh, plus, cookie, verf, 2048).must()
        for name in set(names_of(res.entries)) - {b".", b".."}:
            seen.add(name)
            spot.nfs.remove(spot.fh, name).must()
        cookie, verf, eof = res.entries[-1].cookie if res.entries else cookie, res.verf, res.eof
    assert seen == names and os.listdir(spot.path) == []


@PLUS
def test_readdir_with_names_of_255_bytes(spot: Spot, plus: bool) -> None:
    names = {bytes([byte]) * 255 for byte in range(0x80, 0xA0)}
    for name in names:
        spot.nfs.create(spot.fh, name).must()
    got = names_of(list(spot.nfs.list(spot.fh, plus=plus, count=1024)))
    assert len(got) == len(names) + 2 and set(got) == names | {b".", b".."}


@PLUS
def test_readdir_of_a_file_is_notdir(spot: Spot, plus: bool) -> None:
    assert page(spot, spot.file(), plus).status == NOTDIR


@PLUS
def test_readdir_of_a_removed_directory_is_stale(spot: Spot, plus: bool) -> None:
    fh = spot.dir()
    spot.local(b"dir").rmdir()
    assert page(spot, fh, plus).status == STALE


@PLUS
@pytest.mark.root
def test_readdir_without_read_right_is_acces(spot: Spot, plus: bool) -> None:
    fh = spot.dir(mode=0o711)
    caller = spot.as_(USER)
    assert (caller.readdirplus(fh) if plus else caller.readdir(fh)).status == ACCES


@pytest.mark.root
def test_readdirplus_with_read_but_no_search_right_has_names_without_handles_or_acces(spot: Spot) -> None:
    """r without x: names may be listed, objects not looked up."""
    fh = spot.dir(mode=0o744)
    spot.local(b"dir/secret").write_bytes(b"x")
    res = spot.as_(USER).readdirplus(fh)
    assert res.status == ACCES or all(entry.fh is None for entry in res.entries if entry.name == b"secret")
    assert spot.as_(USER).readdir(fh).ok


@PLUS
def test_readdir_with_an_invented_cookie_is_answered_or_bad_cookie(spot: Spot, plus: bool) -> None:
    names = fill(spot, 10)
    for cookie in (1, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF):
        res = page(spot, spot.fh, plus, cookie)
        assert res.status == BAD_COOKIE or set(names_of(res.must().entries)) <= names


@PLUS
def test_readdir_with_an_invented_verifier_is_answered_or_bad_cookie(spot: Spot, plus: bool) -> None:
    names = fill(spot, 10)
    first = page(spot, spot.fh, plus).must()
    res = page(spot, spot.fh, plus, first.entries[0].cookie, b"\xaa" * 8)
    assert res.status == BAD_COOKIE or set(names_of(res.must().entries)) <= names


@PLUS
def test_readdir_of_many_entries_with_changes_between_the_pages(spot: Spot, plus: bool) -> None:
    """NFS3_DIR_ENTRIES of them (default 10,000); names come and go meanwhile, none that stands still is lost or seen twice."""
    names = fill(spot, int(os.environ.get("NFS3_DIR_ENTRIES", "10000")))
    got: list[bytes] = []
    cookie, verf, eof = 0, bytes(8), False
    while not eof:
        res = page(spot, spot.fh, plus, cookie, verf, 65536).must()
        got += names_of(res.entries)
        cookie, verf, eof = res.entries[-1].cookie if res.entries else cookie, res.verf, res.eof
        spot.local(b"new-%d" % len(got)).touch()
        spot.local(b"new-%d" % len(got)).rename(spot.local(b"moved"))
    still = [name for name in got if name in names]
    assert len(still) == len(names) and set(still) == names and len(got) == len(set(got))


def folders(spot: Spot, count: int) -> list[bytes]:
    """Makes so many directories of three files each, in the past; their handles."""
    handles = []
    for i in range(count):
        handles.append(spot.dir(b"d%d" % i))
        for name in (b"a", b"b", b"c"):
            spot.local(b"d%d/%s" % (i, name)).touch()
    return handles


@PLUS
def test_listings_of_more_directories_than_are_kept_are_true_after_changes(spot: Spot, plus: bool) -> None:
    """Of more than there are places (512), every other one is changed between the listings."""
    handles = folders(spot, 600)
    for fh in handles:
        assert set(names_of(list(spot.nfs.list(fh, plus=plus)))) == {b".", b"..", b"a", b"b", b"c"}
    for i in range(0, 600, 2):
        spot.local(b"d%d/a" % i).rename(spot.local(b"d%d/new" % i))
    for i, fh in enumerate(handles):
        first = b"a" if i % 2 else b"new"
        entries = list(spot.nfs.list(fh, plus=plus))
        assert set(names_of(entries)) == {b".", b"..", first, b"b", b"c"}
        for entry in entries if plus else ():
            assert entry.attr is None or entry.attr.fileid == entry.fileid or entry.name == b".."


def now_of(spot: Spot) -> int:
    """The file system's clock, ns."""
    spot.local(b"later").touch()
    return spot.local(b"later").stat().st_ctime_ns


@pytest.mark.root
@PLUS
def test_listings_of_a_tree_are_kept(spot: Spot, plus: bool, tmp_path: Path) -> None:
    """The second walk over 100 directories reads none from the file system again."""
    handles = folders(spot, 100)
    made_ns = spot.local(b"d99").stat().st_ctime_ns
    wait_until(lambda: now_of(spot) > made_ns + 20_000_000, deadline_s=5, what="ctimes older than a tick of the clock")
    log = tmp_path / "reads"
    for fh in handles:
        list(spot.nfs.list(fh, plus=plus))
    with straced(spot.server.worker_pids(), log, "-e", "trace=getdents64"):
        for fh in handles:
            assert len(list(spot.nfs.list(fh, plus=plus))) == 5
    assert "getdents64(" not in log.read_text()
