"""The privileged half of mountd, and the start and the end of the others.

Theory of operation.  One loop.  Children: the network half (answers the net, holds nothing), the resolver (asks DNS, holds
nothing), the registrar (talks to the port mapper), and where the files have names or interfaces the watcher of the machine's
addresses: when one comes or goes, names are asked again and the table is made again.  Each has one socket pair to here and ends
when that closes; one that dies is started again after a second.

The table: `entries` (from the files) and `names` (answers so far) make a Table.  push() sends it to the server by NFSSVC_EXPORT;
once the server says that all its workers enforce it, it is `broker.table`, and MNT is answered by it.  One push at a time; what
changes in the meantime is in the next.  A load that has an error changes nothing.  After each connect to the call
socket the table is sent again, for the server may be a new one.

Signals: HUP loads the files again, TERM and INT end with status 0.
"""
from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc, Nxa
from nfssvc_shim.records import MAX_FH, ExportArgs, GetfhArgs, pack_export_args, pack_getfh_args, without_gc
from oncrpc.hosts_access import HostsAccess
from oncrpc.message import AcceptStat
from oncrpc.server import Server
from oncrpc.xdr import Unpacker, XdrError

from . import exports, network, registrar, watch
from .atomic import read_file, write_file
from .broker import Answer, Broker
from .callsock import CallSocket
from .child import Child, Children
from .exports_model import Diagnostic, Entry, printable
from .exptab import ExportIds
from .filesystems import FileSystems
from .halves import ATTACH, CALL, SERVING, MountCall, unpack_mount_call
from .helper import Helper
from .names import Ask, NameCache, Question, questions
from .options import Options
from .privsep import drop_rights
from .registrar import Registration
from .rmtab import MountTab
from .sockets import Sockets
from .table import Builder, Table, build, is_below, wildcard_clients

log = logging.getLogger(__name__)

TICK_S = 1.0              # mountdtab is written, names that are due are asked
LOAD_WAIT_S = 2.0         # a load waits so long for names; later ones come with a push of their own
LEARN_S = 5.0             # a MNT waits so long for the name of its client's address
GETFH_WAIT_S = 10.0       # a MNT waits so long for a server that is away
PUSH_RETRY_S = 0.5        # doubled before it is waited
PUSH_RETRY_MOST_S = 60.0  # a table that the server does not take is sent again after 1, 2, 4 ... 60 s
MAX_HELD = 256            # calls that wait for the first table; the oldest are dropped, their clients ask again
MAX_LEARNING = 256        # MNTs that wait for names
MAX_LOGGED = 100          # warnings of one load in the log


class Service:
    """start(), then loop.run()."""

    def __init__(self, options: Options, sockets: Sockets, entries: list[Entry]) -> None:
        self.o = options
        self.sockets = sockets
        self.entries = entries
        self.loop = Server()
        self.names = NameCache()
        self.tab_path, self.ids_path = options.statedir / "mountdtab", options.statedir / "mountdexptab"
        self.ids = ExportIds(read_file(self.ids_path))
        self.broker = Broker(self, MountTab(read_file(self.tab_path)), reserved=options.reserved, hide=options.hide,
                             log_mounts=options.log_mounts, hosts=HostsAccess(options.hosts_access))
        self.helper = Helper(self.loop, self._answered)
        self.calls = CallSocket(self.loop, options.socket, on_up=self._up, on_relay=self._relay)
        self.children = Children(self.loop)
        self.network = Child(self.loop, "mountd: network", self._from_network)
        self.registrar = Child(self.loop, "mountd: registrar", self._registrar_says)
        self.watcher = Child(self.loop, "mountd: addresses", self._addresses_changed)
        self.channel: Channel | None = None
        self.relays: dict[int, int] = {}
        self.stopping = False
        self._registered = not options.register
        self._in_force = self._ready = False
        self._server_has_table = self._network_serves = False
        self._pushing = self._again = False
        self._push_retry_s = PUSH_RETRY_S
        self._loaded_s = 0.0
        self._first_mistake = True
        self._learning: dict[Question, list[Callable[[], None]]] = {}
        self._held: list[tuple[MountCall, Answer]] = []
        self._after_push: list[Callable[[], None]] = []

    # ---- start and end

    def start(self) -> None:
        self.loop.catch({signal.SIGHUP: self.reload, signal.SIGTERM: self.stop, signal.SIGINT: self.stop,
                         signal.SIGCHLD: self.children.reap})
        self._start_helper()
        self._start_network()
        if self.o.register:
            self._start_registrar()
        self._loaded()
        self.calls.connect()
        self.loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self.stopping:
            return
        self.stopping = self.children.ending = True
        self._save()
        self.loop.stop()

    def end(self) -> None:
        """Ends the children and waits for them; the registrar unregisters first."""
        self.registrar.close()
        self.watcher.close()
        self.helper.stop()
        self._close_network()
        self.children.end()
        self.sockets.close()

    def _start_helper(self) -> None:
        if not self.stopping:
            self.helper.stop()
            self.helper.start()
            self.children.add(self.helper.child, self._start_helper)
            self.helper.flush()

    def _start_network(self) -> None:
        if self.stopping:
            return
        streams, datagrams = self.sockets.streams, self.sockets.datagrams
        empty = self._empty_root()
        self.network.start(lambda sock: network.run(Channel(sock), streams, datagrams, lambda: drop_rights(empty)),
                           keep=[s.fileno() for s in (*streams, *datagrams)])
        self.children.add(self.network, self._start_network)
        assert self.network.sock is not None
        self.channel = Channel(self.network.sock)
        for fd in self.relays.values():
            self._attach(fd)

    def _close_network(self) -> None:
        self.network.close()
        self.channel = None

    def _start_registrar(self) -> None:
        if self.stopping:
            return
        netids = self.sockets.netids or [t for t in ("udp", "tcp", "udp6", "tcp6") if t.rstrip("6") in self.o.transports]
        wanted = Registration({netid: self.sockets.port or self.o.port for netid in netids}, self.o.portmap_port)
        self.registrar.start(lambda sock: registrar.serve(sock, wanted), kind=socket.SOCK_STREAM)
        self.children.add(self.registrar, self._start_registrar)

    def _registrar_says(self) -> None:
        self.registrar.recv(64)
        self._registered = True  # or tried: mountd serves without a port mapper
        self._maybe_ready()

    def _start_watcher(self) -> None:
        """Where addresses matter, and once: 25 MB that a file of networks does not need."""
        if self.stopping or self.watcher.sock is not None or not watched(self.entries):
            return
        empty = self._empty_root()
        with watch.listen() as events:
            self.watcher.start(lambda sock: watch.serve(sock, events, empty), keep=[events.fileno()])
        self.children.add(self.watcher, self._start_watcher)

    def _empty_root(self) -> Path | None:
        return empty_directory(self.o.statedir) if os.geteuid() == 0 else None

    def _addresses_changed(self) -> None:
        what = self.watcher.recv(watch.MAX_PACKET)
        if not what:
            return
        log.info("the machine's addresses changed: %s", printable(what))
        self.names.ask_again()
        self._ask(questions(self.entries))
        self.push()

    def _maybe_ready(self) -> None:
        if self._ready or not (self._registered and self._in_force and self._network_serves):
            return
        self._ready = True
        log.info("serving %s port %d", "on" if self.sockets.port else "what nfsd relays from", self.sockets.port or self.o.port)
        if self.o.ready_fd >= 0:
            try:
                os.write(self.o.ready_fd, b"READY %d\n" % (self.sockets.port or self.o.port))
            except BrokenPipeError:
                log.info("nobody waits for READY any more")  # whoever started us is stopping
            os.close(self.o.ready_fd)

    # ---- loading

    def reload(self) -> None:
        """HUP.  With an error in any file the old table stays, whole."""
        with without_gc():
            parsed = exports.load(self.o.exports(), self.o.dialect)
        log_all(parsed.diagnostics)
        if parsed.errors:
            log.error("%d errors: the exports stay as they were", len(parsed.errors))
            return
        log.info("exports loaded: %d lines", len(parsed.entries))
        self.entries = parsed.entries
        self.names.ask_again()
        self._loaded()

    def _loaded(self) -> None:
        """New entries: asks for their names, and pushes when all are known or the wait is over."""
        self._start_watcher()
        for top in self.o.cluster:
            if not any(is_below(entry.path, top) for entry in self.entries):
                log.warning("no export is at or below %s: no tags there", printable(top))
        wanted = questions(self.entries)
        self.names.forget(wanted)
        if any(client.kind.name == "WILDCARD" for entry in self.entries for client in entry.clients):
            wanted |= {Question(Ask.REVERSE, host.decode("ascii", "replace")) for host in self.broker.mounts.hosts()}
        self._ask(wanted)
        waiting = self.names.unanswered(wanted)
        self._loaded_s = time.monotonic()
        if waiting:
            self.loop.call_later(LOAD_WAIT_S, self._load_over)
        else:
            self._load_over()

    def _load_over(self) -> None:
        if self._loaded_s:
            self._loaded_s = 0.0
            self.push()

    def _ask(self, wanted: Iterable[Question]) -> None:
        for question in self.names.due(wanted, time.monotonic()):
            self.helper.ask(question)

    def _answered(self, question: Question, answer: tuple[str, ...], definite: bool) -> None:
        """From the helper; () is a failure."""
        was = self.names.answers().get(question, ()) if question.ask is Ask.REVERSE else ()
        changed = self.names.answered(question, answer, time.monotonic(), definite=definite)
        if self._loaded_s:
            if not self.names.unanswered(questions(self.entries)):
                self._load_over()
        elif changed and (question.ask is not Ask.REVERSE or self._matches_wildcard(answer + was)):
            self._after_push += self._learning.pop(question, [])
            self.push()
        for then in self._learning.pop(question, []):
            then()

    def _matches_wildcard(self, names: tuple[str, ...]) -> bool:
        return any(wildcard_clients(mountable, names) for mountable in self.broker.table.mountables.values())

    # ---- the table

    def push(self) -> None:
        """Builds the table and sends it; again at the end of a push that runs."""
        if not self.calls.is_up or self._pushing:
            self._again = True
            return
        try:
            with without_gc():
                table = build(self.entries, self.names.answers(),
                              Builder(FileSystems.now(), self.ids, self.o.reserved, self.o.always, self.o.cluster))
        except OSError as exc:
            log.error("the table cannot be made: %s", exc)
            return
        log_all([*table.errors, *table.warnings])
        if table.errors:
            return
        self._save()
        body = pack_export_args(ExportArgs(Nxa.REPLACE, True, table.exports))
        self._pushing, self._again = True, False
        if not self.calls.request(Nfssvc.EXPORT, body, lambda error, failed: self._pushed(table, error, failed)):
            self._pushed(table, errno.EAGAIN, b"")

    def _pushed(self, table: Table, error: int, failed: bytes) -> None:
        """failed: which exports the workers could not open, and why."""
        self._pushing = False
        if error:
            log.error("the server does not take the exports: %s", os.strerror(error))
            if error != errno.ENOTCONN:
                self._push_retry_s = min(self._push_retry_s * 2, PUSH_RETRY_MOST_S)
                self.loop.call_later(self._push_retry_s, self.push)
            return
        self._push_retry_s = PUSH_RETRY_S
        log_all(failed_exports(table, failed))
        self.broker.table = table
        self._in_force = self._server_has_table = True
        log.info("exports in force: %d directories", len(table.mountables))
        held, self._held = self._held, []
        for call, answer in held:
            self.broker.handle(call, answer)
        after, self._after_push = self._after_push, []
        for then in after:
            then()
        if self._again:
            self.push()
        self._maybe_ready()

    # ---- the call socket

    def _up(self) -> None:
        """Connected: to a new server perhaps, which has no table and knows no mountd."""
        self._pushing = self._server_has_table = False
        self.calls.request(Nfssvc.MOUNTD, b"", _log_failure)
        if not self._loaded_s:
            self.push()

    def _relay(self, slot: int, fd: int) -> None:
        """A worker's end for MOUNT calls that arrive at the NFS port; kept, for a network half that starts again."""
        old = self.relays.pop(slot, -1)
        if old >= 0:
            os.close(old)
        self.relays[slot] = fd
        self._attach(fd)

    def _attach(self, fd: int) -> None:
        if self.channel is None:
            return
        try:
            self.channel.send(Message(ATTACH), [fd])
        except OSError as exc:
            log.error("the network half takes no relay: %s", exc.strerror)

    def getfh(self, args: GetfhArgs, done: Callable[[int, bytes], None], *, deadline: float = 0.0) -> None:
        """GETFH; while the server is away or has no table yet it is asked again, for GETFH_WAIT_S at the most."""
        until = deadline or time.monotonic() + GETFH_WAIT_S

        def answered(error: int, body: bytes) -> None:
            if error == errno.ENOTCONN and time.monotonic() < until and not self.stopping:
                self.loop.call_later(0.2, lambda: self.getfh(args, done, deadline=until))
            else:
                done(*_handle(error, body))

        if not self._server_has_table or not self.calls.request(Nfssvc.GETFH, pack_getfh_args(args), answered):
            answered(errno.ENOTCONN, b"")

    def learn(self, address: str, then: Callable[[], None]) -> None:
        """See broker.Server."""
        question = Question(Ask.REVERSE, address)
        self.names.trim()
        asked = self.names.due([question], time.monotonic())
        if (not asked and question not in self._learning) or sum(map(len, self._learning.values())) >= MAX_LEARNING:
            then()
            return
        self._learning.setdefault(question, []).append(then)
        if asked:
            self.helper.ask(question)
            self.loop.call_later(LEARN_S, lambda: self._answered_late(question))

    def _answered_late(self, question: Question) -> None:
        for then in self._learning.pop(question, []):
            then()

    # ---- the network half

    def _from_network(self) -> None:
        while self.channel is not None:
            try:
                message, fds = self.channel.recv()
            except BlockingIOError:
                return
            except (EOFError, OSError, ProtocolError) as exc:
                if not self.stopping:
                    log.error("the network half: %s", exc)
                self._close_network()
                return
            for fd in fds:
                os.close(fd)
            self._call(message)

    def _call(self, message: Message) -> None:
        channel = self.channel
        if message.flag == SERVING:
            self._network_serves = True
            self._maybe_ready()
        if message.flag != CALL or channel is None:
            return

        def answer(accept_stat: int, results: bytes) -> None:
            try:
                channel.reply(message, results, errno=accept_stat)
            except OSError as exc:  # it died, or reads too slowly: the client asks again
                log.debug("an answer was lost: %s", exc)

        try:
            call = unpack_mount_call(message.body)
        except XdrError as exc:
            log.error("the network half asks nonsense: %s", exc)
            answer(AcceptStat.SYSTEM_ERR, b"")
            return
        if self._in_force:
            self.broker.handle(call, answer)
        else:  # after a start: nobody is refused by a table that is not there yet
            del self._held[:max(0, len(self._held) - MAX_HELD + 1)]
            self._held.append((call, answer))

    # ---- now and then

    def _tick(self) -> None:
        self._save()
        self.helper.replace_if_hanging()
        self._ask({*questions(self.entries), *self.names.addresses()})
        if not self.stopping:
            self.loop.call_later(TICK_S, self._tick)

    def _save(self) -> None:
        """Writes the two files where they changed; a full disk is told once, and changes nothing else."""
        try:
            if self.broker.mounts.changed:
                self.broker.mounts.changed = False
                write_file(self.tab_path, self.broker.mounts.text(), 0o644)
            if self.ids.changed:
                self.ids.changed = False
                write_file(self.ids_path, self.ids.text())
        except OSError as exc:
            if self._first_mistake:
                log.error("%s: %s", exc.filename, exc.strerror)
            self._first_mistake = False


def watched(entries: Iterable[Entry]) -> bool:
    """Whether a table of `entries` depends on the machine's network: by a name, or by an interface."""
    return any(client.name or client.scope for entry in entries for client in entry.clients)


def _handle(error: int, body: bytes) -> tuple[int, bytes]:
    """errno and handle of a GETFH reply: opaque fh<64>."""
    if error:
        return error, b""
    try:
        return 0, Unpacker(body).unpack_opaque(MAX_FH)
    except XdrError as exc:
        log.error("the server's handle is none: %s", exc)
        return errno.EIO, b""


def failed_exports(table: Table, body: bytes) -> list[Diagnostic]:
    """Errors of a reply to EXPORT, whose body is pairs of export id and errno."""
    u = Unpacker(body[:len(body) // 8 * 8])
    errors = {u.unpack_uint(): u.unpack_uint() for _ in range(len(body) // 8)}
    return [Diagnostic(m.where, f"{printable(m.export.path)} is not served: {os.strerror(errors[m.export.expid] & 0xFFF)}")
            for m in table.mountables.values() if m.export.expid in errors]


def _log_failure(error: int, _body: bytes) -> None:
    if error:
        log.error("the server does not take us as its mountd: %s", os.strerror(error))


def log_all(diagnostics: list[Diagnostic]) -> None:
    for diagnostic in diagnostics[:MAX_LOGGED]:
        log.log(logging.ERROR if diagnostic.error else logging.WARNING, "%s", diagnostic)
    if len(diagnostics) > MAX_LOGGED:
        log.warning("%d more lines like these", len(diagnostics) - MAX_LOGGED)


def empty_directory(statedir: Path) -> Path:
    """An empty directory of root's, the root directory of the network half."""
    path = statedir / "empty"
    path.mkdir(mode=0o555, exist_ok=True)
    return path


__all__ = ["Service", "log_all"]
