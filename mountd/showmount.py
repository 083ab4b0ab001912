"""showmount(8): what a mountd, ours or another, says about its exports and mounts.

    showmount [-a | -d | -e] [-1 | -3] [-E] [--no-headers] [host]

The layout is Linux's where both have one (BSD pads to 34 columns and says "Everyone", Linux to the longest and says
"(everyone)"); --bsd chooses the other.  Exit status 0, or 1 with one line on stderr; 64 usage.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from oncrpc.client import Client, RpcError, RpcTimeout, XdrError
from oncrpc.pmap import IPPROTO_TCP, IPPROTO_UDP, Pmap
from oncrpc.usage import Parser, port, why
from oncrpc.xdr import Unpacker

from .exports_model import printable
from .mount import MNTNAMLEN, MNTPATHLEN, MOUNT_PROGRAM, Proc

MAX_ENTRIES = 100_000     # of an answer; a foreign server's list may have no end
TIMEOUT_S = 10.0
BSD_COLUMN = 34


def unpack_mountlist(data: bytes) -> list[tuple[bytes, bytes]]:
    """mountlist: hosts and directories.  Raises XdrError."""
    u = Unpacker(data)
    found: list[tuple[bytes, bytes]] = []
    while u.unpack_bool():
        found.append((u.unpack_string(MNTNAMLEN), u.unpack_string(MNTPATHLEN)))
        if len(found) > MAX_ENTRIES:
            raise XdrError(f"more than {MAX_ENTRIES} mounts")
    return found


def unpack_exports(data: bytes) -> list[tuple[bytes, list[bytes]]]:
    """exports: directories with their groups.  Raises XdrError."""
    u = Unpacker(data)
    found: list[tuple[bytes, list[bytes]]] = []
    n_groups = 0
    while u.unpack_bool():
        directory, groups = u.unpack_string(MNTPATHLEN), []
        while u.unpack_bool():
            groups.append(u.unpack_string(MNTNAMLEN))
            n_groups += 1
        found.append((directory, groups))
        if len(found) + n_groups > MAX_ENTRIES:
            raise XdrError(f"more than {MAX_ENTRIES} exports")
    return found


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        lines = _lines(options)
    except (OSError, RpcError, XdrError) as exc:
        print(f"showmount: {options.host}: {why(exc)}{_hint(options, exc)}", file=sys.stderr)
        return 1
    for line in lines:
        print(line)
    return 0


def _hint(options: argparse.Namespace, exc: Exception) -> str:
    """Which of the two did not answer, and what can be done."""
    if not isinstance(exc, ConnectionRefusedError):
        return ""
    return f" at port {options.port}" if options.port else " by the port mapper; --port asks mountd itself"


def _parser() -> Parser:
    p = Parser("showmount")
    what = p.add_mutually_exclusive_group()
    what.add_argument("-a", "--all", action="store_true", help="host:directory of each mount")
    what.add_argument("-d", "--directories", action="store_true", help="directories that are mounted")
    what.add_argument("-e", "--exports", action="store_true", help="the exports")
    version = p.add_mutually_exclusive_group()
    version.add_argument("-1", dest="vers", action="store_const", const=1, default=3, help="MOUNT version 1")
    version.add_argument("-3", dest="vers", action="store_const", const=3, help="MOUNT version 3 (default)")
    p.add_argument("-E", dest="escape", action="store_true", help="blanks and specials of paths as \\ooo, for scripts")
    p.add_argument("--no-headers", action="store_true")
    p.add_argument("--bsd", action="store_true", help="the layout of BSD and macOS")
    p.add_argument("--port", type=port, default=0, help="mountd's port; default: ask the port mapper")
    p.add_argument("--udp", action="store_true", help="over UDP")
    p.add_argument("host", nargs="?", default="localhost")
    return p


def _lines(options: argparse.Namespace) -> list[str]:
    show = _escaped if options.escape else printable
    if options.exports:
        exports = unpack_exports(ask(options.host, Proc.EXPORT, vers=options.vers, port=options.port, udp=options.udp))
        body = (_bsd_exports if options.bsd else _linux_exports)(exports, show)
        title = f"Export{'s' if options.bsd else ''} list {'on' if options.bsd else 'for'} {options.host}:"
    else:
        mounts = unpack_mountlist(ask(options.host, Proc.DUMP, vers=options.vers, port=options.port, udp=options.udp))
        title, body = _mounts(options, mounts, show)
    return body if options.no_headers else [title, *body]


def ask(host: str, proc: Proc, *, vers: int, port: int, udp: bool) -> bytes:
    """The results of one procedure of `host`.  The port mapper is asked when port is 0."""
    if not port:
        port = _port(host, vers, udp)
    opener = Client.udp if udp else Client.tcp
    with opener((host, port), MOUNT_PROGRAM, vers, timeout_s=TIMEOUT_S) as client:
        return client.call(proc)


def _port(host: str, vers: int, udp: bool) -> int:
    try:
        with Pmap(host, tcp=not udp, timeout_s=TIMEOUT_S) as mapper:
            port = mapper.getport(MOUNT_PROGRAM, vers, IPPROTO_UDP if udp else IPPROTO_TCP)
    except RpcTimeout as exc:
        raise RpcTimeout("the port mapper does not answer") from exc
    if not port:
        raise OSError("mountd is not registered there")
    return port


def _mounts(options: argparse.Namespace, mounts: list[tuple[bytes, bytes]],
            show: Callable[[bytes], str]) -> tuple[str, list[str]]:
    if options.all:
        return f"All mount points on {options.host}:", sorted({f"{show(h)}:{show(d)}" for h, d in mounts})
    if options.directories:
        return f"Directories on {options.host}:", sorted({show(d) for _, d in mounts})
    return f"Hosts on {options.host}:", sorted({show(h) for h, _ in mounts})


def _linux_exports(exports: list[tuple[bytes, list[bytes]]], show: Callable[[bytes], str]) -> list[str]:
    width = max((len(show(path)) for path, _ in exports), default=0)
    return [f"{show(path):<{width}} {','.join(show(g) for g in groups) or '(everyone)'}" for path, groups in exports]


def _bsd_exports(exports: list[tuple[bytes, list[bytes]]], show: Callable[[bytes], str]) -> list[str]:
    return [f"{show(path):<{BSD_COLUMN}} {' '.join(show(g) for g in groups) or 'Everyone'}" for path, groups in exports]


def _escaped(text: bytes) -> str:
    return "".join(chr(b) if 0x21 <= b < 0x7F and b != 0x5C else f"\\{b:03o}" for b in text)


if __name__ == "__main__":
    sys.exit(main())
