"""Cluster extensions of unfsd, tags(7): one name is another file for each client."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nfssvc_shim.flags import Ex
from tests.tools.nfs3 import ACCES, NAMETOOLONG, NOENT, Nfs3, Proc, pack_diropargs3, pack_opaque
from tests.tools.rpc import unpack_reply
from tests.tools.worker import OneWorker, export_of

TAGGED, PLAIN = 1, 2
IP = "127.0.0.1"


@dataclass
class Place:
    nfs: Nfs3
    path: Path
    fh: bytes
    plain: bytes
    worker: OneWorker

    def read(self, name: str) -> str:
        """What is in the file that the client calls `name`."""
        return self.nfs.read(self.nfs.lookup(self.fh, name.encode()).must().h).must().data.decode()

    def make(self, *names: str) -> None:
        """Local files, each with its own name in it."""
        for name in names:
            (self.path / name).write_text(name)

    def names(self) -> set[str]:
        return set(os.listdir(self.path))


@contextmanager
def tagged(directory: Path, *, wrapper: tuple[str, ...] = ()) -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="nfstags-"))
    base.chmod(0o755)
    with OneWorker(directory, [export_of(base, TAGGED, Ex.CLUSTER), export_of(base, PLAIN)], wrapper=wrapper) as worker:
        nfs = Nfs3(worker.tcp())
        yield Place(nfs, base, worker.root(TAGGED), worker.root(PLAIN), worker)
        nfs.close()
    shutil.rmtree(base)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with tagged(tmp_path) as made:
        yield made


@contextmanager
def named(directory: Path, hosts: str, *, databases: str = "files", resolver: str = "") -> Iterator[Place]:
    """A worker with a hosts(5) file, nsswitch.conf(5) and resolv.conf(5) of its own."""
    directory.chmod(0o755)
    (directory / "hosts").write_text(hosts)
    (directory / "nsswitch.conf").write_text(f"hosts: {databases}\n")
    (directory / "resolv.conf").write_text(resolver)
    wrapper = ("unshare", "-m", "--propagation", "private", "sh", "-c", OWN_HOSTS, str(directory))
    if subprocess.run([*wrapper, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    with tagged(directory, wrapper=wrapper) as made:
        yield made


HOST = "node7.example"
SILENT = "127.0.53.53"
OWN_HOSTS = 'for f in hosts nsswitch.conf resolv.conf; do mount --bind "$0/$f" "/etc/$f" || exit; done; exec "$@"'
ORDER = [f"f$$IP={IP}$$", "f$$IP=127.0.0.0_24$$", "f$$IP=127.0.0.0_16$$", "f$$IP=127.0.0.0_8$$", "f$$CLIENT$$", "f"]
HOST_ORDER = ["f$$IP=127.0.0.0_8$$", f"f$$HOST={HOST}$$", f"f$$HOST={HOST}*$$", "f$$HOST=node*$$", "f$$HOST=n*$$", "f$$CLIENT$$"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_of_the_tags_decides(place: Place, first: int) -> None:
    place.make(*ORDER[first:], "f$$IP=10.0.0.1$$", "f$$HOST=other$$")
    assert place.read("f") == ORDER[first]


@pytest.mark.root
@pytest.mark.parametrize("first", range(len(HOST_ORDER)))
def test_tags_of_the_host_stand_between_those_of_the_network_and_of_all(tmp_path: Path, first: int) -> None:
    with named(tmp_path, f"{IP} {HOST} alias\n") as place:
        place.make(*HOST_ORDER[first:], "f$$HOST=alias$$", "f$$HOST=node8*$$")
        assert place.read("f") == HOST_ORDER[first]
        place.nfs.remove(place.fh, b"f").must()
        assert place.names() == {*HOST_ORDER[first + 1:], "f$$HOST=alias$$", "f$$HOST=node8*$$"}


@pytest.mark.root
@pytest.mark.parametrize("hosts", ["", f"{IP} bad/name\n"])
def test_who_has_no_name_has_the_other_tags(tmp_path: Path, hosts: str) -> None:
    with named(tmp_path, hosts) as place:
        place.make("f", "f$$CLIENT$$", "f$$HOST=bad*$$")
        assert place.read("f") == "f$$CLIENT$$"


@pytest.mark.root
def test_a_name_server_that_does_not_answer_delays_nobody_else(tmp_path: Path) -> None:
    """Other calls of the connection go on; then the client has no name, and its other tags hold."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, 53))
        silent.settimeout(20)
        with named(tmp_path, "", databases="dns", resolver=f"nameserver {SILENT}\noptions timeout:1 attempts:1\n") as place:
            place.make("f$$CLIENT$$")
            waits = place.nfs.message(Proc.LOOKUP, pack_diropargs3(place.fh, b"f"))
            quick = place.nfs.message(Proc.GETATTR, pack_opaque(place.fh))
            place.nfs.transport.send(waits.pack())
            silent.recv(512)
            place.nfs.transport.send(quick.pack())
            assert [unpack_reply(place.nfs.transport.recv()).xid for _ in range(2)] == [quick.xid, waits.xid]
            assert place.read("f") == "f$$CLIENT$$"


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
