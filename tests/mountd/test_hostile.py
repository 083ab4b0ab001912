"""Bytes that nobody should send: random MOUNT calls to a running mountd, and a network half that has been taken over."""
from __future__ import annotations

import random
import socket

import pytest

from mountd.broker import Broker
from mountd.halves import MountCall, pack_mount_call, unpack_mount_call
from mountd.mount import Proc
from mountd.rmtab import MountTab
from nfssvc_shim.records import Address, Cred, GetfhArgs
from oncrpc.client import RpcError
from oncrpc.message import AcceptStat
from oncrpc.xdr import XdrError

from .conftest import Mountd

GOOD = MountCall(3, Proc.MNT, Address.of("192.0.2.1", 900), 1, Cred(5, 6, (7, 8)), b"/a", False, 100)


def test_random_arguments_never_stop_a_running_mountd(mountd: Mountd, tree) -> None:  # type: ignore[no-untyped-def]
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    for vers in (1, 2, 3):
        with mountd.client(vers) as client:
            for _ in range(300):
                size = rng.choice((0, 1, 3, 4, 8, 12, 40, 400, 1032))
                args = rng.choice((b"", b"\0\0\0\4", b"\0\0\4\0", b"\0\0\4\1")) + rng.randbytes(size)
                try:
                    client.call(rng.randrange(9), args)
                except RpcError as refused:
                    assert refused.accept_stat in (AcceptStat.GARBAGE_ARGS, AcceptStat.PROC_UNAVAIL)
    assert mountd.mnt(str(tree / "a").encode())[0] == 0
    assert "Traceback" not in mountd.log()


def test_random_records_never_stop_a_running_mountd(mountd: Mountd, tree) -> None:  # type: ignore[no-untyped-def]
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    mountd.start(f"{tree}/a *(ro,insecure)\n")
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", mountd.port)) as sock:
            sock.sendall(rng.randbytes(rng.randrange(1, 300)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(rng.randbytes(rng.randrange(0, 300)), ("127.0.0.1", mountd.port))
    assert mountd.mnt(str(tree / "a").encode())[0] == 0
    assert "Traceback" not in mountd.log()


def test_call_between_the_halves_survives_packing() -> None:
    assert unpack_mount_call(pack_mount_call(GOOD)) == GOOD


def test_every_truncation_of_a_call_is_refused() -> None:
    whole = pack_mount_call(GOOD)
    for size in range(len(whole)):
        with pytest.raises(XdrError):
            unpack_mount_call(whole[:size])
    with pytest.raises(XdrError):
        unpack_mount_call(whole + bytes(4))


@pytest.mark.parametrize("change", [
    {"vers": 0}, {"vers": 4}, {"proc": Proc.NULL}, {"flavor": 6}, {"cred": Cred(0, 0, tuple(range(17)))}, {"path": b"x" * 1025},
    {"limit": 1 << 30}, {"peer": Address(1, b"\1\2\3\4", 70000)}, {"peer": Address(9, b"")}])
def test_call_that_no_client_could_make_is_refused(change: dict[str, object]) -> None:
    """The privileged half checks what comes from the net's side as if hostile."""
    values = {name: getattr(GOOD, name) for name in GOOD.__dataclass_fields__} | change
    with pytest.raises((XdrError, ValueError)):
        unpack_mount_call(pack_mount_call(MountCall(**values)))


class NoServer:
    """The rest of the privileged half, which nothing may reach."""

    def getfh(self, args: GetfhArgs, done: object) -> None:
        raise RuntimeError("a handle was asked for")

    def learn(self, address: str, then: object) -> None:
        raise RuntimeError("a name was asked for")


@pytest.mark.parametrize("path", [b"/etc/shadow", b"/", b"", b"..", b"@otp:x/", b"/proc/self"])
def test_network_half_that_was_taken_over_gets_nothing_that_is_not_exported(path: bytes) -> None:
    """It may claim to be any client, and ask for any path: the table decides, which it cannot change."""
    answers: list[tuple[int, bytes]] = []
    broker = Broker(NoServer(), MountTab())  # type: ignore[arg-type]
    for proc in (Proc.MNT, Proc.PATHCONF):
        call = MountCall(2, proc, Address.of("127.0.0.1", 1), 1, Cred(0, 0), path, True)
        broker.handle(call, lambda status, results: answers.append((status, results)))
    assert answers[0] == (0, (13).to_bytes(4, "big"))
    assert len(answers) == 2
