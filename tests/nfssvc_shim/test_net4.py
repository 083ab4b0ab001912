"""The short way of packing and unpacking an IPv4 entry gives the same bytes and the same answers as the long one."""
from __future__ import annotations

import random

import pytest

from nfssvc_shim import records
from nfssvc_shim.flags import Nx
from nfssvc_shim.records import Address, Cred, Net, pack_net, unpack_net
from oncrpc.xdr import Packer, Unpacker, XdrError

SIZES = {0: 0, 1: 4, 2: 16, 3: 0}


def cred(rng: random.Random) -> Cred:
    return Cred(rng.randrange(2**32), rng.randrange(2**32), tuple(range(rng.choice((0, 0, 0, 2)))))


def any_net(rng: random.Random) -> Net:
    """Good ones and such as a hostile sender makes: ports and prefixes out of range, a world entry with an address."""
    family = rng.choice((0, 1, 1, 1, 2, 3))
    address = Address(family, rng.randbytes(SIZES[family]), rng.choice((0, 0, 65535, 70000)), rng.choice((0, 7)))
    return Net(Nx(rng.choice((0, 1, 2, 4, 0x10005))), address, rng.choice((0, 24, 32, 33, 128)), cred(rng), cred(rng), cred(rng),
               rng.choice(((1,), (1, 0), ())), rng.randrange(99))


def outcome(net: Net) -> tuple[bytes, object]:
    p = Packer()
    pack_net(p, net)
    u = Unpacker(bytes(p) + b"tail")
    try:
        return bytes(p), (unpack_net(u), u.rest())
    except XdrError as exc:
        return bytes(p), str(exc)


def test_short_way_is_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    nets = [any_net(random.Random(seed + i)) for i in range(3000)]
    short = [outcome(net) for net in nets]
    monkeypatch.setattr(records, "_raw_net4", lambda n: b"")
    monkeypatch.setattr(records, "_net4_of", lambda raw: None)
    assert [outcome(net) for net in nets] == short


def test_every_truncation_of_an_entry_is_an_error() -> None:
    p = Packer()
    pack_net(p, Net(Nx.READONLY, Address.of("192.0.2.0"), 24))
    for size in range(len(bytes(p))):
        with pytest.raises(XdrError):
            unpack_net(Unpacker(bytes(p)[:size]))
