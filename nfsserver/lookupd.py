"""The helper that looks up groups or host names, so that a worker's loop never does: a directory or name server may not answer.

Started by helper.py as a file of its own (python -I lookupd.py groups | hosts), with a SEQPACKET socket as descriptor 3.  One
packet is one question, and its answer begins with the question:

    groups   -> unsigned uid;         <- unsigned uid; unsigned known; unsigned gids[];     known 0: there is no such user
    hosts    -> unsigned char a[4 | 16];  <- unsigned char a[4 | 16]; char name[];          no name: nobody knows one

Ends when the worker does.  Runs as nobody: it needs no privilege.
"""
from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  before we are nobody, who may not be able to read it when gethostbyaddr() needs it
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Callable

MAX_GIDS = 8192      # one packet of 32 KiB; Linux allows 65536, which no directory has
NOBODY = 65534
LIMIT_S = 6          # SIGALRM ends us then; the worker gave up a second ago


def groups_of(question: bytes) -> bytes:
    """known, gids"""
    try:
        user = pwd.getpwuid(struct.unpack("=I", question)[0])
    except KeyError:
        return struct.pack("=I", 0)
    gids = os.getgrouplist(user.pw_name, user.pw_gid)[:MAX_GIDS]
    return struct.pack(f"=I{len(gids)}I", 1, *gids)


def name_of(question: bytes) -> bytes:
    """What the address is called, when that name also leads back to it: who answers for an address can say any name."""
    address = socket.inet_ntop(socket.AF_INET if len(question) == 4 else socket.AF_INET6, question)
    try:
        name = socket.gethostbyaddr(address)[0]
        back = {str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return b""
    return os.fsencode(name) if address in back else b""


KINDS: dict[str, Callable[[bytes], bytes]] = {"groups": groups_of, "hosts": name_of}


def serve(sock: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    while question := sock.recv(16):
        signal.alarm(LIMIT_S)
        sock.send(question + answer(question), socket.MSG_NOSIGNAL)
        signal.alarm(0)


def main() -> None:
    kind = sys.argv[1]
    os.closerange(4, 1 << 20)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the worker's, whose end ends us
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(f"nfsd: {kind}")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    with socket.socket(fileno=3) as sock, contextlib.suppress(ConnectionError):  # the worker gave up or ended
        serve(sock, KINDS[kind])


if __name__ == "__main__":
    main()
