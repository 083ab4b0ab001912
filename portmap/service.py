"""The program 100000: PMAP version 2, rpcbind versions 3 and 4 (RFC 1833 sections 2.1, 2.2, 3.1).

Duty: arguments in, results out, over table.py; who the caller is; what a stranger may not have over UDP.
Called by the server loop (oncrpc.server).

CALLIT, BCAST and INDIRECT are not done at all: forwarding makes a call look local (CVE-1999-0168) and hides its sender.
Over UDP they are not answered, as RFC 1833 wants of an unsuccessful one; over TCP they are PROC_UNAVAIL.
"""
from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from oncrpc.hosts_access import HostsAccess
from oncrpc.message import AcceptStat, AuthStat, RpcError
from oncrpc.pmap import (
    NETIDS,
    PMAP_PROG,
    Mapping,
    Rpcb,
    pack_mapping,
    pack_rpcb,
    split_universal,
    universal_address,
    unpack_mapping,
)
from oncrpc.server import NULL, UDP, Handler, Procedure, Program, Request
from oncrpc.xdr import Packer, Unpacker, XdrError

from .table import MAX_ADDR, NETIDS_LOCAL, Caller, Table, port_of

log = logging.getLogger(__name__)

MAX_OWNER = 64            # r_owner is not believed, only skipped
MAX_NETBUF = 128          # sizeof(struct sockaddr_storage)
LOG_PER_S = 10            # lines about strangers and refusals; a flood of them is one line with its count
REPLY_HEADER = 24         # of an accepted UDP reply without results
PROTOCOLS = {6: "tcp", 17: "udp"}
STAT_PROCS = 13           # RPCBSTAT_HIGHPROC
STAT_VERSIONS = (2, 3, 4)
SEMANTICS = {"udp": 1, "udp6": 1, "ticlts": 1}  # NC_TPI_CLTS; all others NC_TPI_COTS_ORD 3


class _Sparing:
    """At most LOG_PER_S lines a second; the rest is counted and said once."""

    def __init__(self) -> None:
        self._second, self._lines, self._dropped = 0, 0, 0

    def log(self, level: int, text: str, *values: object) -> None:
        second = int(time.monotonic())
        if second != self._second:
            if self._dropped:
                log.log(level, "%d more lines were not written", self._dropped)
            self._second, self._lines, self._dropped = second, 0, 0
        if self._lines == LOG_PER_S:
            self._dropped += 1
            return
        self._lines += 1
        log.log(level, text, *values)


class Service:
    """One port mapper: its table and its counts."""

    def __init__(self, table: Table, *, hosts: HostsAccess | None = None, reserved_below: int = 1024,
                 trusted_uids: frozenset[int] = frozenset({0}),
                 verbose: bool = False, changed: Callable[[], None] = lambda: None) -> None:
        """hosts           hosts.allow and hosts.deny, asked about everyone who is not on this machine
        reserved_below  source ports that only root can bind on this machine
        trusted_uids    privileged over the unix socket: root, and who started us
        changed         called after each change of the table
        """
        self.table, self.changed, self.verbose = table, changed, verbose
        self.hosts = hosts
        self._sparing = _Sparing()
        self.reserved_below, self.trusted_uids = reserved_below, trusted_uids
        self.counts = {vers: [0] * STAT_PROCS for vers in STAT_VERSIONS}
        self.sets, self.unsets = dict.fromkeys(STAT_VERSIONS, 0), dict.fromkeys(STAT_VERSIONS, 0)

    def program(self) -> Program:
        pmap: list[tuple[str, Handler]] = [("SET", self.pmap_set), ("UNSET", self.pmap_unset), ("GETPORT", self.pmap_getport),
                                           ("DUMP", self.pmap_dump), ("CALLIT", self.callit)]
        rpcb3: list[tuple[str, Handler]] = [("SET", self.rpcb_set), ("UNSET", self.rpcb_unset), ("GETADDR", self.rpcb_getaddr),
                                            ("DUMP", self.rpcb_dump), ("CALLIT", self.callit), ("GETTIME", self.gettime),
                                            ("UADDR2TADDR", self.uaddr2taddr), ("TADDR2UADDR", self.taddr2uaddr)]
        rpcb4: list[tuple[str, Handler]] = [*rpcb3[:4], ("BCAST", self.callit), *rpcb3[5:],
                                            ("GETVERSADDR", self.rpcb_getversaddr), ("INDIRECT", self.callit),
                                            ("GETADDRLIST", self.rpcb_getaddrlist), ("GETSTAT", self.rpcb_getstat)]
        rows = {2: pmap, 3: rpcb3, 4: rpcb4}
        return Program(PMAP_PROG, {vers: [NULL, *(Procedure(name, self._row(handler)) for name, handler in procs)]
                                   for vers, procs in rows.items()})

    def _row(self, handler: Handler) -> Handler:
        """Counts, and holds back what would make us an amplifier: over UDP a stranger gets no more bytes than it sent."""
        def row(request: Request) -> object:
            self.counts[request.vers][request.proc] += 1
            if self.hosts is not None and not request.is_local and not self.hosts.allows("portmap", request.address):
                self._keep_out(request)
                return None
            results = handler(request)
            if isinstance(results, bytes) and request.proto == UDP and REPLY_HEADER + len(results) > request.size \
                    and not request.is_local:
                return None
            return results
        return row  # type: ignore[return-value]

    def _keep_out(self, request: Request) -> None:
        """A host that hosts.deny names: silence over UDP, AUTH_TOOWEAK over TCP."""
        self._sparing.log(logging.WARNING, "call from %s refused by hosts.allow and hosts.deny", request.address)
        if request.proto != UDP:
            raise RpcError(auth_stat=AuthStat.AUTH_TOOWEAK)

    # ---- who asks

    def caller(self, request: Request) -> Caller:
        """Raises RpcError(AUTH_TOOWEAK) for everyone who is not on this machine."""
        if not request.is_local:
            name = _NAMES.get(request.proc, "?")
            self._sparing.log(logging.WARNING, "%s from %s port %d refused", name, request.address, request.port)
            raise RpcError(auth_stat=AuthStat.AUTH_TOOWEAK)
        uid = request.unix_uid
        if uid is not None:
            return Caller(local=True, privileged=uid in self.trusted_uids, uid=uid)
        return Caller(local=True, privileged=0 < request.port < self.reserved_below)

    # ---- PMAP version 2

    def pmap_set(self, request: Request) -> bytes:
        """bool PMAPPROC_SET(mapping)"""
        mapping = unpack_mapping(request.args)
        request.args.check_end()
        caller = self.caller(request)
        netid = PROTOCOLS.get(mapping.prot, "")
        addr = universal_address("0.0.0.0", mapping.port) if mapping.port <= 65535 else ""
        return self._set(request, caller, Rpcb(mapping.prog, mapping.vers, netid, addr, ""))

    def pmap_unset(self, request: Request) -> bytes:
        """bool PMAPPROC_UNSET(mapping): prot and port are ignored."""
        mapping = unpack_mapping(request.args)
        request.args.check_end()
        return self._unset(request, Rpcb(mapping.prog, mapping.vers, "", "", ""))

    def pmap_getport(self, request: Request) -> bytes:
        """unsigned int PMAPPROC_GETPORT(mapping): port is ignored."""
        mapping = unpack_mapping(request.args)
        request.args.check_end()
        entry = self.table.find(mapping.prog, mapping.vers, PROTOCOLS.get(mapping.prot, ""))
        return (port_of(entry) if entry else 0).to_bytes(4, "big")

    def pmap_dump(self, request: Request) -> bytes:
        """pmaplist PMAPPROC_DUMP(void)"""
        request.args.check_end()
        out = Packer()
        for entry in self.table:
            if entry.netid in ("udp", "tcp"):
                out.pack_bool(True)
                out.pack_raw(pack_mapping(Mapping(entry.prog, entry.vers, NETIDS[entry.netid][1], port_of(entry))))
        out.pack_bool(False)
        return bytes(out)

    def callit(self, request: Request) -> bytes | None:
        if request.proto == UDP:
            return None
        raise RpcError(AcceptStat.PROC_UNAVAIL)

    # ---- rpcbind versions 3 and 4

    def rpcb_set(self, request: Request) -> bytes:
        """bool RPCBPROC_SET(rpcb): r_owner is ours to say."""
        asked = _unpack_rpcb(request.args)
        return self._set(request, self.caller(request), asked)

    def rpcb_unset(self, request: Request) -> bytes:
        """bool RPCBPROC_UNSET(rpcb): without r_netid all transports."""
        return self._unset(request, _unpack_rpcb(request.args))

    def rpcb_getaddr(self, request: Request) -> bytes:
        """string RPCBPROC_GETADDR(rpcb)"""
        return self._getaddr(request, exactly=False)

    def rpcb_getversaddr(self, request: Request) -> bytes:
        """string RPCBPROC_GETVERSADDR(rpcb): that version or nothing."""
        return self._getaddr(request, exactly=True)

    def _getaddr(self, request: Request, *, exactly: bool) -> bytes:
        """RFC 1833 infers the netid from the transport; Linux clients name the one they want, so r_netid goes first."""
        asked = _unpack_rpcb(request.args)
        netid = asked.netid if asked.netid in NETIDS or asked.netid in NETIDS_LOCAL else _netid_of(request)
        entry = self.table.find(asked.prog, asked.vers, netid, exactly=exactly)
        out = Packer()
        out.pack_string(_reachable(entry, request).encode() if entry else b"")
        return bytes(out)

    def rpcb_dump(self, request: Request) -> bytes:
        """rpcblist_ptr RPCBPROC_DUMP(void)"""
        request.args.check_end()
        out = Packer()
        for entry in self.table:
            out.pack_bool(True)
            out.pack_raw(pack_rpcb(entry))
        out.pack_bool(False)
        return bytes(out)

    def gettime(self, request: Request) -> bytes:
        """unsigned int RPCBPROC_GETTIME(void)"""
        request.args.check_end()
        return (int(time.time()) & 0xFFFFFFFF).to_bytes(4, "big")

    def uaddr2taddr(self, request: Request) -> bytes:
        """netbuf RPCBPROC_UADDR2TADDR(string): a struct sockaddr of this machine; empty when it is no address."""
        addr = request.args.unpack_string(MAX_ADDR).decode("ascii", errors="replace")
        request.args.check_end()
        try:
            sockaddr = _pack_sockaddr(*split_universal(addr))
        except (ValueError, OSError):
            sockaddr = b""
        out = Packer()
        out.pack_uint(len(sockaddr))
        out.pack_opaque(sockaddr)
        return bytes(out)

    def taddr2uaddr(self, request: Request) -> bytes:
        """string RPCBPROC_TADDR2UADDR(netbuf)"""
        request.args.unpack_uint()
        sockaddr = request.args.unpack_opaque(MAX_NETBUF)
        request.args.check_end()
        out = Packer()
        out.pack_string(_universal_of(sockaddr).encode())
        return bytes(out)

    def rpcb_getaddrlist(self, request: Request) -> bytes:
        """rpcb_entry_list_ptr RPCBPROC_GETADDRLIST(rpcb): all transports of one version."""
        asked = _unpack_rpcb(request.args)
        out = Packer()
        for entry in self.table:
            if (entry.prog, entry.vers) != (asked.prog, asked.vers):
                continue
            out.pack_bool(True)
            out.pack_string(_reachable(entry, request).encode())
            out.pack_string(entry.netid.encode())
            out.pack_uint(SEMANTICS.get(entry.netid, 3))
            family = "loopback" if entry.netid in NETIDS_LOCAL else "inet6" if entry.netid.endswith("6") else "inet"
            out.pack_string(family.encode())
            out.pack_string(b"-" if family == "loopback" else entry.netid[:3].encode())
        out.pack_bool(False)
        return bytes(out)

    def rpcb_getstat(self, request: Request) -> bytes:
        """rpcb_stat_byvers RPCBPROC_GETSTAT(void): counts; the lists of addresses and of forwarded calls are empty."""
        request.args.check_end()
        out = Packer()
        for vers in STAT_VERSIONS:
            for count in (*self.counts[vers], self.sets[vers], self.unsets[vers], 0, 0):
                out.pack_uint(count & 0x7FFFFFFF)
        return bytes(out)

    # ---- changes

    def _set(self, request: Request, caller: Caller, entry: Rpcb) -> bytes:
        done = self.table.set(caller, entry.prog, entry.vers, entry.netid, entry.addr)
        self.sets[request.vers] += done
        self._report("set", done, caller, f"program {entry.prog} version {entry.vers} {entry.netid!a} {entry.addr!a}")
        return done.to_bytes(4, "big")

    def _unset(self, request: Request, entry: Rpcb) -> bytes:
        caller = self.caller(request)
        done = self.table.unset(caller, entry.prog, entry.vers, entry.netid)
        self.unsets[request.vers] += done
        self._report("unset", done, caller, f"program {entry.prog} version {entry.vers} {entry.netid!a}")
        return done.to_bytes(4, "big")

    def _report(self, what: str, done: bool, caller: Caller, entry: str) -> None:
        level = logging.INFO if self.verbose else logging.DEBUG
        say = log.log if done else self._sparing.log
        say(level, "%s %s by %s: %s", what, entry, caller.owner, "done" if done else "refused")
        if done:
            self.changed()


_NAMES = {1: "SET", 2: "UNSET"}


def _unpack_rpcb(args: Unpacker) -> Rpcb:
    """struct rpcb; the longest strings that mean anything are far below what CVE-2017-8779 allocated."""
    prog, vers = args.unpack_uint(), args.unpack_uint()
    netid, addr, owner = (args.unpack_string(limit) for limit in (MAX_ADDR, MAX_ADDR, MAX_OWNER))
    args.check_end()
    try:
        return Rpcb(prog, vers, netid.decode("ascii"), addr.decode("ascii"), owner.decode("ascii", errors="replace"))
    except UnicodeDecodeError as exc:
        raise XdrError("a netid or address that is not ASCII") from exc


def _netid_of(request: Request) -> str:
    """The transport that the call came over."""
    if request.family == socket.AF_UNIX:
        return "local"
    name = "udp" if request.proto == UDP else "tcp"
    return name + "6" if request.family == socket.AF_INET6 else name


def _reachable(entry: Rpcb, request: Request) -> str:
    """The address of `entry`; a wildcard becomes the address that the client reached us at."""
    local = request.local_address
    if entry.netid in NETIDS_LOCAL or local is None:
        return entry.addr
    host, port = split_universal(entry.addr)
    if host in ("0.0.0.0", "::") and local[0] == NETIDS[entry.netid][0]:
        return universal_address(socket.inet_ntop(*local), port)
    return entry.addr


def _pack_sockaddr(host: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    head = int(family).to_bytes(2, "little" if _LITTLE else "big") + port.to_bytes(2, "big")
    if family == socket.AF_INET:
        return head + socket.inet_pton(family, host) + bytes(8)
    return head + bytes(4) + socket.inet_pton(family, host) + bytes(4)


def _universal_of(sockaddr: bytes) -> str:
    """"" when it is neither struct sockaddr_in nor struct sockaddr_in6."""
    family = int.from_bytes(sockaddr[:2], "little" if _LITTLE else "big")
    port = int.from_bytes(sockaddr[2:4], "big")
    if family == socket.AF_INET and len(sockaddr) >= 8:
        return universal_address(socket.inet_ntop(socket.AF_INET, sockaddr[4:8]), port)
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return universal_address(socket.inet_ntop(socket.AF_INET6, sockaddr[8:24]), port)
    return ""


_LITTLE = socket.htons(1) != 1
