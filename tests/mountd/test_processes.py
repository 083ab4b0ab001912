"""mountd as processes: start, serving, HUP, children that die, a server that dies, stop."""
from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from mountd.mount import Proc
from mountd.showmount import unpack_exports, unpack_mountlist
from nfssvc_shim.flags import Nx
from oncrpc.message import AcceptStat, RpcError, pack_call, pack_relay, unpack_relay_reply, unpack_reply
from oncrpc.record import pack_record

from .conftest import TREE, Mountd, children_of, string, title, wait_until
from .peer import Peer

ACCES = 13


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("vers", [1, 2, 3])
def test_mnt_of_an_export_gives_the_workers_handle(mountd: Mountd, tree: Path, vers: int, udp: bool) -> None:
    """RFC 1094 A.5.1, RFC 1813 5.2.1: over both transports, in all versions."""
    mountd.start(f"{tree}/a 127.0.0.1(rw,insecure)\n")
    assert mountd.peer is not None
    status, handle = mountd.mnt(os.fsencode(tree / "a" / "sub"), vers, udp=udp)
    assert (status, handle[4:7]) == (0, b"sub")
    assert mountd.peer.asked[-1].vers == (3 if vers == 3 else 2)


def test_mnt_over_ipv6_matches_ipv6_entries(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a ::1(insecure)\n{tree}/b 127.0.0.1(insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"), host="::1")[0] == 0
    assert mountd.mnt(os.fsencode(tree / "b"), host="::1")[0] == ACCES


def test_bad_file_at_start_refuses_to_start(mountd: Mountd, tree: Path) -> None:
    """Design section 6: at first start a bad file refuses to start, and says where."""
    mountd.exports.write_text(f"{tree}/a 10.0.0.1 (rw)\n{tree}/b h(roo)\n")
    ended = subprocess.run(mountd.command("--no-portmap"), cwd=TREE, capture_output=True, text=True, timeout=15, check=False)
    assert ended.returncode == 1
    assert f"{mountd.exports}:1:" in ended.stderr
    assert f"{mountd.exports}:2:" in ended.stderr
    assert mountd.peer is not None
    assert mountd.peer.tables == []


def test_taken_port_is_said_in_one_line(mountd: Mountd, tree: Path) -> None:
    mountd.exports.write_text(f"{tree}/a *(ro)\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(mountd.command("--no-portmap", "-h", "127.0.0.1", "-p", str(port)), cwd=TREE, capture_output=True,
                               text=True, timeout=15, check=False)
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr


def test_second_mountd_is_refused_in_one_line(mountd: Mountd, tree: Path) -> None:
    """In the same state directory, and for the same server: it would answer by another table.  The first goes on."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.peer is not None
    mountd.peer.mountd = mountd.pid
    other = str(mountd.directory / "other")
    for words, place in (((), f"{mountd.state}/mountd.lock"), (("--statedir", other), str(mountd.socket))):
        command = mountd.command("--no-portmap", "-h", "127.0.0.1", *words)
        ended = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=15, check=False)
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert place in ended.stderr
        assert f"pid {mountd.pid}" in ended.stderr
    assert len(mountd.peer.tables) == 1
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


def test_mountd_that_was_killed_does_not_keep_the_next_one_out(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.process is not None
    mountd.process.kill()
    mountd.process.wait()
    mountd.process = None
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


def test_relayed_only_says_whose_port_it_serves(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n", "--relay-only", loopback=False)
    assert "serving what nfsd relays from port 2049" in mountd.log()


def test_hup_with_an_error_keeps_the_old_table(mountd: Mountd, tree: Path) -> None:
    """F13: the last good table stays whole, each error is in the log with file, line and column."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.peer is not None
    mountd.reload(f"{tree}/a *(ro,insecure)\n{tree}/b 127.0.0.1 (rw)\n{tree}/c *(rw,insecure)\n")
    mountd.wait_log("the exports stay as they were")
    assert f"{mountd.exports}:2:" in mountd.log()
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    assert mountd.mnt(os.fsencode(tree / "c"))[0] == ACCES
    assert len(mountd.peer.tables) == 1


def test_hup_puts_the_new_table_in_force(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.peer is not None
    mountd.reload(f"{tree}/b *(rw,insecure)\n")
    table = mountd.peer.wait_tables(2)
    assert [export.path for export in table] == [os.fsencode(tree / "b")]
    wait_until(lambda: mountd.mnt(os.fsencode(tree / "b"))[0] == 0, "the new table in force")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == ACCES


@pytest.mark.parametrize("broken", ["missing", "directory", "unreadable text"])
def test_hup_with_a_file_that_cannot_be_read_keeps_the_old_table(mountd: Mountd, tree: Path, broken: str) -> None:
    """F14."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    mountd.exports.unlink()
    if broken == "directory":
        mountd.exports.mkdir()
    elif broken == "unreadable text":
        mountd.exports.write_bytes(b"\0" * 100)
    os.kill(mountd.pid, signal.SIGHUP)
    mountd.wait_log("the exports stay as they were")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


def test_empty_file_exports_nothing(mountd: Mountd, tree: Path) -> None:
    """F14: a file that is there, readable and empty is meant."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.peer is not None
    mountd.reload("")
    assert mountd.peer.wait_tables(2) == ()


def test_term_ends_with_status_0_and_leaves_nothing(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    port = mountd.port
    assert mountd.stop() == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))


def test_server_that_comes_back_gets_the_table_again(mountd: Mountd, tree: Path) -> None:
    """Design section 5: mountd reconnects every 100 ms and sends its table."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.peer is not None
    first = mountd.peer.tables[0]
    mountd.peer.close()
    mountd.peer = Peer(mountd.socket)
    assert mountd.peer.wait_tables(1) == first
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


@pytest.mark.parametrize("name", ["network", "resolver", "addresses"])
def test_child_that_dies_is_replaced(mountd: Mountd, tree: Path, name: str) -> None:
    mountd.start(f"{tree}/a localhost(ro,insecure)\n")
    old = mountd.child(name)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [pid for pid in children_of(mountd.pid) if title(pid).endswith(name) and pid != old], f"another {name}")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0


@pytest.mark.root
def test_network_half_has_no_rights_at_all(mountd: Mountd, tree: Path) -> None:
    """Issue: the network half has no capability, no file system and no handle key."""
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    pid = mountd.child("network")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) != {"0"}
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].split() == []
    assert list(Path(f"/proc/{pid}/root").iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("capsh"), reason="needs capsh(1)")
@pytest.mark.parametrize(("capability", "said"), [
    ("cap_sys_chroot", "CAP_SYS_CHROOT missing: the half that reads the network keeps its root directory"),
    ("cap_setuid", "the halves without rights stay uid 0, without capabilities"),
    ("cap_setgid", "the halves without rights stay uid 0, without capabilities"),
    ("cap_setpcap", ""),
    ("cap_kill", "CAP_KILL missing: a half without rights that hangs cannot be ended"),
    ("cap_setpcap,cap_sys_chroot,cap_setuid,cap_setgid", "CAP_SYS_CHROOT missing"),
])
def test_root_of_a_container_without_a_capability_is_told_once_and_serves(mountd: Mountd, tree: Path, capability: str,
                                                                          said: str) -> None:
    """The children of such a mountd give up what they can, and do not die at what they cannot."""
    mountd.prefix = ("capsh", f"--drop={capability}", "--", "-c", 'exec "$@"', "sh")
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{mountd.child('network')}/status").read_text().splitlines())
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    assert mountd.log().count("missing:") == (2 if "," in capability else bool(said))
    assert said in mountd.log()
    assert "Traceback" not in mountd.log()


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("capsh"), reason="needs capsh(1)")
def test_checking_a_file_needs_no_right_to_end_its_own_helper(mountd: Mountd, tree: Path) -> None:
    """As under a unit that grants no CAP_KILL: the start script's `mountd -T` failed, and mountd never started."""
    mountd.exports.write_text(f"{tree}/a localhost(ro)\n")
    mountd.prefix = ("capsh", "--drop=cap_kill", "--", "-c", 'exec "$@"', "sh")
    done = subprocess.run(mountd.command("-T"), cwd=TREE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_relayed_calls_are_answered(mountd: Mountd, tree: Path) -> None:
    """Design section 5: MOUNT and NFS on one port; a worker passes the record and the peer."""
    mountd.start(f"{tree}/a 192.0.2.7(ro)\n", "--relay-only", "-p", "2049", loopback=False)
    assert mountd.peer is not None
    assert mountd.port == 2049
    with mountd.peer.relay() as worker:
        for port, expected in ((900, 0), (2000, ACCES)):  # the entry asks for a port below 1024
            call = pack_call(77, 100005, 3, Proc.MNT, string(os.fsencode(tree / "a")))
            worker.send(pack_relay(5, call, proto=6, family=socket.AF_INET, port=port, address=socket.inet_aton("192.0.2.7")))
            serial, message = unpack_relay_reply(worker.recv(4096))
            xid, results = unpack_reply(message)
            assert (serial, xid, int.from_bytes(results[:4], "big")) == (5, 77, expected)


def test_mount_list_survives_a_restart_and_umntall_is_the_callers_own(mountd: Mountd, tree: Path) -> None:
    """RFC 1813 5.2.4; mountdtab."""
    mountd.start(f"{tree} *(ro,insecure)\n")
    path = os.fsencode(tree / "a")
    for source in ("127.0.0.1", "127.0.0.2"):
        assert mountd.mnt(path, source=source)[0] == 0
    mountd.stop()
    mountd.start(f"{tree} *(ro,insecure)\n")
    with mountd.client(source="127.0.0.2") as client:
        assert unpack_mountlist(client.call(Proc.DUMP)) == [(b"127.0.0.1", path), (b"127.0.0.2", path)]
        assert client.call(Proc.UMNTALL) == b""
        assert unpack_mountlist(client.call(Proc.DUMP)) == [(b"127.0.0.1", path)]
        client.call(Proc.UMNT, string(path))
        assert len(unpack_mountlist(client.call(Proc.DUMP))) == 1
    with mountd.client() as client:
        client.call(Proc.UMNT, string(path))
        assert unpack_mountlist(client.call(Proc.DUMP)) == []


def test_export_lists_directories_with_their_clients(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro)\n{tree}/b 10.0.0.0/8 host.invalid\n{tree}/missing *(ro)\n")
    with mountd.client(1) as client:
        found = unpack_exports(client.call(Proc.EXPORT))
        assert found == unpack_exports(client.call(Proc.EXPORTALL))
    assert found == [(os.fsencode(tree / "a"), []), (os.fsencode(tree / "b"), [b"10.0.0.0/8", b"host.invalid"])]


def test_wildcard_entry_is_resolved_when_its_client_asks(mountd: Mountd, tree: Path) -> None:
    """Forward-confirmed reverse lookup, and an entry for the address in the workers' table."""
    mountd.start(f"{tree}/a local*.x(ro) *host(ro,insecure)\n{tree}/b *.example.org(rw,insecure)\n")
    assert mountd.peer is not None
    assert mountd.peer.tables[0][0].nets == ()
    assert mountd.mnt(os.fsencode(tree / "a"))[0] == 0
    nets = mountd.peer.tables[-1][0].nets
    assert [(str(net.address), net.prefix) for net in nets] == [("127.0.0.1", 32)]
    assert nets[0].flags & Nx.READONLY
    assert mountd.mnt(os.fsencode(tree / "b"))[0] == ACCES


def test_hup_1000_exports_keep_their_ids(mountd: Mountd, tree: Path) -> None:
    """Handles hold the export id: it may not change over HUP and restart."""
    directories = [tree / f"d{i}" for i in range(1000)]
    for directory in directories:
        directory.mkdir()
    mountd.start("".join(f"{d} *(ro,insecure)\n" for d in directories))
    assert mountd.peer is not None
    ids = {e.path: e.expid for e in mountd.peer.tables[0]}
    assert len(set(ids.values())) == 1000
    mountd.reload("".join(f"{d} *(ro,insecure)\n" for d in reversed(directories)))
    assert {e.path: e.expid for e in mountd.peer.wait_tables(2)} == ids


def test_password_and_one_time_password(mountd: Mountd, tree: Path) -> None:
    """unfsd(8), option password; a nonce is its client's own and good for one try."""
    import hashlib
    mountd.start(f"{tree}/a *(ro,insecure,password=gazonk)\n")
    path = os.fsencode(tree / "a")
    assert mountd.mnt(path)[0] == ACCES
    assert mountd.mnt(b"@password:wrong" + path)[0] == ACCES
    assert mountd.mnt(b"@password:gazonk" + path)[0] == 0
    nonce = mountd.mnt(b"@getnonce")[1]
    answer = b"@otp:" + hashlib.md5(nonce + b"gazonk").hexdigest().encode() + path
    assert mountd.mnt(answer, source="127.0.0.2")[0] == ACCES
    assert mountd.mnt(answer)[0] == 0
    assert mountd.mnt(answer)[0] == ACCES
    assert "gazonk" not in mountd.log()


def test_unknown_procedures_and_versions_are_answered_by_rpc(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro)\n")
    with mountd.client(3) as client:
        for proc in (6, 7, 8, 1000):
            with pytest.raises(RpcError) as caught:
                client.call(proc)
            assert caught.value.accept_stat == AcceptStat.PROC_UNAVAIL
        assert client.call(Proc.NULL) == b""
    with mountd.client(4) as client, pytest.raises(RpcError) as caught:
        client.call(Proc.NULL)
    assert (caught.value.low, caught.value.high) == (1, 3)


def test_pathconf_of_version_2(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    with mountd.client(2) as client:
        good = client.call(Proc.PATHCONF, string(os.fsencode(tree / "a")))
        bad = client.call(Proc.PATHCONF, string(b"/etc"))
    assert len(good) == len(bad) == 40
    assert int.from_bytes(good[12:16], "big") == 255   # name_max
    assert (good[32:36], bad[:4], bad[32:36]) == (bytes(4), bytes(4), b"\0\0\x01\xff")


def test_call_before_the_first_table_waits_for_it(mountd: Mountd, tree: Path) -> None:
    """A client that asks while mountd starts is not refused by a table that is not there yet."""
    assert mountd.peer is not None
    mountd.peer.refuse = 11  # EAGAIN: the server is not ready for a table
    mountd.exports.write_text(f"{tree}/a *(ro,insecure)\n")
    process = subprocess.Popen(mountd.command("--no-portmap", "-h", "127.0.0.1", "-p", str(port := _free_port())), cwd=TREE,
                               stderr=subprocess.DEVNULL)
    try:
        mountd.port = port
        wait_until(lambda: _accepts(port), "the port")
        with mountd.client() as client:
            client.sock.sendall(pack_record(pack_call(9, 100005, 3, Proc.MNT, string(os.fsencode(tree / "a")))))
            client.sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.sock.recv(4)
            mountd.peer.refuse = 0
            client.sock.settimeout(15.0)
            assert unpack_reply(client.sock.recv(4096)[4:])[1][:4] == bytes(4)
    finally:
        process.terminate()
        assert process.wait(15) == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_long_export_list_is_whole_over_tcp_and_refused_over_udp(mountd: Mountd, tree: Path) -> None:
    """A list over UDP has 8 KiB at the most; one that is longer must not look complete."""
    for i in range(2000):
        (tree / f"d{i:04}").mkdir()
    mountd.start("".join(f"{tree}/d{i:04} 10.0.0.0/8 192.0.2.0/24\n" for i in range(2000)))
    with mountd.client() as client:
        assert len(unpack_exports(client.call(Proc.EXPORT))) == 2000
    with mountd.client(udp=True) as client, pytest.raises(RpcError) as caught:
        client.call(Proc.EXPORT)
    assert caught.value.accept_stat == AcceptStat.PROC_UNAVAIL


def test_state_directory_that_others_may_write_is_refused(mountd: Mountd, tree: Path) -> None:
    """L07: a planted link in such a directory would have root write anywhere."""
    mountd.exports.write_text(f"{tree}/a *(ro)\n")
    mountd.state.mkdir()
    mountd.state.chmod(0o777)
    ended = subprocess.run(mountd.command("--no-portmap", "-h", "127.0.0.1"), cwd=TREE, capture_output=True, text=True,
                           timeout=15, check=False)
    assert ended.returncode == 1
    assert str(mountd.state) in ended.stderr


def test_second_mountd_with_the_same_pid_file_says_who_holds_it(mountd: Mountd, tree: Path) -> None:
    pidfile = mountd.directory / "pid"
    mountd.start(f"{tree}/a *(ro)\n", "-i", str(pidfile))
    assert int(pidfile.read_text()) == mountd.pid
    ended = subprocess.run(mountd.command("--no-portmap", "-h", "127.0.0.1", "-i", str(pidfile)), cwd=TREE, capture_output=True,
                           text=True, timeout=15, check=False)
    assert (ended.returncode, f"pid {mountd.pid}" in ended.stderr) == (1, True)
    mountd.stop()
    assert not pidfile.exists()


def test_regular_file_is_exported_only_with_r(mountd: Mountd, tree: Path) -> None:
    (tree / "file").write_text("")
    mountd.start(f"{tree}/file *(ro,insecure)\n")
    assert mountd.mnt(os.fsencode(tree / "file"))[0] == ACCES
    mountd.stop()
    mountd.start(f"{tree}/file *(ro,insecure)\n", "-r")
    assert mountd.mnt(os.fsencode(tree / "file"))[0] == 0
