"""The call socket: clients of nfssvc(2), who they are and what they may ask.

Every local process may connect; rights come from SO_PEERCRED, which the kernel took at connect(2).  A peer that breaks the
protocol, that does not read its answers, or that is one of too many of its user loses its connection and hurts nobody else.
Descriptors, and large bodies, which need one, are taken from administrators only: nobody else may ask what takes them.

A new connection is in the hands of nfssvc_shim/answer.c, which answers what needs only the counters, until it asks for something
else: then it comes here, with that question unread.  The loop waits there, so that such answers cost no turn of it.
"""
from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
from collections.abc import Callable

from nfssvc_shim._nfssvc import ffi as _ffi
from nfssvc_shim._nfssvc import lib as _lib

from nfssvc_shim.channel import Channel, DescriptorsDropped, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.state import State

from . import log
from .loop import Loop

MAX_CLIENTS = 512        # connections of all users; the descriptors of a few hundred more stay for TCP connections in passing
MAX_OF_USER = 64         # of one user other than root and the server's: the oldest goes
RETRY_S = 0.1            # after a lack of descriptors
_UCRED = struct.Struct("3i")
_EVERYONE = frozenset((Nfssvc.SRVSTATS, Nfssvc.USERCOUNT, Nfssvc.STATUS))


class Client:
    """One connection.  lent: NFSD calls that wait for the end of the slot they lent."""

    def __init__(self, sock: socket.socket, number: int, admins: set[int]) -> None:
        self.pid, self.uid, self.gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        sock.setblocking(False)
        self.channel = Channel(sock, takes_fds=self.uid in admins)
        self.number = number
        self.lent: list[Message] = []
        self.open = True


def user_id(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


class CallSocket:
    """on_call(client, message, fds): a permitted or refused call is on_call's to answer; `fds` are its to close.
    on_gone(client): the connection has ended."""

    def __init__(self, loop: Loop, listener: socket.socket, server_uid: int, state: State, *,
                 on_call: Callable[[Client, Message, list[int]], None], on_gone: Callable[[Client], None]) -> None:
        self._loop, self._listener = loop, listener
        self._on_call, self._on_gone = on_call, on_gone
        self._admins = {0, server_uid}
        self._special = {user_id("_mountd"): Nfssvc.GETFH, user_id("_lockd"): Nfssvc.FHOPEN}
        self._clients: dict[int, Client] = {}
        self._last = 0
        listener.setblocking(False)
        self._handed, self._error = _ffi.new("int[]", _lib.ANSWER_ROOM), _ffi.new("int *")
        self._words = _ffi.from_buffer("uint64_t[]", state.map)  # lives as long as we do
        error = -_lib.answer_open(self._words, listener.fileno(), loop.fileno())
        if error:
            raise OSError(error, os.strerror(error), "call socket")
        self._accepting = True
        loop.wait_in(self._wait)

    def may(self, client: Client, flag: int) -> bool:
        return client.uid in self._admins or flag in _EVERYONE or self._special.get(client.uid) == flag

    def clients(self) -> list[Client]:
        return list(self._clients.values())

    def stop_accepting(self) -> None:
        self._loop.wait_in(None)
        self._accepting = False
        self._take(_lib.answer_close(self._handed))

    # ---- connections

    def _wait(self, timeout_ms: int) -> None:
        self._take(_lib.answer_wait(timeout_ms, self._handed, self._error))
        if self._error[0]:
            log.logger.warning("call socket: accept: %s", os.strerror(self._error[0]))
            _lib.answer_listen(0)
            self._loop.call_later(RETRY_S, self._listen_again)

    def _listen_again(self) -> None:
        if self._accepting:
            _lib.answer_listen(1)

    def _take(self, handed: int) -> None:
        """The first `handed` descriptors of the array are ours; most have a message that waits."""
        for fd in _ffi.unpack(self._handed, handed) if handed else ():
            self._add(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fd))

    def _add(self, sock: socket.socket) -> None:
        self._last += 1
        client = Client(sock, self._last, self._admins)
        others = [c for c in self._clients.values() if c.uid == client.uid and client.uid not in self._admins]
        if len(others) >= MAX_OF_USER:
            self.drop(others[0], f"uid {client.uid} has {MAX_OF_USER} connections")
        if len(self._clients) >= MAX_CLIENTS:
            self._evict()
        self._clients[client.number] = client
        self._loop.watch(sock.fileno(), lambda: self._read(client))
        self._read(client)

    def _evict(self) -> None:
        """The oldest one that is not an administrator's, else the oldest."""
        oldest = next((c for c in self._clients.values() if c.uid not in self._admins), None)
        self.drop(oldest or next(iter(self._clients.values())), f"{MAX_CLIENTS} connections")

    def drop(self, client: Client, why: str) -> None:
        if not client.open:
            return
        client.open = False
        log.logger.info("call socket: pid %d uid %d: %s", client.pid, client.uid, why)
        del self._clients[client.number]
        self._loop.forget(client.channel.fileno())
        client.channel.close()
        self._on_gone(client)

    # ---- messages

    def _read(self, client: Client) -> None:
        try:
            msg, fds = client.channel.recv()
        except BlockingIOError:
            return
        except EOFError:
            self.drop(client, "closed")
            return
        except DescriptorsDropped as exc:
            if self.may(client, exc.message.flag):
                self.drop(client, str(exc))
            else:
                self.reply(client, exc.message, errno=errno.EPERM)
            return
        except (ProtocolError, OSError, MemoryError) as exc:
            self.drop(client, str(exc))
            return
        self._on_call(client, msg, fds)

    def reply(self, client: Client, msg: Message, body: bytes = b"", *, errno: int = 0, fds: list[int] | None = None) -> None:
        """The answer; `fds` are closed in any case.  A peer that does not read loses its connection."""
        self.send(client, Message(msg.flag, msg.serial, body, errno), fds or [])

    def send(self, client: Client, msg: Message, fds: list[int]) -> None:
        try:
            if client.open:
                client.channel.send(msg, fds)
        except (BlockingIOError, OSError) as exc:
            self.drop(client, f"cannot be answered: {exc.strerror}")
        finally:
            for fd in fds:
                os.close(fd)
