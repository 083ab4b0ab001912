"""Where one unfsd keeps its state, and what it reads from there for USR1."""
from __future__ import annotations

import os
import socket
from pathlib import Path

from nfssvc_shim.state import N_SLOTS, S_FDS_READ, S_FDS_WRITE, S_FH_HITS, S_FH_MISSES, S_OBJECTS, State, open_state

from .options import Options as NfsdOptions
from .paths import paths_of, runtime_dir
from .unfsd_options import Options


def places(options: Options) -> tuple[Path, Path, bool]:
    """State directory, call socket, and whether the directory is for this run only.

    $NFSSVC_SOCKET names the call socket, and the state lies beside it.  Else the socket has nfsd's default path when that is
    free, so that nfsstat finds it, and the state directory is named by the port.
    """
    throwaway = options.throwaway or not options.nfs_port
    name = f"unfsd-any-{os.getpid()}" if throwaway else f"unfsd-{options.nfs_port}"
    named = options.socket or os.environ.get("NFSSVC_SOCKET", "")
    if named.startswith("/"):
        statedir = Path(options.statedir) if options.statedir else Path(named).parent / name
        return statedir, Path(named), throwaway and not options.statedir
    statedir = Path(options.statedir) if options.statedir else runtime_dir() / name
    default = paths_of(NfsdOptions()).socket
    return statedir, default if is_free(default) else statedir / "nfssvc.sock", throwaway and not options.statedir


def is_free(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def cache_counts(path: Path) -> tuple[int, int, int, int, int]:
    """Objects in the handle caches, their hits and misses, descriptors open for reading and for writing, of all workers."""
    fd = open_state(path)
    state = State(fd)
    try:
        rows = [state.slot(n) for n in range(N_SLOTS)]
        objects, hits, misses, reads, writes = (sum(row[i] for row in rows)
                                                for i in (S_OBJECTS, S_FH_HITS, S_FH_MISSES, S_FDS_READ, S_FDS_WRITE))
        for row in rows:
            row.release()
        return objects, hits, misses, reads, writes
    finally:
        state.close()
        os.close(fd)
