"""Changes of the export table, and its copy."""
from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nfsd_master import exptab
from nfssvc_shim.flags import Ex, Nxa
from nfssvc_shim.records import Export, ExportArgs

A, B = Export(1, b"/a"), Export(2, b"/b")
TABLE = {1: A, 2: B}


def refused(table, args) -> int:
    with pytest.raises(OSError) as caught:
        exptab.changed(table, args)
    return caught.value.errno


def test_replace_of_the_whole_takes_the_place_of_everything():
    assert exptab.changed(TABLE, ExportArgs(Nxa.REPLACE, True, (Export(3, b"/c"),))) == {3: Export(3, b"/c")}


@pytest.mark.parametrize("op", [Nxa.ADD, Nxa.DELETE, Nxa.DELETE_ALL, Nxa.OFFLINE])
def test_only_replace_goes_with_the_whole_table(op):
    assert refused(TABLE, ExportArgs(op, True)) == errno.EINVAL


def test_add_of_a_known_id_is_eexist_and_changes_nothing():
    table = dict(TABLE)
    assert refused(table, ExportArgs(Nxa.ADD, False, (Export(3, b"/c"), A))) == errno.EEXIST
    assert table == TABLE


def test_replace_of_one_keeps_the_others_and_its_path():
    changed = exptab.changed(TABLE, ExportArgs(Nxa.REPLACE, False, (Export(1, b"/a", flags=Ex.ASYNC),)))
    assert changed == {1: Export(1, b"/a", flags=Ex.ASYNC), 2: B}
    assert refused(TABLE, ExportArgs(Nxa.REPLACE, False, (Export(1, b"/other"),))) == errno.EEXIST


def test_delete_and_offline_of_an_unknown_id_are_enoent():
    for op in (Nxa.DELETE, Nxa.OFFLINE):
        assert refused(TABLE, ExportArgs(op, False, (Export(9, b"/x"),))) == errno.ENOENT


def test_delete_all_leaves_nothing():
    assert exptab.changed(TABLE, ExportArgs(Nxa.DELETE_ALL, False)) == {}


def test_offline_and_back():
    off = exptab.changed(TABLE, ExportArgs(Nxa.OFFLINE | Nxa.ADD, False, (A,)))
    assert off[1].flags & Ex.OFFLINE
    assert exptab.changed(off, ExportArgs(Nxa.OFFLINE | Nxa.DELETE, False, (A,))) == TABLE


def test_check_of_what_is_no_directory(tmp_path: Path):
    (tmp_path / "file").touch()
    exptab.check(ExportArgs(Nxa.CHECK, False, (Export(1, os.fsencode(tmp_path)),)))
    for name, error in ((b"file", errno.EINVAL), (b"none", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            exptab.check(ExportArgs(Nxa.CHECK, False, (Export(1, os.fsencode(tmp_path), name),)))
        assert caught.value.errno == error


@pytest.fixture
def fd(tmp_path: Path):
    fd = os.open(tmp_path / "exports.tab", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def test_copy_comes_back_as_it_was(fd):
    exptab.save(fd, exptab.encode(TABLE, 7))
    assert exptab.load(fd) == TABLE
    exptab.save(fd, exptab.encode({}, 8))
    assert exptab.load(fd) == {}


def test_copy_that_was_cut_or_changed_anywhere_is_none(fd):
    assert exptab.load(fd) is None
    exptab.save(fd, exptab.encode(TABLE, 7))
    whole = os.pread(fd, 4096, 0)
    for size in range(len(whole)):
        os.ftruncate(fd, 0)
        os.pwrite(fd, whole[:size], 0)
        assert exptab.load(fd) is None
    for place in range(len(whole)):
        os.pwrite(fd, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:], 0)
        assert exptab.load(fd) is None
