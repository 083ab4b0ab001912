"""macOS' statistics records from the shared state."""
from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

import pytest

from nfsd_master import stats
from nfsd_master.slots import Slot
from nfssvc_shim import state
from nfssvc_shim.channel import Channel
from nfssvc_shim.records import Export


@pytest.fixture
def shared(tmp_path: Path):
    fd = state.open_state(tmp_path / "state")
    shared = state.State(fd)
    os.close(fd)
    yield shared


@pytest.fixture
def slot():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield Slot(3, 2, 99, Channel(sock), [])
    sock.close()


def counters(body: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=61Q", body)


def test_srvstats_are_sums_over_all_slots_also_those_that_ended(shared):
    for number in (0, 3, 63):
        shared.slot(number)[state.S_INCARNATION] = 1
        shared.slot(number)[state.S_COUNTERS + 1] = 10
    assert counters(stats.Stats(shared).srvstats([]))[1] == 30


def test_zerostats_sets_the_base_and_leaves_gauges(shared, slot):
    shared.slot(3)[state.S_INCARNATION] = 2
    shared.slot(3)[state.S_COUNTERS + 1] = 10
    shared.slot(3)[state.S_CONNECTIONS] = 4
    counted = stats.Stats(shared)
    counted.zero()
    shared.slot(3)[state.S_COUNTERS + 1] += 5
    body = counted.srvstats([slot])
    assert counters(body)[1] == 5
    assert stats.SLOT_HEADER.unpack_from(body, 492) == (3, 99, 2, 4)
    row = struct.unpack_from(f"={state.SLOT_WORDS}Q", body, 492 + 16)
    assert (row[state.S_COUNTERS + 1], row[state.S_CONNECTIONS]) == (5, 4)


def test_what_zerostats_set_stays_when_the_control_half_is_replaced(shared, slot):
    """The base lies in the shared state: for the sums, and for each row."""
    row = shared.slot(3)
    row[state.S_INCARNATION], row[state.S_COUNTERS + 1], row[state.S_READ_BYTES] = 2, 10, 999
    stats.Stats(shared).zero()
    row[state.S_COUNTERS + 1] += 5
    body = stats.Stats(shared).srvstats([slot])
    words = struct.unpack_from(f"={state.SLOT_WORDS}Q", body, 492 + 16)
    assert (counters(body)[1], words[state.S_COUNTERS + 1], words[state.S_READ_BYTES]) == (5, 5, 0)


def test_zerostats_that_ends_in_the_middle_leaves_the_base_before_it(shared):
    """The set of bases that is being filled is not the one in force."""
    row = shared.slot(3)
    row[state.S_INCARNATION], row[state.S_COUNTERS + 1] = 1, 10
    counted = stats.Stats(shared)
    counted.zero()
    row[state.S_COUNTERS + 1] = 17
    in_force = shared.words[state.H_BASE]
    counted.zero()
    assert shared.words[state.H_BASE] != in_force
    shared.words[state.H_BASE] = in_force  # as if the last step had not been done
    assert counters(counted.sums())[1] == 7


def test_exports_whose_ids_fall_on_one_place_are_told_apart(shared):
    """As exp_row of the workers: the next free place."""
    ids = [7, 7 + state.N_EXPORTS - 1]
    for place, expid in enumerate(ids):
        shared.export(7 + place)[:2] = memoryview(struct.pack("=2Q", expid, 100 + place)).cast("Q")
    body = stats.Stats(shared).exportstats({expid: Export(expid, b"/srv") for expid in ids})
    assert [stats.EXPORT_RECORD.unpack_from(body, 12 + 1049 * i)[1] for i in range(2)] == [100, 101]


def test_exportstats_has_1049_bytes_an_export_in_the_table(shared):
    row = shared.export(7)
    row[:4] = memoryview(struct.pack("=4Q", 7, 1, 2, 3)).cast("Q")
    body = stats.Stats(shared).exportstats({7: Export(7, b"/srv", b"data"), 8: Export(8, b"/new")})
    assert struct.unpack_from("=IQ", body) == (1, 2)
    assert len(body) == 12 + 2 * 1049
    path, *numbers = stats.EXPORT_RECORD.unpack_from(body, 12)
    assert (path.rstrip(b"\0"), numbers) == (b"/srv/data", [1, 2, 3])


def test_userstats_groups_users_by_export_and_skips_idle_ones(shared):
    now = int(time.time())
    for place, (uid, last) in enumerate(((1000, now), (1001, now - stats.USER_IDLE_S - 1))):
        row = shared.user(place)
        row[state.U_STATE], row[state.U_EXPID], row[state.U_UID], row[state.U_FAMILY] = place + 1, 7, uid, 1
        row[state.U_ADDR_HIGH] = int.from_bytes(bytes([192, 0, 2, 1, 0, 0, 0, 0]), "big")
        row[state.U_REQUESTS], row[state.U_FIRST], row[state.U_LAST] = 3, 5, last
    counted = stats.Stats(shared)
    body = counted.userstats({7: Export(7, b"/srv")})
    assert struct.unpack_from("=II", body) == (1, 2)
    assert body[8] == 1 and body[9:13] == b"/srv"
    kind, uid, address, requests, *_ = stats.USER_RECORD.unpack_from(body, 8 + 1026)
    assert (kind, uid, requests, address[:8]) == (0, 1000, 3, bytes([16, 2, 0, 0, 192, 0, 2, 1]))
    assert len(body) == 8 + 1026 + 173
    assert counted.usercount() == struct.pack("=I", 1)
