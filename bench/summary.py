"""What was to be reached and what was measured: the first two tables of docs/performance.md, from the JSON files of bench/all."""
from __future__ import annotations

import statistics
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import sides

Data = dict[str, Any]  # what one part wrote
Line = list[str]
BESIDE = ["floor", "unfs3", "ganesha"]
GROUPS = {  # rows of compare that have their goals in common
    "NULL to WRITE of 4 KiB, 32 in flight": ["null", "getattr", "lookup", "access", "read4", "write4"],
    "the same with 50 uids in turn": ["*/50uids"],
    "READDIR of 1,000 names": ["readdir"],
    "READDIRPLUS of 3, 8 and 32 KiB": ["readdirplus*"],
    "CREATE + REMOVE with `async`": ["create"],
    "READ and WRITE of 128 KiB and 1 MiB": ["read128", "read1024", "write128", "write1024"],
    "one call at a time": ["*/d1"],
    "four connections": ["*/c4"],
}
METRICS = {"ops": "calls/s", "cpu": "CPU a call", "MB": "MB/s", "cpu/byte": "CPU a byte"}
IDLE_MB, CONNECTION_KB, IDLE_PERCENT, NULL_MS, START_MS, RESPAWN_MS = 90, 16, 1, 20, 300, 200
SLOW_DISK_MS, JAIN, UDP = 2, 0.95, 0.5
TICKS_S = 0.1  # less of a processor is some ticks of the kernel's 10 ms: no figure


def worst(verdicts: list[Data], beside: str) -> Iterator[str]:
    """For each goal of a group against one side: the worst ratio of its rows; those that missed it by name."""
    goals = dict.fromkeys(v["goal"] for v in verdicts if v["goal"].split(" ")[0].endswith(f"/{beside}"))
    for goal in goals:
        what, bound = goal.split(" ")
        found = [v for v in verdicts if v["goal"] == goal and v["ratio"] is not None]
        if not found:
            continue
        ratio = (min if bound.startswith(">") else max)(v["ratio"] for v in found)
        metric = what.rsplit("/", 1)[0]
        missed = [v["work"] for v in found if not v["reached"]]
        yield f"{METRICS.get(metric, metric)} {ratio:.2f} ({bound})" + (f" **missed: {', '.join(missed)}**" if missed else "")


def compared(data: Data) -> list[Line]:
    """A line for each group of rows: against the floor, unfs3, NFS-Ganesha."""
    lines = []
    for group, patterns in GROUPS.items():
        found = [v for v in data["verdicts"] if any(fnmatchcase(v["work"], p) for p in patterns)
                 and (v["side"] == "ours-async") == ("async" in group)]
        cells = [", ".join(worst(found, side)) for side in BESIDE]
        if any(cells):
            lines.append([group, *cells])
    return lines


def mark(reached: bool) -> str:
    return "yes" if reached else "**no**"


def below(what: str, goal: float, unit: str, value: float) -> Line:
    return [what, f"≤ {goal:g} {unit}", f"{sides.figure(value)} {unit}", mark(value <= goal)]


def footprint(data: Data) -> Iterator[Line]:
    row = {r["side"]: r for r in data["rows"]}
    yield below("memory of `nfsd -n 4`, mountd and portmap, idle", IDLE_MB, "MB", row["daemons"]["idle_mb"])
    ours = row["ours"]
    yield below("... a connection", CONNECTION_KB, "KB", ours["kb_a_connection"])
    yield below(f"{ours['connections']:,} idle connections: processor", IDLE_PERCENT, "%", ours["idle_cpu_percent"])
    yield below("... a fresh NULL beside them, p99", NULL_MS, "ms", ours["null_p99_ms"])
    yield below("start to the first answer", START_MS, "ms", row["daemons"]["start_ms"])
    yield below("a worker again after its death", RESPAWN_MS, "ms", ours["respawn_ms"])


def slowdisk(data: Data) -> Iterator[Line]:
    p99 = [call["p99_us"] / 1e3 for r in data["rows"] if r["side"] == "ours" and r["slow"] != "none"
           for name, call in r["calls"].items() if name in ("GETATTR", "READ, cached")]
    yield below("GETATTR and cached READs beside calls that wait for a slow disk, p99", SLOW_DISK_MS, "ms", max(p99))


def fairness(data: Data) -> Iterator[Line]:
    for r in data["rows"]:
        if r["side"] == "ours":
            yield [f"one fast connection beside 31 with {r['depth']} in flight: Jain's index (the others keep)", f"≥ {JAIN}",
                   f"{r['jain']:.2f} ({r['kept']:.2f})", mark(r["jain"] >= JAIN)]


def growth(data: Data) -> Iterator[Line]:
    """First and last point of each curve; flat is what does not grow with the size by more than the caches of the machine."""
    names = dict.fromkeys((p["curve"], p["series"]) for p in data["points"] if p["side"] == "ours" and p["series"] != "start")
    for curve, series in names:
        points = sorted((p["n"], p["cpu_us"]) for p in data["points"] if (p["side"], p["curve"], p["series"]) == ("ours", curve, series))
        (small, first), (large, last) = points[0], points[-1]
        unit = "an entry" if series.startswith("READDIR") else "a call"
        yield [f"{curve}, {series}: {small:,} to {large:,}", "flat", f"{sides.figure(first)} to {sides.figure(last)} µs {unit}",
               f"{last / first:.2f} times"]


def slower(ours: list[float], peer: list[float]) -> bool:
    """Beyond what rounds of one server differ by: each of ours took longer than each of the peer's."""
    return min(ours) > max(peer)


def client(data: Data) -> Iterator[Line]:
    """The kernel's client, by its clock and by the server's processor time: what is slower than a peer."""
    seconds = data["seconds"]
    for side, peer in ((s, p) for s in ("ours", "ours-async") for p in ("unfs3", "ganesha") if s in seconds and p in seconds):
        for kind, what in enumerate(("clock", "processor")):
            pairs = {piece: [[r[kind] for r in seconds[name][piece]] for name in (side, peer)]
                     for piece in seconds[side] if piece in seconds[peer]}
            pairs = {piece: both for piece, both in pairs.items() if max(map(max, both)) >= (0, TICKS_S)[kind]}
            ratios = {piece: statistics.median(a) / statistics.median(b) for piece, (a, b) in pairs.items()}
            missed = [f"{piece} {ratios[piece]:.2f}" for piece, both in pairs.items() if slower(*both)]
            yield [f"kernel's client, {side} by {peer}: {what}", "not slower on any", f"median of {len(ratios)} pieces "
                   f"{statistics.median(ratios.values()):.2f}; slower: {', '.join(missed) or 'none'}", mark(not missed)]


def udp(data: Data) -> Iterator[Line]:
    over, tcp = (statistics.median(r["ops_s"] for r in data["rows"][work]["ours"]) for work in ("getattr/udp", "getattr"))
    yield ["GETATTR over UDP by its rate over TCP", f"≥ {UDP}", f"{over / tcp:.2f}", mark(over / tcp >= UDP)]


PARTS = {"compare": udp, "client": client, "slowdisk": slowdisk, "footprint": footprint, "curves": growth, "files": growth, "fairness": fairness}
