"""Where nfsd keeps its files, for root and for an ordinary user.

root: /run/nfsd and /var/lib/nfsd.  Others: $XDG_RUNTIME_DIR/nfsd, or /tmp/nfsd-<uid> (0700, must be ours), and
$XDG_STATE_HOME/nfsd (default ~/.local/state/nfsd).  The variables are not believed when they are not absolute paths
(XDG Base Directory Specification).
"""
from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .options import Options


class StartError(Exception):
    """nfsd cannot start; the text is one line that says what and where, or "": a child said it.  `status`: the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Paths:
    """Files of one instance."""

    statedir: Path
    state: Path
    exports: Path      # exports.tab: the table, for a control half that starts again
    socket: Path       # the call socket
    key: Path
    pidfile: Path


def paths_of(options: Options) -> Paths:
    """Where this instance keeps what; nothing is made yet."""
    statedir = Path(options.statedir) if options.statedir else runtime_dir() / "nfsd"
    return Paths(statedir=statedir, state=statedir / "state", exports=statedir / "exports.tab",
                 socket=Path(options.socket) if options.socket else statedir / "nfssvc.sock",
                 key=Path(options.key) if options.key else _key_dir() / "key",
                 pidfile=Path(options.pidfile) if options.pidfile else statedir / "nfsd.pid")


def _environment_dir(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else None


def runtime_dir() -> Path:
    if os.geteuid() == 0 and os.access("/run", os.W_OK):  # root of a user namespace or a read-only container: as a user
        return Path("/run")
    return _environment_dir("XDG_RUNTIME_DIR") or Path(f"/tmp/nfsd-{os.geteuid()}")  # noqa: S108 checked by make_private


def _key_dir() -> Path:
    if os.geteuid() == 0 and os.access("/var/lib", os.W_OK):
        return Path("/var/lib/nfsd")
    return (_environment_dir("XDG_STATE_HOME") or Path(os.environ.get("HOME", "/nonexistent")) / ".local/state") / "nfsd"


def make_private(directory: Path, *, mode: int) -> None:
    """`directory` made where missing, with its parents; StartError when it is not ours alone to write.

    mode  of a directory that is made: 0755 for root's (its call socket is for everyone), 0700 for a user's
    """
    try:
        if directory.parent.name.startswith("nfsd-") and not directory.parent.exists():
            directory.parent.mkdir(mode=0o700)
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=mode, exist_ok=True)
        info = directory.lstat()
    except OSError as exc:
        raise StartError(f"{directory}: {exc.strerror}") from exc
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise StartError(f"{directory}: not a directory that belongs to uid {os.geteuid()} alone")
    check_parent(directory)


def check_parent(path: Path) -> None:
    """StartError when somebody else could put another file in the place of `path`."""
    info = path.parent.stat()
    if info.st_uid not in (0, os.geteuid()):
        raise StartError(f"{path.parent}: belongs to uid {info.st_uid}, who could replace {path.name}")
    if info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX:
        raise StartError(f"{path.parent}: others may write there and could replace {path.name}")
