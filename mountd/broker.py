"""The privileged half's answers to MOUNT calls.

Duty: one MountCall in, one answer out, perhaps later: MNT asks a worker for the handle (GETFH), and for a wildcard entry the
name of the client's address first.  Decides by the table in force; keeps mountdtab.  The network half has decoded the call but is
not believed: what it asks is matched against the table here.

Every refusal is MNT3ERR_ACCES, whatever the reason: who may not mount learns nothing about the directories of this machine.  The
reason goes to the log.
"""
from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nfssvc_shim.records import AF_LOCAL, Address, GetfhArgs
from oncrpc.hosts_access import HostsAccess
from oncrpc.message import AcceptStat

from .exports_model import printable
from .halves import MountCall
from .logs import RateLimit
from .mount import (
    FHSIZE,
    MAX_REPLY_RELAYED,
    Caller,
    Granted,
    Pathconf,
    Proc,
    Refused,
    clean_path,
    decide,
    export_list,
    mountstat3,
    pack_exports,
    pack_mnt_fail,
    pack_mnt_ok,
    pack_mountlist,
    pack_pathconf,
    served_flavors,
)
from .own import is_own
from .passwords import Nonces, parse_secret
from .rmtab import MountTab
from .table import Mountable, Table

log = logging.getLogger(__name__)

Answer = Callable[[int, bytes], None]  # accept_stat, results

# errnos of GETFH that say something about this server, not about the caller's path.
_TROUBLE = frozenset((errno.EIO, errno.ENOTCONN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EPERM,
                      errno.EPIPE, errno.EINVAL))


class Server(Protocol):
    """What the broker needs of the rest of the privileged half."""

    def getfh(self, args: GetfhArgs, done: Callable[[int, bytes], None]) -> None:
        """errno and handle, later; waits a while for a server that is away."""

    def learn(self, address: str, then: Callable[[], None]) -> None:
        """`then` runs when the name of `address` is known, or known not to be, and the table says so."""


@dataclass(slots=True)
class Broker:
    """reserved: entries may ask for source ports below 1024; hide: EXPORT shows a caller only what he may mount."""

    server: Server
    mounts: MountTab
    reserved: bool = True
    hide: bool = False
    log_mounts: bool = False
    table: Table = field(default_factory=Table)
    limiter: RateLimit = field(default_factory=RateLimit)
    nonces: Nonces = field(default_factory=Nonces)
    hosts: HostsAccess = field(default_factory=HostsAccess)

    def handle(self, call: MountCall, answer: Answer) -> None:
        """Answers `call`, now or later; UMNT and UMNTALL need no answer."""
        if not call.local and not self.hosts.allows("mountd", "" if call.peer.family == AF_LOCAL else str(call.peer)):
            self._keep_out(call, answer)
        elif call.proc is Proc.MNT:
            self._mnt(call, answer)
        elif call.proc is Proc.DUMP:
            self._dump(call, answer)
        elif call.proc is Proc.UMNT:
            self._umnt(call)
        elif call.proc is Proc.UMNTALL:
            self.mounts.remove_host(_host(call.peer))
        elif call.proc in (Proc.EXPORT, Proc.EXPORTALL):
            self._export(call, answer)
        else:
            self._pathconf(call, answer)

    def _keep_out(self, call: MountCall, answer: Answer) -> None:
        """hosts.allow, hosts.deny."""
        if call.proc is Proc.MNT:
            self._refuse(call, Refused("hosts.deny"), answer)
        elif call.proc not in (Proc.UMNT, Proc.UMNTALL):
            answer(AcceptStat.PROC_UNAVAIL, b"")

    # ---- MNT

    def _mnt(self, call: MountCall, answer: Answer, *, looked_up: bool = False) -> None:
        if call.path == b"@getnonce" and has_password(self.table, call.peer):
            answer(0, pack_mnt_ok(call.vers, self.nonces.give(_host(call.peer), time.monotonic()), (1,)))
            return
        secret, path = parse_secret(call.path)
        if not looked_up and self._needs_name(path, call.peer):
            self.server.learn(str(call.peer), lambda: self._mnt(call, answer, looked_up=True))
            return
        decision = self._decide(path, secret, call)
        if isinstance(decision, Refused):
            self._refuse(call, decision, answer)
        else:
            self._grant(call, decision, answer)

    def _decide(self, path: bytes, secret: bytes | str, call: MountCall) -> Granted | Refused:
        caller = Caller(call.peer, call.flavor)
        if isinstance(secret, bytes):
            return decide(self.table, path, caller, reserved=self.reserved, secret=secret)
        nonce = self.nonces.take(_host(call.peer), time.monotonic())
        return decide(self.table, path, caller, reserved=self.reserved, one_time=(nonce, secret))

    def _needs_name(self, path: bytes, peer: Address) -> bool:
        """Whether the name of `peer` may change the decision: a wildcard entry, and none for just this address."""
        clean = clean_path(path)
        if not self.table.by_wildcard or clean is None or peer.family == AF_LOCAL:
            return False
        for mountable, _ in self.table.holding(clean):
            rule = mountable.match(peer)
            exact = rule is not None and rule.net.prefix == len(peer.packed) * 8
            if mountable.wildcards and not exact:
                return True
            if rule is not None:
                return False
        return False

    def _grant(self, call: MountCall, granted: Granted, answer: Answer) -> None:
        flavors = served_flavors(granted.rule)
        flavor = call.flavor if call.flavor in flavors else flavors[0]
        args = GetfhArgs(granted.mountable.export.expid, granted.rest, call.peer, call.cred, flavor, 3 if call.vers == 3 else 2)

        def done(error: int, body: bytes) -> None:
            if not error and call.vers < 3 and len(body) != FHSIZE:
                error = errno.EOPNOTSUPP  # a file system whose handles do not fit version 1 and 2
            if error:
                self._failed(call, granted, error, answer)
                return
            self.mounts.add(_host(call.peer), _shown(granted))
            if self.log_mounts:
                self._log(logging.INFO, call, f"mounted {printable(_shown(granted))}")
            answer(0, pack_mnt_ok(call.vers, body, flavors))

        self.server.getfh(args, done)

    def _failed(self, call: MountCall, granted: Granted, error: int, answer: Answer) -> None:
        trouble = error in _TROUBLE
        shown, verdict = printable(_without_secret(call.path)[:MAX_SHOWN]), "failed" if trouble else "refused"
        self._log(logging.ERROR if trouble else logging.NOTSET, call,
                  f"MNT {shown} {verdict}: {os.strerror(error)} ({granted.rule.client.where})")
        status = mountstat3.MNT3ERR_SERVERFAULT if trouble else mountstat3.MNT3ERR_ACCES
        answer(0, pack_mnt_fail(call.vers, status))

    def _refuse(self, call: MountCall, refused: Refused, answer: Answer) -> None:
        self._log(logging.WARNING, call, f"MNT {printable(_without_secret(call.path)[:MAX_SHOWN])} refused: {refused.reason}"
                                         f"{_where(refused)}")
        answer(0, pack_mnt_fail(call.vers, mountstat3.MNT3ERR_ACCES))

    # ---- the others

    def _umnt(self, call: MountCall) -> None:
        clean = clean_path(parse_secret(call.path)[1])
        if clean is not None:
            self.mounts.remove(_host(call.peer), clean)

    def _dump(self, call: MountCall, answer: Answer) -> None:
        if not call.local and not is_own(call.peer):
            answer(AcceptStat.PROC_UNAVAIL, b"")  # who mounts what is nobody's business on the net
            return
        self._bounded(call, pack_mountlist(self.mounts, _list_limit(call)), answer)

    def _export(self, call: MountCall, answer: Answer) -> None:
        only = call.peer if self.hide and not call.local else None
        self._bounded(call, pack_exports(export_list(self.table, only), _list_limit(call)), answer)

    def _bounded(self, call: MountCall, results: bytes, answer: Answer) -> None:
        """PROC_UNAVAIL rather than more bytes than the caller may have; he then tries TCP, and nobody is lied to."""
        if len(results) > call.limit:
            answer(AcceptStat.PROC_UNAVAIL, b"")
        else:
            answer(0, results)

    def _pathconf(self, call: MountCall, answer: Answer) -> None:
        secret, path = parse_secret(call.path)
        decision = self._decide(path, secret, call)
        values = None if isinstance(decision, Refused) else _pathconf(decision.mountable)
        self._bounded(call, pack_pathconf(values), answer)

    def _log(self, level: int, call: MountCall, text: str) -> None:
        tail = self.limiter.allow(str(call.peer), time.monotonic())
        if tail is not None:
            log.log(level or logging.WARNING, "%s port %d: %s%s", call.peer, call.peer.port, text, tail)


MAX_SHOWN = 200           # bytes of a path in a log line


def _list_limit(call: MountCall) -> int:
    """Where a list is cut: over TCP at the limit.  Over UDP not below it: a list that does not fit is refused whole."""
    return max(call.limit, MAX_REPLY_RELAYED)


def has_password(table: Table, peer: Address) -> bool:
    """Whether `peer` may mount something with a password: who may not gets no nonce, which is longer than the question."""
    return any(m.export.password and m.match(peer) is not None for m in table.mountables.values())


def _host(peer: Address) -> bytes:
    return str(peer).encode()


def _shown(granted: Granted) -> bytes:
    """The mounted directory as its client named it."""
    base = granted.mountable.written.rstrip(b"/")
    return base + b"/" + granted.rest if granted.rest else base or b"/"


def _without_secret(path: bytes) -> bytes:
    return parse_secret(path)[1] if path.startswith(b"@") else path


def _where(refused: Refused) -> str:
    if refused.rule is not None:
        return f" ({refused.rule.client.where})"
    return f" ({refused.mountable.where})" if refused.mountable is not None else ""


def _pathconf(mountable: Mountable) -> Pathconf | None:
    path = Path(os.fsdecode(mountable.export.path))
    try:
        get = {name: os.pathconf(path, name) for name in
               ("PC_LINK_MAX", "PC_MAX_CANON", "PC_MAX_INPUT", "PC_NAME_MAX", "PC_PATH_MAX", "PC_PIPE_BUF")}
    except OSError:
        return None
    return Pathconf(*(min(value, 0x7FFFFFFF) for value in get.values()))
