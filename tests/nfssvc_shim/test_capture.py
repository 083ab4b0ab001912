"""EXPORTSTATS and USERSTATS against a foreign count: what dumpcap saw on the wire, decoded by tshark."""
from __future__ import annotations

import random
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from nfsstat import stats
from nfssvc_shim.call import getfh, nfssvc
from nfssvc_shim.flags import Ex, Nfssvc, Nx, Nxa
from nfssvc_shim.records import Address, Export, ExportArgs, GetfhArgs, Net
from oncrpc.client import Client
from oncrpc.message import auth_sys
from oncrpc.xdr import Packer, Unpacker
from tests.tools.capture import Capture, why_not

from .test_server import LOCAL, ME, Server, server  # noqa: F401 a fixture

CLIENTS = [f"127.0.0.{n}" for n in range(1, 5)]
USERS = (2001, 2002, 2003)
CALLS = 40                # of each user of each client
GETATTR, LOOKUP, READ, WRITE = 1, 3, 6, 7
Count = tuple[int, int, int]  # requests, bytes read, bytes written


def arguments(*parts: bytes | int, hyper: tuple[int, ...] = ()) -> bytes:
    packer = Packer()
    for place, part in enumerate(parts):
        if isinstance(part, bytes):
            packer.pack_opaque(part)
        else:
            (packer.pack_uhyper if place in hyper else packer.pack_uint)(part)
    return bytes(packer)


def lookup(port: int, directory: bytes, name: bytes) -> bytes:
    with Client.tcp(("127.0.0.1", port), 100003, 3) as client:
        reply = Unpacker(client.call(LOOKUP, arguments(directory, name)))
    assert reply.unpack_uint() == 0
    return reply.unpack_opaque(64)


def calls_on(directory: bytes, file: bytes, seed: random.Random) -> list[tuple[int, bytes]]:
    """Procedures and arguments, some of which fail, and reads that end early."""
    size = seed.randrange(1, 3000)
    return [(GETATTR, arguments(file)), (LOOKUP, arguments(directory, b"nothing")),
            (READ, arguments(file, seed.randrange(0, 9000), size, hyper=(1,))),
            (WRITE, arguments(file, seed.randrange(0, 5000), size, 0, bytes(size), hyper=(1,)))]


def work(port: int, source: str, uid: int, places: list[tuple[bytes, bytes]]) -> None:
    seed = random.Random(f"{source} {uid}")
    with Client.tcp(("127.0.0.1", port), 100003, 3, cred=auth_sys(uid, uid), source=source) as client:
        for _ in range(CALLS):
            client.call(*seed.choice(calls_on(*seed.choice(places), seed)))


def run_all(*jobs: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def one(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=one, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ---- what the wire says

FIELDS = ("rpc.msgtyp", "rpc.xid", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport", "rpc.auth.uid", "nfs.fhandle",
          "rpc.procedure", "nfs.status3", "nfs.count3")


def decoded(capture: Capture, port: int) -> list[dict[str, str]]:
    """One record a call and a reply; each caller waits for its answer, so no packet has two."""
    fields = [word for name in FIELDS for word in ("-e", name)]
    done = subprocess.run(
        ["tshark", "-n", "-2", "-r", str(capture.path), "-d", f"tcp.port=={port},rpc", "-o", "rpc.defragment_rpc_over_tcp:TRUE",
         "-o", "tcp.desegment_tcp_streams:TRUE", "-Y", "rpc.program == 100003 && !tcp.analysis.retransmission",
         "-T", "fields", "-E", "separator=/t", *fields], capture_output=True, text=True, check=True)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]


def counted(records: list[dict[str, str]], export_of: dict[str, str]) -> dict[tuple[str, str, int], Count]:
    """(export, client, uid) -> requests and bytes, of the calls that were answered."""
    asked: dict[tuple[str, str, str], tuple[str, str, int]] = {}
    found: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for r in records:
        if r["rpc.msgtyp"] == "0":
            asked[r["ip.src"], r["tcp.srcport"], r["rpc.xid"]] = (export_of[r["nfs.fhandle"].replace(":", "")], r["ip.src"],
                                                                  int(r["rpc.auth.uid"]))
            continue
        who = found[asked.pop((r["ip.dst"], r["tcp.dstport"], r["rpc.xid"]))]
        who[0] += 1
        moved = int(r["nfs.count3"]) if r["nfs.status3"] == "0" and r["nfs.count3"] else 0
        who[1] += moved if int(r["rpc.procedure"]) == READ else 0
        who[2] += moved if int(r["rpc.procedure"]) == WRITE else 0
    assert not asked, "every call was answered"
    return {key: (a, b, c) for key, (a, b, c) in found.items()}


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_exports_and_users_count_what_went_over_the_wire(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Four clients, three users each, two exports, at once: requests, bytes read and bytes written, one for one."""
    nets = (Net(Nx.DEFAULTEXPORT, Address(0), 0),)
    paths = {expid: server.export.parent / f"export{expid}" for expid in (1, 2)}
    for path in paths.values():
        path.mkdir(mode=0o755)
        (path / "data").write_bytes(bytes(7000))
        (path / "data").chmod(0o666)
    table = tuple(Export(expid, bytes(path), flags=Ex.PATHFH, nets=nets) for expid, path in paths.items())
    nfssvc(Nfssvc.EXPORT, ExportArgs(Nxa.REPLACE, True, table), socket_path=server.path)
    places, export_of = [], dict[str, str]()
    for expid, path in paths.items():
        root = Unpacker(getfh(GetfhArgs(expid, b"", LOCAL, ME), socket_path=server.path)).unpack_opaque(64)
        places.append((root, lookup(server.port, root, b"data")))
        export_of |= {handle.hex(): str(path) for handle in places[-1]}
    nfssvc(Nfssvc.ZEROSTATS, socket_path=server.path)
    with Capture(tmp_path / "load.pcapng", [server.port]) as capture:
        run_all(*(lambda host=host, uid=uid: work(server.port, host, uid, places)  # type: ignore[misc]
                  for host in CLIENTS for uid in USERS))
    wire = counted(decoded(capture, server.port), export_of)
    assert sum(requests for requests, _, _ in wire.values()) == CALLS * len(CLIENTS) * len(USERS)
    users = stats.unpack_users(nfssvc(Nfssvc.USERSTATS, socket_path=server.path))
    assert {(u.path, u.address, u.uid): (u.requests, u.read_bytes, u.write_bytes) for u in users if u.requests} == wire
    for export in stats.unpack_exports(nfssvc(Nfssvc.EXPORTSTATS, socket_path=server.path)):
        seen = [count for (path, _, _), count in wire.items() if path == export.path]
        assert (export.requests, export.read_bytes, export.write_bytes) == tuple(map(sum, zip(*seen, strict=True)))
