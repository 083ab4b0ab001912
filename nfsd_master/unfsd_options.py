"""The options of unfsd(8), read as unfs3's getopt(3) string reads them."""
from __future__ import annotations

import getopt
from collections.abc import Sequence
from dataclasses import dataclass, field

from nfssvc_shim.state import N_SLOTS
from oncrpc.logformat import FORMATS

from .options import DEFAULT_WORKERS, NFS_PORT, UsageError, address, number

EXPORTS = "/etc/exports"
USAGE = """usage: unfsd [-h] [-u] [-d] [-e file] [-i file] [-n port] [-m port] [-t] [-p] [-c] [-C path]
             [-s] [-b] [-l addr] [-r] [-T] [-w] [-3] [-V 2] [--no-acl] [--workers n]
  -h        this text                      -e file   exports file (/etc/exports)
  -u        unprivileged ports             -i file   pid file
  -d        foreground, log to stdout      -n port   NFS port (2049)
  -t        TCP only                       -m port   MOUNT port (2049)
  -p        no portmapper                  -l addr   bind this address
  -s        single user                    -T        test the exports file
  -b        search for moved files         -r        unreadable executables look readable
  -c        cluster extensions             -C path   those in the exports at and below path (a:b:c)
  -3        32-bit file ids and cookies
  -w        accepted, no effect            --workers n  worker processes (4)
  -V 2      NFS version 2 as well          --no-acl  no NFS_ACL (getfacl, setfacl)
  --statedir dir, --socket path, --key file: other places than the usual ones
  --log stderr | json: how the log looks with -d"""


@dataclass(slots=True)
class Options:
    exports: str = EXPORTS
    pidfile: str = ""
    nfs_port: int = NFS_PORT
    mount_port: int = NFS_PORT
    workers: int = DEFAULT_WORKERS
    address: str = ""
    debug: bool = False
    tcp_only: bool = False
    portmap: bool = True
    test: bool = False
    help: bool = False
    verbose: int = 0
    statedir: str = ""           # --statedir, --socket, --key: as nfsd's
    socket: str = ""
    key: str = ""
    v2: bool = False             # NFS version 2 is answered, too
    acl: bool = True             # NFS_ACL is answered
    log: str = "stderr"          # with -d: stderr or json
    cluster: str = ""            # -C: where tags(7) are looked at, instead of everywhere
    throwaway: bool = False      # no state is kept for the next run
    export_flags: list[str] = field(default_factory=lambda: ["crossmnt"])


_FLAGS = {"-s": "singleuser", "-b": "bruteforce", "-r": "readable_exec", "-3": "fileid32", "-c": "cluster"}
_PATHS = {"--statedir": "statedir", "--socket": "socket", "--key": "key"}
_SHORT = "3bcC:de:hl:m:n:prstTuvwi:V:"
_LONG = ["workers=", "help", "statedir=", "socket=", "key=", "no-acl", "log="]
_BOOL = {"-d": ("debug", True), "-t": ("tcp_only", True), "-p": ("portmap", False), "-T": ("test", True), "-h": ("help", True),
         "--no-acl": ("acl", False)}


def parse(argv: Sequence[str]) -> Options:
    """Raises UsageError."""
    try:
        pairs, rest = getopt.getopt(list(argv), _SHORT, _LONG)
    except getopt.GetoptError as exc:
        raise UsageError(str(exc)) from exc
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}")
    options = Options()
    for name, value in pairs:
        _set(options, name, value)
    return options


def _set(o: Options, name: str, value: str) -> None:
    if name in _BOOL:
        setattr(o, *_BOOL[name])
    elif name in _FLAGS:
        o.export_flags.append(_FLAGS[name])
    elif name == "--log":
        if value not in FORMATS[1:]:
            raise UsageError(f"--log {value!r} is not {' or '.join(FORMATS[1:])}")
        o.log = value
    elif name == "--help":
        o.help = True
    elif name in _PATHS:
        if not value.startswith("/"):
            raise UsageError(f"{name} {value!r}: an absolute path is needed")
        setattr(o, _PATHS[name], value)
    elif name == "-e":
        if not value.startswith("/"):
            raise UsageError(f"exports file {value!r}: an absolute path is needed")
        o.exports = value
    elif name == "-u":
        o.nfs_port = o.mount_port = 0
    elif name == "-n":
        o.nfs_port = number(value, "port", 1, 65535)
    elif name == "-m":
        o.mount_port = number(value, "port", 1, 65535)
    elif name == "-l":
        o.address = address(value)
    elif name == "-i":
        o.pidfile = value
    elif name == "--workers":
        o.workers = number(value, "workers", 1, N_SLOTS)
    elif name == "-V":
        if value not in ("2", "3"):
            raise UsageError(f"NFS version {value!r}: 3 is always there, 2 can be added")
        o.v2 |= value == "2"
    elif name == "-C":
        if not all(part.startswith("/") for part in value.split(":")):
            raise UsageError(f"-C {value!r}: absolute paths are needed")
        o.cluster = value
    elif name == "-v":
        o.verbose += 1
