"""Cluster extensions of unfsd, tags(7): one name is another file for each client."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs3 import ACCES, NAMETOOLONG, NOENT, Nfs3
from tests.tools.worker import OneWorker, export_of

TAGGED, PLAIN = 1, 2
IP = "127.0.0.1"


@dataclass
class Place:
    nfs: Nfs3
    path: Path
    fh: bytes
    plain: bytes

    def read(self, name: str) -> str:
        """What is in the file that the client calls `name`."""
        return self.nfs.read(self.nfs.lookup(self.fh, name.encode()).must().h).must().data.decode()

    def make(self, *names: str) -> None:
        """Local files, each with its own name in it."""
        for name in names:
            (self.path / name).write_text(name)

    def names(self) -> set[str]:
        return set(os.listdir(self.path))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="nfstags-"))
    base.chmod(0o755)
    with OneWorker(tmp_path, [export_of(base, TAGGED, Ex.CLUSTER), export_of(base, PLAIN)]) as worker:
        nfs = Nfs3(worker.tcp())
        yield Place(nfs, base, worker.root(TAGGED), worker.root(PLAIN))
        nfs.close()
    shutil.rmtree(base)


ORDER = [f"f$$IP={IP}$$", "f$$IP=127.0.0.0_24$$", "f$$IP=127.0.0.0_16$$", "f$$IP=127.0.0.0_8$$", "f$$CLIENT$$", "f"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_of_the_tags_decides(place: Place, first: int) -> None:
    place.make(*ORDER[first:], "f$$IP=10.0.0.1$$", "f$$HOST=localhost$$")
    assert place.read("f") == ORDER[first]


def test_two_dollars_twice_is_the_plain_file(place: Place) -> None:
    place.make("f", f"f$$IP={IP}$$")
    assert place.read("f$$$$") == "f"
    assert place.nfs.lookup(place.fh, b"..$$$$").status == ACCES
    place.nfs.remove(place.fh, b"f$$$$").must()
    assert place.names() == {f"f$$IP={IP}$$"}


def test_tagged_files_can_be_named(place: Place) -> None:
    place.make("f", f"f$$IP={IP}$$")
    assert place.read(f"f$$IP={IP}$$") == f"f$$IP={IP}$$"


@pytest.mark.parametrize(("tag", "target"), [("IP", f"f$$IP={IP}$$"), ("CLIENT", "f$$CLIENT$$")])
@pytest.mark.parametrize("beside", ["f", ""])
def test_always_redirects_also_to_what_is_not_there(place: Place, tag: str, target: str, beside: str) -> None:
    place.make("f", f"{beside}$$ALWAYS={tag}$$")
    assert place.nfs.lookup(place.fh, b"f").status == NOENT
    place.nfs.create(place.fh, b"f").must()
    assert target in place.names()
    assert place.read("f") == ""


@pytest.mark.parametrize(("tag", "target"), [("IP", f"f$$IP={IP}$$"), ("CLIENT", "f$$CLIENT$$")])
@pytest.mark.parametrize("beside", ["f", ""])
def test_create_redirects_only_what_is_made(place: Place, tag: str, target: str, beside: str) -> None:
    place.make("f", f"{beside}$$CREATE={tag}$$")
    assert place.read("f") == "f"
    place.nfs.mkdir(place.fh, b"f").must()
    assert (place.path / target).is_dir()


def test_every_change_goes_to_the_tagged_one(place: Place) -> None:
    mine = f"f$$IP={IP}$$"
    place.make("f", mine, "other")
    place.nfs.rename(place.fh, b"other", place.fh, b"f").must()
    assert (place.path / mine).read_text() == "other"
    place.nfs.remove(place.fh, b"f").must()
    assert place.names() == {"f"}
    place.make("$$CREATE=IP$$")
    place.nfs.symlink(place.fh, b"link", b"x").must()
    place.nfs.link(place.nfs.lookup(place.fh, b"f").must().h, place.fh, b"hard").must()
    assert {f"link$$IP={IP}$$", f"hard$$IP={IP}$$"} <= place.names()


def test_a_name_too_long_for_its_tag(place: Place) -> None:
    place.make("$$ALWAYS=IP$$")
    assert place.nfs.create(place.fh, b"x" * 250).status == NAMETOOLONG


def test_other_exports_have_no_tags(place: Place) -> None:
    place.make("f", f"f$$IP={IP}$$")
    fh = place.nfs.lookup(place.plain, b"f").must().h
    assert place.nfs.read(fh).must().data == b"f"
