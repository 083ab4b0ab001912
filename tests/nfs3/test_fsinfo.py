"""FSSTAT, FSINFO and PATHCONF (RFC 1813 sections 3.3.18 to 3.3.20): the numbers are true."""
from __future__ import annotations

import os

from tests.tools.nfs3 import FBIG, FSF3_CANSETTIME, FSF3_HOMOGENEOUS, FSF3_LINK, FSF3_SYMLINK, NAMETOOLONG, UNSTABLE, Sattr3

from .conftest import Spot

SLACK = 256 << 20  # other processes write to the same file system between the two looks


def test_fsstat_agrees_with_statvfs(spot: Spot) -> None:
    res, info = spot.nfs.fsstat(spot.fh).must(), os.statvfs(spot.path)
    assert res.info is not None
    assert res.info["tbytes"] == info.f_blocks * info.f_frsize
    assert abs(res.info["fbytes"] - info.f_bfree * info.f_frsize) < SLACK
    assert abs(res.info["abytes"] - info.f_bavail * info.f_frsize) < SLACK
    assert res.info["tfiles"] == info.f_files
    assert abs(res.info["ffiles"] - info.f_ffree) < 10_000


def test_fsstat_of_a_file_is_that_of_its_file_system(spot: Spot) -> None:
    one, two = spot.nfs.fsstat(spot.fh).must().info, spot.nfs.fsstat(spot.file()).must().info
    assert one is not None and two is not None and one["tbytes"] == two["tbytes"]


def test_fsstat_free_is_never_more_than_total(spot: Spot) -> None:
    info = spot.nfs.fsstat(spot.fh).must().info
    assert info is not None
    assert info["abytes"] <= info["fbytes"] <= info["tbytes"] and info["ffiles"] <= info["tfiles"]


def test_fsinfo_sizes_are_consistent(spot: Spot) -> None:
    info = spot.nfs.fsinfo(spot.fh).must().info
    assert info is not None
    assert 0 < info["rtpref"] <= info["rtmax"] and 0 < info["wtpref"] <= info["wtmax"]
    assert info["rtmult"] and info["rtmax"] % info["rtmult"] == 0 and info["wtmult"] and info["wtmax"] % info["wtmult"] == 0
    assert info["rtmax"] >= 65536 and info["wtmax"] >= 65536 and info["dtpref"] >= 4096


def test_fsinfo_properties_say_what_works(spot: Spot) -> None:
    info = spot.nfs.fsinfo(spot.fh).must().info
    assert info is not None
    assert info["properties"] & (FSF3_LINK | FSF3_SYMLINK | FSF3_CANSETTIME) == FSF3_LINK | FSF3_SYMLINK | FSF3_CANSETTIME
    assert info["properties"] & ~(FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME) == 0


def test_fsinfo_time_delta_is_what_setattr_keeps(spot: Spot) -> None:
    info = spot.nfs.fsinfo(spot.fh).must().info
    assert info is not None
    fh, step = spot.file(), max(info["delta_ns"], 1)
    spot.nfs.setattr(fh, Sattr3(mtime=(100, 7 * step))).must()
    assert info["delta_s"] == 0 and spot.nfs.getattr(fh).must().a.mtime == (100, 7 * step)


def test_fsinfo_maxfilesize_is_the_largest_size_that_a_file_can_have(spot: Spot) -> None:
    """Clients keep sizes in a signed 64-bit number.  Beyond this one write(2) fails at once, rather than a later one."""
    info = spot.nfs.fsinfo(spot.fh).must().info
    assert info is not None and 1 << 40 <= info["maxfilesize"] <= (1 << 63) - 1
    fh, most = spot.file(), info["maxfilesize"]
    assert spot.nfs.setattr(fh, Sattr3(size=most)).must().wcc is not None
    assert spot.nfs.setattr(fh, Sattr3(size=most + 1)).status == FBIG
    assert spot.nfs.fsinfo(fh).must().info == info
    assert [path.name for path in spot.path.iterdir()] == ["file"]


def test_fsinfo_over_udp_fits_a_datagram(spot: Spot) -> None:
    client = spot.server.client(spot.nfs.cred, proto="udp")
    info = client.fsinfo(spot.fh).must().info
    assert info is not None and info["rtmax"] <= 65536 - 512 and info["wtmax"] <= 65536 - 512
    fh = spot.file(data=b"x" * 65536)
    assert len(client.read(fh, 0, info["rtmax"]).must().data) == info["rtmax"]
    assert client.write(fh, b"y" * info["wtpref"], stable=UNSTABLE).must().count == info["wtpref"]
    client.close()


def test_pathconf_is_true(spot: Spot) -> None:
    info = spot.nfs.pathconf(spot.fh).must().info
    assert info is not None
    assert info["name_max"] == os.pathconf(spot.path, "PC_NAME_MAX")
    assert info["linkmax"] == os.pathconf(spot.path, "PC_LINK_MAX") or info["linkmax"] >= 1000
    assert (info["no_trunc"], info["chown_restricted"]) == (1, 1)
    assert (info["case_insensitive"], info["case_preserving"]) == (0, 1)


def test_pathconf_no_trunc_is_what_create_does(spot: Spot) -> None:
    info = spot.nfs.pathconf(spot.fh).must().info
    assert info is not None
    assert spot.nfs.create(spot.fh, b"n" * info["name_max"]).ok
    assert spot.nfs.create(spot.fh, b"n" * (info["name_max"] + 1)).status == NAMETOOLONG


def test_all_three_have_the_attributes(spot: Spot) -> None:
    for res in (spot.nfs.fsstat(spot.fh), spot.nfs.fsinfo(spot.fh), spot.nfs.pathconf(spot.fh)):
        assert res.must().a.fileid == spot.path.stat().st_ino
