"""nfssvc(2), ERRORS: each line of the manual pages by the C call, against the real server."""
from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nfssvc_shim.flags import Nfssvc, Nx, Nxa

from .test_server import ROOT, Server, server  # noqa: F401 a fixture


class Xucred(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("ngroups", ctypes.c_int16),
                ("groups", ctypes.c_uint32 * 16)]


class NetArgs(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint32), ("cred", Xucred), ("addr", ctypes.c_uint8 * 128), ("mask", ctypes.c_uint8 * 128),
                ("sec", ctypes.c_uint32 * 6)]


class ExportArgs(ctypes.Structure):
    _fields_ = [("fsid", ctypes.c_uint32), ("expid", ctypes.c_uint32), ("fspath", ctypes.c_char_p), ("exppath", ctypes.c_char_p),
                ("flags", ctypes.c_uint32), ("netcount", ctypes.c_uint32), ("nets", ctypes.POINTER(NetArgs))]


class NfsdArgs(ctypes.Structure):
    _fields_ = [("sock", ctypes.c_int), ("name", ctypes.c_void_p), ("namelen", ctypes.c_int)]


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


assert (ctypes.sizeof(NetArgs), ctypes.sizeof(ExportArgs), ctypes.sizeof(NfsdArgs)) == (360, 40, 24)


def host(address: str) -> bytes:
    """The host's sockaddr_in in a sockaddr_storage."""
    return (socket.AF_INET.to_bytes(2, sys.byteorder) + bytes(2) + socket.inet_aton(address)).ljust(128, b"\0")


def net(address: str = "", flags: int = 0, mask: str = "", flavors: int = 0) -> NetArgs:
    made = NetArgs(flags=flags)
    made.cred.ngroups = 1
    made.sec[0] = flavors
    if address:
        made.addr[:] = host(address)
    if mask:
        made.mask[:] = host(mask)
    return made


@dataclass
class Caller:
    """The C call, and what its records point to."""

    library: ctypes.CDLL
    export: bytes
    kept: list[object] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def __call__(self, flags: int, argument: object = None) -> int:
        """0 or the errno."""
        ctypes.set_errno(0)
        result = self.library.nfssvc(flags, argument)
        return 0 if result == 0 else ctypes.get_errno()

    def change(self, op: int, *nets: NetArgs, expid: int = 9, path: bytes | None = None, below: bytes = b"") -> int:
        array = (NetArgs * len(nets))(*nets)
        args = ExportArgs(0, expid, self.export if path is None else path, below, op, len(nets), array)
        return self(Nfssvc.EXPORT, ctypes.byref(args))

    def addsock(self, sock: int, name: bytes | None = None) -> int:
        place = ctypes.create_string_buffer(name, len(name)) if name else None
        return self(Nfssvc.ADDSOCK, ctypes.byref(NfsdArgs(sock, ctypes.addressof(place) if place else None, len(name or b""))))

    def statistics(self, flag: int, room: int) -> int:
        data, size = ctypes.create_string_buffer(max(1, room)), ctypes.c_uint64()
        return self(flag, (Iovec * 2)(Iovec(ctypes.addressof(data), room), Iovec(ctypes.addressof(size), 8)))

    def socket(self, kind: int, family: int = socket.AF_INET) -> int:
        return self.stack.enter_context(socket.socket(family, kind)).fileno()

    def connected(self) -> int:
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return self.stack.enter_context(socket.create_connection(listener.getsockname())).fileno()


@pytest.fixture
def call(tree: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:  # noqa: F811
    monkeypatch.setenv("NFSSVC_SOCKET", str(server.path))
    made = Caller(ctypes.CDLL(str(tree / "lib/libnfssvc.so"), use_errno=True), bytes(server.export))
    with made.stack:
        yield made
    made.change(Nxa.DELETE)


WORLD, READERS, WRITERS = net(), net("192.0.2.0", Nx.READONLY, "255.255.255.0"), net("192.0.2.0", 0, "255.255.255.0")
NAMED = host("127.0.0.1")[:16]
CASES: dict[str, tuple[int, Callable[[Caller], int]]] = {
    # flags
    "no operation": (errno.EINVAL, lambda c: c(0)),
    "an operation that is none": (errno.EINVAL, lambda c: c(0x400)),
    "two operations": (errno.EINVAL, lambda c: c(Nfssvc.SRVSTATS | Nfssvc.USERCOUNT)),
    "a flag of the server's own processes": (errno.EINVAL, lambda c: c(Nfssvc.STOP)),
    "every bit": (errno.EINVAL, lambda c: c(-1)),
    # ADDSOCK
    "a socket that is closed": (errno.EBADF, lambda c: c.addsock(1 << 20)),
    "a descriptor of -1": (errno.EBADF, lambda c: c.addsock(-1)),
    "a pipe": (errno.ENOTSOCK, lambda c: c.addsock(os.pipe()[0])),
    "a second UDP socket": (errno.EEXIST, lambda c: c.addsock(c.socket(socket.SOCK_DGRAM))),
    "a unix socket": (errno.EINVAL, lambda c: c.addsock(c.socket(socket.SOCK_DGRAM, socket.AF_UNIX))),
    "a seqpacket socket": (errno.EINVAL, lambda c: c.addsock(c.socket(socket.SOCK_SEQPACKET, socket.AF_UNIX))),
    "a stream without its peer's name": (errno.EACCES, lambda c: c.addsock(c.connected())),
    "a stream that is not connected": (errno.ENOTCONN, lambda c: c.addsock(c.socket(socket.SOCK_STREAM), NAMED)),
    "a name that is too short": (errno.EINVAL, lambda c: c.addsock(c.connected(), NAMED[:7])),
    "a stream with its peer's name": (0, lambda c: c.addsock(c.connected(), NAMED)),
    # EXPORT
    "an export": (0, lambda c: c.change(Nxa.ADD, WORLD, READERS)),
    "the same export again": (errno.EEXIST, lambda c: c.change(Nxa.ADD, WORLD) or c.change(Nxa.ADD, WORLD)),
    "an export replaced": (0, lambda c: c.change(Nxa.ADD, WORLD) or c.change(Nxa.REPLACE, READERS)),
    "an id that is known under another path": (errno.EEXIST, lambda c: c.change(Nxa.ADD, WORLD)
                                               or c.change(Nxa.REPLACE, WORLD, path=b"/")),
    "an export id of 0": (errno.EINVAL, lambda c: c.change(Nxa.ADD, WORLD, expid=0)),
    "no export to delete": (errno.ENOENT, lambda c: c.change(Nxa.DELETE, expid=77)),
    "no export to take offline": (errno.ENOENT, lambda c: c.change(Nxa.OFFLINE, expid=77)),
    "an export taken offline": (0, lambda c: c.change(Nxa.ADD, WORLD) or c.change(Nxa.OFFLINE)),
    "CHECK with ADD": (errno.EINVAL, lambda c: c.change(Nxa.CHECK | Nxa.ADD, WORLD)),
    "CHECK of a directory": (0, lambda c: c.change(Nxa.CHECK, WORLD)),
    "CHECK of a file": (errno.EINVAL, lambda c: c.change(Nxa.CHECK, WORLD, below=b"file")),
    "CHECK of nothing": (errno.ENOENT, lambda c: c.change(Nxa.CHECK, WORLD, below=b"nothing")),
    "an operation that is none of EXPORT": (errno.EINVAL, lambda c: c.change(0x20, WORLD)),
    "a path that is not there": (errno.ENOENT, lambda c: c.change(Nxa.ADD, WORLD, below=b"nothing")),
    "a path to a file": (errno.EINVAL, lambda c: c.change(Nxa.ADD, WORLD, below=b"file")),
    "a path that is not absolute": (errno.EINVAL, lambda c: c.change(Nxa.ADD, WORLD, path=b"export")),
    "a path with ..": (errno.EINVAL, lambda c: c.change(Nxa.ADD, WORLD, below=b"../export")),
    "a path that is too long": (errno.ENAMETOOLONG, lambda c: c.change(Nxa.ADD, WORLD, path=b"/" + b"x" * 5000)),
    "two entries for everyone": (errno.EEXIST, lambda c: c.change(Nxa.ADD, WORLD, net(flags=Nx.READONLY))),
    "a network twice with other options": (errno.EPERM, lambda c: c.change(Nxa.ADD, READERS, WRITERS)),
    "a network twice": (0, lambda c: c.change(Nxa.ADD, READERS, READERS)),
    "a mask with holes": (errno.EINVAL, lambda c: c.change(Nxa.ADD, net("192.0.2.0", 0, "255.0.255.0"))),
    "six flavors": (errno.EINVAL, lambda c: c.change(Nxa.ADD, net(flavors=6))),
    # statistics
    "no room for a header of exports": (errno.ENOMEM, lambda c: c.statistics(Nfssvc.EXPORTSTATS, 11)),
    "room for a header of exports": (0, lambda c: c.statistics(Nfssvc.EXPORTSTATS, 12)),
    "no room for a header of users": (errno.ENOMEM, lambda c: c.statistics(Nfssvc.USERSTATS, 7)),
    "room for a header of users": (0, lambda c: c.statistics(Nfssvc.USERSTATS, 8)),
    "no room for the counters": (errno.ENOMEM, lambda c: c.statistics(Nfssvc.SRVSTATS, 487)),
    "room for the counters": (0, lambda c: c.statistics(Nfssvc.SRVSTATS, 488)),
    "no room for a count": (errno.ENOMEM, lambda c: c.statistics(Nfssvc.USERCOUNT, 3)),
    "ZEROSTATS": (0, lambda c: c(Nfssvc.ZEROSTATS)),
}
# Pointers that lead nowhere, for each call that takes one.
CASES |= {f"{flag.name} at {pointer:#x}": (errno.EFAULT, lambda c, flag=flag, pointer=pointer: c(flag, ctypes.c_void_p(pointer)))
          for flag in (Nfssvc.ADDSOCK, Nfssvc.EXPORT, Nfssvc.EXPORTSTATS, Nfssvc.USERSTATS, Nfssvc.USERCOUNT, Nfssvc.SRVSTATS,
                       Nfssvc.GETFH, Nfssvc.FHOPEN, Nfssvc.STATUS)
          for pointer in (0, 8, 1 << 46, 1 << 63)}


@pytest.mark.parametrize("case", CASES)
def test_errno_is_that_of_the_manual_page(call: Caller, server: Server, case: str) -> None:  # noqa: F811
    want, ask = CASES[case]
    before = server.status()["exports"]
    assert errno.errorcode.get(ask(call), 0) == errno.errorcode.get(want, 0)
    if want and "again" not in case and "known" not in case:
        assert server.status()["exports"] == before, "what failed changed nothing"


def test_every_errno_is_in_the_manual() -> None:
    page = (ROOT / "man" / "nfssvc.2").read_text().partition(".Sh ERRORS")[2]
    documented = set(re.findall(r"^\.It Bq Er (\w+)", page, re.MULTILINE))
    assert {errno.errorcode[want] for want, _ in CASES.values() if want} <= documented


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_is_no_administrator_gets_eperm_or_the_counters(tree: Path, server: Server) -> None:  # noqa: F811
    """Also with records that are right."""
    code = f"""if True:
        import ctypes, encodings.idna, os
        from tests.nfssvc_shim.test_errno import *
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        call = Caller(ctypes.CDLL("{tree}/lib/libnfssvc.so", use_errno=True), {bytes(server.export)!r})
        print(call.change(Nxa.ADD, WORLD), call.change(Nxa.DELETE_ALL), call.addsock(call.connected(), NAMED), call(Nfssvc.NFSD),
              call(Nfssvc.ZEROSTATS), call.statistics(Nfssvc.EXPORTSTATS, 100), call.statistics(Nfssvc.USERSTATS, 100),
              call.statistics(Nfssvc.SRVSTATS, 488), call.statistics(Nfssvc.USERCOUNT, 4))
    """
    for path in (tree, *tree.parents[:3]):  # with several test processes one more
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o001:
            path.chmod(0o755)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60,
                         env=os.environ | {"NFSSVC_SOCKET": str(server.path), "PYTHONDONTWRITEBYTECODE": "1"})
    assert ran.stdout.split() == ["1"] * 7 + ["0"] * 2, ran.stderr


def test_a_call_in_the_middle_of_which_the_server_ends_is_told_so(call: Caller, server: Server) -> None:  # noqa: F811
    """ECONNRESET, or ENOSYS while nobody listens; the next control half answers."""
    control = int(str(server.status()["control"]))
    os.kill(control, signal.SIGSTOP)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(call.change(Nxa.ADD, WORLD))
        finally:
            os._exit(255)
    os.kill(control, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, errno.ECONNRESET)
