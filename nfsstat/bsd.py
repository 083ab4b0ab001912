"""nfsstat as 4.4BSD, OpenBSD and FreeBSD print it, and FreeBSD's JSON (`--libxo json`).

Source: nfsstat(1) of those systems.  Differences: counters do not wrap at 10^9, `retfailed` and `faults` are in the JSON.
"""
from __future__ import annotations

from typing import Any

from nfssvc_shim import state

from .macos import server_blocks
from .names import BSD
from .stats import Server
from .table import lines

PER_LINE = 8


def server_text(server: Server, *, freebsd: bool) -> str:
    """FreeBSD: 13 columns without blanks between, other titles; the others: 9 and a blank."""
    width, gap = (13, "") if freebsd else (9, " ")
    counts, _, cache, gathering = server_blocks(server)
    failed, faults = server.counters[state.C_RPC_ERRS], server.counters[state.C_SRV_ERRS]
    cut = 13 if freebsd else None  # FreeBSD prints these two titles through %13.13s
    writes = _gathering(server, gathering.rows, freebsd)
    tail = [["Server Cache Stats:"[:cut], *lines(cache.rows, PER_LINE, width, gap)],
            ["Server Write Gathering:"[:cut], *lines(writes, PER_LINE, width, gap)]]
    titles = ("Server Re-Failed:", "Server Faults:") if freebsd else ("Server Ret-Failed", "Server Faults")
    out = ["Server Info:", *lines(counts.rows, PER_LINE, width, gap), titles[0], f"{failed:>17}", titles[1], f"{faults:>13}"]
    for block in reversed(tail) if freebsd else tail:
        out += block
    return "\n".join(out)


def _gathering(server: Server, rows: Any, freebsd: bool) -> list[tuple[str, int]]:
    """FreeBSD gathers no writes: WriteOps is the number of calls, nothing saved."""
    if not freebsd:
        return list(rows)
    return [("WriteOps", server.calls(7)), ("WriteRPC", server.calls(7)), ("Opsaved", 0)]


def libxo_object(server: Server) -> dict[str, Any]:
    c = server.counters
    return {"nfsstat": {"serverstats": {
        "operations": {name.lower(): server.calls(number) for name, number in BSD},
        "server": {"retfailed": c[state.C_RPC_ERRS], "faults": c[state.C_SRV_ERRS],
                   "writeops": server.calls(7), "writerpc": server.calls(7), "opsaved": 0},
        "cache": {"inprog": c[state.C_INPROG_HITS], "idem": c[state.C_IDEM_HITS], "nonidem": c[state.C_NONIDEM_HITS],
                  "misses": c[state.C_MISSES]},
    }}}
