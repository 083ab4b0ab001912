"""What unfsd's options change for a client: -3, -r, -s, and mounts below an export (unfsd(8))."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tools.nfs3 import ACCES, NF3DIR, NOTSUPP, STALE, XDEV, Nfs3, Sattr3
from tests.tools.rpc import auth_sys
from tests.tools.servers import OURS, ServerSet, wait_until

from .conftest import CRED, Spot

pytestmark = pytest.mark.skipif(not OURS, reason="options of our unfsd")
USER = auth_sys(1000, 1000)
OPTIONS = "127.0.0.0/8(rw,no_root_squash,insecure)"
Start = Callable[..., Spot]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server set with options; what it gives is the exported directory."""
    running: list[tuple[ServerSet, Nfs3]] = []
    base = Path(tempfile.mkdtemp(prefix="nfs3-"))
    base.chmod(0o755)

    def go(*options: str, prepare: Callable[[Path], None] | None = None, clients: str = OPTIONS,
           listen: str = "127.0.0.1") -> Spot:
        export = base / "export"
        export.mkdir()
        export.chmod(0o777)
        (base / "server").mkdir()
        if prepare:
            prepare(export)
        server = ServerSet(base / "server", f'"{export}" {clients}\n', options=options, listen=listen).start()
        nfs = server.client(CRED)
        running.append((server, nfs))
        return Spot(server, nfs, export, server.root(export))

    try:
        yield go
        for server, nfs in running:
            nfs.close()
            server.stop()
    finally:
        for place in base.glob("export/*"):
            if place.is_mount():
                subprocess.run(["umount", str(place)], check=True)
        shutil.rmtree(base)


def test_option_3_keeps_fileids_and_cookies_in_32_bits(start: Start) -> None:
    """Clients of 32 bits: every fileid and cookie fits, agrees with GETATTR, and a listing in pages is whole."""
    here = start("-3")
    names = {b"%d" % number for number in range(300)}
    for name in names:
        here.local(name).touch()
    entries = list(here.nfs.list(here.fh, count=1024)) + list(here.nfs.list(here.fh, plus=True, count=4096))
    assert max(entry.fileid for entry in entries) < 1 << 32 and max(entry.cookie for entry in entries) < 1 << 32
    assert len(entries) == 2 * (len(names) + 2) and {entry.name for entry in entries} == names | {b".", b".."}
    res = here.nfs.lookup(here.fh, b"7").must()
    assert res.a.fileid == next(entry.fileid for entry in entries if entry.name == b"7") < 1 << 32


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_ipv6_clients_are_served_and_judged_by_their_address(start: Start, proto: str) -> None:
    here = start(clients="::1(rw,no_root_squash,insecure)", listen="::1")
    with closing(here.server.client(CRED, proto=proto)) as client:
        fh = client.create(here.fh, b"new").must().h
        assert client.read(fh).ok
    here.server.exports_file.write_text(f'"{here.path}" fe80::/10(rw,insecure)\n')
    os.kill(here.server.pid, signal.SIGHUP)
    with closing(here.server.client(CRED, proto=proto)) as client:
        wait_until(lambda: not client.getattr(fh).ok, deadline_s=10, what="the table without ::1")


def test_nordirplus_answers_notsupp(start: Start) -> None:
    here = start(clients="127.0.0.1(rw,no_root_squash,insecure,nordirplus)")
    assert here.nfs.readdirplus(here.fh).status == NOTSUPP and here.nfs.readdir(here.fh).ok


@pytest.mark.parametrize("option", ["subtree_check", "no_subtree_check"])
def test_object_moved_out_of_the_export_is_refused_with_subtree_check(start: Start, option: str) -> None:
    """C11: without the check (the default) its handle goes on working, which exports(5) says."""
    here = start(clients=f"127.0.0.1(rw,no_root_squash,insecure,{option})")
    directory = here.dir(b"d")
    here.local(b"d/f").write_bytes(b"content")
    fh = here.nfs.walk(here.fh, b"d/f")
    assert here.nfs.read(fh).ok and here.nfs.getattr(directory).ok
    here.local(b"d").rename(here.path.parent / "moved")
    refused = {here.nfs.read(fh).status, here.nfs.lookup(directory, b"f").status}
    assert refused <= ({STALE, ACCES} if option == "subtree_check" else {0})


@pytest.mark.parametrize("name", [b"file", b"file (deleted)"])
def test_file_whose_last_name_in_the_export_went_is_refused_with_subtree_check(start: Start, name: bytes) -> None:
    """A hard link elsewhere keeps it alive, not exported.  A name may well end as proc(5) marks names that are gone."""
    here = start(clients="127.0.0.1(rw,no_root_squash,insecure,subtree_check)")
    fh = here.file(name, b"content")
    for _ in range(2):
        assert here.nfs.read(fh).must().data == b"content"
    outside = here.path.parent / "outside"
    outside.hardlink_to(here.local(name))
    here.local(name).unlink()
    assert here.nfs.read(fh).status in (STALE, ACCES)
    outside.unlink()


@pytest.mark.root
def test_option_r_makes_unreadable_executables_readable(start: Start) -> None:
    here = start("-r")
    fh = here.file(b"program", b"#!code", 0o711)
    closed = here.file(b"closed", b"data", 0o700)
    assert here.nfs.getattr(fh).must().a.mode & 0o444 == 0o444
    assert here.as_(USER).read(fh).must().data == b"#!code"
    assert here.as_(USER).access(fh).must().access == 0x21
    assert here.as_(USER).read(closed).status == ACCES


@pytest.mark.root
def test_option_s_shows_the_servers_files_as_the_callers(start: Start) -> None:
    """Two-way mapping of a single user: what the server's user owns is the caller's, all else root's."""
    here = start("-s")
    mine, other = here.file(b"mine"), here.file(b"other")
    os.chown(here.local(b"other"), 4321, 4321)
    caller = here.as_(auth_sys(501, 20))
    assert (caller.getattr(mine).must().a.uid, caller.getattr(mine).must().a.gid) == (501, 20)
    assert caller.getattr(other).must().a.uid == 0


def mount_tmpfs(path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "nfs3-test", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")


@pytest.fixture
def crossing(start: Start) -> Spot:
    """An export with a tmpfs mounted on its directory `mnt`, and a file in each."""
    def prepare(export: Path) -> None:
        (export / "mnt").mkdir()
        mount_tmpfs(export / "mnt")
        (export / "mnt" / "inside").write_bytes(b"inside")
        (export / "outside").write_bytes(b"outside")
    return start(prepare=prepare)


@pytest.mark.root
def test_crossing_into_a_mounted_file_system_has_its_own_fsid(crossing: Spot) -> None:
    """unfsd crosses by default; no two objects have one fileid in one fsid."""
    top, mnt = crossing.nfs.getattr(crossing.fh).must().a, crossing.nfs.lookup(crossing.fh, b"mnt").must()
    assert mnt.a.type == NF3DIR and mnt.a.fsid != top.fsid
    assert mnt.a.fileid == crossing.local(b"mnt").stat().st_ino
    inside = crossing.nfs.lookup(mnt.h, b"inside").must()
    assert inside.a.fsid == mnt.a.fsid and crossing.nfs.read(inside.h).must().data == b"inside"


@pytest.mark.root
def test_crossing_back_by_dotdot_is_the_parent(crossing: Spot) -> None:
    mnt = crossing.nfs.lookup(crossing.fh, b"mnt").must().h
    up = crossing.nfs.lookup(mnt, b"..").must()
    assert up.a.fileid == crossing.path.stat().st_ino and up.a.fsid == crossing.nfs.getattr(crossing.fh).must().a.fsid


@pytest.mark.root
def test_crossing_in_readdirplus_shows_the_mounted_root_or_nothing(crossing: Spot) -> None:
    """The attributes of a mount point are those of what LOOKUP finds there."""
    entry = next(entry for entry in crossing.nfs.list(crossing.fh, plus=True) if entry.name == b"mnt")
    found = crossing.nfs.lookup(crossing.fh, b"mnt").must()
    assert entry.attr is None or (entry.attr.fsid, entry.attr.fileid) == (found.a.fsid, found.a.fileid)
    assert entry.fh in (None, found.fh)


@pytest.mark.root
def test_crossing_by_rename_and_link_is_xdev(crossing: Spot) -> None:
    mnt = crossing.nfs.lookup(crossing.fh, b"mnt").must().h
    fh = crossing.nfs.lookup(crossing.fh, b"outside").must().h
    assert crossing.nfs.rename(crossing.fh, b"outside", mnt, b"x").status == XDEV
    assert crossing.nfs.link(fh, mnt, b"x").status == XDEV


@pytest.mark.root
def test_crossing_handles_work_on_new_connections_and_workers(crossing: Spot) -> None:
    mnt = crossing.nfs.lookup(crossing.fh, b"mnt").must().h
    fh = crossing.nfs.create(mnt, b"new", Sattr3(mode=0o644)).must().h
    for _ in range(8):
        with closing(crossing.server.client(CRED)) as other:
            assert other.getattr(fh).ok and other.lookup(mnt, b"new").must().h == fh


def test_option_big_c_looks_at_tags_in_its_directories_only() -> None:
    """tags(7): CLIENT stands for every client."""
    with tempfile.TemporaryDirectory(prefix="nfs3-") as name:
        base = Path(name)
        base.chmod(0o755)
        for part in ("tagged", "plain", "server"):
            (base / part).mkdir()
            (base / part / "f").write_text("f")
            (base / part / "f$$CLIENT$$").write_text("tagged")
        exports = f"{base}/tagged {OPTIONS}\n{base}/plain {OPTIONS}\n"
        with ServerSet(base / "server", exports, options=("-c", "-C", f"{base}/tagged:{base}/none")) as server, \
                closing(server.client(CRED)) as nfs:
            for part, content in (("tagged", b"tagged"), ("plain", b"f")):
                assert nfs.read(nfs.lookup(server.root(base / part), b"f").must().h).must().data == content
            assert f"no export is at or below {base}/none" in server.log()
