"""Every message type in every state of the server, from an administrator and from an ordinary user; then mutations of all."""
from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfssvc_shim.channel import HEADER, MAGIC, VERSION, Channel, Message
from nfssvc_shim.flags import Nfssvc, Nx, Nxa
from nfssvc_shim.records import (
    Address,
    Cred,
    Export,
    ExportArgs,
    FhopenArgs,
    GetfhArgs,
    Net,
    NfsdArgs,
    pack_export_args,
    pack_fhopen_args,
    pack_getfh_args,
    pack_nfsd_args,
)

from .conftest import wait_until

LOCAL, ROOT = Address.of("127.0.0.1", 700), Cred(0, 0)
INSIDE = (Nfssvc.SLOT, Nfssvc.STOP, Nfssvc.READY, Nfssvc.LISTEN, Nfssvc.RELAY, Nfssvc.NEEDAUTH)
EVERYONE = (Nfssvc.SRVSTATS, Nfssvc.USERCOUNT, Nfssvc.STATUS)
EXAMPLES = int(os.environ.get("NFSSVC_FUZZ_EXAMPLES", "120"))


def bodies(directory: str, suspended: bool = False) -> dict[Nfssvc, bytes]:
    """One message of each type that changes nothing, besides NFSD and TRACE."""
    table = (Export(1, os.fsencode(directory), nets=(Net(Nx.DEFAULTEXPORT, Address(0), 0),)),)
    found = dict.fromkeys(Nfssvc, b"")
    found |= {Nfssvc.EXPORT: pack_export_args(ExportArgs(Nxa.REPLACE, True, table)), Nfssvc.WORKERS: struct.pack(">I", 1),
              Nfssvc.GETFH: pack_getfh_args(GetfhArgs(1, b"", LOCAL, ROOT)), Nfssvc.VERBOSE: bytes(4),
              Nfssvc.FHOPEN: pack_fhopen_args(FhopenArgs(b"handle", LOCAL, ROOT, 1)),
              Nfssvc.SUSPEND: struct.pack(">I", suspended), Nfssvc.ADDSOCK: pack_nfsd_args(NfsdArgs())}
    del found[Nfssvc.NFSD], found[Nfssvc.TRACE]
    return found


def outcome(nfsd, flag: int, body: bytes) -> int:
    try:
        nfsd.call(flag, body)
    except OSError as exc:
        return exc.errno or -1
    return 0


def outcomes(nfsd, messages: dict[Nfssvc, bytes]) -> dict[str, int]:
    return {flag.name: outcome(nfsd, flag, body) for flag, body in messages.items()}


def as_another_user(what: Callable[[], object]) -> object:
    """What `what` gives in a process of uid 65534."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, json.dumps(what()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


def no_table(nfsd, directory: str) -> None:
    pass


def with_table(nfsd, directory: str) -> None:
    nfsd.call(Nfssvc.EXPORT, bodies(directory)[Nfssvc.EXPORT])


def suspended(nfsd, directory: str) -> None:
    with_table(nfsd, directory)
    nfsd.call(Nfssvc.SUSPEND, struct.pack(">I", 1))


def with_mountd(nfsd, directory: str) -> None:
    with_table(nfsd, directory)
    nfsd.mountd = nfsd.connect()
    nfsd.mountd.call(Nfssvc.MOUNTD)


STATES = (no_table, with_table, suspended, with_mountd)


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def state(request, start, directory):
    nfsd = start("-n", "1", "-u")
    directory.chmod(0o755)
    nfsd.statedir.chmod(0o755)
    request.param(nfsd, str(directory))
    yield nfsd, bodies(str(directory), request.param is suspended)
    with suppress(AttributeError):
        nfsd.mountd.close()


def test_every_message_of_an_administrator_is_answered_as_the_table_says(state):
    """PROTOCOL.md, sections 4 and 6.  The server serves UDP; ADDSOCK comes without its socket, AUTHIN without a record."""
    nfsd, messages = state
    want = dict.fromkeys((flag.name for flag in messages), 0) | dict.fromkeys((flag.name for flag in INSIDE), errno.EINVAL)
    assert outcomes(nfsd, messages) == want | {"ADDSOCK": errno.EBADF, "AUTHIN": errno.EINVAL}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_every_message_of_an_ordinary_user_but_three_is_refused(state):
    nfsd, messages = state
    messages |= {Nfssvc.NFSD: b"", Nfssvc.TRACE: b""}
    want = dict.fromkeys((flag.name for flag in messages), errno.EPERM)
    want |= dict.fromkeys((flag.name for flag in INSIDE), errno.EINVAL) | dict.fromkeys((flag.name for flag in EVERYONE), 0)
    assert as_another_user(lambda: outcomes(nfsd, messages)) == want


def test_while_the_server_stops_only_counters_and_status_are_answered(start, directory):
    """A worker that takes its time keeps the server in that state."""
    nfsd = start("-n", "1")
    worker = nfsd.status()["slots"][0]["pid"]
    channel = nfsd.connect()
    channel.call(Nfssvc.EXPORTSTATS)
    os.kill(worker, signal.SIGSTOP)
    try:
        nfsd.signal(signal.SIGTERM)
        wait_until(lambda: told(channel, Nfssvc.ZEROSTATS) == errno.ESHUTDOWN, "the server does not stop")
        got = {flag.name: told(channel, flag, body) for flag, body in bodies(str(directory)).items()}
    finally:
        os.kill(worker, signal.SIGCONT)
    want = dict.fromkeys(got, errno.ESHUTDOWN) | dict.fromkeys((flag.name for flag in INSIDE), errno.EINVAL)
    assert got == want | {"SRVSTATS": 0, "STATUS": 0}
    channel.close()
    assert nfsd.wait() == 0


def told(channel: Channel, flag: int, body: bytes = b"") -> int:
    try:
        channel.call(flag, body)
    except OSError as exc:
        return exc.errno or -1
    return 0


# ---- mutations

WORDS = (0, 1, 2, 24, 64, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: st.DataObject, packet: bytes) -> bytes:
    """Some of: a bit flipped, a word replaced, cut, longer."""
    out = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(out) - 1)))
        kind = data.draw(st.sampled_from(("bit", "word", "cut", "more")))
        if kind == "bit" and out:
            out[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "word":
            out[at & ~3:(at & ~3) + 4] = struct.pack(">I", data.draw(st.sampled_from(WORDS)))
        elif kind == "cut":
            del out[at:]
        else:
            out += data.draw(st.binary(max_size=12))
    return bytes(out)


def resizes(packet: bytes) -> bool:
    """A WORKERS that would be obeyed: this test is not about starting 64 processes."""
    return len(packet) == 28 and packet[8:12] == struct.pack(">I", Nfssvc.WORKERS) and 2 <= packet[27] <= 64


def exchange(nfsd, packets: list[tuple[bytes, int]]) -> None:
    """Sends all, hangs up on the sending side, reads to the end; what comes must be messages of the protocol."""
    channel = nfsd.connect()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):
            for packet, fds in packets:
                socket.send_fds(channel.sock, [packet], [null] * fds)
            channel.sock.shutdown(socket.SHUT_WR)
        with suppress(EOFError, ConnectionResetError):
            while True:
                for fd in channel.recv()[1]:
                    os.close(fd)
    finally:
        os.close(null)
        channel.close()


def test_mutated_messages_are_answered_or_their_connection_closed(start, directory):
    """NFSSVC_FUZZ_EXAMPLES is how many connections, each with up to three messages."""
    nfsd = start("-n", "1")
    before = nfsd.status()
    count = len(os.listdir(f"/proc/{before['control']}/fd"))
    messages = [(int(flag), body) for flag, body in bodies(str(directory)).items()]
    messages += [(int(Nfssvc.NFSD), b""), (int(Nfssvc.TRACE), b"")]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data: st.DataObject) -> None:
        packets = []
        for flag, body in data.draw(st.lists(st.sampled_from(messages), min_size=1, max_size=3)):
            packet = mutated(data, HEADER.pack(MAGIC, VERSION, flag, 1, 0, len(body)) + body)
            packets.append((packet if not resizes(packet) else b"x", data.draw(st.sampled_from((0, 0, 1, 2, 64, 65)))))
        exchange(nfsd, packets)

    one()
    nfsd.call(Nfssvc.SUSPEND, bytes(4))
    after = wait_until(lambda: same_slots(nfsd, before), "the worker is another one, or not alone")
    assert after["control"] == before["control"], "the control half died of a message"
    wait_until(lambda: len(os.listdir(f"/proc/{before['control']}/fd")) <= count, "descriptors are left")


def same_slots(nfsd, before: dict) -> dict | None:
    """Slots that NFSD messages lent go with their connections."""
    status = nfsd.status()
    return status if [s["pid"] for s in status["slots"]] == [s["pid"] for s in before["slots"]] else None


def test_a_packet_of_each_length_up_to_a_header_closes_its_connection_only(start):
    nfsd = start("-n", "1")
    whole = HEADER.pack(MAGIC, VERSION, Nfssvc.USERCOUNT, 1, 0, 0)
    for size in range(1, len(whole)):
        channel = nfsd.connect()
        channel.sock.send(whole[:size])
        with pytest.raises((EOFError, ConnectionResetError)):
            channel.recv()
        channel.close()
    channel = nfsd.connect()
    channel.send(Message(Nfssvc.USERCOUNT, 9))
    assert channel.recv()[0].serial == 9
    channel.close()
