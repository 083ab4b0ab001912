"""A worker: the NFS server's loop, and what the control half tells it over the channel.

Theory of operation.  A worker starts with no socket and no exports.  It says READY; then ADDSOCK brings sockets and EXPORT the
table.  Calls are not read before the first table is there, nor answered under one that is older than the generation in the
shared state.  Messages run between two batches of calls, in the same thread.  STOP, or the end of the channel (the master and
the control half are gone), lets what runs finish and ends the process.
"""
from __future__ import annotations

import errno
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from oncrpc._rpc import ffi as rpc_ffi
from oncrpc._rpc import lib as rpc

from nfssvc_shim import state
from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import (
    AF_INET4,
    AF_INET6,
    AF_LOCAL,
    Address,
    Cred,
    Export,
    unpack_export_args,
    unpack_fhopen_args,
    unpack_getfh_args,
    unpack_nfsd_args,
    unpack_trace_args,
)
from oncrpc.server import Limits, Program, Raw, Server
from oncrpc.xdr import Packer, Unpacker, XdrError

from ._vnode import ffi, lib
from .acl import nfs_acl
from .exports import DENIED, READONLY, Table
from .groups import Groups
from .hosts import Host, Hosts
from .kerb4 import Kerb4
from .outbox import Outbox
from .procs import NFS_PROGRAM, Call, nfs3
from .procs2 import nfs2
from .relay import MountRelay
from .status import Nfsstat3, errno_table

log = logging.getLogger("nfsd")

TICK_S = 1.0            # statistics, heartbeat, sweep of idle objects
IDLE_S = 30             # an object nobody used for so long is let go: a file system can then be unmounted
SWEEP = 4096            # objects looked at a tick: 0.2 us each
DRAIN_S = 2.0           # calls in the hands of the pool get so long when we stop
MAX_OBJECTS = 16384     # 3 MB of table when all are used, and up to three descriptors each
STALL_S = 2.0           # a call waits so long for the export table of its generation, then it is JUKEBOX
PARKED_ROOM = 1024      # of the reply of a call that waits for its caller's groups; it grows if need be
THREADS = 8             # for what may wait for a disk: six for one file system; three write, two sync one and four any (pool.c)
OWN_FILES = 64          # descriptors that no connection gets: the worker's own, some 20, and room to take one more
GARBAGE_ARGS = 4
FHOPEN_WRITE = 2        # a bit of FhopenArgs.mode

_ENGINE_WORDS = (state.S_TCPCONN, state.S_PACKETS_UDP, state.S_PACKETS_TCP, state.S_BADAUTH, state.S_BADFMT, state.S_BADCALLS,
                 state.S_EXCEPTIONS)
_JUKEBOX, _STALE = int(Nfsstat3.JUKEBOX), int(Nfsstat3.STALE)


class Worker:
    """One slot's server.  run() returns when it was told to stop."""

    def __init__(self, slot: int, channel: Channel, *, root: bool, v2: bool = False, acl: bool = True) -> None:
        self.slot, self.root = slot, root
        self.table = Table()
        self._state = lib.vn_state()
        self._row = lib.vn_row()
        self._left = {word: int(self._row[word]) for word in _ENGINE_WORDS}
        self._tcp_connections = 0
        self._datagrams: set[int] = set()        # inodes of the UDP sockets
        self._stopping = False
        self._waiting: dict[int, Raw] = {}   # the rows of calls that wait, by number
        versions = {2: nfs2(self._answer)} if v2 else {}
        programs = [Program(NFS_PROGRAM, {**versions, 3: nfs3(self._answer)})]
        self._server = Server(programs, limits=Limits(max_conns=_max_connections()))
        self._channel = Outbox(channel.sock, self._server.call_later)
        if acl:
            self._server.add(nfs_acl(self._answer, v2=v2))
        self._relay = MountRelay(self._server)
        self._groups = Groups(self._server, become_root=lib.ident_root, on_old=lib.vn_forget_grants)
        self._hosts = Hosts(self._server, become_root=lib.ident_root)
        self._server.on_finished = self._finished
        rpc.rpc_on_finished(self._server.engine, ffi.addressof(lib, "row_finished"))
        self._server.on_mistake = lib.drc_forget   # else the client's next try would be taken for one that still runs
        rpc.rpc_before_wait(self._server.engine, ffi.addressof(lib, "vn_before_wait"))
        self._special: dict[int, Callable[[Call, Raw], None]] = {
            lib.V_GRANT: self._ask_grant, lib.V_GARBAGE: self._garbage, lib.V_DROP: self._drop, lib.V_STALLED: self._stalled,
            lib.V_FS: self._unknown_fs, lib.V_PENDING: _nothing, lib.V_REPLAYED: _nothing, lib.V_WAITS: self._waits,
            lib.V_HOST: self._ask_host,
        }
        self._messages: dict[int, Callable[[Message, list[int]], None]] = {
            Nfssvc.ADDSOCK: self._addsock, Nfssvc.EXPORT: self._export, Nfssvc.GETFH: self._getfh, Nfssvc.FHOPEN: self._fhopen,
            Nfssvc.RELAY: self._add_relay, Nfssvc.STOP: self._stop, Nfssvc.SUSPEND: self._suspend, Nfssvc.VERBOSE: self._verbose,
            Nfssvc.TRACE: self._trace, Nfssvc.AUTHIN: self._authin, Nfssvc.NEEDAUTH: lambda msg, fds: self._kerb4.answered(msg),
        }
        self._kerb4 = Kerb4(self._server, self._channel, _peer_of)
        rpc.rpc_before_sending(self._server.engine, ffi.addressof(lib, "vn_tell"))
        rpc.rpc_trace_names(self._server.engine, ffi.addressof(lib, "vn_trace_export"), ffi.addressof(lib, "vn_trace_path"))

    # ---- running

    def run(self) -> None:
        lib.vn_errno_table(errno_table())
        error = lib.pool_start(THREADS)
        if error:
            log.warning("no threads for disk waits: %s; such calls are served in the loop", os.strerror(error))
        self._channel.sock.setblocking(False)
        self._server.stop_reading(True)
        self._server.on_readable(self._channel.fileno(), self._readable)
        self._server.catch({signal.SIGTERM: self._end, signal.SIGINT: _ignore, signal.SIGHUP: _ignore})
        self._tick()
        self._channel.send(Message(Nfssvc.READY))
        self._server.run()
        self._groups.stop()
        self._hosts.stop()
        self._drain()
        self._count()

    def _drain(self) -> None:
        """Lets the pool's calls finish; nothing new is read."""
        self._server.stop_reading(True)
        end = time.monotonic() + DRAIN_S
        while lib.vn_pending() and time.monotonic() < end:
            self._server.turn(50)

    def _end(self) -> None:
        self._stopping = True
        self._server.stop()

    def _tick(self) -> None:
        now = time.monotonic_ns()
        lib.vn_tick(now // 1_000_000_000, now)
        lib.vn_sweep(now // 1_000_000_000, IDLE_S, SWEEP)
        if lib.vn_release_fs():
            self._mounts.clear()
        rpc.rpc_trace_sweep(self._server.engine)
        self._count()
        self._server.call_later(TICK_S, self._tick)

    def _count(self) -> None:
        """The RPC engine's counters into the slot's row, on top of what the slot's earlier workers left there."""
        count, row = self._server.counters(), self._row
        row[state.S_CONNECTIONS] = count["conns"]
        for word, number in ((state.S_TCPCONN, self._tcp_connections), (state.S_PACKETS_UDP, count["udp_in"]),
                             (state.S_PACKETS_TCP, max(0, count["calls"] - count["udp_in"])), (state.S_BADAUTH, count["badauth"]),
                             (state.S_BADFMT, count["garbage"] + count["badrecord"]),
                             (state.S_BADCALLS, count["badauth"] + count["garbage"] + count["badrecord"] + count["denied"]),
                             (state.S_EXCEPTIONS, count["mistakes"])):
            row[word] = self._left[word] + number

    # ---- calls

    def _answer(self, call: Call, status: int, row: Raw) -> None:
        """Ends a call whose row returned `status`: nfsstat3, or one of V_*."""
        if status > 0:
            lib.vn_fail(call, status)
        else:
            self._special[status](call, row)

    def _finished(self, call: Call) -> None:
        """A detached call for which a pool thread has opened something (V_AGAIN); all others were ended by row_finished()."""
        try:
            self._waiting[call.row](call)
        finally:
            lib.vn_opened_drop()

    def _waits(self, call: Call, row: Raw) -> None:
        """A copy of the call waits until a thread has opened what it needs."""
        self._waiting[call.row] = row

    def _ask_grant(self, call: Call, row: Raw) -> None:
        expid = lib.vn_expid(call)
        peer, cred = _peer_of(call), call.eng.creds[call.cred]
        sent = Cred(cred.uid, cred.gid, tuple(cred.gids[0:cred.ngids]))
        grant = self.table.grant(expid, peer, cred.flavor, sent)
        if self.root and grant.uses_groups and self.table.manages_gids(expid):
            known, gids = self._groups.known(cred.uid)
            if not known:
                self._wait_for_groups(call, row, cred.uid)
                return
            if gids is not None:
                grant = self.table.grant(expid, peer, cred.flavor, replace(sent, gids=gids))
        ident = self._ident(grant.cred)
        if grant.rights & DENIED or ident < 0:
            log.info("refused: %s on export %#x", peer, expid)
        lib.vn_grant(call, expid, max(ident, 0), grant.rights if ident >= 0 else DENIED)
        row(call)

    @staticmethod
    def _park(call: Call) -> Call | None:
        """The call, to be answered later; None when too many wait already: then it has its answer."""
        parked = rpc.rpc_detach(call, PARKED_ROOM)
        if parked == ffi.NULL:
            lib.vn_fail(call, _JUKEBOX)
            return None
        parked.obj = parked.obj2 = -1
        return parked

    def _ask_host(self, call: Call, row: Raw) -> None:
        """Tags of the export may name the client's host: what that is called is asked for once in a while."""
        address = _peer_of(call).packed
        host = self._hosts.known(address)
        waits = call if host else self._park(call)
        if waits is None:
            return

        def go_on(host: Host) -> None:
            lib.vn_host(waits, host.name, len(host.name), max(1, int(host.until - time.monotonic())))
            row(waits)

        if host:
            go_on(host)
        else:
            self._hosts.ask(address, go_on)

    def _wait_for_groups(self, call: Call, row: Raw, uid: int) -> None:
        """The call waits until the groups of `uid` are known."""
        if call.detached:  # it waited before, and meanwhile all was forgotten
            lib.vn_fail(call, _JUKEBOX)
            return
        parked = self._park(call)
        if parked is None:
            return

        def go_on(found: bool) -> None:
            if found:
                row(parked)
            else:
                lib.vn_fail(parked, _JUKEBOX)

        self._groups.ask(uid, go_on)

    def _ident(self, cred: Cred) -> int:
        """Place of the identity; without root every call runs as this process."""
        return int(lib.ident_get(cred.uid, cred.gid, len(cred.gids), list(cred.gids))) if self.root else 0

    @staticmethod
    def _garbage(call: Call, row: Raw) -> None:
        lib.drc_forget(call)
        rpc.rpc_deny(call, GARBAGE_ARGS)

    @staticmethod
    def _drop(call: Call, row: Raw) -> None:
        lib.drc_forget(call)
        rpc.rpc_drop(call)

    def _stalled(self, call: Call, row: Raw) -> None:
        """The table of this generation is on its way: its message is taken now, in the middle of the batch."""
        end = time.monotonic() + STALL_S
        while self.table.generation < self._state[state.H_GENERATION] and time.monotonic() < end and not self._stopping:
            if select.select([self._channel.fileno()], [], [], 0.05)[0]:
                self._readable()
        if self.table.generation < self._state[state.H_GENERATION]:
            lib.vn_fail(call, _JUKEBOX)
        else:
            row(call)

    def _unknown_fs(self, call: Call, row: Raw) -> None:
        """A handle of a file system below a crossmnt export that this worker has not met: look at all that are mounted."""
        if self._add_mounts():
            row(call)
        else:
            lib.vn_fail(call, _STALE)

    def _add_mounts(self) -> bool:
        known = len(self._mounts)
        roots = [clients.export.path for clients in self.table.by_id.values()]
        for mount, point in _mount_points():
            if mount not in self._mounts and any(point.startswith(root.rstrip(b"/") + b"/") for root in roots):
                self._mounts.add(mount)
                try:
                    fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
                except OSError as exc:
                    log.warning("%s: %s", os.fsdecode(point), exc.strerror)
                    continue
                if lib.fs_add(fd, ffi.NULL, 0) < 0:
                    os.close(fd)
        return len(self._mounts) > known

    _mounts: set[tuple[bytes, ...]] = set()   # looked at; another file system at the same place is another mount

    # ---- messages

    def _readable(self) -> None:
        try:
            while True:
                self._message(*self._channel.recv())
        except BlockingIOError:
            return
        except (EOFError, ConnectionError):
            log.debug("the channel was closed")
        except ProtocolError as exc:
            log.error("control channel: %s", exc)
        self._end()

    def _message(self, msg: Message, fds: list[int]) -> None:
        try:
            handler = self._messages.get(msg.flag)
            if handler is None:
                raise OSError(errno.EINVAL, f"message {msg.flag:#x}")
            handler(msg, fds)
        except XdrError as exc:
            log.error("message %#x: %s", msg.flag, exc)
            self._channel.reply(msg, errno=errno.EINVAL)
        except OSError as exc:
            log.warning("message %#x: %s", msg.flag, exc)
            self._channel.reply(msg, errno=exc.errno or errno.EIO)
        finally:
            for fd in fds:
                os.close(fd)

    def _addsock(self, msg: Message, fds: list[int]) -> None:
        args = unpack_nfsd_args(msg.body)
        if len(fds) != 1:
            raise OSError(errno.EBADF, "ADDSOCK without its socket")
        sock = socket.socket(fileno=os.dup(fds[0]))
        kind = sock.type
        if kind == socket.SOCK_DGRAM and args.name is None:
            inode = os.fstat(sock.fileno()).st_ino
            if inode in self._datagrams:  # a new control half sends what the last one had sent
                sock.close()
                self._channel.reply(msg, errno=errno.EEXIST)
                return
            self._datagrams.add(inode)
            self._server.datagram(sock)
        elif kind == socket.SOCK_STREAM and args.name is not None:
            self._connection(sock)
            self._tcp_connections += 1
            self._row[state.S_CONNECTIONS] = self._server.counters()["conns"]
            lib.vn_connected()
            self._row[state.S_TCPCONN] = self._left[state.S_TCPCONN] + self._tcp_connections
        else:
            sock.close()
            raise OSError(errno.EINVAL, f"ADDSOCK of a socket of type {kind}")
        self._channel.reply(msg)

    def _connection(self, sock: socket.socket) -> None:
        """Serves a client; one who has gone in the meantime was one, and is no event: there may be thousands a second."""
        try:
            self._server.connection(sock)
        except OSError as exc:
            sock.close()
            if exc.errno != errno.ENOTCONN:
                raise

    def _export(self, msg: Message, fds: list[int]) -> None:
        args = unpack_export_args(msg.body)
        exports = sorted(args.exports, key=lambda export: export.expid)
        if lib.exp_begin(len(exports)):
            raise OSError(errno.ENOMEM, "export table")
        failed = Packer()
        served = []
        for export in exports:
            error = self._put(export)
            if error:
                log.warning("export %s: %s", os.fsdecode(export.path), os.strerror(error))
                failed.pack_uint(export.expid)
                failed.pack_uint(error)
            else:
                served.append(export)
        lib.exp_commit(args.generation)
        self.table = Table(tuple(served), args.generation)
        self._server.stop_reading(False)
        rpc.rpc_flush(self._server.engine)  # in the middle of a batch: what the old table allowed is not answered later
        self._channel.reply(msg, bytes(failed))

    @staticmethod
    def _put(export: Export) -> int:
        salt = 0
        if export.password:
            salt = lib.siphash([0x70617373, 0x776F7264], export.password, len(export.password)) or 1
        fsid = export.fsid or ffi.NULL
        error = lib.exp_put(export.expid, int(export.flags), export.path, fsid, salt, lib.exp_row(export.expid))
        return int(error or (lib.exp_index(export.index) if export.index else 0))

    def _grant_ident(self, expid: int, peer: Address, flavor: int, cred: Cred, *, writing: bool = False) -> int:
        """raises  OSError(EACCES) for a stranger, OSError(EROFS) for who may only read"""
        grant = self.table.grant(expid, peer, flavor, cred)
        if writing and grant.rights & READONLY:
            raise OSError(errno.EROFS, f"{peer} on export {expid:#x}")
        ident = self._ident(grant.cred)
        if grant.rights & DENIED or ident < 0:
            raise OSError(errno.EACCES, f"{peer} on export {expid:#x}")
        return ident

    def _getfh(self, msg: Message, fds: list[int]) -> None:
        args = unpack_getfh_args(msg.body)
        ident = self._grant_ident(args.expid, args.peer, args.flavor, args.cred)
        place = ffi.new("u8[64]")
        size = lib.vn_getfh(args.expid, args.path, ident, args.vers, place)
        if size < 0:
            self._channel.reply(msg, errno=-size)
            return
        p = Packer()
        p.pack_opaque(ffi.buffer(place, size)[:])
        self._channel.reply(msg, bytes(p))

    def _fhopen(self, msg: Message, fds: list[int]) -> None:
        args = unpack_fhopen_args(msg.body)
        expid = ffi.new("u32 *")
        status = lib.vn_fhopen(args.handle, len(args.handle), -1, 0, expid)
        if status == 0:
            ident = self._grant_ident(expid[0], args.peer, 1, args.cred, writing=bool(args.mode & FHOPEN_WRITE))
            status = lib.vn_fhopen(args.handle, len(args.handle), ident, args.mode, expid)
        if status < 0:
            self._channel.reply(msg, errno=-status)
            return
        try:
            self._channel.reply(msg, fds=[status])
        finally:
            os.close(status)

    def _add_relay(self, msg: Message, fds: list[int]) -> None:
        if len(fds) != 1:
            raise OSError(errno.EBADF, "RELAY without its socket")
        self._relay.attach(socket.socket(fileno=os.dup(fds[0])))
        self._channel.reply(msg)

    def _stop(self, msg: Message, fds: list[int]) -> None:
        self._end()

    def _suspend(self, msg: Message, fds: list[int]) -> None:
        self._server.stop_reading(bool(Unpacker(msg.body).unpack_uint()))
        self._channel.reply(msg)

    def _verbose(self, msg: Message, fds: list[int]) -> None:
        step = Unpacker(msg.body).unpack_int()
        log.setLevel(max(logging.DEBUG, min(logging.ERROR, log.getEffectiveLevel() - 10 * step)))
        self._channel.reply(msg)


    def _authin(self, msg: Message, fds: list[int]) -> None:
        self._kerb4.switch(bool(Unpacker(msg.body).unpack_uint()))
        self._channel.reply(msg)

    def _trace(self, msg: Message, fds: list[int]) -> None:
        """Copies of calls go to the descriptor from now on; without one, no longer."""
        args = unpack_trace_args(msg.body)
        if not fds:
            rpc.rpc_trace_stop(self._server.engine, args.number)
        else:
            wanted = rpc_ffi.new("struct rpc_trace_filter *")
            wanted.family = {AF_INET4: socket.AF_INET, AF_INET6: socket.AF_INET6}.get(args.client.family, 0)
            wanted.addr[0:len(args.client.packed)] = args.client.packed
            wanted.prefix, wanted.export_id, wanted.snap = args.prefix, args.expid, args.snap
            wanted.by_uid, wanted.uid = args.uid is not None, args.uid or 0
            error = rpc.rpc_trace_start(self._server.engine, args.number, self.slot, os.dup(fds[0]), wanted)
            if error:
                raise OSError(-error, "trace")
        self._channel.reply(msg)


def _max_connections() -> int:
    """Half of the descriptors that vn_init() got; the others are for exports, objects and open files."""
    return max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OWN_FILES) // 2)


def _nothing(call: Call, row: Raw) -> None:
    """The call has its answer, or another will end it."""


def _ignore() -> None:
    """The master passes on what concerns us; a signal to the process group is not for workers."""


def _peer_of(call: Call) -> Address:
    peer = call.eng.peers[call.peer]
    packed = ffi.buffer(peer.addr)[:]
    if peer.family == socket.AF_INET:
        return Address(AF_INET4, packed[:4], call.port)
    if peer.family == socket.AF_INET6:
        return Address(AF_INET6, packed, call.port, peer.scope)
    return Address(AF_LOCAL)


def _mount_points() -> list[tuple[tuple[bytes, ...], bytes]]:
    """What is mounted now, as (mount id, device, place), and where; octal escapes of mountinfo(5) undone."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = [line.split(b" ") for line in file]
    return [((words[0], words[2], words[4]), _unescaped(words[4])) for words in mounts]


def _unescaped(point: bytes) -> bytes:
    return point.decode("unicode_escape").encode("latin-1") if b"\\" in point else point
