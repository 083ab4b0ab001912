"""`nfsd share DIR...`: directories served from here in the foreground until Ctrl-C, for people in a hurry.

Read-only and to this machine alone unless told otherwise; no portmapper, one port for MOUNT and NFS.  As root files are served as
the directory's owner, or as --as USER; an ordinary user serves as himself.
"""
from __future__ import annotations

import argparse
import ipaddress
import os
import pwd
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .options import DEFAULT_WORKERS, NFS_PORT, UsageError, number
from .paths import StartError
from .unfsd import Unfsd
from .unfsd_options import Options

LOOPBACK = "127.0.0.1"
MAX_DIRS = 64            # words of a command line, not a configuration


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"share: {message}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="nfsd share", allow_abbrev=False, description="Serve directories until Ctrl-C.")
    parser.add_argument("dirs", nargs="+", metavar="DIR")
    parser.add_argument("--rw", action="store_true", help="clients may write")
    parser.add_argument("--to", action="append", default=[], metavar="CLIENT", help="host, address or network; `*' for everyone")
    parser.add_argument("--as", dest="user", default="", metavar="USER", help="serve as this user (root only)")
    parser.add_argument("--port", type=lambda text: number(text, "port", 1, 65535), default=0)
    parser.add_argument("--workers", type=lambda text: number(text, "workers", 1, 64), default=DEFAULT_WORKERS)
    return parser.parse_args(words)


def share(words: Sequence[str]) -> int:
    """Exit status.  Raises UsageError, StartError."""
    asked = _arguments(words)
    if len(asked.dirs) > MAX_DIRS:
        raise UsageError(f"share: more than {MAX_DIRS} directories")
    for client in asked.to:
        _check_client(client)
    dirs = [_directory(word) for word in asked.dirs]
    with tempfile.TemporaryDirectory(prefix="nfsd-share-") as folder:
        exports = Path(folder) / "exports"
        exports.write_text("".join(export_line(path, asked) for path in dirs), errors="surrogateescape")
        options = Options(exports=str(exports), workers=asked.workers, address="" if asked.to else LOOPBACK, debug=True,
                          portmap=False, throwaway=True)
        options.nfs_port = options.mount_port = asked.port or _port(options.address)
        return Unfsd(options).run(None, on_ready=lambda port: banner(dirs, asked, port))


def _check_client(client: str) -> None:
    """A word that cannot be one.  Raises UsageError.  Whether a name resolves is mountd's to find out."""
    if not client or any(c.isspace() or c in '()"#\\' for c in client):
        raise UsageError(f"share: --to {client!r} is not a client")
    if ":" in client or not set(client) - set("0123456789./"):
        try:
            ipaddress.ip_network(client, strict=False)
        except ValueError as exc:
            raise UsageError(f"share: --to {client}: neither an address nor a network") from exc


def _directory(word: str) -> Path:
    path = Path(word).resolve()
    if not path.is_dir():
        raise StartError(f"share: {path}: not a directory that we can see")
    return path


def _port(address: str) -> int:
    """2049 where it is free, else any."""
    with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((address, NFS_PORT))
            udp.bind((address, NFS_PORT))
        except OSError:
            return 0
    return NFS_PORT


def export_line(path: Path, asked: argparse.Namespace) -> str:
    """A line of exports(5) in the unfsd dialect."""
    options = ["rw" if asked.rw else "ro", "insecure", *_identity(path, asked.user)]
    quoted = str(path).replace("\\", "\\134").replace('"', "\\042").replace("\n", "\\012")
    return f'"{quoted}" ' + " ".join(f"{client}({','.join(options)})" for client in asked.to or [LOOPBACK]) + "\n"


def _identity(path: Path, user: str) -> list[str]:
    if os.geteuid():
        if user and user != pwd.getpwuid(os.geteuid()).pw_name:
            raise StartError(f"share: --as {user}: only root can serve as somebody else (CAP_SETUID)")
        return []
    if not user:
        info = path.stat()
        return ["all_squash", f"anonuid={info.st_uid}", f"anongid={info.st_gid}"] if info.st_uid else ["root_squash"]
    try:
        entry = pwd.getpwnam(user)
    except KeyError as exc:
        raise StartError(f"share: no user {user}") from exc
    return ["all_squash", f"anonuid={entry.pw_uid}", f"anongid={entry.pw_gid}"]


def banner(dirs: Sequence[Path], asked: argparse.Namespace, port: int) -> None:
    """What is served, to whom, and the exact words to mount it."""
    host = socket.gethostname() if asked.to else LOOPBACK
    print(f"serving {'read-write' if asked.rw else 'read-only'} to {', '.join(asked.to) or 'this machine alone'} on port {port}")
    if not asked.to:
        print("  to open it: --to 192.0.2.0/24 (a network), --to HOST" + ("" if asked.rw else "; to let clients write: --rw"))
    ports = f"port={port},mountport={port}"
    for path in dirs:
        print(f"  {path}")
        print(f"    Linux  mount -t nfs -o vers=3,nolock,proto=tcp,mountproto=tcp,{ports} {host}:{path} /mnt")
        print(f"    macOS  mount -t nfs -o vers=3,nolocks,{ports} {host}:{path} /mnt")
    print("  health: nfsd status, nfsd check, nfsstat -s;  end: Ctrl-C")
    sys.stdout.flush()
