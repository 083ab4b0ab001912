"""portmap(8): options, sockets, rights, and the loop.

Binds as root, leaves a keeper that removes the files in the end (see `keeper`), then becomes _portmap (or daemon) with no
capability and no way to gain one, and only then reads a byte.
HUP does nothing; TERM and INT end with status 0.
"""
from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import logging
import os
import pwd
import signal
import socket
import stat
import sys
import syslog
from collections.abc import Sequence
from dataclasses import dataclass, field

from oncrpc import logformat
from oncrpc.addresses import bind_early
from oncrpc.client import RpcTimeout
from oncrpc.hosts_access import HostsAccess
from oncrpc.logformat import FORMATS
from oncrpc.message import RpcError
from oncrpc.pmap import PMAP_PORT, PMAP_PROG, SOCKETS, Pmap, Rpcb, universal_address
from oncrpc.server import Limits, Server
from oncrpc.usage import Parser, address, open_descriptor, port, why
from oncrpc.xdr import XdrError

from . import keeper
from .service import Service
from .table import SUPERUSER, Table
from .warm import WarmStart

log = logging.getLogger("portmap")

EXIT_TAKEN = 3             # another port mapper serves this machine: not an error of ours, and not a success
USERS = ("_portmap", "daemon")
# Who may register a guarded program besides root: rpc.statd of nfs-utils has become its own user when it does (Debian: statd,
# Fedora: rpcuser; the BSDs: _statd).
SERVICE_USERS = {100024: ("statd", "rpcuser", "_statd")}
MAX_RECORD = 16 << 10      # the longest call has three strings and 64 bytes of addresses
PORT_TRIES = 16            # -p 0: a port that is free for TCP and UDP, IPv4 and IPv6
VERSIONS = (2, 3, 4)
WRITE_DELAY_S = 0.2        # a daemon that starts sets a dozen entries; the warm start file is written once


@dataclass(slots=True)
class Sockets:
    """What was bound, before rights are dropped."""

    streams: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)
    entries: list[Rpcb] = field(default_factory=list)
    port: int = 0
    path: str = ""

    def close(self) -> None:
        for sock in (*self.streams, *self.datagrams):
            sock.close()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser("portmap", add_help=False, description="RPC program number to port mapper")
    parser.add_argument("--help", action="help", help="show this text")
    parser.add_argument("-d", dest="debug", action="store_true", help="stay in the foreground and say everything to stderr")
    parser.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("--log", dest="log_to", choices=FORMATS[1:], default="stderr", help="how the log looks in the foreground")
    parser.add_argument("-l", dest="log", action="store_true", help="log each registration")
    parser.add_argument("-h", dest="hosts", metavar="ADDR", type=address, action="append", default=[],
                        help="serve this address (and loopback) instead of all; may be repeated")
    parser.add_argument("-p", dest="port", metavar="PORT", type=port, default=PMAP_PORT, help="port (111); 0: any free one")
    parser.add_argument("-s", dest="socket", metavar="PATH", default=SOCKETS[0], help="unix socket; `none': without")
    parser.add_argument("-w", dest="warm", metavar="FILE", help="keep registrations in FILE over restarts")
    parser.add_argument("-u", dest="user", metavar="USER", help="become USER instead of _portmap or daemon")
    parser.add_argument("-i", dest="pidfile", metavar="FILE", help="write the process number to FILE")
    parser.add_argument("--hosts-access", metavar="DIR", default="/etc", help="where hosts.allow and hosts.deny are (/etc)")
    parser.add_argument("--ready-fd", type=open_descriptor, metavar="N", help="write `READY port' to descriptor N when serving")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    set_up_logging(options)
    try:
        return run(options)
    except OSError as exc:
        log.error("%s", why(exc))
        return 1


def run(options: argparse.Namespace) -> int:
    try:
        sockets = bind_all(options)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        return step_back(options, exc)
    warm = WarmStart(options.warm) if options.warm else None
    pidfile = open_pidfile(options.pidfile) if options.pidfile else None
    starter = os.geteuid()
    becomes_another = starter == 0 and _account(options.user).pw_uid != 0
    codecs.lookup("ascii")  # loaded now: the next user may not be able to read the interpreter's files
    if not (options.debug or options.foreground):
        daemonize()
    if pidfile is not None:
        os.pwrite(pidfile, b"%d\n" % os.getpid(), 0)
    leftover = [path for path in (sockets.path, options.pidfile) if path]
    until = keeper.split(leftover, lambda: _close(options, sockets, warm)) if becomes_another and leftover else -1
    drop_rights(options.user)
    try:
        serve(options, sockets, warm, starter, until)
    finally:
        for path in leftover if until < 0 else ():
            _remove(path)
    return 0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as exc:
        log.warning("%s is left: %s", path, exc.strerror)


def _close(options: argparse.Namespace, sockets: Sockets, warm: WarmStart | None) -> None:
    """What the keeper needs not."""
    sockets.close()
    if warm is not None:
        warm.close()
    if options.ready_fd is not None:
        os.close(options.ready_fd)


def serve(options: argparse.Namespace, sockets: Sockets, warm: WarmStart | None, starter: int, until: int = -1) -> None:
    """Until TERM or INT, or until the descriptor `until` can be read."""
    table = Table(guarded=starter == 0, services={prog: _uids(names) for prog, names in SERVICE_USERS.items()})
    table.add_own(sockets.entries)
    server = Server(limits=Limits(max_record=MAX_RECORD))
    service = Service(table, hosts=HostsAccess(options.hosts_access), reserved_below=reserved_ports(),
                      trusted_uids=frozenset({0, starter}), verbose=options.log)
    if warm is not None:
        _use_warm_start(server, service, warm)
    server.add(service.program())
    for sock in sockets.streams:
        server.listen(sock)
    for sock in sockets.datagrams:
        server.datagram(sock)
    server.catch({signal.SIGTERM: server.stop, signal.SIGINT: server.stop, signal.SIGHUP: lambda: None})
    if until >= 0:
        server.on_readable(until, server.stop)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"READY %d\n" % sockets.port)
        os.close(options.ready_fd)
    log.info("serving port %d", sockets.port)
    server.run()
    if warm is not None:
        _write(warm, table)
    server.free()


def _use_warm_start(server: Server, service: Service, warm: WarmStart) -> None:
    try:
        entries = warm.read()
    except (ValueError, UnicodeDecodeError) as exc:
        log.warning("warm start file not used: %s", exc)
        entries = []
    service.table.add_own(entry for entry in entries if entry.prog != PMAP_PROG)
    pending = False

    def write() -> None:
        nonlocal pending
        pending = False
        _write(warm, service.table)

    def changed() -> None:
        nonlocal pending
        if not pending:
            pending = True
            server.call_later(WRITE_DELAY_S, write)

    service.changed = changed


def _write(warm: WarmStart, table: Table) -> None:
    try:
        warm.write(entry for entry in table if entry.prog != PMAP_PROG)
    except OSError as exc:
        log.error("warm start file: %s", exc)


# ---- sockets

def bind_all(options: argparse.Namespace) -> Sockets:
    """Everything, or OSError."""
    hosts = [*options.hosts, "127.0.0.1", "::1"] if options.hosts else ["0.0.0.0", "::"]
    tries = PORT_TRIES if options.port == 0 else 1
    for left in reversed(range(tries)):
        try:
            sockets = _bind_internet(list(dict.fromkeys(hosts)), options.port)
            break
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or not left:
                raise
    if options.socket != "none":
        try:
            _bind_unix(sockets, options.socket)
        except OSError:
            sockets.close()
            raise
    return sockets


def _bind_internet(hosts: list[str], port: int) -> Sockets:
    sockets = Sockets(port=port)
    try:
        for host in hosts:
            _bind_host(sockets, host)
    except OSError:
        sockets.close()
        raise
    return sockets


def _bind_host(sockets: Sockets, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind, netid in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        try:
            sock = socket.socket(family, kind)
        except OSError as exc:
            if family == socket.AF_INET6 and exc.errno == errno.EAFNOSUPPORT:
                return  # a machine without IPv6
            raise
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if host in ("0.0.0.0", "::", "::1"):
                sock.bind((host, sockets.port))
            elif not bind_early(sock, host, sockets.port) and kind == socket.SOCK_STREAM:
                log.warning("%s is no address of this machine now; it is served when it is", host)
        except OSError as exc:
            sock.close()
            if host in ("::", "::1") and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return
            raise OSError(exc.errno, f"{host} port {sockets.port}: {os.strerror(exc.errno or 0)}") from exc
        sockets.port = sock.getsockname()[1]
        (sockets.streams if kind == socket.SOCK_STREAM else sockets.datagrams).append(sock)
        name = netid + ("6" if family == socket.AF_INET6 else "")
        sockets.entries += [Rpcb(PMAP_PROG, vers, name, universal_address(host, sockets.port), SUPERUSER)
                            for vers in VERSIONS if vers > 2 or family == socket.AF_INET]


def _bind_unix(sockets: Sockets, path: str) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _stale(path):
            os.unlink(path)
        old = os.umask(0o111)  # everyone may connect; the table's rules decide
        try:
            sock.bind(path)
        finally:
            os.umask(old)
    except PermissionError as exc:
        sock.close()
        if path == SOCKETS[0]:  # an ordinary user's port mapper: without
            log.info("no unix socket: %s", exc)
            return
        raise
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"{path}: {os.strerror(exc.errno or 0)}") from exc
    sockets.streams.append(sock)
    sockets.path = path
    sockets.entries += [Rpcb(PMAP_PROG, vers, "local", path, SUPERUSER) for vers in VERSIONS if vers > 2]


def _stale(path: str) -> bool:
    """A socket file that nobody listens on.  Nothing else: connect(2) to an ordinary file is refused as well."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def step_back(options: argparse.Namespace, why: OSError) -> int:
    """The port is taken: says by whom, as far as that can be found out."""
    try:
        with Pmap(port=options.port, timeout_s=1.0) as there:
            there.null()
    except (OSError, RpcTimeout, RpcError, XdrError):
        log.error("%s", why.strerror)
        return 1
    log.error("port %d: a port mapper (rpcbind?) already serves this machine; it stays, this one ends", options.port)
    return EXIT_TAKEN


def reserved_ports() -> int:
    """Source ports below this one can only be bound with privilege."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as f:
            return min(1024, int(f.read()))
    except (OSError, ValueError):
        return 1024


# ---- process

def drop_rights(user: str | None) -> None:
    """Root becomes `user`; whoever we are, no exec gives anything back.  Raises OSError when that cannot be done."""
    import prctl  # noqa: PLC0415  only here, once

    prctl.set_no_new_privs(1)
    if os.geteuid() != 0:
        if user is not None:
            raise PermissionError(errno.EPERM, f"only root can become {user}")
        return
    account = _account(user)
    prctl.capbset.limit()
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if account.pw_uid == 0:
        prctl.cap_effective.limit()  # first: what is effective must be permitted
        prctl.cap_permitted.limit()
    os.chdir("/")


def _account(user: str | None) -> pwd.struct_passwd:
    for name in (user,) if user else USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise OSError(errno.ENOENT, f"no user {user or ' or '.join(USERS)}")


def _uids(names: Sequence[str]) -> frozenset[int]:
    """Of those users that exist."""
    found = set()
    for name in names:
        with contextlib.suppress(KeyError):
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found)


def daemonize() -> None:
    """The parent ends: everything is bound, so "started" means "listening"."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def open_pidfile(path: str) -> int:
    """Raises OSError; FileExistsError is a symbolic link or a file of somebody else's."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise FileExistsError(errno.EEXIST, "not ours", path)
    os.ftruncate(fd, 0)
    return fd


class _Syslog(logging.Handler):
    """syslog(3), facility daemon."""

    def emit(self, record: logging.LogRecord) -> None:
        level = syslog.LOG_ERR if record.levelno >= logging.ERROR else \
            syslog.LOG_WARNING if record.levelno >= logging.WARNING else syslog.LOG_INFO
        for line in self.format(record).splitlines():
            syslog.syslog(level, line)


def set_up_logging(options: argparse.Namespace) -> None:
    handlers = [logformat.handler(options.log_to, "portmap", sys.stderr)]
    if not (options.debug or options.foreground):
        syslog.openlog("portmap", syslog.LOG_PID, syslog.LOG_DAEMON)
        handlers.append(_Syslog())
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.INFO, handlers=handlers)


if __name__ == "__main__":
    sys.exit(main())
