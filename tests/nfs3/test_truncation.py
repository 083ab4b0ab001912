"""Every message cut at every byte, and every word changed (attack D17): GARBAGE_ARGS or a status, never silence or death."""
from __future__ import annotations

import os
import struct

import pytest

from tests.tools.nfs3 import MOUNT, Proc, pack_opaque, sample_args, unpack_result
from tests.tools.rpc import GARBAGE_ARGS, Call, Reply, pipeline

from .conftest import Exports, Spot

PROCS = [proc for proc in Proc if proc != Proc.NULL]


def replies(spot: Spot, proc: int, variants: list[bytes], *, prog: int = 0, vers: int = 3) -> list[Reply]:
    got: list[Reply] = []
    for start in range(0, len(variants), 50):
        calls = [Call(prog or 100003, vers, proc, args, spot.nfs.cred) for args in variants[start:start + 50]]
        got += pipeline(spot.nfs.transport, calls)
    return got


@pytest.mark.parametrize("proc", PROCS, ids=lambda proc: proc.name)
def test_arguments_cut_at_every_byte_are_garbage(spot: Spot, proc: Proc) -> None:
    """A record may end anywhere; XDR is whole words, so each cut lacks something."""
    whole = sample_args(spot.fh)[proc]
    for size, reply in enumerate(replies(spot, proc, [whole[:size] for size in range(len(whole))])):
        assert reply.accept_stat == GARBAGE_ARGS, f"{proc.name} cut to {size} of {len(whole)} bytes: {reply}"
    assert os.listdir(spot.path) == []


@pytest.mark.parametrize("proc", PROCS, ids=lambda proc: proc.name)
def test_every_word_changed_is_answered(spot: Spot, proc: Proc) -> None:
    """Each word replaced by 0, 1, 2, all ones, 2^31, 2^31-1: the answer is GARBAGE_ARGS or a result that decodes."""
    whole = sample_args(spot.fh)[proc]
    variants = [whole[:at] + struct.pack(">I", word) + whole[at + 4:] for at in range(0, len(whole) - 3, 4)
                for word in (0, 1, 2, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF)]
    for reply in replies(spot, proc, variants):
        if reply.ok:
            unpack_result(proc, reply.body)
        else:
            assert reply.accept_stat == GARBAGE_ARGS, reply


def test_null_with_arguments_is_served_or_garbage(spot: Spot) -> None:
    reply = spot.nfs.raw(Proc.NULL, bytes(64))
    assert (reply.ok and reply.body == b"") or reply.accept_stat == GARBAGE_ARGS


@pytest.mark.parametrize("proc", [1, 3], ids=["MNT", "UMNT"])
@pytest.mark.parametrize("vers", [1, 3])
def test_mount_arguments_cut_at_every_byte_are_garbage(spot: Spot, exports: Exports, proc: int, vers: int) -> None:
    whole = pack_opaque(os.fsencode(exports.base / "rw"))
    transport = spot.server.mount().transport
    calls = [Call(MOUNT, vers, proc, whole[:size]) for size in range(len(whole))]
    for size, reply in enumerate(pipeline(transport, calls)):
        assert reply.accept_stat == GARBAGE_ARGS, f"cut to {size} of {len(whole)} bytes: {reply}"
    transport.close()
