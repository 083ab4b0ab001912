"""Command line of mountd(8)."""
from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfssvc_shim.flags import Ex
from oncrpc.logformat import FORMATS
from oncrpc.usage import Parser, address, open_descriptor, port

from .callsock import default_path
from .exports import default_files
from .exports_model import Dialect

NFS_PORT = 2049           # nfsd's, unless it is told another

_EX_NAMES = {name.lower(): bit for name, bit in Ex.__members__.items()}


@dataclass(frozen=True, slots=True)
class Options:
    """debug: in the foreground, log to stderr.  port 0: any.  listen False: relayed calls only."""

    files: tuple[str, ...]
    debug: bool
    log: str
    port: int
    hosts: tuple[str, ...]
    reserved: bool
    log_mounts: bool
    test: bool
    hide: bool
    hosts_access: str
    listen: bool
    transports: tuple[str, ...]
    register: bool
    portmap_port: int
    ready_fd: int
    socket: str
    statedir: Path
    pidfile: str
    dialect: Dialect | None
    always: Ex
    cluster: tuple[bytes, ...]
    verbose: int

    def exports(self) -> Sequence[str]:
        """The files to load; looked up each time, for /etc/exports.d may have others by then."""
        return self.files or default_files()


def parse(argv: list[str]) -> Options:
    """Prints one line and exits with 64 on a wrong option."""
    a = _parser().parse_args(argv)
    if a.files and not a.test and any(not os.path.isabs(f) for f in a.files):
        a.files = [os.path.abspath(f) for f in a.files]
    always = Ex(0)
    for name in a.set.split(",") if a.set else ():
        if name not in _EX_NAMES:
            _parser().error(f"--set {name}: expected {', '.join(_EX_NAMES)}")
        always |= _EX_NAMES[name]
    always |= (Ex.CROSSMNT if a.crossmnt else Ex(0)) | (Ex.REGULAR if a.regular else Ex(0))
    return Options(
        files=tuple(a.files), debug=a.debug, log=a.log_to or ("stderr" if a.debug else "syslog"),
        port=a.port or (NFS_PORT if a.relay_only else 0), hosts=tuple(a.hosts),
        reserved=not (a.n or a.ports_any), log_mounts=a.log, test=a.test, hide=a.hide,
        hosts_access=a.hosts_access, listen=not a.relay_only,
        transports=("tcp",) if a.tcp_only else ("udp", "tcp"), register=not a.no_portmap, portmap_port=a.portmap_port,
        ready_fd=a.ready_fd, socket=a.socket or default_path(), statedir=Path(a.statedir) if a.statedir else default_statedir(),
        pidfile=a.pidfile, dialect=Dialect(a.dialect) if a.dialect else None, always=always,
        cluster=a.cluster, verbose=a.verbose)


def default_statedir() -> Path:
    """/var/lib/nfsd of root, $XDG_STATE_HOME/nfsd of others."""
    if os.geteuid() == 0:
        return Path("/var/lib/nfsd")
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path(os.environ.get("HOME", "/nonexistent")) / ".local/state") / "nfsd"


def _directories(text: str) -> tuple[bytes, ...]:
    """Absolute paths between colons, without slashes at their ends."""
    if not all(part.startswith("/") for part in text.split(":")):
        raise argparse.ArgumentTypeError(f"{text}: expected absolute paths, with a colon between them")
    return tuple(os.fsencode(part.rstrip("/") or "/") for part in text.split(":"))


def _parser() -> Parser:
    p = Parser("mountd", add_help=False, description="Serve MOUNT requests of NFS clients.",
               epilog="Also: mountd why CLIENT PATH [USER], mountd convert --to bsd|linux|json [FILE].")
    p.add_argument("--help", action="help", help="show this and exit")
    p.add_argument("files", nargs="*", metavar="exportsfile", help="default: /etc/exports and /etc/exports.d/*.exports")
    p.add_argument("-d", dest="debug", action="store_true", help="stay in the foreground, log to stderr")
    p.add_argument("--log", dest="log_to", choices=FORMATS, help="where the log goes: syslog; with -d stderr, json")
    p.add_argument("-v", dest="verbose", action="count", default=0, help="log more")
    p.add_argument("-n", action="store_true", help="take MOUNT and NFS calls from any source port, whatever the file says")
    p.add_argument("--ports-any", action="store_true", help="the same as -n")
    p.add_argument("-p", dest="port", type=port, default=0, help="port (0: any); with --relay-only nfsd's, to register (2049)")
    p.add_argument("-h", dest="hosts", type=address, action="append", default=[], metavar="bindip",
                   help="address to serve, repeatable")
    p.add_argument("-r", dest="regular", action="store_true", help="regular files may be exported")
    p.add_argument("-A", "-e", "-S", dest="_ignored", action="store_true", help="of FreeBSD: no effect")
    p.add_argument("-l", dest="log", action="store_true", help="log each mount")
    p.add_argument("-T", dest="test", action="store_true", help="check the files and exit with the number of errors, 125 at most")
    p.add_argument("-t", dest="tcp_only", action="store_true", help="TCP only")
    p.add_argument("-i", dest="pidfile", default="", metavar="pidfile")
    p.add_argument("--hide", action="store_true", help="EXPORT lists for each caller what he may mount, and no more")
    p.add_argument("--hosts-access", default="/etc", metavar="DIR", help="where hosts.allow and hosts.deny are")
    p.add_argument("--relay-only", "--no-listen", dest="relay_only", action="store_true", help="serve what nfsd relays")
    p.add_argument("--no-portmap", action="store_true", help="do not register with the port mapper")
    p.add_argument("--portmap-port", type=port, default=111, help="where the port mapper is")
    p.add_argument("--ready-fd", type=open_descriptor, default=-1, metavar="N", help="write READY and the port here when serving")
    p.add_argument("--socket", default="", metavar="PATH", help="the call socket of nfsd")
    p.add_argument("--statedir", default="", metavar="DIR", help="for mountdtab and mountdexptab")
    p.add_argument("--dialect", choices=[d.value for d in Dialect], help="of the exports files; default: by a look at each")
    p.add_argument("--crossmnt", action="store_true", help="show file systems mounted below every export, as unfsd")
    p.add_argument("--cluster", type=_directories, default=(), metavar="PATH:...", help="tags(7) in the exports there and below")
    p.add_argument("--set", default="", metavar="FLAG,...", help=f"for every export: {', '.join(_EX_NAMES)}")
    return p
