"""Registration with the portmapper: PMAP v2 (RFC 1833 section 3), rpcbind v3 for tcp6 and udp6 (section 2).

Theory of operation.  One datagram socket on the loopback; nothing waits.  At start every mapping is asked for.  One that names
another port on which somebody serves is another server's, and stays: two servers side by side must not fight.  One on a port that
is free is left over from a predecessor that was killed: it is unset, and ours is set.  Every PROBE_S one GETPORT asks whether the
portmapper still knows us: 0 means that it was started again, or that the other server went, and everything begins anew; no answer
is logged once and asked again for ever.
A SET must come from a reserved port to be believed by rpcbind: the master bound the socket to one where it may.
"""
from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

from oncrpc.xdr import Packer, Unpacker, XdrError

from . import log
from .loop import Loop, Timer

PMAP_PROG = 100000
PROBE_S = 2.0            # a portmapper that comes back knows us within 5 s
END_S = 1.0              # for the answers to UNSET when we stop: 5 s is all the time there is
_SET, _UNSET, _GETPORT = 1, 2, 3
NFS_PROGRAM, ACL_PROGRAM = 100003, 100227
_TCP, _UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Mapping:
    """program, version on port; proto 6 or 17; netid "" (PMAP v2) or "tcp6", "udp6" (rpcbind v3)."""

    prog: int
    vers: int
    proto: int
    port: int
    netid: str = ""


def served(*, v2: bool, acl: bool) -> list[tuple[int, int]]:
    """(program, version) that workers answer: NFS, and NFS_ACL in the same versions."""
    versions = [2, 3] if v2 else [3]
    return [(program, v) for program in (NFS_PROGRAM, ACL_PROGRAM) if acl or program == NFS_PROGRAM for v in versions]


def mappings_of(programs: list[tuple[int, int]], port: int, *, tcp: bool, udp: bool, families: str) -> list[Mapping]:
    protos = [proto for proto, wanted in ((_TCP, tcp), (_UDP, udp)) if wanted]
    plain = [Mapping(prog, v, proto, port) for prog, v in programs for proto in protos if "4" in families]
    return plain + [Mapping(prog, v, proto, port, "tcp6" if proto == _TCP else "udp6")
                    for prog, v in programs for proto in protos if "6" in families]


class Registrar:
    """Keeps `mappings` registered through `sock`, a non-blocking datagram socket connected to the portmapper."""

    def __init__(self, loop: Loop, sock: socket.socket, mappings: list[Mapping]) -> None:
        self._loop, self._sock, self._mappings = loop, sock, mappings
        self._xid = random.getrandbits(32)
        self._waiting: dict[int, Callable[[Unpacker], None]] = {}
        self.heard = False                  # anything from a portmapper
        self._asked: set[int] = set()       # questions of start() on the way
        self._found: dict[Mapping, int] = {}
        self._told = self._registered = False
        self._silent: bool | None = None    # the last probe was not answered
        self._timer: Timer | None = None
        self._ended: Callable[[], None] | None = None
        loop.watch(sock.fileno(), self._read)

    def start(self) -> None:
        """Registers anew, and watches from now on."""
        self._waiting.clear()
        self._found.clear()
        self._asked = {self._call(m, _GETPORT, lambda u, m=m: self._was_found(m, u)) for m in self._mappings}  # type: ignore[misc]
        self._probe_later()

    def _was_found(self, mapping: Mapping, u: Unpacker) -> None:
        self._found[mapping] = _port_of(mapping, u)

    def _set_all(self) -> None:
        """All that the portmapper has is known."""
        others = {(m.prog, m.vers): port for m, port in self._found.items() if port not in (0, m.port) and in_use(m, port)}
        mine = [m for m in self._mappings if (m.prog, m.vers) not in others]
        for mapping in mine:  # all before the first SET: UNSET of PMAP v2 takes no notice of the protocol
            self._call(mapping, _UNSET)
        for mapping in mine:
            self._call(mapping, _SET, lambda u, m=mapping: self._was_set(m, u))  # type: ignore[misc]
        if others and not self._told:
            log.logger.warning("another server is registered, and serves, on port %d: clients that ask the portmapper find it, "
                               "not us", next(iter(others.values())))
        self._told, self._registered = bool(others), True

    def end(self, done: Callable[[], None]) -> None:
        """Unregisters what is still ours, then `done`, at the latest after END_S."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended = done
        self._waiting.clear()
        for mapping in self._mappings:
            self._call(mapping, _GETPORT, lambda u, m=mapping: self._unset_if_ours(m, u))  # type: ignore[misc]
        self._loop.call_later(END_S, self._finish)
        self._finish_if_idle()

    def _unset_if_ours(self, mapping: Mapping, u: Unpacker) -> None:
        if _port_of(mapping, u) == mapping.port:
            self._call(mapping, _UNSET, lambda u: None)

    def _finish_if_idle(self) -> None:
        if self._ended is not None and not self._waiting:
            self._finish()

    def _finish(self) -> None:
        done, self._ended = self._ended, None
        if done is not None:
            done()

    # ---- probing

    def _probe_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(PROBE_S, self._probe)

    def _probe(self) -> None:
        if self._waiting:
            self._is_silent(True)
        self._waiting.clear()
        self._call(self._mappings[0], _GETPORT, self._probed)
        self._probe_later()

    def _probed(self, u: Unpacker) -> None:
        self._is_silent(False)
        if _port_of(self._mappings[0], u) == 0 or not self._registered:
            log.notice("the portmapper does not know us: registering")
            self.start()

    def _is_silent(self, silent: bool) -> None:
        if silent and not self._silent:
            log.logger.warning("no portmapper answers: clients that ask it for our port will not find us")
        if not silent and self._silent:
            log.notice("the portmapper answers again")
        self._silent = silent

    def _was_set(self, mapping: Mapping, u: Unpacker) -> None:
        self._is_silent(False)
        if not u.unpack_bool():
            log.logger.warning("the portmapper refused program %d version %d %s port %d: somebody else has it, or our port "
                               "is not reserved", mapping.prog, mapping.vers,
                               mapping.netid or {_TCP: "tcp", _UDP: "udp"}[mapping.proto], mapping.port)

    # ---- messages

    def _call(self, mapping: Mapping, proc: int, answer: Callable[[Unpacker], None] | None = None) -> int:
        """The xid."""
        self._xid = (self._xid + 1) & 0xFFFFFFFF
        if answer is not None:
            self._waiting[self._xid] = answer
        try:
            self._sock.send(pack_call(self._xid, mapping, proc))
        except OSError as exc:
            log.logger.debug("portmapper: %s", exc.strerror)  # ECONNREFUSED of an earlier datagram; the next probe tells
        return self._xid

    def _read(self) -> None:
        try:
            data = self._sock.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            self._is_silent(True)  # ECONNREFUSED: nobody there
            if self._ended is not None:
                self._finish()
            return
        try:
            self._answered(data)
        except XdrError as exc:
            log.logger.info("portmapper sent nonsense: %s", exc)

    def _answered(self, data: bytes) -> None:
        u = Unpacker(data)
        xid = u.unpack_uint()
        answer = self._waiting.pop(xid, None)
        if answer is None:
            return
        self.heard = True
        # struct { xid; REPLY; MSG_ACCEPTED; opaque_auth verf; accept_stat SUCCESS } of RFC 5531 section 9
        if (u.unpack_uint(), u.unpack_uint()) == (1, 0) and (u.unpack_uint(), u.unpack_opaque(400), u.unpack_uint())[2] == 0:
            answer(u)
        if xid in self._asked:
            self._asked.discard(xid)
            if not self._asked and self._ended is None:
                self._set_all()
        self._finish_if_idle()


def pack_call(xid: int, mapping: Mapping, proc: int) -> bytes:
    """A call of RFC 5531 section 9 with AUTH_NONE and a `mapping` or an `rpcb`; SET, UNSET and GETPORT have the same numbers."""
    p = Packer()
    for word in (xid, 0, 2, PMAP_PROG, 3 if mapping.netid else 2, proc, 0, 0, 0, 0):
        p.pack_uint(word)
    if mapping.netid:  # struct rpcb { prog; vers; string netid<>; string addr<>; string owner<>; }
        p.pack_uint(mapping.prog)
        p.pack_uint(mapping.vers)
        p.pack_string(mapping.netid.encode())
        p.pack_string(f"::.{mapping.port >> 8}.{mapping.port & 255}".encode() if proc != _GETPORT else b"")
        p.pack_string(b"superuser")
    else:              # struct mapping { prog; vers; prot; port; }
        for word in (mapping.prog, mapping.vers, mapping.proto, mapping.port):
            p.pack_uint(word)
    return bytes(p)


def _port_of(mapping: Mapping, u: Unpacker) -> int:
    """The result of GETPORT or GETADDR; 0: not registered."""
    if not mapping.netid:
        return u.unpack_uint()
    parts = u.unpack_string(256).decode("ascii", "replace").split(".")
    if len(parts) < 3 or not (parts[-1].isdigit() and parts[-2].isdigit()):
        return 0
    return int(parts[-2]) * 256 + int(parts[-1])


def in_use(mapping: Mapping, port: int) -> bool:
    """Somebody has `port` of this host for the mapping's transport, or that cannot be seen (a port that we may not bind)."""
    kind = socket.SOCK_STREAM if mapping.proto == _TCP else socket.SOCK_DGRAM
    family, any_address = (socket.AF_INET6, "::") if mapping.netid else (socket.AF_INET, "")
    try:
        with socket.socket(family, kind) as probe:
            if mapping.proto == _TCP:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that a dead server left do not count
            probe.bind((any_address, port))
    except OSError as exc:
        return exc.errno in (errno.EADDRINUSE, errno.EACCES)
    return False


def reserved_socket(port: int) -> socket.socket:
    """A datagram socket from a reserved port where we may have one, else from any, connected to the portmapper of this host."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    for mine in range(1023, 599, -1):
        try:
            sock.bind(("127.0.0.1", mine))
            break
        except PermissionError:
            break  # an ordinary user: any port
        except OSError:
            continue  # taken
    sock.connect(("127.0.0.1", port))
    return sock
