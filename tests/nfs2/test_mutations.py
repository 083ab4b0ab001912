"""Valid calls of versions 2 with bytes changed, cut, doubled: each gets an answer or none, and the worker goes on."""
from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.tools.nfs2 import NFS, V2
from tests.tools.nfsacl import ACL, ACL_PROGRAM, DEFAULT, GETACL, GROUP_OBJ, MASK, OTHER, SETACL, USER, USER_OBJ, pack_SETACLargs
from tests.tools.rpc import MSG_ACCEPTED, SUCCESS, Call, pipeline

from .conftest import Spot
from .test_nfs2 import arguments

pytestmark = pytest.mark.root
BATCH, ROUNDS = 64, 40
VALUES = (0, 1, 0x7F, 0x80, 0xFF)


def templates(fh: bytes) -> list[tuple[int, int, bytes]]:
    entries = ((USER_OBJ, 0, 7), (USER, 9, 5), (GROUP_OBJ, 0, 5), (MASK, 0, 7), (OTHER, 0, 5))
    found = [(NFS, int(proc), args) for proc, args in arguments(fh).items()]
    return [*found, (ACL_PROGRAM, GETACL, fh + b"\0\0\0\x0f"),
            (ACL_PROGRAM, SETACL, fh + pack_SETACLargs(ACL | DEFAULT, entries, entries)),
            (ACL_PROGRAM, 3, fh), (ACL_PROGRAM, 4, fh + b"\0\0\0\x3f")]


def mutated(args: bytes, chance: random.Random) -> bytes:
    """Behind the handle, whose mutations have a test of their own."""
    data = bytearray(args)
    for _ in range(chance.randint(1, 4)):
        kind, at = chance.randrange(4), chance.randrange(32, len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] = chance.choice(VALUES)
        elif kind == 1:
            word = at & ~3
            data[word:word + 4] = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\4\1", b"\0\0\0\0"))
        elif kind == 2:
            del data[at:]
        else:
            data[at:at] = data[at:at + 4 * chance.randrange(16)]
    return bytes(data)


def calls(spot: Spot, chance: random.Random) -> Iterator[list[Call]]:
    known = templates(spot.fh)
    for _ in range(ROUNDS):
        yield [Call(prog, V2, proc, mutated(args, chance)) for prog, proc, args in chance.choices(known, k=BATCH)]


def test_mutated_calls_are_answered(spot: Spot) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    ok = 0
    for batch in calls(spot, random.Random(seed)):
        for reply in pipeline(spot.nfs.transport, batch):
            assert reply.stat == MSG_ACCEPTED and reply.detail in (SUCCESS, 4), reply
            ok += reply.detail == SUCCESS
    assert ok > BATCH * ROUNDS / 10, "too few got past the decoder to show anything"
    spot.nfs.getattr(spot.fh).must()
    assert spot.worker.process.poll() is None
