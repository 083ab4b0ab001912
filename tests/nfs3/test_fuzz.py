"""Mutated messages by the thousand: answered, dropped or the connection closed; never a dead worker, never a traceback."""
from __future__ import annotations

import os
import random
import struct
from contextlib import suppress

import pytest

from tests.tools.nfs3 import Proc, sample_args, unpack_result
from tests.tools.rpc import Call, Tcp, Udp, auth_sys, unpack_reply

from .conftest import Spot

ROUNDS = int(os.environ.get("NFS3_FUZZ_ROUNDS", "2000"))
WORDS = (0, 1, 2, 3, 4, 63, 64, 65, 255, 256, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1 << 20)


@pytest.fixture
def rng() -> random.Random:
    """Prints its seed; NFS3_FUZZ_SEED repeats a run."""
    seed = int(os.environ.get("NFS3_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"NFS3_FUZZ_SEED={seed}")
    return random.Random(seed)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Some of: bits flipped, words replaced, a piece cut out, doubled or made random."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out))
        choice = rng.randrange(5)
        if choice == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            out[at & ~3:(at & ~3) + 4] = struct.pack(">I", rng.choice(WORDS))
        elif choice == 2:
            del out[at:at + rng.randint(1, 40)]
        elif choice == 3:
            out[at:at] = out[at:at + rng.randint(1, 64)]
        else:
            out[at:at + 4] = rng.randbytes(rng.randint(0, 12))
    return bytes(out)


def valid_call(rng: random.Random, spot: Spot) -> Call:
    proc = rng.choice([proc for proc in Proc if proc != Proc.NULL])
    return Call(100003, 3, proc, sample_args(spot.fh)[proc], auth_sys(os.geteuid(), os.getegid(), (1, 2, 3)))


def test_mutated_arguments_get_a_result_that_decodes_or_garbage(spot: Spot, rng: random.Random) -> None:
    """The header is whole, so an answer must come for each."""
    for _ in range(ROUNDS):
        call = valid_call(rng, spot)
        message = call.pack()[: -len(call.args)] + mutate(rng, call.args)
        spot.nfs.transport.send(message)
        reply = unpack_reply(spot.nfs.transport.recv())
        assert reply.xid == call.xid
        if reply.ok:
            unpack_result(Proc(call.proc), reply.body)


def test_mutated_messages_leave_the_server_serving(spot: Spot, rng: random.Random) -> None:
    """Whole messages are mutated, headers too; what cannot be understood may close the connection."""
    tcp = Tcp(spot.server.address, timeout_s=5)
    for number in range(ROUNDS // 4):
        with suppress(EOFError, ConnectionError):
            tcp.send(mutate(rng, valid_call(rng, spot).pack()))
            if number % 8 == 7:
                probe = Call(100003, 3, 0)
                tcp.send(probe.pack())
                while unpack_reply(tcp.recv()).xid != probe.xid:
                    pass
                continue
            continue
        tcp.close()
        tcp = Tcp(spot.server.address, timeout_s=5)
    tcp.close()
    spot.nfs.null()


def test_mutated_records_leave_the_server_serving(spot: Spot, rng: random.Random) -> None:
    """Record marks and fragments too; each on a connection of its own."""
    for _ in range(ROUNDS // 10):
        message = valid_call(rng, spot).pack()
        record = mutate(rng, struct.pack(">I", 0x80000000 | len(message)) + message)
        tcp = Tcp(spot.server.address, timeout_s=5)
        with suppress(OSError):
            tcp.raw(record)
        tcp.close()
    spot.nfs.null()


def test_mutated_datagrams_leave_the_server_serving(spot: Spot, rng: random.Random) -> None:
    udp = Udp(spot.server.address, timeout_s=0.5)
    for _ in range(ROUNDS // 2):
        udp.send(mutate(rng, valid_call(rng, spot).pack()))
    assert any(answered(udp, Call(100003, 3, 0)) for _ in range(20))
    udp.close()


def answered(udp: Udp, probe: Call) -> bool:
    """Is `probe` answered?  A datagram may be lost where buffers are full: the caller asks again."""
    udp.send(probe.pack())
    try:
        while unpack_reply(udp.recv()).xid != probe.xid:
            pass
    except TimeoutError:
        return False
    return True
