"""`nfsd trace`: shows the calls of a running server as they are answered, a line each, as JSON, or into a pcap-ng file.

The workers write copies of calls and replies into one end of a socket pair (NFSSVC_TRACE); this process reads the other end.  It
delays nobody: what it does not read in time is lost, counted, and said.  The trace ends with this process, with the server, after
-c calls or after --seconds.  Root and the server's user only: file names and data pass here.
"""
from __future__ import annotations

import getopt
import ipaddress
import json
import os
import pwd
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, BinaryIO

from nfssvc_shim.channel import Channel
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import MAX_SNAP, Address, TraceArgs, pack_trace_args

from .options import Options, UsageError, number
from .paths import StartError, paths_of
from .pcapng import PcapNg
from .trace_record import TCP, UDP, Record, address_text, records_of
from .trace_words import Value, Values, Words, text, words_of

BUFFER = 4 << 20         # what the workers may be ahead of us: some thousand calls
PACKET = 256 << 10       # more than a worker sends at once
SO_SNDBUFFORCE = 32      # socket(7); Python has no name for it
ANSWER_S = 15.0          # until every worker copies
LONG = ["client=", "export=", "user=", "pcapng=", "json", "seconds=", "snap="]
_DIM, _RED, _BOLD, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


_EVERYTHING = TraceArgs()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The words of the command line.  pcapng "-": standard output; count, seconds 0: no limit."""

    filter: TraceArgs = _EVERYTHING
    count: int = 0
    seconds: float = 0.0
    json: bool = False
    pcapng: str = ""


def wanted_of(words: list[str]) -> Wanted:
    """Raises UsageError."""
    try:
        pairs, rest = getopt.gnu_getopt(words, "c:s:", LONG)
    except getopt.GetoptError as exc:
        raise UsageError(f"trace: {exc}") from exc
    if rest:
        raise UsageError(f"trace: unexpected {' '.join(rest)!r}")
    wanted = Wanted()
    for name, value in pairs:
        wanted = _OPTIONS[name](wanted, value)
    if wanted.json and wanted.pcapng:
        raise UsageError("trace: --json or --pcapng, not both")
    return wanted


def _client(wanted: Wanted, value: str) -> Wanted:
    try:
        net = ipaddress.ip_network(value, strict=False)
    except ValueError as exc:
        raise UsageError(f"trace: --client {value!r} is not an address or a network") from exc
    return replace(wanted, filter=replace(wanted.filter, client=Address.of(str(net.network_address)), prefix=net.prefixlen))


def _user(wanted: Wanted, value: str) -> Wanted:
    try:
        uid = int(value) if value.isdigit() else pwd.getpwnam(value).pw_uid
    except KeyError as exc:
        raise UsageError(f"trace: --user {value!r} is neither a number nor a user of this machine") from exc
    if uid > 0xFFFFFFFF:
        raise UsageError(f"trace: --user {value} is no uid")
    return replace(wanted, filter=replace(wanted.filter, uid=uid))


def _export(wanted: Wanted, value: str) -> Wanted:
    if not value.startswith("/"):
        raise UsageError(f"trace: --export {value!r} is not an absolute path")
    return replace(wanted, filter=replace(wanted.filter, export=os.fsencode(value)))


def _seconds(wanted: Wanted, value: str) -> Wanted:
    try:
        seconds = float(value)
    except ValueError as exc:
        raise UsageError(f"trace: --seconds {value!r} is not a number") from exc
    if not 0 < seconds < 1e9:
        raise UsageError(f"trace: --seconds {value!r}")
    return replace(wanted, seconds=seconds)


def _snap(wanted: Wanted, value: str) -> Wanted:
    return replace(wanted, filter=replace(wanted.filter, snap=number(value, "trace: snap", 1, MAX_SNAP)))


_OPTIONS: dict[str, Callable[[Wanted, str], Wanted]] = {
    "--client": _client, "--user": _user, "--export": _export, "--seconds": _seconds, "-s": _snap, "--snap": _snap,
    "-c": lambda w, v: replace(w, count=number(v, "trace: count", 1, 999_999_999)),
    "--json": lambda w, v: replace(w, json=True), "--pcapng": lambda w, v: replace(w, pcapng=v),
}


# ---- what is shown

def handle_text(words: Words, path: bytes) -> str:
    """What a call is about: the path of its object, and the name below it; of an unknown object the end of its handle."""
    handle, name = str(words.args.get("fh", "")), words.args.get("name")
    shown = text(path) if path else f"fh..{handle[-8:]}" if handle else str(words.args.get("dir", ""))
    return f"{shown.rstrip('/')}/{name}" if name is not None else shown


def line_of(record: Record, words: Words, t_s: float, *, colour: bool = False) -> str:
    """One call, one line."""
    moment = time.strftime("%H:%M:%S", time.localtime(t_s)) + f"{t_s % 1:.6f}"[1:]
    who = f"uid {words.uid}" if words.uid is not None else "no uid"
    program = "" if words.program == "nfs" else f"{words.program} "
    version = f"v{words.version} " if words.version != 3 and words.program == "nfs" else ""
    what = _join(words.args, ("fh", "to_fh", "name", "dir"))
    as_asked = tuple(key for key in ("count", "stable") if words.results.get(key) == words.args.get(key))
    results = _join(words.results, (*as_asked, "to") if words.procedure == "LOOKUP" else as_asked)
    took = (record.t_reply - record.t_call) / 1e6
    parts = [f"{moment} w{record.slot}", f"{address_text(record.client)}{'' if record.proto == TCP else ' udp'}", who]
    call = [f"{program}{version}{words.procedure}", handle_text(words, record.path), what]
    end = [f"= {words.status}", results, f"{took:.3f} ms", f"{record.call_len}>{record.reply_len}"]
    if colour:
        parts[0], call[0] = f"{_DIM}{parts[0]}{_PLAIN}", f"{_BOLD}{call[0]}{_PLAIN}"
        end[0] = end[0] if words.status == "OK" else f"{_RED}{end[0]}{_PLAIN}"
        end[2], end[3] = f"{_DIM}{end[2]}", f"{end[3]}{_PLAIN}"
    return " ".join(filter(None, [*parts, *call, *end]))


def _join(values: Values, without: tuple[str, ...]) -> str:
    """`key value ...`; a bool shows by its name, and what speaks for itself goes without one."""
    return " ".join(_word(key, value) for key, value in values.items() if key not in without and value is not False)


def _word(key: str, value: Value) -> str:
    if value is True:
        return key
    if key in ("want", "may"):  # read,execute: rx
        return f"{key} {''.join('x' if right == 'execute' else right[0] for right in str(value).split(','))}"
    return str(value) if key in ("attributes", "set", "how", "stable") else f"-> {value}" if key == "to" else f"{key} {value}"


def json_of(record: Record, words: Words, t_s: float) -> str:
    """docs/trace.md has the keys."""
    transport = {TCP: "tcp", UDP: "udp"}.get(record.proto, "local")
    address, _, port = address_text(record.client).rpartition(":")
    return json.dumps({
        "time": round(t_s, 6), "worker": record.slot, "client": address.strip("[]"), "port": int(port) if port.isdigit() else 0,
        "transport": transport, "uid": words.uid, "gid": words.gid, "xid": words.xid, "program": words.program,
        "version": words.version, "procedure": words.procedure, "path": text(record.path) or None,
        "export": record.expid or None, "args": words.args, "status": words.status if record.replied else None,
        "results": words.results, "latency_us": (record.t_reply - record.t_call) // 1000, "call_bytes": record.call_len,
        "reply_bytes": record.reply_len, "lost": record.lost})


# ---- sinks: where records go

class Lines:
    """Text or JSON on `out`."""

    def __init__(self, out: IO[str], offset_ns: int, *, as_json: bool) -> None:
        self._out, self._offset_ns, self._json = out, offset_ns, as_json
        self._colour = not as_json and out.isatty() and not os.environ.get("NO_COLOR")

    def add(self, record: Record) -> None:
        if not record.call_len:
            if self._json:
                self._out.write(json.dumps({"worker": record.slot, "lost": record.lost}) + "\n")
            return
        words = words_of(record.call, record.reply if record.replied else None)
        t_s = (record.t_call + self._offset_ns) / 1e9
        self._out.write((json_of(record, words, t_s) if self._json else line_of(record, words, t_s, colour=self._colour)) + "\n")

    def lost(self, record: Record) -> None:
        if not self._json:
            self._out.write(f"-- {record.lost} calls of worker {record.slot} not shown: they came faster than they were read\n")

    def flush(self) -> None:
        self._out.flush()

    def end(self) -> None:
        self.flush()


class Capture:
    """A pcap-ng file."""

    def __init__(self, file: BinaryIO, offset_ns: int) -> None:
        self._file, self._pcapng = file, PcapNg(file, offset_ns)

    def add(self, record: Record) -> None:
        self._pcapng.add(record)

    def lost(self, record: Record) -> None:
        """The writer counts them itself."""

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        self._pcapng.end()
        self._file.flush()


Sink = Lines | Capture


# ---- the trace

class Reader:
    """Asks for the trace, and reads until it ends."""

    def __init__(self, wanted: Wanted, sink: Sink) -> None:
        self._wanted, self._sink = wanted, sink
        self.shown = self.lost = 0
        self._ending = False

    def run(self, options: Options) -> None:
        """Raises StartError: no server, not permitted, no such export."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            with theirs:
                _enlarge(theirs)
                self._ask(sock, _socket_of(options), theirs.fileno())
            wake, woken = socket.socketpair()
            with wake, woken:
                woken.setblocking(False)
                signal.set_wakeup_fd(woken.fileno())
                for number_ in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number_, self._end)
                print("nfsd: tracing", file=sys.stderr, flush=True)
                self._read(ours, sock, wake)
                signal.set_wakeup_fd(-1)

    def _ask(self, sock: socket.socket, path: str, fd: int) -> None:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
        except OSError as exc:
            raise StartError(f"not running: nobody answers on {path}") from exc
        try:
            Channel(sock).call(Nfssvc.TRACE, pack_trace_args(self._wanted.filter), [fd])
        except FileNotFoundError as exc:
            raise StartError(f"trace: {os.fsdecode(self._wanted.filter.export)} is not exported") from exc
        except PermissionError as exc:
            raise StartError("trace: only for root and the server's user") from exc
        except (OSError, EOFError) as exc:
            raise StartError(f"trace: {getattr(exc, 'strerror', None) or exc}") from exc

    def _end(self, number_: int, frame: object) -> None:
        self._ending = True

    def _read(self, data: socket.socket, call: socket.socket, wake: socket.socket) -> None:
        end = time.monotonic() + self._wanted.seconds if self._wanted.seconds else None
        while not self._ending:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            ready = select.select([data, call, wake], [], [], left)[0]
            if data in ready:
                self._packets(data)
            elif call in ready:  # nothing is sent there: the server has gone, and all it wrote is read
                self._gone()

    def _gone(self) -> None:
        print("nfsd: the server has ended the trace", file=sys.stderr)
        self._ending = True

    def _packets(self, data: socket.socket) -> None:
        """What is there; then the output is brought up to date."""
        while not self._ending:
            try:
                packet = data.recv(PACKET, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not packet:  # nobody has the other end
                self._gone()
            for record in records_of(packet):
                self._record(record)
                if self._ending:
                    break
        self._sink.flush()

    def _record(self, record: Record) -> None:
        self.lost += record.lost
        if record.lost:
            self._sink.lost(record)
        self._sink.add(record)
        if record.call_len:
            self.shown += 1
            self._ending = self._ending or self.shown == self._wanted.count


def _socket_of(options: Options) -> str:
    """The call socket of the server that the options name; of none in particular: $NFSSVC_SOCKET, as nfsstat."""
    named = options.socket or options.statedir
    return os.environ.get("NFSSVC_SOCKET", "") if not named and "NFSSVC_SOCKET" in os.environ else str(paths_of(options).socket)


def _enlarge(sock: socket.socket) -> None:
    """The room for what we have not read yet; beyond the system's limit only root may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)


def run(options: Options, words: list[str]) -> int:
    """The verb.  Exit status 0; 1: no server, not permitted, the output cannot be written."""
    wanted = wanted_of(words)
    offset_ns = time.time_ns() - time.monotonic_ns()
    try:
        if not wanted.pcapng:
            return _run(options, wanted, Lines(sys.stdout, offset_ns, as_json=wanted.json))
        if wanted.pcapng == "-":
            return _run(options, wanted, Capture(sys.stdout.buffer, offset_ns))
        with open(os.open(wanted.pcapng, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            return _run(options, wanted, Capture(file, offset_ns))
    except BrokenPipeError:  # `| head`: who read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as exc:
        raise StartError(f"trace: {exc.filename or 'output'}: {exc.strerror}") from exc


def _run(options: Options, wanted: Wanted, sink: Sink) -> int:
    reader = Reader(wanted, sink)
    try:
        reader.run(options)
    finally:
        sink.end()
    lost = f", {reader.lost} not: they came faster than they were read" if reader.lost else ""
    print(f"nfsd: {reader.shown} calls shown{lost}", file=sys.stderr)
    return 0
