"""The call socket and hostile peers (attack table L03): the others never notice."""
from __future__ import annotations

import array
import errno
import os
import random
import select
import signal
import socket
import struct

import pytest

from nfssvc_shim.channel import HEADER, MAGIC, MAX_BODY, VERSION, Channel, Message
from nfssvc_shim.flags import Nfssvc, Nxa
from nfssvc_shim.records import (
    Address,
    Cred,
    Export,
    ExportArgs,
    GetfhArgs,
    NfsdArgs,
    pack_export_args,
    pack_getfh_args,
    pack_nfsd_args,
)

from .conftest import DEADLINE_S, wait_until


@pytest.fixture
def nfsd(start):
    server = start("-n", "2")
    before = server.status()
    yield server
    after = server.status()
    assert after["control"] == before["control"], "the control half died of a peer"
    assert after["slots"] == before["slots"]


def closed(channel: Channel) -> bool:
    try:
        channel.recv()
    except (EOFError, ConnectionError):
        return True
    return False


def test_status_is_for_everyone_and_says_who_runs(nfsd):
    assert nfsd.status()["workers"] == 2


def test_srvstats_begin_with_the_488_bytes_of_macos(nfsd):
    body = nfsd.call(Nfssvc.SRVSTATS)
    assert struct.unpack_from("=I", body, 488) == (2,)
    assert len(body) == 488 + 4 + 2 * (16 + 2048 * 8)


# ---- the first hand: counters without a turn of Python

SUMS = struct.pack(">I", 1)


def test_srvstats_without_the_rows_are_488_bytes(nfsd):
    assert nfsd.call(Nfssvc.SRVSTATS, SUMS) == nfsd.call(Nfssvc.SRVSTATS)[:488]


def test_a_connection_may_ask_for_counters_then_for_something_else_and_for_counters_again(nfsd):
    channel = nfsd.connect()
    for flag, body, size in ((Nfssvc.SRVSTATS, SUMS, 488), (Nfssvc.USERCOUNT, b"", 4), (Nfssvc.EXPORTSTATS, b"", 12),
                             (Nfssvc.USERCOUNT, b"", 4), (Nfssvc.SRVSTATS, SUMS, 488)):
        assert len(channel.call(flag, body)[0]) == size
    channel.close()


def test_questions_sent_at_once_are_all_answered(nfsd):
    channel = nfsd.connect()
    asked = [(Nfssvc.USERCOUNT, b""), (Nfssvc.SRVSTATS, SUMS), (Nfssvc.STATUS, b""), (Nfssvc.USERCOUNT, b"")] * 3
    for serial, (flag, body) in enumerate(asked, 1):
        channel.send(Message(flag, serial, body))
    assert sorted(channel.recv()[0].serial for _ in asked) == list(range(1, len(asked) + 1))
    channel.close()


@pytest.mark.parametrize("flag, body", [(Nfssvc.SRVSTATS, b"\0\0\0\2"), (Nfssvc.SRVSTATS, b"\0\0\0\1\0"),
                                        (Nfssvc.SRVSTATS, b"\0\0\1"), (Nfssvc.USERCOUNT, b"\0\0\0\1"),
                                        (Nfssvc.ZEROSTATS, b"x"), (Nfssvc.STATUS, b"{}"),
                                        (Nfssvc.EXPORTSTATS, b"\0"), (Nfssvc.USERSTATS, bytes(70000)), (Nfssvc.MOUNTD, b"0")])
def test_a_body_where_there_should_be_none_is_einval(nfsd, flag, body):
    with pytest.raises(OSError) as error:
        nfsd.call(flag, body)
    assert error.value.errno == errno.EINVAL


def test_silent_peers_keep_nobody_from_asking(nfsd):
    silent = [nfsd.connect() for _ in range(200)]
    for _ in range(3):
        assert len(nfsd.call(Nfssvc.SRVSTATS, SUMS)) == 488
    assert silent[0].call(Nfssvc.USERCOUNT)[0], "and they may still ask"
    for channel in silent:
        channel.close()


def test_getfh_is_answered_by_a_worker(nfsd):
    args = GetfhArgs(1, b"", Address.of("127.0.0.1", 700), Cred(0, 0))
    assert nfsd.call(Nfssvc.GETFH, pack_getfh_args(args)) == b"\0\0\0\x08handle00"


def test_getfh_waits_for_the_worker_that_replaces_a_dead_one(start):
    """A mount in that moment must not be refused."""
    nfsd = start("-n", "1")
    channel = nfsd.connect()
    os.kill(nfsd.status()["slots"][0]["pid"], signal.SIGKILL)
    args = GetfhArgs(1, b"", Address.of("127.0.0.1", 700), Cred(0, 0))
    assert channel.call(Nfssvc.GETFH, pack_getfh_args(args))[0] == b"\0\0\0\x08handle00"
    channel.close()
    nfsd.status()


@pytest.mark.parametrize("flag", [0, 3, Nfssvc.SRVSTATS | Nfssvc.USERCOUNT, Nfssvc.SLOT, Nfssvc.STOP, Nfssvc.READY,
                                  Nfssvc.LISTEN, 0x7FFFFFFF])
def test_unknown_internal_and_combined_flags_are_einval(nfsd, flag):
    with pytest.raises(OSError) as caught:
        nfsd.call(flag)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("flag", [Nfssvc.EXPORT, Nfssvc.GETFH, Nfssvc.FHOPEN, Nfssvc.ADDSOCK, Nfssvc.WORKERS, Nfssvc.SUSPEND,
                                  Nfssvc.VERBOSE])
@pytest.mark.parametrize("body", [b"", b"x", b"\xff" * 64])
def test_body_that_is_none_is_einval(nfsd, flag, body):
    with pytest.raises(OSError) as caught:
        nfsd.call(flag, body)
    assert caught.value.errno == errno.EINVAL


def test_deleting_an_unknown_export_is_enoent_and_a_second_of_the_same_id_eexist(nfsd):
    for op, exports, error in ((Nxa.DELETE, (Export(9, b"/x"),), errno.ENOENT),
                               (Nxa.ADD, (Export(9, b"/x"), Export(9, b"/y")), errno.EEXIST)):
        with pytest.raises(OSError) as caught:
            nfsd.call(Nfssvc.EXPORT, pack_export_args(ExportArgs(op, False, exports)))
        assert caught.value.errno == error


def test_addsock_refuses_what_is_no_socket(nfsd, directory):
    body = pack_nfsd_args(NfsdArgs(None))
    with (directory / "file").open("w") as file, pytest.raises(OSError) as caught:
        nfsd.call(Nfssvc.ADDSOCK, body, (file.fileno(),))
    assert caught.value.errno == errno.ENOTSOCK
    with pytest.raises(OSError) as caught:
        nfsd.call(Nfssvc.ADDSOCK, body)
    assert caught.value.errno == errno.EBADF


def test_addsock_of_a_second_udp_socket_is_eexist(nfsd):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError) as caught:
        nfsd.call(Nfssvc.ADDSOCK, pack_nfsd_args(NfsdArgs(None)), (sock.fileno(),))
    assert caught.value.errno == errno.EEXIST


def test_addsock_of_a_foreign_connection_is_served(start):
    nfsd = start("-n", "1")
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname(), timeout=20)
    served, peer = listener.accept()
    nfsd.call(Nfssvc.ADDSOCK, pack_nfsd_args(NfsdArgs(Address.of(*peer))), (served.fileno(),))
    served.close()
    assert nfsd.ask(client)[0] == 0
    client.close()
    listener.close()


def test_garbage_closes_the_connection_of_its_sender_only(nfsd):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    for size in (1, 4, 23, 24, 25, 1000, 60000):
        channel = nfsd.connect()
        channel.sock.send(rng.randbytes(size))
        assert closed(channel)
        channel.close()
        assert nfsd.status()["workers"] == 2


def test_packet_longer_than_any_message_closes_the_connection(nfsd):
    channel = nfsd.connect()
    channel.sock.send(HEADER.pack(MAGIC, VERSION, Nfssvc.STATUS, 1, 0, 100000) + bytes(100000))
    assert closed(channel)
    channel.close()


def test_memfd_of_100_mib_closes_the_connection(nfsd):
    fd = os.memfd_create("big", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 100 << 20)
    channel = nfsd.connect()
    head = HEADER.pack(MAGIC, VERSION, Nfssvc.EXPORT | 0x80000000, 1, 0, 100 << 20)
    channel.sock.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    assert closed(channel)
    channel.close()
    os.close(fd)


def test_foreign_descriptors_are_closed(nfsd):
    """200 descriptors that nobody asked for: the control half keeps none, also when they do not fit (MSG_CTRUNC)."""
    fds = f"/proc/{nfsd.status()['control']}/fd"
    before = len(os.listdir(fds))
    null = os.open(os.devnull, os.O_RDONLY)
    for count in (1, 64, 200):
        channel = nfsd.connect()
        head = HEADER.pack(MAGIC, VERSION, Nfssvc.STATUS, 1, 0, 0)
        channel.sock.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))])
        if count > 64:
            assert closed(channel)
        else:
            assert channel.recv()[0].errno == 0
        channel.close()
    os.close(null)
    wait_until(lambda: len(os.listdir(fds)) <= before, "descriptors are left in the control half")


def test_peer_that_hangs_up_in_the_middle_hurts_nobody(nfsd):
    for flag, body in ((Nfssvc.STATUS, b""), (Nfssvc.MOUNTD, b""),
                       (Nfssvc.GETFH, pack_getfh_args(GetfhArgs(1, b"", Address.of("127.0.0.1"), Cred(0, 0)))),
                       (Nfssvc.EXPORT, pack_export_args(ExportArgs(Nxa.REPLACE, True)))):
        channel = nfsd.connect()
        channel.send(Message(flag, 1, body))
        channel.close()
        assert nfsd.status()["workers"] == 2


def test_peer_that_asks_and_never_reads_is_cut_off(nfsd):
    channel = nfsd.connect()
    channel.sock.setblocking(False)
    with pytest.raises(OSError):
        while True:
            try:
                channel.send(Message(Nfssvc.SRVSTATS, 1))
            except BlockingIOError:
                assert nfsd.status()["workers"] == 2  # it waits for us; the server does not
    channel.close()


def test_mountd_gets_one_relay_for_each_worker(start):
    nfsd = start("-n", "2")
    mountd = nfsd.connect()
    assert mountd.call(Nfssvc.MOUNTD) == (b"", [])
    slots = set()
    for _ in range(2):
        msg, fds = mountd.recv()
        assert (msg.flag, len(fds)) == (Nfssvc.RELAY, 1)
        slots.add(struct.unpack(">I", msg.body)[0])
        os.close(fds[0])
    assert slots == {0, 1}
    mountd.close()


def as_stranger(nfsd, does) -> bool:
    """What `does(nfsd)` says in a process of another user."""
    nfsd.statedir.parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os._exit(0 if does(nfsd) else 1)
        finally:
            os._exit(3)  # a test that fails must not go on as two
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.root
def test_another_user_may_see_counters_and_change_nothing(nfsd):
    """SO_PEERCRED: 65534 gets SRVSTATS, USERCOUNT and STATUS, and EPERM for the rest."""
    assert as_stranger(nfsd, _asks_all)


def _with_descriptor(nfsd) -> bool:
    """Is a question with a descriptor that stands for nothing refused, and the descriptor gone with the connection?"""
    read, write = os.pipe()
    channel = nfsd.connect()
    channel.send(Message(Nfssvc.STATUS, 1), [write])
    os.close(write)
    refused = closed(channel)
    channel.close()
    return refused and select.select([read], [], [], DEADLINE_S)[0] != [] and os.read(read, 1) == b""


def _with_large_body(nfsd) -> bool:
    """Is a body of 64 MiB refused before anybody reads it?"""
    channel = nfsd.connect()
    channel.send(Message(Nfssvc.EXPORT, 1, bytes(MAX_BODY)))
    return closed(channel)


def _with_a_socket(nfsd) -> bool:
    """Is a question that takes a descriptor, and is for administrators, EPERM, and the descriptor gone?"""
    read, write = os.pipe()
    channel = nfsd.connect()
    try:
        channel.call(Nfssvc.ADDSOCK, fds=[write])
    except PermissionError:
        os.close(write)
        return select.select([read], [], [], DEADLINE_S)[0] != [] and os.read(read, 1) == b""
    return False


@pytest.mark.root
@pytest.mark.parametrize("sends", [_with_descriptor, _with_large_body, _with_a_socket])
def test_another_user_may_send_no_descriptor(nfsd, sends):
    """close(2) of a file in his FUSE file system would wait for him, and all for the control half; large bodies cost time."""
    assert as_stranger(nfsd, sends)


def _asks_all(nfsd) -> bool:
    """Are the counters given and all else refused?"""
    try:
        nfsd.call(Nfssvc.SRVSTATS)
        nfsd.call(Nfssvc.USERCOUNT)
        nfsd.call(Nfssvc.STATUS)
    except OSError:
        return False
    for flag in (Nfssvc.EXPORT, Nfssvc.NFSD, Nfssvc.ADDSOCK, Nfssvc.ZEROSTATS, Nfssvc.EXPORTSTATS, Nfssvc.USERSTATS,
                 Nfssvc.GETFH, Nfssvc.FHOPEN, Nfssvc.MOUNTD, Nfssvc.WORKERS, Nfssvc.SUSPEND, Nfssvc.VERBOSE):
        try:
            nfsd.call(flag)
        except PermissionError:
            continue
        return False
    return True


@pytest.mark.root
def test_a_user_with_100_connections_keeps_64_and_shuts_nobody_out(nfsd):
    nfsd.statedir.parent.chmod(0o755)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            kept = [nfsd.connect() for _ in range(100)]
            os._exit(0 if closed(kept[0]) and nfsd.status() else 1)
        finally:
            os._exit(1)  # a test that fails must not go on as two
    os.close(read)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert nfsd.status()["workers"] == 2
