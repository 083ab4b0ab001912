"""The channel: one nfssvc message a SOCK_SEQPACKET packet, descriptors beside it.

    struct header { unsigned magic; unsigned version; unsigned flag; unsigned serial; unsigned errno; unsigned length; };
    followed by `length` bytes of XDR, or, where the body is over 64 KiB, by nothing and the body in a sealed memfd that rides as
    the LAST descriptor (length then has its size, and bit 31 of `flag` is set).

A request has errno 0; its reply has the same flag and serial, and errno 0 or why not.  The receiver checks as if the sender were
hostile: what it cannot accept raises ProtocolError, after which the channel must be closed.  Truncated packets (MSG_TRUNC,
MSG_CTRUNC) are such an error.  Received descriptors are close-on-exec and the caller's to close.
"""
from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

MAGIC = 0x4E465356        # "NFSV"
VERSION = 1               # raised when a body changes its meaning
HEADER = struct.Struct(">6I")
MAX_INLINE = 65536        # larger bodies go by memfd: one packet ends at about 212,000 bytes (net.core.wmem_default)
MAX_BODY = 64 << 20       # an export table of 16,384 exports with 200 networks each
MAX_FDS = 64              # descriptors a message: a slot's sockets at the most
BY_MEMFD = 0x80000000
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ProtocolError(Exception):
    """The peer broke the protocol; the channel must be closed."""


@dataclass(frozen=True, slots=True)
class Message:
    """flag: an Nfssvc value; serial: the sender's number of the request; errno: 0 in a request and in a success."""

    flag: int
    serial: int = 0
    body: bytes = b""
    errno: int = 0


class DescriptorsDropped(ProtocolError):
    """The peer sent descriptors that are not taken from him; `message` is what they came with."""

    def __init__(self, message: Message) -> None:
        super().__init__("descriptors from who may send none")
        self.message = message


class Channel:
    """One end of the channel over a connected SOCK_SEQPACKET socket, blocking or not as the socket is.

    takes_fds   False for a peer who may send no descriptor, hence no body over MAX_INLINE: the kernel drops what he sends, and
                the message is a ProtocolError.  Received and closed it could stop us: close(2) of a file in a FUSE file system
                waits for the answer of whoever serves that.
    """

    def __init__(self, sock: socket.socket, *, takes_fds: bool = True) -> None:
        self.sock = sock
        self._serial = 0
        self._fd_room = socket.CMSG_SPACE(MAX_FDS * 4) if takes_fds else 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def next_serial(self) -> int:
        """1, 2, ... 2^32-1, 1, ..."""
        self._serial = self._serial % 0xFFFFFFFF + 1
        return self._serial

    def send(self, msg: Message, fds: tuple[int, ...] | list[int] = ()) -> None:
        """One packet.  Raises BlockingIOError (non-blocking socket, peer slow), OSError (peer gone)."""
        flag, inline, passed, memfd = msg.flag, msg.body, list(fds), -1
        if len(msg.body) > MAX_INLINE:
            memfd = _memfd_of(msg.body)
            flag, inline = flag | BY_MEMFD, b""
            passed.append(memfd)
        try:
            head = HEADER.pack(MAGIC, VERSION, flag, msg.serial, msg.errno, len(msg.body))
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
            self.sock.sendmsg([head, inline], ancillary, socket.MSG_NOSIGNAL)
        finally:
            if memfd >= 0:
                os.close(memfd)

    def recv(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors.  Raises EOFError (peer closed), ProtocolError, BlockingIOError."""
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(HEADER.size + MAX_INLINE, self._fd_room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as exc:  # the peer ended with messages of ours unread
            raise EOFError("the peer closed the channel") from exc
        if not self._fd_room and flags & socket.MSG_CTRUNC:
            raise DescriptorsDropped(_decode(data, flags & ~socket.MSG_CTRUNC, []))
        fds = _descriptors(ancillary)
        try:
            return _decode(data, flags, fds), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def reply(self, request: Message, body: bytes = b"", *, errno: int = 0, fds: tuple[int, ...] | list[int] = ()) -> None:
        self.send(Message(request.flag, request.serial, body, errno), fds)

    def call(self, flag: int, body: bytes = b"", fds: tuple[int, ...] | list[int] = ()) -> tuple[bytes, list[int]]:
        """A request and its reply, on a blocking channel that nobody else reads.  Raises OSError with the reply's errno."""
        serial = self.next_serial()
        self.send(Message(flag, serial, body), fds)
        while True:
            msg, got = self.recv()
            if (msg.flag, msg.serial) == (flag, serial):
                break
            for fd in got:
                os.close(fd)
        if msg.errno:
            for fd in got:
                os.close(fd)
            raise OSError(msg.errno, os.strerror(msg.errno))
        return msg.body, got


def _memfd_of(body: bytes) -> int:
    fd = os.memfd_create("nfssvc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view):]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _decode(data: bytes, flags: int, fds: list[int]) -> Message:
    if not data and not fds:
        raise EOFError("the peer closed the channel")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError("truncated packet")
    if len(data) < HEADER.size:
        raise ProtocolError(f"packet of {len(data)} bytes")
    magic, version, flag, serial, errno, length = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ProtocolError(f"magic {magic:#x}, version {version}")
    body = data[HEADER.size:]
    if flag & BY_MEMFD:
        if body or not fds or length > MAX_BODY:
            raise ProtocolError(f"memfd body of {length} bytes")
        body = _memfd_body(fds[-1], length)
        os.close(fds.pop())
    if len(body) != length:
        raise ProtocolError(f"{len(body)} bytes of body where the header says {length}")
    return Message(flag & ~BY_MEMFD, serial, body, errno)


def _memfd_body(fd: int, length: int) -> bytes:
    """The body in a memfd that its sender can no longer change; a file that is not sealed is refused."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(fd).st_size != length:
            raise ProtocolError("body not in a sealed memfd of its length")
    except OSError as exc:
        raise ProtocolError("body not in a memfd") from exc
    return os.pread(fd, length, 0)
