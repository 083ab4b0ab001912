"""nfsstat as Linux prints it (`--linux`, as a list with `-l`), and the text of /proc/net/rpc/nfsd (`--proc`).

Source: nfsstat(8) of nfs-utils; nfsd(7).  Monitoring agents parse the /proc text.  Counters are 64 bit here.
"""
from __future__ import annotations

from collections.abc import Sequence

from nfssvc_shim import state

from .names import PROCEDURES, PROCEDURES2
from .stats import Server

Facility = tuple[str, tuple[str, ...], tuple[int, ...]]
PER_LINE = 5


def facilities(server: Server) -> list[Facility]:
    w, c = server.words, server.counters
    udp, tcp = w[state.S_PACKETS_UDP], w[state.S_PACKETS_TCP]
    bad = (w[state.S_BADFMT], w[state.S_BADAUTH], 0)
    hits = c[state.C_INPROG_HITS] + c[state.C_IDEM_HITS] + c[state.C_NONIDEM_HITS]
    misses = c[state.C_MISSES]
    return [
        ("packet stats", ("packets", "udp", "tcp", "tcpconn"), (udp + tcp, udp, tcp, w[state.S_TCPCONN])),
        ("rpc stats", ("calls", "badcalls", "badfmt", "badauth", "badclnt"), (server.total, w[state.S_BADCALLS], *bad)),
        ("reply cache", ("hits", "misses", "nocache"), (hits, misses, max(0, server.total - hits - misses))),
        ("io stats", ("read", "write"), (w[state.S_READ_BYTES], w[state.S_WRITE_BYTES])),
        ("file handle cache", ("lookup", "anon", "ncachedir", "ncachenondir", "stale"),
         (w[state.S_FH_HITS] + w[state.S_FH_MISSES], 0, 0, w[state.S_FH_MISSES], w[state.S_FH_STALE])),
    ]


def version2(server: Server) -> Sequence[int]:
    return server.words[state.S_V2:state.S_V2 + len(PROCEDURES2)]


def version3(server: Server) -> Sequence[int]:
    return server.counters[:state.N_PROCS3]


def server_text(server: Server, *, everything: bool = False) -> str:
    """Without `everything` the default of Linux: rpc, and the versions that were called."""
    out: list[str] = []
    for title, names, values in facilities(server):
        if everything or title == "rpc stats":
            out += [f"Server {title}:", _row(names), _row(values), ""]
    for version, names, counts in ((2, PROCEDURES2, version2(server)), (3, PROCEDURES, version3(server))):
        if everything or any(counts):
            out += [f"Server nfs v{version}:", *_calls(names, counts), ""]
    return "\n".join(out).rstrip("\n") + "\n"


def _row(cells: Sequence[object]) -> str:
    return "   ".join(f"{cell!s:<8}" for cell in cells).rstrip()


def _calls(names: Sequence[str], counts: Sequence[int]) -> list[str]:
    total, out = sum(counts), []
    for at in range(0, len(names), PER_LINE):
        out.append("".join(f"{name:<17}" for name in names[at:at + PER_LINE]).rstrip())
        shares = [(count, count * 100 // total if total else 0) for count in counts[at:at + PER_LINE]]
        out.append("".join(f"{count:<8}{share:>3}%     " for count, share in shares).rstrip())
    return out


def list_text(server: Server) -> str:
    out = []
    for version, names, counts in ((2, PROCEDURES2, version2(server)), (3, PROCEDURES, version3(server))):
        if any(counts):
            prefix = f"nfs v{version} server"
            out += [f"{prefix:>13} {'total:':>13} {sum(counts):>8}", "-" * 13 + " " + "-" * 13 + " " + "-" * 8]
            out += [f"{prefix:>13} {name:>12}: {count:>8}" for name, count in zip(names, counts, strict=True) if count] + [""]
    return "\n".join(out)


def proc_text(server: Server) -> str:
    """/proc/net/rpc/nfsd: one facility a line."""
    net, rpc, cache, io, fh = (values for _, _, values in facilities(server))
    lookup, anon, ncachedir, ncachenondir, stale = fh
    rows: list[tuple[object, ...]] = [
        ("rc", *cache), ("fh", stale, lookup, anon, ncachedir, ncachenondir), ("io", *io),
        ("th", len(server.slots), 0, *["0.000"] * 10), ("ra", 0, *[0] * 11), ("net", *net), ("rpc", *rpc),
        ("proc2", len(PROCEDURES2), *version2(server)), ("proc3", len(PROCEDURES), *version3(server)), ("proc4", 2, 0, 0),
    ]
    return "\n".join(" ".join(str(field) for field in row) for row in rows)
