"""Random NFSv3 calls beside the same operations on a local directory: status for status, attribute for attribute.

The model is the kernel itself: each call runs on the exported directory, and as the same user on a twin directory of the same
file system.  What NFS does otherwise than a local process is said in `Twin` and nowhere else: the owner's override of READ and
WRITE (RFC 1813 section 4.4), names that the protocol refuses, and statuses of which RFC 1813 allows several.
"""
from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.tools.nfs3 import GUARDED, NF3FIFO, UNCHECKED, Fattr3, Nfs3, Nfs3Stat, Res, Sattr3
from tests.tools.rpc import auth_sys
from tests.tools.servers import ServerSet

from .conftest import ANON_GID, ANON_UID, Exports
from .test_drc import kill_workers

pytestmark = [pytest.mark.root, pytest.mark.kills]

Who = tuple[int, int, tuple[int, ...]]
USERS: list[Who] = [(0, 0, ()), (1000, 1000, ()), (1000, 1000, (77,)), (1001, 1001, (77, 78)), (1001, 77, ())]
NAMES = [b"a", b"b", b"c", b"\xff"]
PATHS = [(), (b"a",), (b"b",), (b"a", b"b"), (b"b", b"c")]
MODES = [0o777, 0o755, 0o700, 0o644, 0o600, 0o000, 0o1777, 0o2775, 0o4755]

STATUS = {
    0: Nfs3Stat.OK, errno.EPERM: Nfs3Stat.PERM, errno.ENOENT: Nfs3Stat.NOENT, errno.EACCES: Nfs3Stat.ACCES,
    errno.EEXIST: Nfs3Stat.EXIST, errno.ENOTDIR: Nfs3Stat.NOTDIR, errno.EISDIR: Nfs3Stat.ISDIR, errno.EINVAL: Nfs3Stat.INVAL,
    errno.ENOTEMPTY: Nfs3Stat.NOTEMPTY, errno.ELOOP: Nfs3Stat.INVAL, errno.ENXIO: Nfs3Stat.INVAL, errno.ESPIPE: Nfs3Stat.INVAL,
}
# Statuses that mean the same here: RFC 1813 lists several, or the kernel's order of tests is not the server's.
ALIKE = [{Nfs3Stat.EXIST, Nfs3Stat.NOTEMPTY, Nfs3Stat.ISDIR, Nfs3Stat.NOTDIR}, {Nfs3Stat.PERM, Nfs3Stat.ACCES},
         {Nfs3Stat.PERM, Nfs3Stat.ISDIR}, {Nfs3Stat.ISDIR, Nfs3Stat.INVAL}]


def alike(one: Nfs3Stat, two: Nfs3Stat) -> bool:
    return one == two or any({one, two} <= group for group in ALIKE)


@contextmanager
def acting(who: Who) -> Iterator[None]:
    """This process as `who`; umask 0, as the server's."""
    before, umask = (os.geteuid(), os.getegid(), tuple(os.getgroups())), os.umask(0)
    become(who)
    try:
        yield
    finally:
        become(before)
        os.umask(umask)


def become(who: Who) -> None:
    uid, gid, gids = who
    os.seteuid(0)
    os.setgroups(gids)
    os.setegid(gid)
    os.seteuid(uid)


def squashed(who: Who) -> Who:
    """What root_squash makes of it."""
    uid, gid, gids = who
    if uid == 0:
        return ANON_UID, ANON_GID, ()
    return uid, gid or ANON_GID, tuple(one for one in gids if one)


def may(who: Who, info: os.stat_result, bit: int) -> bool:
    """Mode bits alone: bit 4 read, 2 write; root may all."""
    uid, gid, gids = who
    if uid == 0:
        return True
    shift = 6 if info.st_uid == uid else 3 if info.st_gid in (gid, *gids) else 0
    return bool(info.st_mode >> shift & bit)


def exists(name: bytes, fd: int) -> bool:
    """Is `name` in the directory?  Raises PermissionError without the right to search it."""
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class Twin:
    """The local side: each method does as `who` what the NFS call of that name does, and returns an errno or 0."""

    def __init__(self, top: Path) -> None:
        self.top = os.fsencode(top)

    def path(self, where: tuple[bytes, ...]) -> bytes:
        return b"/".join((self.top, *where))

    def _do(self, who: Who, where: tuple[bytes, ...], work: Callable[[int], object]) -> int:
        """`work` with a descriptor of the directory `where`, which root opened: a handle needs no search rights above it."""
        try:
            fd = os.open(self.path(where), os.O_PATH | os.O_NOFOLLOW)
        except OSError as exc:
            return exc.errno or errno.EIO
        try:
            with acting(who):
                work(fd)
        except OSError as exc:
            return exc.errno or errno.EIO
        finally:
            os.close(fd)
        return 0

    def create(self, who: Who, where: tuple[bytes, ...], name: bytes, mode: int, *, guarded: bool) -> int:
        def work(fd: int) -> None:
            try:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o777, dir_fd=fd))
            except FileExistsError:
                if guarded:
                    raise
                return
            os.chmod(name, mode, dir_fd=fd)
        return self._do(who, where, work)

    def mkdir(self, who: Who, where: tuple[bytes, ...], name: bytes, mode: int) -> int:
        return self._do(who, where, lambda fd: os.mkdir(name, mode, dir_fd=fd))

    def symlink(self, who: Who, where: tuple[bytes, ...], name: bytes) -> int:
        return self._do(who, where, lambda fd: os.symlink(b"target", name, dir_fd=fd))

    def mkfifo(self, who: Who, where: tuple[bytes, ...], name: bytes, mode: int) -> int:
        return self._do(who, where, lambda fd: os.mkfifo(name, mode, dir_fd=fd))

    def remove(self, who: Who, where: tuple[bytes, ...], name: bytes) -> int:
        return self._do(who, where, lambda fd: os.unlink(name, dir_fd=fd))

    def rmdir(self, who: Who, where: tuple[bytes, ...], name: bytes) -> int:
        return self._do(who, where, lambda fd: os.rmdir(name, dir_fd=fd))

    def lookup(self, who: Who, where: tuple[bytes, ...], name: bytes) -> int:
        return self._do(who, where, lambda fd: os.stat(name, dir_fd=fd, follow_symlinks=False))

    def rename(self, who: Who, where: tuple[bytes, ...], name: bytes, to: tuple[bytes, ...], to_name: bytes) -> int:
        try:
            target = os.open(self.path(to), os.O_PATH | os.O_NOFOLLOW)
        except OSError as exc:
            return exc.errno or errno.EIO
        try:
            return self._do(who, where, lambda fd: os.rename(name, to_name, src_dir_fd=fd, dst_dir_fd=target))
        finally:
            os.close(target)

    def link(self, who: Who, source: tuple[bytes, ...], where: tuple[bytes, ...], name: bytes) -> int:
        """The source is named by a handle: root reaches it, `who` makes the name, whatever fs.protected_hardlinks says."""
        def work(fd: int) -> None:
            if exists(name, fd):
                raise FileExistsError(errno.EEXIST, "name")
            os.mkfifo(b".probe", dir_fd=fd)  # the right to make names here, by the kernel's judgement
            with acting((0, 0, ())):
                os.unlink(b".probe", dir_fd=fd)
                os.link(self.path(source), name, dst_dir_fd=fd, follow_symlinks=False)
        return self._do(who, where, work)

    def chmod(self, who: Who, where: tuple[bytes, ...], mode: int) -> int:
        return self._on_object(who, where, lambda fd: os.fchmod(fd, mode))

    def chown(self, who: Who, where: tuple[bytes, ...], uid: int, gid: int) -> int:
        return self._on_object(who, where, lambda fd: os.fchown(fd, uid, gid))

    def utime(self, who: Who, where: tuple[bytes, ...], seconds: int) -> int:
        return self._on_object(who, where, lambda fd: os.utime(fd, (seconds, seconds)))

    def truncate(self, who: Who, where: tuple[bytes, ...], size: int) -> int:
        return self._on_object(who, where, lambda fd: os.ftruncate(fd, size), writes=True)

    def write(self, who: Who, where: tuple[bytes, ...], offset: int, data: bytes) -> int:
        return self._on_object(who, where, lambda fd: os.pwrite(fd, data, offset), writes=True)

    def read(self, who: Who, where: tuple[bytes, ...]) -> tuple[int, bytes]:
        got: list[bytes] = []
        info = os.lstat(self.path(where))
        if not stat.S_ISREG(info.st_mode):
            return errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.EINVAL, b""
        if info.st_uid != who[0] and not may(who, info, 4) and not may(who, info, 1):
            return errno.EACCES, b""
        code = self._on_object(who, where, lambda fd: got.append(os.pread(fd, 65536, 0)))
        return code, b"".join(got)

    def _on_object(self, who: Who, where: tuple[bytes, ...], work: Callable[[int], object], *, writes: bool = False) -> int:
        """`work` as `who` on a descriptor that root opened, as a handle is: the rights on the object alone count."""
        try:
            info = os.lstat(self.path(where))
            if stat.S_ISLNK(info.st_mode):
                return errno.EINVAL
            if writes and not stat.S_ISREG(info.st_mode):
                return errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.EINVAL
            if writes and info.st_uid != who[0] and not may(who, info, 2):
                return errno.EACCES
            fd = os.open(self.path(where), (os.O_RDWR if writes else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as exc:
            return exc.errno or errno.EIO
        try:
            with acting(who):
                work(fd)
        except OSError as exc:
            return exc.errno or errno.EIO
        finally:
            os.close(fd)
        return 0

    def tree(self) -> dict[bytes, tuple[object, ...]]:
        """Every object below: type and mode, owner, links, size, content or target."""
        found: dict[bytes, tuple[object, ...]] = {}
        for folder, dirs, files in os.walk(self.top):
            for name in [b".", *dirs, *files]:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                extra: object = None
                if stat.S_ISREG(info.st_mode):
                    extra = Path(os.fsdecode(path)).read_bytes()
                elif stat.S_ISLNK(info.st_mode):
                    extra = os.readlink(path)
                size = None if stat.S_ISDIR(info.st_mode) else info.st_size
                found[os.path.relpath(path, self.top)] = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, size, extra)
        return found


who = st.sampled_from(USERS)
path = st.sampled_from(PATHS)
name = st.sampled_from(NAMES)
mode = st.sampled_from(MODES)


class Model(RuleBasedStateMachine):
    """One run: an empty directory on each side, then random calls; `squash` maps identities as the export does."""

    server: ServerSet
    export: Path
    root_fh: bytes
    squash: Callable[[Who], Who]

    @initialize()
    def begin(self) -> None:
        self.served = Path(tempfile.mkdtemp(dir=self.export))
        self.twin = Twin(Path(tempfile.mkdtemp(dir=self.export.parent)))
        for top in (os.fsencode(self.served), self.twin.top):
            os.chmod(top, 0o777)
            for folder in (b"/a", b"/b", b"/a/b"):
                os.mkdir(top + folder)
                os.chmod(top + folder, 0o777)
            Path(os.fsdecode(top + b"/b/c")).write_bytes(b"content")
            os.chmod(top + b"/b/c", 0o666)
        self.nfs = self.server.client()

    def teardown(self) -> None:
        if hasattr(self, "nfs"):
            self.nfs.close()
            shutil.rmtree(self.served)
            shutil.rmtree(os.fsdecode(self.twin.top))

    def as_(self, caller: Who) -> Nfs3:
        return self.nfs.as_(auth_sys(*caller))

    def handle(self, where: tuple[bytes, ...]) -> bytes | None:
        """The handle of `where` in the served tree, found by root through READDIRPLUS-free LOOKUPs in the unsquashed export."""
        fh = self.root_fh
        for part in (os.fsencode(self.served.name), *where):
            res = self.nfs.lookup(fh, part)
            if not res.ok:
                return None
            fh = res.h
        return fh

    def both(self, caller: Who, where: tuple[bytes, ...], call: Callable[[Nfs3, bytes], Res],
             local: Callable[[Who], int]) -> Res | None:
        """Does both, compares the statuses."""
        fh = self.handle(where)
        if fh is None:
            return None
        res, code = call(self.as_(caller), fh), local(self.squash(caller))
        want = STATUS[code]
        assert alike(res.status, want), f"NFS {res.status!r}, locally {want!r}"
        return res

    @rule(caller=who, where=path, name=name, mode=mode, guarded=st.booleans())
    def create(self, caller: Who, where: tuple[bytes, ...], name: bytes, mode: int, guarded: bool) -> None:
        how = GUARDED if guarded else UNCHECKED
        attr = Sattr3(mode=mode & 0o1777)
        self.both(caller, where, lambda nfs, fh: nfs.create(fh, name, attr, mode=how),
                  lambda me: self.twin.create(me, where, name, mode & 0o1777, guarded=guarded))

    @rule(caller=who, where=path, name=name, mode=mode)
    def mkdir(self, caller: Who, where: tuple[bytes, ...], name: bytes, mode: int) -> None:
        self.both(caller, where, lambda nfs, fh: nfs.mkdir(fh, name, Sattr3(mode=mode & 0o1777)),
                  lambda me: self.twin.mkdir(me, where, name, mode & 0o1777))

    @rule(caller=who, where=path, name=name)
    def symlink(self, caller: Who, where: tuple[bytes, ...], name: bytes) -> None:
        self.both(caller, where, lambda nfs, fh: nfs.symlink(fh, name, b"target"), lambda me: self.twin.symlink(me, where, name))

    @rule(caller=who, where=path, name=name)
    def mknod(self, caller: Who, where: tuple[bytes, ...], name: bytes) -> None:
        self.both(caller, where, lambda nfs, fh: nfs.mknod(fh, name, NF3FIFO, Sattr3(mode=0o640)),
                  lambda me: self.twin.mkfifo(me, where, name, 0o640))

    @rule(caller=who, where=path, name=name)
    def remove(self, caller: Who, where: tuple[bytes, ...], name: bytes) -> None:
        self.both(caller, where, lambda nfs, fh: nfs.remove(fh, name), lambda me: self.twin.remove(me, where, name))

    @rule(caller=who, where=path, name=name)
    def rmdir(self, caller: Who, where: tuple[bytes, ...], name: bytes) -> None:
        self.both(caller, where, lambda nfs, fh: nfs.rmdir(fh, name), lambda me: self.twin.rmdir(me, where, name))

    @rule(caller=who, where=path, name=name)
    def lookup(self, caller: Who, where: tuple[bytes, ...], name: bytes) -> None:
        res = self.both(caller, where, lambda nfs, fh: nfs.lookup(fh, name), lambda me: self.twin.lookup(me, where, name))
        if res is not None and res.ok:
            self.compare(res.a, (*where, name))

    @rule(caller=who, where=path, name=name, to=path, to_name=name)
    def rename(self, caller: Who, where: tuple[bytes, ...], name: bytes, to: tuple[bytes, ...], to_name: bytes) -> None:
        target = self.handle(to)
        if target is not None and os.path.isdir(self.twin.path(to)):  # of two reasons to refuse, either may be named
            self.both(caller, where, lambda nfs, fh: nfs.rename(fh, name, target, to_name),
                      lambda me: self.twin.rename(me, where, name, to, to_name))

    @rule(caller=who, source=path, where=path, name=name)
    def link(self, caller: Who, source: tuple[bytes, ...], where: tuple[bytes, ...], name: bytes) -> None:
        fh = self.handle(source)
        if fh is not None and source and not os.path.isdir(self.twin.path(source)):  # of a directory: refused, why is open
            self.both(caller, where, lambda nfs, to: nfs.link(fh, to, name),
                      lambda me: self.twin.link(me, source, where, name))

    @rule(caller=who, where=path, mode=mode)
    def chmod(self, caller: Who, where: tuple[bytes, ...], mode: int) -> None:
        if where and not self.is_link(where):
            self.both(caller, where, lambda nfs, fh: nfs.setattr(fh, Sattr3(mode=mode)),
                      lambda me: self.twin.chmod(me, where, mode))

    @rule(caller=who, where=path, uid=st.sampled_from([0, 1000, 1001]), gid=st.sampled_from([0, 77, 78, 1000]))
    def chown(self, caller: Who, where: tuple[bytes, ...], uid: int, gid: int) -> None:
        if where and not self.is_link(where):
            self.both(caller, where, lambda nfs, fh: nfs.setattr(fh, Sattr3(uid=uid, gid=gid)),
                      lambda me: self.twin.chown(me, where, uid, gid))

    @rule(caller=who, where=path, seconds=st.sampled_from([1, 10**9]))
    def utime(self, caller: Who, where: tuple[bytes, ...], seconds: int) -> None:
        if where and not self.is_link(where):
            attr = Sattr3(atime=(seconds, 0), mtime=(seconds, 0))
            self.both(caller, where, lambda nfs, fh: nfs.setattr(fh, attr), lambda me: self.twin.utime(me, where, seconds))

    @rule(caller=who, where=path, size=st.sampled_from([0, 1, 5000]))
    def truncate(self, caller: Who, where: tuple[bytes, ...], size: int) -> None:
        if where:
            self.both(caller, where, lambda nfs, fh: nfs.setattr(fh, Sattr3(size=size)),
                      lambda me: self.twin.truncate(me, where, size))

    @rule(caller=who, where=path, offset=st.sampled_from([0, 3, 5000]), data=st.binary(min_size=1, max_size=9))
    def write(self, caller: Who, where: tuple[bytes, ...], offset: int, data: bytes) -> None:
        if where:
            self.both(caller, where, lambda nfs, fh: nfs.write(fh, data, offset),
                      lambda me: self.twin.write(me, where, offset, data))

    @rule(caller=who, where=path)
    def read(self, caller: Who, where: tuple[bytes, ...]) -> None:
        if where:
            data: list[bytes] = []

            def local(me: Who) -> int:
                code, content = self.twin.read(me, where)
                data.append(content)
                return code
            res = self.both(caller, where, lambda nfs, fh: nfs.read(fh), local)
            assert res is None or res.data == data[0]

    @rule(caller=who, where=path, plus=st.booleans())
    def listing(self, caller: Who, where: tuple[bytes, ...], plus: bool) -> None:
        """Who may list sees what is there, and READDIRPLUS' attributes and handles are the objects'."""
        fh = self.handle(where)
        if fh is None or not os.path.isdir(self.twin.path(where)):
            return
        allowed = may(self.squash(caller), os.lstat(self.twin.path(where)), 4)
        assert self.as_(caller).readdir(fh).ok == allowed
        if allowed and not plus:
            names = {entry.name for entry in self.as_(caller).list(fh, count=512)}
            assert names == {b".", b"..", *os.listdir(self.twin.path(where))}
        elif allowed:
            for entry in self.as_(caller).list(fh, plus=True, count=1024):
                if entry.name not in (b".", b"..") and entry.attr is not None and entry.fh is not None:
                    self.compare(entry.attr, (*where, entry.name))
                    assert self.nfs.getattr(entry.fh).must().a.fileid == entry.fileid

    @rule()
    def kill_the_workers(self) -> None:
        """Rarely enough by hypothesis' own choice; handles and names live on."""
        if self.kills > 0:
            type(self).kills -= 1
            kill_workers(self.server)
            self.nfs.close()
            self.nfs = self.server.client()

    @rule()
    def restart_the_server(self) -> None:
        """All of its processes end and start again: what clients hold is as good as before."""
        if self.restarts > 0:
            type(self).restarts -= 1
            self.nfs.close()
            self.server.stop()
            self.server.start()
            self.nfs = self.server.client()

    kills, restarts = 5, 3

    def is_link(self, where: tuple[bytes, ...]) -> bool:
        return stat.S_ISLNK(os.lstat(self.twin.path(where)).st_mode) if os.path.lexists(self.twin.path(where)) else False

    def compare(self, attr: Fattr3, where: tuple[bytes, ...]) -> None:
        info = os.lstat(self.twin.path(where))
        assert (attr.mode, attr.uid, attr.gid) == (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        assert attr.nlink == info.st_nlink
        assert stat.S_ISDIR(info.st_mode) or attr.size == info.st_size

    @invariant()
    def trees_are_equal(self) -> None:
        if hasattr(self, "nfs"):
            assert Twin(self.served).tree() == self.twin.tree()


@pytest.mark.parametrize("export", ["rw", "squash"])
def test_random_calls_do_what_local_calls_do(server: ServerSet, exports: Exports, export: str) -> None:
    squash: Callable[[Who], Who] = squashed if export == "squash" else lambda caller: caller
    machine = type("Run", (Model,), {"server": server, "export": exports.base / export, "squash": staticmethod(squash),
                                     "kills": 5, "restarts": 3, "root_fh": server.root(exports.base / export)})
    steps = int(os.environ.get("NFS3_MODEL_STEPS", "40"))
    examples = int(os.environ.get("NFS3_MODEL_EXAMPLES", "60"))
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck)))
