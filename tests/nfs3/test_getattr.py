"""GETATTR, ACCESS and READLINK (RFC 1813 sections 3.3.1, 3.3.4, 3.3.5)."""
from __future__ import annotations

import os
import socket
import stat

import pytest

from tests.tools.nfs3 import (
    ACCES,
    ACCESS_ALL,
    ACCESS_DELETE,
    ACCESS_EXECUTE,
    ACCESS_EXTEND,
    ACCESS_LOOKUP,
    ACCESS_MODIFY,
    ACCESS_READ,
    INVAL,
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3LNK,
    NF3REG,
    NF3SOCK,
    Fattr3,
)
from tests.tools.rpc import auth_sys

from .conftest import Spot


def assert_attr_is(attr: Fattr3, info: os.stat_result) -> None:
    """Every field of fattr3 (section 2.3.5) is what stat(2) says."""
    assert attr.mode == stat.S_IMODE(info.st_mode)
    assert (attr.nlink, attr.uid, attr.gid) == (info.st_nlink, info.st_uid, info.st_gid)
    assert (attr.size, attr.used, attr.fileid) == (info.st_size, info.st_blocks * 512, info.st_ino)
    assert attr.atime == divmod(info.st_atime_ns, 10**9)
    assert attr.mtime == divmod(info.st_mtime_ns, 10**9)
    assert attr.ctime == divmod(info.st_ctime_ns, 10**9)


def test_getattr_of_a_file_agrees_with_stat(spot: Spot) -> None:
    fh = spot.file(data=b"x" * 5000, mode=0o4751)
    attr = spot.nfs.getattr(fh).must().a
    assert attr.type == NF3REG
    assert_attr_is(attr, spot.local(b"file").stat())


def test_getattr_of_a_directory_agrees_with_stat(spot: Spot) -> None:
    fh = spot.dir(mode=0o1775)
    attr = spot.nfs.getattr(fh).must().a
    assert attr.type == NF3DIR
    assert_attr_is(attr, spot.local(b"dir").stat())


def test_getattr_of_a_symlink_is_of_the_link(spot: Spot) -> None:
    spot.local(b"link").symlink_to("nowhere")
    res = spot.nfs.lookup(spot.fh, b"link").must()
    assert res.a.type == NF3LNK and res.a.size == len("nowhere")
    assert_attr_is(spot.nfs.getattr(res.h).must().a, spot.local(b"link").lstat())


def test_getattr_of_fifo_and_socket_tells_the_type(spot: Spot) -> None:
    os.mkfifo(spot.local(b"fifo"))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(spot.local(b"sock")))
    assert spot.nfs.lookup(spot.fh, b"fifo").must().a.type == NF3FIFO
    assert spot.nfs.lookup(spot.fh, b"sock").must().a.type == NF3SOCK


@pytest.mark.root
@pytest.mark.parametrize(("kind", "bits"), [(NF3CHR, stat.S_IFCHR), (NF3BLK, stat.S_IFBLK)])
def test_getattr_of_a_device_has_major_and_minor(spot: Spot, kind: int, bits: int) -> None:
    """specdata1 and specdata2 are major and minor (section 2.3.5)."""
    os.mknod(spot.local(b"dev"), bits | 0o600, os.makedev(7, 300))
    attr = spot.nfs.lookup(spot.fh, b"dev").must().a
    assert (attr.type, attr.rdev) == (kind, (7, 300))


def test_getattr_of_a_sparse_file_beyond_4_gib(spot: Spot) -> None:
    fh = spot.file()
    os.truncate(spot.local(b"file"), 5 << 32)
    attr = spot.nfs.getattr(fh).must().a
    assert attr.size == 5 << 32 and attr.used < 1 << 20


def test_getattr_needs_no_right_on_the_object(spot: Spot) -> None:
    """A handle is enough: GETATTR asks for no permission (section 3.3.1)."""
    fh = spot.file(mode=0)
    assert spot.as_(auth_sys(1000, 1000)).getattr(fh).ok


def test_getattr_fsid_is_one_for_all_objects_and_not_zero(spot: Spot) -> None:
    one, two = spot.nfs.getattr(spot.file()).must().a, spot.nfs.getattr(spot.fh).must().a
    assert one.fsid == two.fsid != 0
    assert one.fileid != two.fileid


# --- ACCESS ---------------------------------------------------------------------------------------------------------------

FILE_BITS = ACCESS_READ | ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_EXECUTE


@pytest.mark.root
@pytest.mark.parametrize(("mode", "bits"), [
    (0o000, 0),
    (0o004, ACCESS_READ),
    (0o002, ACCESS_MODIFY | ACCESS_EXTEND),
    (0o001, ACCESS_EXECUTE),
    (0o007, FILE_BITS),
])
def test_access_of_a_file_by_another_user_tells_the_mode(spot: Spot, mode: int, bits: int) -> None:
    fh = spot.file(mode=mode)
    assert spot.as_(auth_sys(1000, 1000)).access(fh).must().access == bits


@pytest.mark.root
@pytest.mark.parametrize(("mode", "bits"), [
    (0o000, 0),
    (0o004, ACCESS_READ),
    (0o001, ACCESS_LOOKUP),
    (0o007, ACCESS_READ | ACCESS_LOOKUP | ACCESS_MODIFY | ACCESS_EXTEND | ACCESS_DELETE),
])
def test_access_of_a_directory_by_another_user_tells_the_mode(spot: Spot, mode: int, bits: int) -> None:
    """EXECUTE has no meaning for a directory, LOOKUP and DELETE none for a file (section 3.3.4)."""
    fh = spot.dir(mode=mode)
    assert spot.as_(auth_sys(1000, 1000)).access(fh).must().access == bits


@pytest.mark.root
@pytest.mark.parametrize("gids", [(), (7,), (7, 8, 4242)])
def test_access_counts_the_callers_groups(spot: Spot, gids: tuple[int, ...]) -> None:
    fh = spot.file(mode=0o040)
    os.chown(spot.local(b"file"), 0, 4242)
    want = ACCESS_READ if 4242 in gids else 0
    assert spot.as_(auth_sys(1000, 1000, gids)).access(fh).must().access == want


@pytest.mark.root
def test_access_tells_the_owner_what_his_mode_says(spot: Spot) -> None:
    """The owner may read a file of mode 0 by READ, but ACCESS speaks of the mode (section 4.4)."""
    fh = spot.file(mode=0)
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.as_(auth_sys(1000, 1000)).access(fh).must().access == 0


def test_access_answers_only_what_was_asked(spot: Spot) -> None:
    fh = spot.file(mode=0o777)
    for bit in (ACCESS_READ, ACCESS_MODIFY, ACCESS_EXTEND, ACCESS_EXECUTE):
        assert spot.nfs.access(fh, bit).must().access == bit
    assert spot.nfs.access(fh, 0).must().access == 0


def test_access_with_unknown_bits_answers_without_them(spot: Spot) -> None:
    fh = spot.file(mode=0o777)
    assert spot.nfs.access(fh, 0xFFFFFFFF).must().access == FILE_BITS


@pytest.mark.root
def test_access_of_root_needs_an_execute_bit_for_execute(spot: Spot) -> None:
    fh = spot.file(mode=0o600)
    assert spot.nfs.access(fh).must().access == FILE_BITS & ~ACCESS_EXECUTE


def test_access_reply_has_the_attributes(spot: Spot) -> None:
    fh = spot.file(mode=0o640)
    assert spot.nfs.access(fh, ACCESS_ALL).must().a.mode == 0o640


# --- READLINK -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", [b"a", b"../../etc/passwd", b"/abs/\xff\xfe name", b"x" * 4095])
def test_readlink_gives_the_bytes_of_the_target(spot: Spot, target: bytes) -> None:
    os.symlink(target, os.fsencode(spot.local(b"link")))
    res = spot.nfs.readlink(spot.nfs.lookup(spot.fh, b"link").must().h).must()
    assert res.data == target
    assert res.a.type == NF3LNK


def test_readlink_of_file_and_directory_is_inval(spot: Spot) -> None:
    """NFS3ERR_INVAL: the argument is no symbolic link (section 3.3.5)."""
    assert spot.nfs.readlink(spot.file()).status == INVAL
    assert spot.nfs.readlink(spot.dir()).status == INVAL


@pytest.mark.root
def test_lookup_in_a_directory_without_search_right_is_acces(spot: Spot) -> None:
    fh = spot.dir(mode=0o700)
    assert spot.as_(auth_sys(1000, 1000)).lookup(fh, b"x").status == ACCES


# --- ACCESS and the operations themselves -----------------------------------------------------------------------------------

OWNERS = [(0, 0), (1000, 1000), (1000, 77), (1001, 77)]
CALLERS = [(1000, auth_sys(1000, 1000)), (1001, auth_sys(1001, 1001)), (1001, auth_sys(1001, 77)),
           (1002, auth_sys(1002, 1002, (77, 1000)))]


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o200, 0o100, 0o640, 0o064, 0o604, 0o711, 0o755, 0o773, 0o070, 0o007, 0o777])
def test_access_of_a_file_agrees_with_read_and_write(spot: Spot, mode: int) -> None:
    """For each owner and caller; the owner himself reads and writes whatever the mode (section 4.4)."""
    fh = spot.file(data=b"data", mode=mode)
    for owner in OWNERS:
        os.chown(spot.local(b"file"), *owner)
        spot.local(b"file").chmod(mode)
        for uid, caller in CALLERS:
            bits = spot.as_(caller).access(fh).must().access or 0
            mine = uid == owner[0]
            assert spot.as_(caller).read(fh).ok == (bool(bits & (ACCESS_READ | ACCESS_EXECUTE)) or mine), (owner, uid)
            assert spot.as_(caller).write(fh, b"data").ok == (bool(bits & ACCESS_MODIFY) or mine), (owner, uid)
            spot.local(b"file").chmod(mode)


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o500, 0o711, 0o733, 0o755, 0o070, 0o050, 0o007, 0o777])
def test_access_of_a_directory_agrees_with_what_is_done_in_it(spot: Spot, mode: int) -> None:
    """LOOKUP, READDIR, CREATE and REMOVE do what ACCESS said."""
    fh = spot.dir(mode=0o777)
    spot.local(b"dir/there").write_bytes(b"")
    for owner in OWNERS:
        os.chown(spot.local(b"dir"), *owner)
        spot.local(b"dir").chmod(mode)
        for uid, caller in CALLERS:
            nfs = spot.as_(caller)
            bits = nfs.access(fh).must().access or 0
            assert nfs.lookup(fh, b"there").ok == bool(bits & ACCESS_LOOKUP), (owner, uid)
            assert nfs.readdir(fh).ok == bool(bits & ACCESS_READ), (owner, uid)
            assert nfs.create(fh, b"new").ok == bool(bits & ACCESS_EXTEND) == bool(bits & ACCESS_MODIFY), (owner, uid)
            assert nfs.remove(fh, b"new").ok == bool(bits & ACCESS_DELETE), (owner, uid)


@pytest.mark.parametrize(("seconds", "shown"), [(5_000_000_000, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (-5, 0)])
def test_getattr_of_times_outside_32_bits_is_clamped(spot: Spot, seconds: int, shown: int) -> None:
    """nfstime3 has 32 unsigned bits: 2106 and later, and before 1970, must not appear as other times (fault F31)."""
    fh = spot.file()
    os.utime(spot.local(b"file"), (seconds, seconds))
    if spot.local(b"file").stat().st_mtime != seconds:
        pytest.skip("the file system does not keep such times")
    assert spot.nfs.getattr(fh).must().a.mtime[0] == shown
