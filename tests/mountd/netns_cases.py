"""Cases that need a network of their own: port 111, and an address that is not loopback.  Run by test_netns.py in new namespaces
with an empty /run, a copy of /etc, the interface lo up, 192.0.2.1 on it, and a network to a second machine."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.mount import MOUNT_PROGRAM, Proc
from mountd.showmount import unpack_exports
from nfssvc_shim.call import nfssvc
from nfssvc_shim.flags import Nfssvc, Nxa
from nfssvc_shim.records import ExportArgs
from oncrpc.client import Client
from oncrpc.message import AcceptStat, RpcError, pack_call
from oncrpc.pmap import Pmap, Rpcbind

from .conftest import TREE, Mountd, string, wait_until
from .peer import DEADLINE_S
from .test_portmap import mappings, portmap

STRANGER = "192.0.2.1"    # an address of ours that is not loopback: calls to and from it count as from outside

SERVER = "198.51.100.1"   # ours on a network with another machine, the namespace "outside"


@pytest.fixture
def mapper() -> Iterator[int]:
    with portmap(111) as port:
        yield port


def test_debians_showmount_lists_exports_and_mounts(mountd: Mountd, tree: Path, mapper: int) -> None:
    """Through our portmap on port 111."""
    showmount = shutil.which("showmount", path="/usr/sbin:/sbin:/usr/bin")
    if showmount is None:
        pytest.skip("no showmount of nfs-utils here")
    mountd.start(f"{tree}/a *(ro,insecure)\n{tree}/b 10.0.0.0/8\n", register=True)
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0

    def lines(option: str) -> list[str]:
        done = subprocess.run([showmount, option, "127.0.0.1"], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.splitlines()

    assert lines("-e") == ["Export list for 127.0.0.1:", f"{tree}/a (everyone)", f"{tree}/b 10.0.0.0/8"]
    assert lines("-a") == ["All mount points on 127.0.0.1:", f"127.0.0.1:{tree}/a"]
    assert lines("-d") == ["Directories on 127.0.0.1:", f"{tree}/a"]


def test_our_showmount_asks_the_port_mapper(mountd: Mountd, tree: Path, mapper: int) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n", register=True)
    for words in ([], ["--udp"], ["-1"]):
        done = subprocess.run([sys.executable, "-m", "mountd.showmount", "-e", *words, "127.0.0.1"], cwd=TREE,
                              capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout.splitlines()[1:] == [f"{tree}/a (everyone)"]


def test_registers_with_rpcbind_over_its_socket(mountd: Mountd, tree: Path) -> None:
    """Debian's rpcbind has IPv6 transports too, and an owner."""
    program = shutil.which("rpcbind", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        pytest.skip("no rpcbind here")
    rpcbind = subprocess.Popen([program, "-f"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: Path("/run/rpcbind.sock").exists(), "rpcbind")
        mountd.start(f"{tree}/a *(ro)\n", register=True, loopback=False)
        assert len(mappings(111)) == 6
        with Rpcbind("/run/rpcbind.sock") as asked:
            entries = [entry for entry in asked.dump() if entry.prog == MOUNT_PROGRAM]
        assert {entry.netid for entry in entries} == {"udp", "tcp", "udp6", "tcp6"}
        assert {entry.owner for entry in entries} == {"superuser"}
        assert mountd.stop() == 0
        assert mappings(111) == set()
    finally:
        rpcbind.terminate()
        rpcbind.wait(DEADLINE_S)


def test_statd_of_nfs_utils_registers_with_our_portmap() -> None:
    """It is its own user by then, and removes its registration when it ends."""
    statd = shutil.which("rpc.statd", path="/usr/sbin:/sbin:/usr/bin")
    if statd is None:
        pytest.skip("no rpc.statd of nfs-utils here")
    ready, written = os.pipe()
    mapper = subprocess.Popen([sys.executable, "-m", "portmap", "-d", "-l", "--ready-fd", str(written)], cwd=TREE,
                              pass_fds=[written], stderr=subprocess.DEVNULL)
    os.close(written)
    subprocess.run(["cp", "-a", "/var/lib/nfs", "/run/nfs"], check=True)  # with its owner, whom rpc.statd becomes
    owner = str(Path("/run/nfs/sm").stat().st_uid)

    def status() -> set[tuple[str, str]]:
        with Rpcbind("/run/rpcbind.sock") as asked:
            return {(entry.netid, entry.owner) for entry in asked.dump() if entry.prog == 100024}

    try:
        assert os.read(ready, 64).startswith(b"READY")
        process = subprocess.Popen([statd, "-F", "--no-notify", "-P", "/run/nfs"], stderr=subprocess.DEVNULL)
        try:
            wanted = {(netid, owner) for netid in ("udp", "tcp", "udp6", "tcp6")}
            wait_until(lambda: status() == wanted, "rpc.statd registers", lambda: str(status()))
        finally:
            process.terminate()
            process.wait(DEADLINE_S)
        wait_until(lambda: not status(), "rpc.statd unregisters")
    finally:
        mapper.terminate()
        assert mapper.wait(DEADLINE_S) == 0
        os.close(ready)
    assert not Path("/run/rpcbind.sock").exists()


def ratio(port: int, vers: int, proc: int, args: bytes) -> float:
    """Bytes out by bytes in of one UDP call from a stranger."""
    call = pack_call(1, MOUNT_PROGRAM, vers, proc, args)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((STRANGER, 0))
        sock.settimeout(DEADLINE_S)
        sock.sendto(call, (STRANGER, port))
        return len(sock.recv(65536)) / len(call)


def test_stranger_over_udp_never_gets_more_than_he_sent(mountd: Mountd, tree: Path) -> None:
    """Amplification at most 1.0 over all procedures."""
    mountd.start("".join(f"{tree}/{d} 10.0.0.0/8 127.0.0.1(insecure) h{d}.invalid\n" for d in "abc"), loopback=False)
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        mountd.mnt(os.fsencode(tree / "a"), source=source)
    worst = 0.0
    for vers, n_procs in ((1, 7), (2, 8), (3, 6)):
        for proc in range(n_procs + 2):
            for args in (b"", string(b"/"), string(b"@getnonce"), string(os.fsencode(tree / "a"))):
                worst = max(worst, ratio(mountd.port, vers, proc, args))
    worst = max(worst, ratio(mountd.port, 4, 1, b""))
    print(f"worst ratio {worst:.2f}")
    assert worst <= 1.0


def test_stranger_gets_exports_over_tcp_and_no_dump(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro)\n{tree}/b 10.0.0.0/8\n", loopback=False)
    with Client.tcp((STRANGER, mountd.port), MOUNT_PROGRAM, 3, timeout_s=DEADLINE_S) as client:
        assert len(unpack_exports(client.call(Proc.EXPORT))) == 2

    def showmount(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*words, sys.executable, "-m", "mountd.showmount", "-a", "--port", str(mountd.port), SERVER]
        return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=20, check=False)

    assert showmount().returncode == 0  # by an address of our own that is not loopback: local all the same
    outside = showmount("ip", "netns", "exec", "outside")
    assert (outside.returncode, AcceptStat.PROC_UNAVAIL.name in outside.stderr) == (1, True)


def test_hidden_exports_show_a_stranger_only_his_own(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a 192.0.2.0/24\n{tree}/b 10.0.0.0/8\n", "--hide", loopback=False)
    with Client.tcp((STRANGER, mountd.port), MOUNT_PROGRAM, 3, timeout_s=DEADLINE_S) as client:
        assert [path for path, _ in unpack_exports(client.call(Proc.EXPORT))] == [os.fsencode(tree / "a")]
    with Client.tcp(("127.0.0.1", mountd.port), MOUNT_PROGRAM, 3, timeout_s=DEADLINE_S) as client:
        assert len(unpack_exports(client.call(Proc.EXPORT))) == 2


def test_name_server_that_never_answers_stops_nobody(mountd: Mountd, tree: Path) -> None:
    """A resolver that answers after 30 s or never: service at once, the entry denied."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        mountd.start(f"{tree}/a slow.example.org(rw,insecure)\n{tree}/b 127.0.0.1(ro,insecure)\n"
                     f"{tree}/c *.example.org(insecure)\n")
        assert mountd.mnt(os.fsencode(tree / "b"))[0] == 0
        assert mountd.mnt(os.fsencode(tree / "a"))[0] == 13
        assert silent.recv(2048)


def test_hosts_deny_keeps_a_stranger_out_and_not_this_machine(mountd: Mountd, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts.deny").write_text("mountd: ALL\n")
    mountd.start(f"{tree}/a *(ro,insecure)\n", "--hosts-access", str(tmp_path), loopback=False)
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    assert mountd.mnt(os.fsencode(tree / "a"), host=STRANGER)[0] == 13
    mountd.wait_log("refused: hosts.deny")
    with Client.tcp((STRANGER, mountd.port), MOUNT_PROGRAM, 3, timeout_s=DEADLINE_S) as client, pytest.raises(RpcError):
        client.call(Proc.EXPORT)


def test_netgroups_are_their_hosts_and_never_everyone(mountd: Mountd, tree: Path) -> None:
    """A member without a host means every host to innetgr(3).  Linux: @group; BSD: a bare word."""
    Path("/etc/netgroup").write_text("lab (127.0.0.1,-,-) (no-such-host.invalid,,)\nopen (,user,)\n")
    Path("/etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\nnetgroup: files\n")
    mountd.start(f"{tree}/a @lab(ro,insecure)\n{tree}/b @open(rw,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    assert mountd.mnt(os.fsencode(tree / "b"))[0] == 13
    assert mountd.mnt(os.fsencode(tree / "a"), source="127.0.0.2")[0] == 13
    mountd.stop()
    mountd.start(f"{tree}/a -ro lab\n{tree}/b open\n", "-n", "--dialect", "bsd")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    assert mountd.mnt(os.fsencode(tree / "b"))[0] == 13


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_address_of_h_is_served_from_when_it_comes(mountd: Mountd, tree: Path) -> None:
    """mountd and portmap started before the network; the address goes and comes back.  The log says what is awaited."""
    late = "203.0.113.5"
    with portmap(111, "-h", late):
        mountd.start(f"{tree}/a *(ro,insecure)\n", "-h", late, loopback=False)
        assert f"{late} is no address of this machine now" in mountd.log()
        for _ in range(2):
            ip("addr", "add", f"{late}/32", "dev", "lo")
            assert mountd.mnt(os.fsencode(tree / "a"), host=late)[0] == 0
            assert mountd.mnt(os.fsencode(tree / "a"), host=late, udp=True)[0] == 0
            with Pmap(late, port=111, timeout_s=DEADLINE_S) as mapper:
                mapper.null()
            ip("addr", "del", f"{late}/32", "dev", "lo")
            with pytest.raises(OSError, match=r"unreachable|timed out"):
                mountd.mnt(os.fsencode(tree / "a"), host=late)


def test_nfsd_serves_an_address_that_comes_later(tmp_path: Path) -> None:
    late, (read, write) = "203.0.113.7", os.pipe()
    places = [word for name in ("statedir", "socket", "key") for word in (f"--{name}", str(tmp_path / name))]
    nfsd = subprocess.Popen([sys.executable, "-m", "nfsd_master", "-F", "-n", "2", "-p", "2049", "-h", late, "--no-portmap",
                             "-P", str(tmp_path / "pid"), "--ready-fd", str(write), *places], cwd=TREE, pass_fds=[write],
                            stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        assert os.read(read, 64).startswith(b"READY")
        nfssvc(Nfssvc.EXPORT, ExportArgs(Nxa.REPLACE, True), socket_path=tmp_path / "socket")  # workers read calls from now on
        ip("addr", "add", f"{late}/32", "dev", "lo")
        for opener in (Client.tcp, Client.udp):
            with opener((late, 2049), 100003, 3, timeout_s=DEADLINE_S) as client:
                assert client.call(0) == b""
        ip("addr", "del", f"{late}/32", "dev", "lo")
    finally:
        nfsd.terminate()
        assert nfsd.wait(DEADLINE_S) == 0
        os.close(read)


def test_interface_of_an_entry_comes_and_goes(mountd: Mountd, tree: Path) -> None:
    """fe80::%late0/64 matches nobody without late0, its own network while it is there, and nobody afterwards."""
    mountd.start(f"{tree}/a fe80::%late0/64(ro,insecure)\n{tree}/b *(ro,insecure)\n")
    assert mountd.peer is not None

    def scopes() -> list[int]:
        assert mountd.peer is not None
        return [net.address.scope for export in mountd.peer.tables[-1] for net in export.nets if net.address.scope]

    assert scopes() == []
    ip("link", "add", "late0", "type", "veth", "peer", "name", "late1")
    wait_until(lambda: scopes() == [socket.if_nametoindex("late0")], "the interface in the table", mountd.log)
    ip("link", "del", "late0")
    wait_until(lambda: scopes() == [], "the interface gone from the table", mountd.log)
    mountd.wait_log("addresses changed: -late0 (interface ")


def test_names_are_asked_again_when_the_network_comes_up(mountd: Mountd, tree: Path) -> None:
    """The name server is not to be reached at boot; nobody waits until the retry is due."""
    Path("/etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    mountd.start(f"{tree}/a good.example.org(ro,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 13
    dns = Dns()
    try:
        ip("addr", "add", "203.0.113.6/32", "dev", "lo")
        mountd.wait_log("addresses changed: ")
        wait_until(lambda: mountd.mnt(os.fsencode(tree / "a"))[0] == 0, "the name is known", mountd.log)
    finally:
        dns.close()
        ip("addr", "del", "203.0.113.6/32", "dev", "lo")


class Dns:
    """A name server with little to say: SERVFAIL for servfail.*, no address for empty.*, one for good.*."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 53))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            query, client = self.sock.recvfrom(2048)
            if not query:
                return
            labels = query[12:]
            end = labels.index(0) + 5
            kind = int.from_bytes(labels[end - 4:end - 2], "big")
            name = labels[1:1 + labels[0]]
            found = [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("127.0.0.1")] if name == b"good" and kind == 1 else []
            flags = 0x8180 | (2 if name == b"servfail" else 0)
            head = query[:2] + flags.to_bytes(2, "big") + b"\0\1" + len(found).to_bytes(2, "big") + bytes(4)
            self.sock.sendto(head + labels[:end] + b"".join(found), client)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", ("127.0.0.1", 53))
        self.thread.join(DEADLINE_S)
        self.sock.close()


def test_answers_of_a_name_server_that_help_nobody_deny_only_their_entry(mountd: Mountd, tree: Path) -> None:
    """SERVFAIL, no address at all, 5,000 addresses: the entry denies, the others work."""
    Path("/etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    Path("/etc/host.conf").write_text("multi on\n")
    many = "".join(f"127.1.{i // 250}.{i % 250 + 1} many.example.org\n" for i in range(5000))
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n127.0.0.1 many.example.org\n" + many)
    dns = Dns()
    try:
        for name in ("servfail", "empty", "many"):
            (tree / name).mkdir()
        mountd.start("".join(f"{tree}/{name} {name}.example.org(rw,insecure)\n" for name in ("servfail", "empty", "many"))
                     + f"{tree}/a good.example.org(ro,insecure)\n")
        assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
        for name in ("servfail", "empty", "many"):
            assert mountd.mnt(os.fsencode(tree / name))[0] == 13, name
        assert mountd.peer is not None
        assert sum(len(export.nets) for export in mountd.peer.tables[-1]) == 1
    finally:
        dns.close()
