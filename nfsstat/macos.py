"""nfsstat as macOS prints it, the default: tables, and JSON with the same titles as keys.

Source: nfsstat(1) of macOS.  Title spellings are its own, byte for byte: scripts look for them.  Ours: the latency block and
the workers in JSON, JSON also when nothing was found.
"""
from __future__ import annotations

import pwd
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nfssvc_shim import state

from .names import BSD, ERRORS, PROCEDURES, WRITE
from .stats import ExportStat, Server, UserStat, quantile_ns
from .table import Block, Row, as_object, lines

WIDTH, PER_LINE = 12, 6
NO_EXPORTS = "No export stat data found"
NO_USERS = "No NFS active user statistics found."


# ---- -s

def server_blocks(server: Server) -> list[Block]:
    c = server.counters
    writes, calls = c[state.C_VOP_WRITES], server.calls(WRITE)
    return [
        Block("RPC Counts", [(name, server.calls(number)) for name, number in BSD]),
        Block("Server Faults", [("RPC Errors", c[state.C_RPC_ERRS]), ("Errors", c[state.C_SRV_ERRS])]),
        Block("Server Cache Stats", [("Inprog", c[state.C_INPROG_HITS]), ("Idem", c[state.C_IDEM_HITS]),
                                     ("Non-idem", c[state.C_NONIDEM_HITS]), ("Misses", c[state.C_MISSES])]),
        Block("Server Write Gathering", [("WriteOps", writes), ("WriteRPC", calls), ("Opsaved", max(0, calls - writes))]),
    ]


def server_text(server: Server) -> str:
    out = ["Server Info:"]
    for block in server_blocks(server):
        out += [block.title + ":", *lines(block.rows, PER_LINE, WIDTH, " ")]
    return "\n".join(out)


def server_object(server: Server) -> dict[str, Any]:
    return {"Server Info": {**as_object(server_blocks(server)), "Latency": latency(server), "Workers": workers(server)}}


QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))


def latency(server: Server) -> dict[str, dict[str, float]]:
    """Microseconds from receive to reply, of the procedures that were called."""
    found = {}
    for number, name in enumerate(PROCEDURES):
        histogram = server.histogram(number)
        if count := sum(histogram):
            found[name] = {"calls": count} | {f"{key} us": round(quantile_ns(histogram, q) / 1000, 1) for key, q in QUANTILES}
    return found


def latency_text(server: Server) -> str:
    out = ["Latency (microseconds):", f"{'':>12} {'Calls':>12} {'p50':>10} {'p90':>10} {'p99':>10} {'p99.9':>10}"]
    for name, row in latency(server).items():
        out.append(f"{name:>12} {row['calls']:>12} " + " ".join(f"{row[f'{key} us']:>10.1f}" for key, _ in QUANTILES))
    return "\n".join(out)


# ---- one row a worker

def workers(server: Server) -> list[dict[str, int]]:
    return [{"Slot": slot.slot, "Pid": slot.pid, "Restarts": max(0, slot.incarnation - 1), "Connections": slot.connections,
             "Calls": sum(slot.words[state.S_COUNTERS:state.S_COUNTERS + state.N_PROCS3]),
             "Read Bytes": slot.words[state.S_READ_BYTES], "Write Bytes": slot.words[state.S_WRITE_BYTES],
             "Errors": slot.words[state.S_COUNTERS + state.C_RPC_ERRS], "Mistakes": slot.words[state.S_EXCEPTIONS]}
            for slot in server.slots]


def workers_text(server: Server) -> str:
    names = ("Slot", "Pid", "Restarts", "Connections", "Calls", "Read Bytes", "Write Bytes", "Errors", "Mistakes")
    out = ["Worker Info:", " ".join(f"{name:>12}" for name in names)]
    out += [" ".join(f"{row[name]:>12}" for name in names) for row in workers(server)]
    return "\n".join(out)


# ---- -e

def exports_text(exports: Sequence[ExportStat]) -> str:
    if not exports:
        return NO_EXPORTS
    out = ["Exported Directory Info:", f"{'Requests':>12}  {'Read Bytes':>12}  {'Write Bytes':>12}"]
    out += [f"{e.requests:>12}  {e.read_bytes:>12}  {e.write_bytes:>12}  {e.path}" for e in exports]
    return "\n".join(out)


def exports_object(exports: Sequence[ExportStat]) -> dict[str, Any]:
    return {"Exported Directory Info": {e.path: {"Requests": e.requests, "Read Bytes": e.read_bytes, "Write Bytes": e.write_bytes}
                                        for e in exports}}


# ---- -u

@lru_cache(maxsize=1024)
def _host_name(address: str) -> str:
    """Asked once: an address has many users, and a name server that is gone takes seconds to be missed."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except OSError:  # no name
        return address


@dataclass(frozen=True, slots=True)
class Naming:
    """How users and addresses are shown; -n user and -n net make them numbers."""

    user_numbers: bool = False
    net_numbers: bool = False
    now: Callable[[], float] = time.time

    def user(self, uid: int) -> str:
        if not self.user_numbers:
            try:
                return pwd.getpwuid(uid).pw_name
            except KeyError:
                pass
        return str(uid)

    def address(self, user: UserStat) -> str:
        if not user.address:
            return "* * * *"
        return user.address if self.net_numbers else _host_name(user.address)

    def idle(self, user: UserStat) -> str:
        seconds = max(0, int(self.now()) - user.last_s)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def users_text(users: Sequence[UserStat], naming: Naming) -> str:
    if not users:
        return NO_USERS
    out, path = ["NFS Active User Info:"], None
    for user in sorted(users, key=lambda u: u.path):
        if user.path != path:
            path = user.path
            out += [f"{path}:", f"{'Requests':>12}  {'Read Bytes':>12}  {'Write Bytes':>12}  {'Idle':<7}  {'User':<8} IP Address"]
        out.append(f"{user.requests:>12}  {user.read_bytes:>12}  {user.write_bytes:>12}  {naming.idle(user):<7}  "
                   f"{naming.user(user.uid)[:8]:<8} {naming.address(user)}")
    return "\n".join(out)


def users_object(users: Sequence[UserStat], naming: Naming) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for user in users:
        name = naming.user(user.uid)
        who: dict[str, Any] = {"Uuid": user.uid} if name.isdigit() else {"User": name}
        found.setdefault(user.path, {})[f"{name}@{naming.address(user)}"] = who | {
            "Requests": user.requests, "Read Bytes": user.read_bytes, "Write Bytes": user.write_bytes, "Idle": naming.idle(user)}
    return {"NFS Active User Info": found}


# ---- -E

def error_rows(server: Server) -> list[Row]:
    start = state.C_ERRS
    return [(f"NFSERR_{name}" if name != "OK" else "NFS_OK", server.counters[start + i]) for i, name in enumerate(ERRORS)]


def errors_text(server: Server) -> str:
    return "\n".join(["NFS Server Errors Info:", *lines(error_rows(server), 4, 20, " ")])


def errors_object(server: Server) -> dict[str, Any]:
    return {"NFS Server Errors Info": dict(error_rows(server))}


# ---- -w

INTERVAL = (("Getattr", (1,)), ("Lookup", (3,)), ("Readlink", (5,)), ("Read", (6,)), ("Write", (7,)), ("Rename", (14,)),
            ("Access", (4,)), ("Readdir", (16, 17)))
LABEL = "Server v3: "


def interval_header() -> str:
    return " " * len(LABEL) + "".join(f"{name[:8]:>8}" for name, _ in INTERVAL)


def interval_values(server: Server, before: Server | None) -> dict[str, int]:
    """Cumulative at first, then what came since; a restart or ZEROSTATS between gives no negative numbers."""
    values = {name: sum(server.calls(n) for n in numbers) for name, numbers in INTERVAL}
    if before is None:
        return values
    return {name: max(0, values[name] - sum(before.calls(n) for n in numbers)) for name, numbers in INTERVAL}


def interval_line(values: dict[str, int]) -> str:
    return LABEL + "".join(f"{value:>8}" for value in values.values())
