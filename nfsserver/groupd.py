"""The helper that looks groups up, so that a worker's loop never does: NSS may ask a directory server that does not answer.

Started by groups.py as a file of its own (python -I groupd.py), with a SEQPACKET socket as descriptor 3:

    -> unsigned uid;      <- unsigned uid; unsigned known; unsigned gids[];

known 0: there is no such user.  Ends when the worker does.  Runs as nobody: it needs no privilege.
"""
from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import struct

MAX_GIDS = 8192      # one packet of 32 KiB; Linux allows 65536, which no directory has
NOBODY = 65534
LIMIT_S = 6          # SIGALRM ends us then; the worker gave up a second ago


def groups_of(uid: int) -> bytes:
    """The reply."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return struct.pack("=2I", uid, 0)
    gids = os.getgrouplist(user.pw_name, user.pw_gid)[:MAX_GIDS]
    return struct.pack(f"=2I{len(gids)}I", uid, 1, *gids)


def serve(sock: socket.socket) -> None:
    while question := sock.recv(16):
        signal.alarm(LIMIT_S)
        sock.send(groups_of(struct.unpack("=I", question)[0]), socket.MSG_NOSIGNAL)
        signal.alarm(0)


def main() -> None:
    os.closerange(4, 1 << 20)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the worker's, whose end ends us
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("nfsd: groups")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    with socket.socket(fileno=3) as sock, contextlib.suppress(ConnectionError):  # the worker gave up or ended
        serve(sock)


if __name__ == "__main__":
    main()
