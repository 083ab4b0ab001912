"""nfsstat top: what the server does now.

Theory of operation: a sample every few seconds; rates are the difference of two samples by the time between them; a
restart or ZEROSTATS gives a gap, never a negative number.  While no server answers the screen says so and asks on.  The screen is
drawn by rich (extra `screen`); where standard output is no terminal, plain lines come instead, one block an interval.  Keys as in
top(1): q ends, o r w sort exports and clients by calls, bytes read and bytes written, + and - change the interval, any other key
asks now.  Exports and clients are shown to those who may see them.
"""
from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nfssvc_shim import state

from .macos import Naming
from .names import PROCEDURES
from .stats import ExportStat, Server, UserStat, allowed, fetch_exports, fetch_server, fetch_status, fetch_users, quantile_ns

HISTORY = 60           # samples in a sparkline
ROWS = 8               # of exports and of clients
MIN_S, MAX_S = 1, 60
BARS = "▁▂▃▄▅▆▇█"
SORTS = {"o": "requests", "r": "read_bytes", "w": "write_bytes"}


@dataclass
class Sample:
    at: float
    server: Server
    exports: dict[str, ExportStat]
    users: dict[tuple[str, int, str], UserStat]
    version: str
    all_seen: bool   # False: exports and users are not for this user

    @classmethod
    def take(cls) -> Sample:
        """Raises OSError when no server answers."""
        server, exports, users = fetch_server(), allowed(fetch_exports), allowed(fetch_users)
        return cls(time.monotonic(), server, {e.path: e for e in exports or ()},
                   {(u.path, u.uid, u.address): u for u in users or ()}, str(fetch_status().get("version", "")),
                   exports is not None and users is not None)


@dataclass(frozen=True, slots=True)
class Rate:
    """One line of a table: a name and numbers a second."""

    name: str
    requests: float
    read_bytes: float
    write_bytes: float


@dataclass
class View:
    """Two samples and what was seen before."""

    interval_s: int
    sort: str = "requests"
    before: Sample | None = None
    now: Sample | None = None
    history: dict[str, deque[float]] = field(default_factory=dict)
    trouble: str = ""

    def try_step(self) -> None:
        """As step(); a server that does not answer is shown, and asked again."""
        try:
            self.step()
            self.trouble = ""
        except OSError as exc:
            self.before = self.now = None
            self.trouble = str(exc.strerror)

    def step(self) -> None:
        self.before, self.now = self.now, Sample.take()
        for name, rate, _, _ in procedure_rates(self):
            self.history.setdefault(name, deque(maxlen=HISTORY)).append(rate)

    @property
    def seconds(self) -> float:
        return self.now.at - self.before.at if self.now and self.before else 0.0


def _rate(view: View, now: int, before: int) -> float:
    return max(0, now - before) / view.seconds if view.seconds else 0.0


def procedure_rates(view: View) -> list[tuple[str, float, float, float]]:
    """(name, calls/s, p50 us, p99 us) of this interval."""
    if not view.now or not view.before:
        return []
    found = []
    for number, name in enumerate(PROCEDURES):
        calls = _rate(view, view.now.server.calls(number), view.before.server.calls(number))
        pairs = zip(view.now.server.histogram(number), view.before.server.histogram(number), strict=True)
        histogram = [max(0, a - b) for a, b in pairs]
        found.append((name, calls, quantile_ns(histogram, 0.5) / 1000, quantile_ns(histogram, 0.99) / 1000))
    return found


def export_rates(view: View) -> list[Rate]:
    if not view.now or not view.before:
        return []
    none = ExportStat("", 0, 0, 0)
    rates = [_record_rate(view, path, e, view.before.exports.get(path, none)) for path, e in view.now.exports.items()]
    return _sorted(view, rates)


def client_rates(view: View, naming: Naming) -> list[Rate]:
    """One line an address, all its users and exports together."""
    if not view.now or not view.before:
        return []
    none, found = UserStat("", 0, "", 0, 0, 0, 0, 0), dict[str, Rate]()
    for key, user in view.now.users.items():
        name = f"{naming.user(user.uid)}@{user.address or '*'}"
        rate, known = _record_rate(view, name, user, view.before.users.get(key, none)), found.get(name)
        found[name] = rate if known is None else Rate(name, rate.requests + known.requests, rate.read_bytes + known.read_bytes,
                                                      rate.write_bytes + known.write_bytes)
    return _sorted(view, list(found.values()))


def _record_rate(view: View, name: str, now: ExportStat | UserStat, before: ExportStat | UserStat) -> Rate:
    return Rate(name, _rate(view, now.requests, before.requests), _rate(view, now.read_bytes, before.read_bytes),
                _rate(view, now.write_bytes, before.write_bytes))


def _sorted(view: View, rates: list[Rate]) -> list[Rate]:
    return sorted(rates, key=lambda rate: (-float(getattr(rate, view.sort)), rate.name))[:ROWS]


def spark(values: Sequence[float]) -> str:
    high = max(values, default=0.0)
    return "".join(BARS[min(7, int(value / high * 7.999))] if high else BARS[0] for value in values)


def headline(view: View) -> str:
    """One line of at most 100 columns."""
    if not view.now:
        return f"no server answers ({view.trouble}); asking every {view.interval_s} s" if view.trouble else "nfsstat"
    server, before = view.now.server, view.before.server if view.before else view.now.server
    ops = _rate(view, server.total, before.total)
    read, write = (_rate(view, server.words[i], before.words[i]) / 1e6 for i in (state.S_READ_BYTES, state.S_WRITE_BYTES))
    connections = sum(slot.connections for slot in server.slots)
    return (f"nfsd {view.now.version}  {time.strftime('%H:%M:%S')}  {len(server.slots)} workers  {connections} conns  "
            f"{ops:,.0f} calls/s  r {read:,.1f}  w {write:,.1f} MB/s  /{view.interval_s} s")


# ---- the screen

def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, expand=True, pad_edge=False, title_style="bold green",
                  header_style="dim")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True, overflow="ellipsis")
    return table


def procedures_table(view: View) -> Table:
    table = _table("Procedures", "name", "calls/s", "p50 us", "p99 us", "last minute")
    for name, rate, p50, p99 in sorted(procedure_rates(view), key=lambda row: -row[1]):
        if any(view.history.get(name, ())):
            table.add_row(name, f"{rate:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}", Text(spark(list(view.history[name])), style="cyan"))
    return table


def rates_table(title: str, rates: Sequence[Rate]) -> Table:
    table = _table(title, "name", "calls/s", "read MB/s", "write MB/s")
    for rate in rates:
        table.add_row(Text(rate.name), f"{rate.requests:,.0f}", f"{rate.read_bytes / 1e6:,.1f}", f"{rate.write_bytes / 1e6:,.1f}")
    return table


def workers_table(view: View) -> Table:
    table = _table("Workers", "slot", "pid", "restarts", "connections", "calls/s")
    before = {slot.slot: slot for slot in view.before.server.slots} if view.before else {}
    for slot in view.now.server.slots if view.now else ():
        earlier = before.get(slot.slot, slot)
        calls = _rate(view, _calls(slot.words), _calls(earlier.words))
        table.add_row(str(slot.slot), str(slot.pid), str(max(0, slot.incarnation - 1)), str(slot.connections), f"{calls:,.0f}")
    return table


def _calls(words: Sequence[int]) -> int:
    return sum(words[state.S_COUNTERS:state.S_COUNTERS + state.N_PROCS3])


def tables(view: View, naming: Naming) -> list[Table | str]:
    seen = not view.now or view.now.all_seen
    lists: list[Table | str] = [rates_table(f"Exports{_by(view)}", export_rates(view)),
                                rates_table(f"Clients{_by(view)}", client_rates(view, naming))]
    return [procedures_table(view), *(lists if seen else ["Exports and clients: shown to root and the user the server runs as"]),
            workers_table(view)]


def _by(view: View) -> str:
    return f", by {view.sort.replace('_bytes', '').replace('requests', 'calls')}"


def screen(view: View, naming: Naming) -> Group:
    keys = "q quit  o r w sort by calls, reads, writes  + - interval"
    parts = tables(view, naming) if view.now else []
    return Group(Panel(headline(view), title="nfsstat top", subtitle=keys), *(part for table in parts for part in (table, "")))


# ---- the loops

@contextmanager
def _keys() -> Iterator[None]:
    """The terminal gives single keys, and gets its settings back."""
    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def press(view: View, key: str) -> bool:
    """False: the user has seen enough."""
    if key in SORTS:
        view.sort = SORTS[key]
    elif key in ("+", "-"):
        view.interval_s = min(MAX_S, max(MIN_S, view.interval_s + (1 if key == "+" else -1)))
    return key not in ("q", "Q", "\x03", "")


def _wait(view: View) -> str | None:
    """A key, or None when the interval is over."""
    ready, _, _ = select.select([sys.stdin], [], [], view.interval_s)
    return os.read(sys.stdin.fileno(), 1).decode("latin-1") if ready else None  # unbuffered: select() must see the next one


def run_screen(view: View, naming: Naming) -> None:
    console, view_on = Console(), True
    view.step()  # who starts it without a server is told at once
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while view_on:
            view.try_step()
            live.update(screen(view, naming), refresh=True)
            key = _wait(view)
            view_on = key is None or press(view, key)


def run_plain(view: View, naming: Naming, rounds: int) -> None:
    """`rounds` blocks (0: for ever) of plain text."""
    console = Console(width=100, force_terminal=False, color_system=None)
    done = 0
    view.step()
    while not rounds or done < rounds:
        time.sleep(view.interval_s)
        view.step()
        with console.capture() as captured:
            for table in tables(view, naming):
                console.print("", table, sep="\n")
        print(headline(view), *(line.rstrip() for line in captured.get().splitlines()), "", sep="\n", flush=True)
        done += 1


def run(interval_s: int, naming: Naming, rounds: int = 0) -> None:
    """Raises OSError when the server is gone."""
    view = View(min(MAX_S, max(MIN_S, interval_s)))
    if sys.stdout.isatty() and sys.stdin.isatty() and not rounds:
        run_screen(view, naming)
    else:
        run_plain(view, naming, rounds)
