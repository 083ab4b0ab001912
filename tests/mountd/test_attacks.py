"""Attacks on MOUNT and on the exports file: each must fail in the way that is written beside it."""
from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from mountd.exports import parse_text
from mountd.exports_model import Dialect
from mountd.mount import MOUNT_PROGRAM, Proc
from mountd.showmount import unpack_exports
from oncrpc.message import AcceptStat, RpcError, pack_call, pack_relay, unpack_relay_reply, unpack_reply
from oncrpc.xdr import Packer

from .conftest import Mountd, string

ACCES = 13


@pytest.fixture
def exported(mountd: Mountd, tree: Path) -> tuple[Mountd, bytes]:
    """A mountd that exports tree/a to all."""
    (tree / "secret").mkdir()
    return mountd.start(f"{tree}/a *(ro,insecure)\n"), os.fsencode(tree)


@pytest.mark.parametrize("path", ["/a/../secret", "/a/../../..", "/secret", "/aa", "/a/./sub", "", "/missing", "/a\0",
                                  "/a/sub\0/x"])
def test_path_that_is_no_export_is_refused_without_a_reason(exported: tuple[Mountd, bytes], path: str) -> None:
    """MNT of odd paths: only real exports, and no difference between missing and forbidden (CVE-1999-0166)."""
    daemon, root = exported
    assert daemon.mnt(root + path.encode())[0] == ACCES


@pytest.mark.parametrize("path", [b"", b"exp", b"/", b"//", b".", b"..", b"/..", b"\0", b"/\xff\xfe", b"@",
                                  b"@password:", b"@otp:x"])
def test_absolute_oddities_are_refused(exported: tuple[Mountd, bytes], path: bytes) -> None:
    assert exported[0].mnt(path)[0] == ACCES


@pytest.mark.parametrize("path", ["/a", "/a/", "//a", "/a//sub", "/a/sub/"])
def test_doubled_and_trailing_slashes_mean_the_same_directory(exported: tuple[Mountd, bytes], path: str) -> None:
    daemon, root = exported
    assert daemon.mnt(root + path.encode())[0] == 0


@pytest.mark.parametrize(("size", "answered"), [(1024, True), (1025, False), (4000, False)])
def test_long_path_is_garbage(exported: tuple[Mountd, bytes], size: int, answered: bool) -> None:
    """MNTPATHLEN is 1024 (CVE-1999-0832)."""
    path = b"/" + b"a/" * (size // 2)
    if answered:
        assert exported[0].mnt(path[:size])[0] == ACCES
        return
    with pytest.raises((RpcError, OSError)) as caught:
        exported[0].mnt(path[:size])
    if isinstance(caught.value, RpcError):
        assert caught.value.accept_stat == AcceptStat.GARBAGE_ARGS


@pytest.mark.parametrize("proc", [Proc.MNT, Proc.UMNT])
def test_truncated_arguments_are_garbage(exported: tuple[Mountd, bytes], proc: Proc) -> None:
    whole = string(b"/some/path")
    with exported[0].client() as client:
        for size in range(len(whole)):
            with pytest.raises(RpcError) as caught:
                client.call(proc, whole[:size])
            assert caught.value.accept_stat == AcceptStat.GARBAGE_ARGS
        with pytest.raises(RpcError):
            client.call(proc, whole + b"more")


@pytest.mark.parametrize("proc", [Proc.DUMP, Proc.UMNTALL, Proc.EXPORT])
def test_arguments_where_none_belong_are_garbage(exported: tuple[Mountd, bytes], proc: Proc) -> None:
    with exported[0].client() as client, pytest.raises(RpcError) as caught:
        client.call(proc, bytes(4))
    assert caught.value.accept_stat == AcceptStat.GARBAGE_ARGS


def test_export_that_becomes_a_symlink_still_means_the_old_directory(mountd: Mountd, tree: Path) -> None:
    """The path is resolved at load; a swap has no effect until the next (nfs-utils cd90f292)."""
    link = tree / "link"
    link.symlink_to(tree / "a")
    mountd.start(f"{link} *(ro,insecure)\n")
    assert mountd.peer is not None
    link.unlink()
    link.symlink_to("/etc")
    assert mountd.mnt(os.fsencode(link))[0] == 0
    assert [e.path for e in mountd.peer.tables[-1]] == [os.fsencode(tree / "a")]
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


@pytest.mark.parametrize("line", ["/x 10.1.2.3 (rw)", "/x host (rw,no_root_squash)", "/x\t10.0.0.0/8\t(rw)", "/x @g (rw)",
                                  "/x *.y.z (rw)"])
def test_blank_before_a_parenthesis_is_an_error_with_its_line(line: str) -> None:
    """The classic accident: exportfs exports to the world."""
    parsed = parse_text(f"# one\n{line}\n".encode(), "f", Dialect.LINUX)
    assert [e.where.line for e in parsed.errors] == [2]


@pytest.mark.parametrize("value", ["abc", "-2", "4294967296", "4294967295", "", "0x0", " 0", "1.5"])
def test_anonuid_that_is_no_number_is_an_error(value: str) -> None:
    """atoi makes uid 0 of it."""
    assert parse_text(f"/x h(anonuid={value},rw)".encode(), "f").errors


@pytest.mark.parametrize("client", ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/abc", "10.0.0.0/255.0.255.0", "010.0.0.1", "10.1",
                                    "300.1.1.1", "0.0.0.0/0", "::/0", "0/0", "10/8"])
def test_strange_address_is_an_error(client: str) -> None:
    assert parse_text(f"/x {client}(rw)".encode(), "f").errors


def test_name_that_does_not_resolve_denies_only_itself(mountd: Mountd, tree: Path) -> None:
    """It is pending and denied; other lines work, and the log says so."""
    mountd.start(f"{tree}/a no-such-host.invalid(rw,insecure)\n{tree}/b 127.0.0.1(ro,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == ACCES
    assert mountd.mnt(os.fsencode(tree / "b"))[0] == 0
    assert "no-such-host.invalid does not resolve" in mountd.log()


def test_stopped_resolver_does_not_stop_the_service(mountd: Mountd, tree: Path) -> None:
    """A name service that answers nobody: MNT by address works at once, a reload too after its deadline."""
    mountd.start(f"{tree}/b 127.0.0.1(ro,insecure)\n")
    assert mountd.peer is not None
    resolver = mountd.child("resolver")
    os.kill(resolver, signal.SIGSTOP)
    try:
        mountd.reload(f"{tree}/a localhost(rw,insecure)\n{tree}/b 127.0.0.1(ro,insecure)\n")
        began = time.monotonic()
        assert mountd.mnt(os.fsencode(tree / "b"))[0] == 0
        assert time.monotonic() - began < 1.0
        table = {e.path: e.nets for e in mountd.peer.wait_tables(2)}
        assert table[os.fsencode(tree / "a")] == ()
        assert mountd.mnt(os.fsencode(tree / "a"))[0] == ACCES
    finally:
        os.kill(resolver, signal.SIGCONT)
    mountd.peer.wait_tables(3)


def test_log_line_of_a_path_with_newlines_is_one_line(exported: tuple[Mountd, bytes]) -> None:
    """CVE-2003-0252 and log injection: one escaped line."""
    daemon, _ = exported
    daemon.mnt(b"/x\nmountd: all is well\x1b[31m\xff")
    daemon.wait_log("refused")
    lines = [line for line in daemon.log().splitlines() if "all is well" in line]
    assert len(lines) == 1
    assert "\\012mountd: all is well\\033[31m\\377" in lines[0]


def test_storm_of_refusals_is_ten_lines_a_second(exported: tuple[Mountd, bytes]) -> None:
    daemon, _ = exported
    began = time.monotonic()
    with daemon.client() as client:
        for _ in range(300):
            client.call(Proc.MNT, string(b"/nowhere"))
    seconds = time.monotonic() - began
    daemon.wait_log("refused", 10)
    assert daemon.log().count("refused") <= 10 * (seconds + 1)


def test_network_half_that_asks_nonsense_gets_an_error_and_harms_nobody(exported: tuple[Mountd, bytes]) -> None:
    """Bytes that are no call, on the wire: closed or answered, and the next client is served."""
    daemon, root = exported
    for junk in (b"GET / HTTP/1.0\r\n\r\n", b"\x80\xff\xff\xff", b"\x80\0\0\x04junk", bytes(64)):
        with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
    p = Packer()
    p.pack_uint(0xFFFFFFFF)
    with daemon.client() as client, pytest.raises(RpcError):
        client.call(Proc.MNT, bytes(p))
    assert daemon.mnt(root + b"/a")[0] == 0


def test_source_port_above_1023_is_refused_where_the_entry_asks_for_less(mountd: Mountd, tree: Path) -> None:
    """Options secure (Linux, the default) and insecure; mountd -n takes all."""
    text = f"{tree}/a *(ro)\n{tree}/b *(ro,insecure)\n"
    mountd.start(text)
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == ACCES
    assert mountd.mnt(os.fsencode(tree / "b"))[0] == 0
    mountd.stop()
    mountd.start(text, "-n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


def test_list_of_exports_that_fits_no_packet(mountd: Mountd, tree: Path) -> None:
    """EXPORT of more than 64 KiB: whole over TCP; cut at a whole entry where a worker relays it; refused over UDP."""
    clients = " ".join(f"10.{i}.0.0/16" for i in range(100))
    for i in range(60):
        (tree / f"d{i:02}").mkdir()
    mountd.start("".join(f"{tree}/d{i:02} {clients}\n" for i in range(60)))
    with mountd.client() as client:
        whole = client.call(Proc.EXPORT)
    assert len(whole) > 65536
    assert len(unpack_exports(whole)) == 60
    assert mountd.peer is not None
    with mountd.peer.relay() as worker:
        call = pack_call(7, MOUNT_PROGRAM, 3, Proc.EXPORT, b"")
        worker.send(pack_relay(9, call, proto=6, family=socket.AF_INET, port=700, address=socket.inet_aton("192.0.2.7")))
        reply = unpack_relay_reply(worker.recv(65536))[1]
    part = unpack_exports(unpack_reply(reply)[1])
    assert 0 < len(part) < 60
    assert part == unpack_exports(whole)[:len(part)]
    with mountd.client(udp=True) as client, pytest.raises(RpcError) as caught:
        client.call(Proc.EXPORT)
    assert caught.value.accept_stat == AcceptStat.PROC_UNAVAIL
