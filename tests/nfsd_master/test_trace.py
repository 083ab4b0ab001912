"""nfsd trace without a server: what it makes of records, whole, cut and wrong."""
from __future__ import annotations

import io
import random
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from nfsd_master.pcapng import PcapNg
from nfsd_master.trace_record import Record, records_of
from nfsd_master.trace_words import text, words_of
from tests.tools.nfs3 import NFS, V3, Proc, pack_opaque
from tests.tools.rpc import NONE, Auth, Call, auth_sys

TSHARK = shutil.which("tshark")
FH = bytes(range(32))
V6 = bytes(15) + b"\1"


def call(proc: int, args: bytes = b"", *, prog: int = NFS, vers: int = V3, cred: Auth | None = None) -> bytes:
    return Call(prog, vers, proc, args, cred or auth_sys(1000, 100), xid=77).pack()


def accepted(body: bytes, accept_stat: int = 0) -> bytes:
    return struct.pack(">6I", 77, 1, 0, 0, 0, accept_stat) + body


CALLS = {
    "lookup": call(Proc.LOOKUP, pack_opaque(FH) + pack_opaque(b"a name")),
    "write": call(Proc.WRITE, pack_opaque(FH) + struct.pack(">QII", 8, 9, 2) + pack_opaque(b"some data")),
    "setattr": call(Proc.SETATTR, pack_opaque(FH) + struct.pack(">10I", 1, 0o644, 0, 0, 0, 2, 5, 6, 1, 0)),
    "create": call(Proc.CREATE, pack_opaque(FH) + pack_opaque(b"n") + struct.pack(">I", 2) + bytes(8)),
    "old": call(4, FH + pack_opaque(b"name"), vers=2),
    "mount": call(1, pack_opaque(b"/srv"), prog=100005, vers=1),
    "acl": call(1, pack_opaque(FH) + bytes(4), prog=100227),
    "other": call(7, b"", prog=4711, vers=9),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_truncation_of_a_call_gives_words(name: str) -> None:
    for size in range(len(CALLS[name]) + 1):
        words_of(CALLS[name][:size], None)


def test_every_truncation_of_a_reply_gives_words() -> None:
    reply = accepted(struct.pack(">II", 0, 1) + bytes(84) + struct.pack(">III", 100, 1, 100) + bytes(100))
    for size in range(len(reply) + 1):
        words_of(call(Proc.READ, pack_opaque(FH) + bytes(12)), reply[:size])


def test_random_bytes_give_words() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    for message in CALLS.values():
        for _ in range(200):
            changed = bytearray(message)
            for _ in range(dice.randrange(1, 6)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            words_of(bytes(changed), dice.randbytes(dice.randrange(80)))


def test_words_of_a_call_that_says_everything() -> None:
    words = words_of(CALLS["write"], accepted(struct.pack(">III", 0, 0, 0) + struct.pack(">II", 9, 2)))
    assert (words.procedure, words.uid, words.gid, words.status) == ("WRITE", 1000, 100, "OK")
    assert words.args == {"fh": FH.hex(), "offset": 8, "count": 9, "stable": "FILE_SYNC"}
    assert words.results == {"count": 9, "stable": "FILE_SYNC"}
    assert words_of(CALLS["setattr"], None).args["set"] == "mode 0644 atime 5.000000006 mtime now"


@pytest.mark.parametrize(("reply", "status"), [
    (accepted(struct.pack(">I", 2)), "NOENT"), (accepted(struct.pack(">I", 4000)), "4000"), (accepted(b"", 4), "GARBAGE_ARGS"),
    (struct.pack(">5I", 77, 1, 1, 1, 5), "AUTH_TOOWEAK"), (struct.pack(">6I", 77, 1, 1, 0, 2, 2), "RPC_MISMATCH"),
    (None, "-"),
])
def test_each_kind_of_answer_has_its_word(reply: bytes | None, status: str) -> None:
    assert words_of(CALLS["lookup"], reply).status == status


def test_no_credential_is_no_uid() -> None:
    assert words_of(call(Proc.GETATTR, pack_opaque(FH), cred=NONE), None).uid is None


@pytest.mark.parametrize(("name", "shown"), [
    (b"plain", "plain"), ("f\u00fcr".encode(), "f\u00fcr"), (b"\x1b[2J", "\\x1b[2J"), (b"\xff\xfe", "\\xff\\xfe"),
    ("\u202etxt".encode(), "\\u202etxt"), (b"a\nb", "a\\nb"),
])
def test_names_cannot_move_the_cursor(name: bytes, shown: str) -> None:
    assert text(name) == shown


@pytest.mark.parametrize("packet", [b"x", bytes(111), struct.pack("=I", 400) + bytes(140), bytes(112)])
def test_a_packet_that_is_none_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="trace"):
        list(records_of(packet))


def record(message: bytes, reply: bytes, *, proto: int, reply_len: int = 0) -> Record:
    return Record(slot=1, lost=3, t_call=10**9, t_reply=10**9 + 5000, replied=True, conn=(1, 2, 3), proto=proto, expid=5,
                  client=(socket.AF_INET6, V6, 800), local=(socket.AF_INET6, V6, 2049), call_len=len(message),
                  reply_len=reply_len or len(reply), path=b"/srv/x", call=message, reply=reply)


@pytest.mark.skipif(not TSHARK, reason="tshark is not installed")
def test_ipv6_and_cut_messages_are_read_by_tshark(tmp_path: Path) -> None:
    out = io.BytesIO()
    capture = PcapNg(out, 10**18)
    head = struct.pack(">II", 0, 0) + struct.pack(">III", 200000, 1, 200000)
    read = call(Proc.READ, pack_opaque(FH) + struct.pack(">QI", 0, 200000))
    first = struct.pack(">I", 76)  # another xid: the third call is on the same connection
    capture.add(record(first + read[4:], first + accepted(head + bytes(100))[4:], proto=6, reply_len=200100))
    capture.add(record(CALLS["lookup"], accepted(struct.pack(">II", 2, 0)), proto=17))
    capture.add(record(CALLS["lookup"], accepted(struct.pack(">II", 2, 0)), proto=6))
    capture.end()
    path = tmp_path / "t.pcapng"
    path.write_bytes(out.getvalue())
    assert TSHARK
    ran = subprocess.run([TSHARK, "-r", str(path), "-Y", "nfs", "-T", "fields", "-e", "nfs.procedure_v3", "-e", "ipv6.src"],
                         capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["6", "::1", "6", "::1", "3", "::1", "3", "::1", "3", "::1", "3", "::1"]
    bad = subprocess.run([TSHARK, "-r", str(path), "-Y", "_ws.malformed"], capture_output=True, text=True, check=True, timeout=60)
    assert bad.stdout == ""
