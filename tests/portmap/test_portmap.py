"""portmap(8) as a process: PMAP version 2, rpcbind versions 3 and 4, its rules, its options and signals."""

from __future__ import annotations

import os
import pwd
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oncrpc.client import Client, RpcTimeout
from oncrpc.message import AcceptStat, Auth, AuthStat, RpcError
from oncrpc.pmap import Mapping, Pmap, Rpcb, Rpcbind, pack_mapping, pack_rpcb, register, reserved_socket, unregister

from ..tools.rpc import GARBAGE_ARGS, Call, Tcp, Udp, exchange, pipeline
from .conftest import TREE, Portmap

PMAP = 100000
root = pytest.mark.root


def other_address() -> str:
    """An address of this machine that is not loopback; the test is skipped where there is none."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("no address but loopback here")
        return str(probe.getsockname()[0])


def as_user(uid: int, code: str) -> str:
    """Runs `code` as `uid`: what it prints."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            out: list[object] = []
            exec(code, {"out": out, **globals()})
            os.write(write, repr(out).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


# ---- version 2


@root
def test_set_getport_dump_unset(portmap: Portmap) -> None:
    with Pmap(port=portmap.port, reserved=True) as pmap:
        pmap.null()
        assert pmap.set(Mapping(100003, 3, 6, 2049))
        assert pmap.getport(100003, 3, 6) == 2049
        assert pmap.getport(100003, 4, 6) == 2049, "another version's"
        assert pmap.getport(100003, 3, 17) == 0, "another protocol's is not"
        assert Mapping(100003, 3, 6, 2049) in pmap.dump()
        assert pmap.unset(100003, 3)
        assert pmap.getport(100003, 3, 6) == 0
        assert not pmap.unset(100003, 3)


@root
@pytest.mark.parametrize(
    "mapping",
    [
        Mapping(7, 1, 6, 0),
        Mapping(7, 1, 6, 65536),
        Mapping(7, 1, 6, 0xFFFFFFFF),
        Mapping(7, 1, 1, 700),
        Mapping(7, 1, 0, 700),
        Mapping(100000, 9, 6, 700),
    ],
)
def test_impossible_mappings_are_refused(portmap: Portmap, mapping: Mapping) -> None:
    with Pmap(port=portmap.port, reserved=True) as pmap:
        before = pmap.dump()
        assert not pmap.set(mapping)
        assert pmap.dump() == before


def test_lists_itself_on_all_transports(portmap: Portmap) -> None:
    with Pmap(port=portmap.port, tcp=True) as pmap:
        own = pmap.dump()
    assert {(m.vers, m.prot) for m in own} == {(v, p) for v in (2, 3, 4) for p in (6, 17)}
    assert {m.port for m in own} == {portmap.port}


@pytest.mark.parametrize(("vers", "proc"), [(2, 5), (3, 5), (4, 5), (4, 10)])
def test_forwarding_is_not_done(portmap: Portmap, vers: int, proc: int) -> None:
    """Attack row P05: silence over UDP, PROC_UNAVAIL over TCP."""
    args = struct.pack(">III", 100005, 3, 1) + struct.pack(">I", 8) + bytes(8)
    with Client.tcp(("127.0.0.1", portmap.port), PMAP, vers) as tcp, pytest.raises(RpcError) as caught:
        tcp.call(proc, args)
    assert caught.value.accept_stat == AcceptStat.PROC_UNAVAIL
    with Client.udp(("127.0.0.1", portmap.port), PMAP, vers) as udp:
        with pytest.raises(RpcTimeout):
            udp.call(proc, args, timeout_s=0.2)
        udp.call(0)


# ---- who asks


def test_change_from_elsewhere_is_refused(portmap: Portmap) -> None:
    """Attack row P01: a call that did not come to a loopback address, whatever port it comes from."""
    address = other_address()
    entry = Rpcb(7, 1, "tcp", "1.2.3.4.20.20", "superuser")
    for opener in (Client.tcp, Client.udp):
        for vers, args in ((2, pack_mapping(Mapping(7, 1, 6, 700))), (3, pack_rpcb(entry)), (4, pack_rpcb(entry))):
            for proc in (1, 2):
                with (
                    opener((address, portmap.port), PMAP, vers, reserved=os.geteuid() == 0) as client,
                    pytest.raises(RpcError) as caught,
                ):
                    client.call(proc, args)
                assert caught.value.auth_stat == AuthStat.AUTH_TOOWEAK
    with Pmap(port=portmap.port) as pmap:
        assert pmap.getport(7, 1, 6) == 0


def test_long_answers_over_udp_are_not_for_strangers(portmap: Portmap) -> None:
    """Attack row P07: no answer, or one not longer than the question; over TCP and over loopback there is one."""
    address = other_address()
    for vers, proc, args in ((2, 4, b""), (3, 4, b""), (4, 4, b""), (4, 12, b""), (4, 11, pack_rpcb(Rpcb(PMAP, 4, "", "", "")))):
        with Client.udp((address, portmap.port), PMAP, vers, cred=Auth()) as stranger, pytest.raises(RpcTimeout):
            stranger.call(proc, args, timeout_s=0.15)
        with Client.tcp((address, portmap.port), PMAP, vers) as tcp:
            assert len(tcp.call(proc, args)) > 60
        with Client.udp(("127.0.0.1", portmap.port), PMAP, vers) as local:
            assert len(local.call(proc, args)) > 60
    with Client.udp((address, portmap.port), PMAP, 2, cred=Auth()) as stranger:
        assert stranger.call(3, pack_mapping(Mapping(PMAP, 2, 17, 0))) == portmap.port.to_bytes(4, "big")


@pytest.fixture
def open_to_all(start: Callable[..., Portmap]) -> Iterator[Portmap]:
    """A portmap with its socket where every user can reach it."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        one = start("-s", f"{directory}/sock")
        one.path = f"{directory}/sock"
        yield one
        one.stop()


@root
def test_users_own_what_they_set_over_the_unix_socket(open_to_all: Portmap) -> None:
    """Attack row P03."""
    portmap = open_to_all
    setting = f"""
with Rpcbind({portmap.path!r}) as mapper:
    out += [mapper.set(Rpcb(70, 1, 'tcp', '0.0.0.0.20.0', 'superuser')), mapper.set(Rpcb(71, 1, 'tcp', '0.0.0.0.3.0', '')),
            mapper.set(Rpcb(72, 1, 'tcp', '0.0.0.0.8.1', '')), mapper.set(Rpcb(100003, 3, 'tcp', '0.0.0.0.20.0', ''))]
"""
    assert as_user(4711, setting) == "[True, False, False, False]"
    removing = f"with Rpcbind({portmap.path!r}) as mapper: out.append(mapper.unset(70, 1))"
    assert as_user(4712, removing) == "[False]"
    with Pmap(port=portmap.port) as unknown:
        assert not unknown.unset(70, 1)
    with Rpcbind(portmap.path) as mapper:
        assert [e.owner for e in mapper.dump() if e.prog == 70] == ["4711"]
    assert as_user(4711, removing) == "[True]"


@root
def test_unprivileged_port_may_not_take_a_reserved_one(portmap: Portmap) -> None:
    with Pmap(port=portmap.port) as unknown:
        assert not unknown.set(Mapping(7, 1, 6, 1023))
        assert not unknown.set(Mapping(7, 1, 6, 2049))
        assert not unknown.set(Mapping(100005, 3, 6, 5000))
        assert unknown.set(Mapping(7, 1, 6, 5000))
    with Pmap(port=portmap.port, reserved=True) as privileged:
        assert privileged.set(Mapping(8, 1, 6, 1023))
        assert privileged.unset(7, 1)


def test_host_that_hosts_deny_names_gets_nothing_and_loopback_everything(start: Callable[..., Portmap], tmp_path: Path) -> None:
    """hosts_access(5); attack row P07.  The file is read again when it changes."""
    address = other_address()
    one = start("--hosts-access", str(tmp_path))
    args = pack_mapping(Mapping(PMAP, 2, 6, 0))
    with Client.tcp((address, one.port), PMAP, 2) as tcp:
        assert tcp.call(3, args) == one.port.to_bytes(4, "big")
        (tmp_path / "hosts.deny").write_text("portmap: ALL\n")
        with pytest.raises(RpcError) as caught:
            tcp.call(3, args)
        assert caught.value.auth_stat == AuthStat.AUTH_TOOWEAK
    with Client.udp((address, one.port), PMAP, 2) as udp, pytest.raises(RpcTimeout):
        udp.call(3, args, timeout_s=0.2)
    with Pmap(port=one.port) as pmap:
        assert pmap.getport(PMAP, 2, 6) == one.port


def test_flood_of_refused_calls_is_few_lines(portmap: Portmap) -> None:
    """Attack row E19, for this daemon."""
    tcp = Tcp((other_address(), portmap.port))
    for _ in pipeline(tcp, [Call(PMAP, 2, 1, pack_mapping(Mapping(7, 1, 6, 700))) for _ in range(500)]):
        pass
    tcp.close()
    assert portmap.stop().count("refused") <= 40


# ---- versions 3 and 4


@root
def test_rpcb_set_getaddr_and_version_2_see_the_same_table(portmap: Portmap) -> None:
    with Rpcbind(portmap.path) as mapper, Pmap(port=portmap.port) as pmap:
        for netid, addr in (("tcp", "0.0.0.0.8.1"), ("udp6", "::.8.1"), ("tcp6", "2001:db8::1.8.2")):
            assert mapper.set(Rpcb(100003, 3, netid, addr, "nobody"))
            assert mapper.getaddr(100003, 3, netid) == addr
        assert pmap.getport(100003, 3, 6) == 2049
        assert len([m for m in pmap.dump() if m.prog == 100003]) == 1
        assert mapper.unset(100003, 3, "udp6")
        assert mapper.getaddr(100003, 3, "udp6") == ""
        assert mapper.unset(100003, 3)


@root
def test_wildcard_becomes_the_address_that_was_asked(portmap: Portmap) -> None:
    with Rpcbind(portmap.path) as mapper:
        mapper.set(Rpcb(100003, 3, "tcp", "0.0.0.0.8.1", ""))
    with Rpcbind(host="127.0.0.7", port=portmap.port) as mapper:
        assert mapper.getaddr(100003, 3, "tcp") == "127.0.0.7.8.1"
        assert mapper.getaddr(100003, 3, "") == "127.0.0.7.8.1", "by the transport of the call"


def test_time_and_address_conversion(portmap: Portmap) -> None:
    with Client.tcp(("127.0.0.1", portmap.port), PMAP, 4) as client:
        assert int.from_bytes(client.call(6), "big") > 1_600_000_000
        for uaddr in (b"1.2.3.4.8.1", b"2001:db8::1.8.1"):
            taddr = client.call(7, struct.pack(">I", len(uaddr)) + uaddr + bytes(-len(uaddr) % 4))
            back = client.call(8, taddr)
            assert back[4 : 4 + len(uaddr)] == uaddr
        assert client.call(7, struct.pack(">I", 4) + b"nope") == bytes(8)
        assert client.call(8, struct.pack(">II", 4, 4) + b"nope") == bytes(4)
        assert len(client.call(12)) == 3 * 17 * 4


@root
def test_getversaddr_asks_exactly(portmap: Portmap) -> None:
    with Client.unix(portmap.path, PMAP, 4) as client:
        client.call(1, pack_rpcb(Rpcb(7, 1, "tcp", "0.0.0.0.8.1", "")))
        assert client.call(3, pack_rpcb(Rpcb(7, 2, "tcp", "", ""))) != bytes(4)
        assert client.call(9, pack_rpcb(Rpcb(7, 2, "tcp", "", ""))) == bytes(4)
        assert client.call(9, pack_rpcb(Rpcb(7, 1, "tcp", "", ""))) != bytes(4)


@root
def test_address_of_200_bytes_is_refused(portmap: Portmap) -> None:
    """Attack row P11."""
    with Rpcbind(portmap.path) as mapper, pytest.raises(RpcError) as caught:
        mapper.set(Rpcb(7, 1, "tcp", "1" * 200, ""))
    assert caught.value.accept_stat == AcceptStat.GARBAGE_ARGS


def arguments() -> Iterator[tuple[int, int, bytes]]:
    """Every procedure with whole arguments."""
    mapping, rpcb = pack_mapping(Mapping(7, 1, 6, 700)), pack_rpcb(Rpcb(7, 1, "tcp", "1.2.3.4.8.1", "me"))
    yield from ((2, proc, mapping) for proc in (1, 2, 3))
    for vers in (3, 4):
        yield from ((vers, proc, rpcb) for proc in (1, 2, 3))
        yield vers, 7, struct.pack(">I", 11) + b"1.2.3.4.8.1\0"
        yield vers, 8, struct.pack(">II", 16, 16) + bytes(16)
    yield from ((4, proc, rpcb) for proc in (9, 11))


def test_arguments_cut_at_every_byte_are_garbage(portmap: Portmap) -> None:
    """Attack row D17, for this program; and one word too many."""
    tcp, udp = Tcp(("127.0.0.1", portmap.port)), Udp(("127.0.0.1", portmap.port))
    for vers, proc, whole in arguments():
        for args in [whole[:size] for size in range(len(whole))] + [whole + bytes(4)]:
            for transport in (tcp, udp):
                assert exchange(transport, Call(PMAP, vers, proc, args)).accept_stat == GARBAGE_ARGS, (vers, proc, len(args))
    tcp.close()
    udp.close()


def test_random_arguments_leave_it_alive(portmap: Portmap) -> None:
    seed = random.randrange(1 << 32)
    rnd = random.Random(seed)
    udp = Udp(("127.0.0.1", portmap.port))
    for _ in range(2000):
        udp.send(Call(PMAP, rnd.choice((2, 3, 4)), rnd.randrange(14), rnd.randbytes(rnd.randrange(120))).pack())
    udp.close()
    with Pmap(port=portmap.port, tcp=True) as pmap:
        assert len(pmap.dump()) <= 6 + 64, f"seed {seed}"


# ---- the client that daemons use


@root
def test_register_and_unregister_over_both_ways(portmap: Portmap) -> None:
    services = [(100003, 3, "tcp", 2049), (100003, 3, "udp", 2049), (100003, 3, "tcp6", 2049)]
    for path, n in ((portmap.path, 3), ("", 2)):
        assert register(services, port=portmap.port, path=path) == []
        assert register(services, port=portmap.port, path=path) == [], "again, after a restart"
        with Rpcbind(portmap.path) as mapper:
            assert len([e for e in mapper.dump() if e.prog == 100003]) == n
        unregister([(100003, 3)], port=portmap.port, path=path)
        with Rpcbind(portmap.path) as mapper:
            assert not [e for e in mapper.dump() if e.prog == 100003]


@root
def test_register_with_a_socket_bound_before_rights_were_dropped(portmap: Portmap) -> None:
    with reserved_socket() as sock:
        assert register([(100005, 3, "udp", 700)], port=portmap.port, sock=sock) == []
        unregister([(100005, 3)], port=portmap.port, sock=sock)
    with Pmap(port=portmap.port) as pmap:
        assert pmap.getport(100005, 3, 17) == 0


# ---- the process


def test_hup_is_harmless_and_int_ends_with_0(portmap: Portmap) -> None:
    portmap.process.send_signal(signal.SIGHUP)
    with Pmap(port=portmap.port) as pmap:
        pmap.null()
    portmap.stop(signal.SIGINT)


def test_second_one_steps_back_with_a_clear_message(portmap: Portmap, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "portmap", "-d", "-p", str(portmap.port), "-s", "none"],
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert second.returncode == 3
    assert "already serves" in second.stderr


def test_port_taken_by_something_else_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        run = subprocess.run(
            [sys.executable, "-m", "portmap", "-d", "-p", str(taken.getsockname()[1]), "-s", "none"],
            cwd=TREE,
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert run.returncode == 1
    assert "in use" in run.stderr


def test_stale_socket_file_is_replaced_and_a_foreign_file_is_not(start: Callable[..., Portmap], tmp_path: Path) -> None:
    path = tmp_path / "rpcbind.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    start().stop()
    path.write_text("precious")
    with pytest.raises(RuntimeError, match="rpcbind"):
        start()
    assert path.read_text() == "precious"
    path.unlink()


@root
def test_no_rights_are_left(portmap: Portmap) -> None:
    status = Path(f"/proc/{portmap.process.pid}/status").read_text()
    for line in ("CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"):
        assert line in status


@root
def test_registrations_outlive_a_restart_with_w(start: Callable[..., Portmap], tmp_path: Path) -> None:
    first = start("-w", str(tmp_path / "warm"))
    register([(100003, 3, "tcp", 2049)], port=first.port, path=first.path)
    first.stop()
    second = start("-w", str(tmp_path / "warm"))
    with Pmap(port=second.port) as pmap:
        assert pmap.getport(100003, 3, 6) == 2049
    second.stop()
    warm = (tmp_path / "warm").read_text()
    (tmp_path / "warm").write_text(warm[:-5])
    third = start("-w", str(tmp_path / "warm"))
    with Pmap(port=third.port) as pmap:
        assert pmap.getport(100003, 3, 6) == 0, "a file that was cut short is not used"
    assert "warm start file not used" in third.stop()


def test_warm_start_file_in_a_directory_of_others_is_refused(start: Callable[..., Portmap], tmp_path: Path) -> None:
    """CVE-2019-3689."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RuntimeError, match="directory"):
        start("-w", str(tmp_path / "open" / "warm"))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeError):
        start("-w", str(tmp_path / "link"))
    assert not (tmp_path / "elsewhere").exists()
    Path(tmp_path / "rpcbind.sock").unlink(missing_ok=True)


def test_pid_file_is_written_and_removed(start: Callable[..., Portmap], tmp_path: Path) -> None:
    one = start("-i", str(tmp_path / "pid"))
    assert int((tmp_path / "pid").read_text()) == one.process.pid
    one.stop()
    assert not (tmp_path / "pid").exists()


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@root
def test_root_that_became_another_user_leaves_no_file(start: Callable[..., Portmap], tmp_path: Path) -> None:
    """The user who serves may not remove a socket from /run; a keeper without any capability does."""
    one = start("-u", "daemon", "-i", str(tmp_path / "pid"))
    keeper, server = one.process.pid, _only_child(one.process.pid)
    assert int((tmp_path / "pid").read_text()) == keeper
    assert Path(f"/proc/{server}").stat().st_uid == pwd.getpwnam("daemon").pw_uid
    for pid in (keeper, server):
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
    register([(100003, 3, "tcp", 2049)], port=one.port, path=one.path)
    one.stop()
    assert not (tmp_path / "pid").exists()
    assert not Path(one.path).exists()
    assert not Path(f"/proc/{server}").exists()


@root
def test_neither_keeper_nor_server_outlives_the_other(start: Callable[..., Portmap], tmp_path: Path) -> None:
    one = start("-u", "daemon")
    os.kill(_only_child(one.process.pid), signal.SIGKILL)
    assert one.process.wait(10) == 128 + signal.SIGKILL
    assert not Path(one.path).exists()
    two = start("-u", "daemon")
    server = os.pidfd_open(_only_child(two.process.pid))
    two.process.kill()
    two.process.wait()
    assert select.select([server], [], [], 10)[0], "the server outlives its keeper"
    os.close(server)
    Path(two.path).unlink()
