"""nfsstat check: is every worker alive and serving?

Duty: give each worker a connection of its own (ADDSOCK with its slot), then NULL, and GETATTR of the first export's root where
this host may mount it, each within the deadline.  Needs the rights of ADDSOCK: root or the server's uid.  Exit status 0 when
all answered: for containers and watchdogs.
"""
from __future__ import annotations

import errno
import socket
from contextlib import closing

from nfssvc_shim.call import nfssvc
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import Address, NfsdArgs
from oncrpc.client import Client
from oncrpc.message import RpcError
from oncrpc.xdr import Packer, Unpacker, XdrError

from .stats import fetch_exports, fetch_status

NFS, MOUNT, VERSION = 100003, 100005, 3
NULL, GETATTR, MNT = 0, 1, 1
OK, ACCES = 0, 13


class Unhealthy(OSError):
    """A worker did not do what it is there for; strerror says which and what."""


def check_all(deadline_s: int) -> str:
    """One line for people.  Raises Unhealthy, OSError (ENOSYS: no server runs)."""
    status = fetch_status()
    slots = [slot["slot"] for slot in status["slots"]]
    if not slots:
        raise Unhealthy(0, "no worker runs")
    exports = fetch_exports()
    handle = mount(slots[0], exports[0].path, deadline_s) if exports and status["mountd"] else None  # MOUNT waits for a mountd
    for slot in slots:
        check_worker(slot, handle, deadline_s)
    what = "NULL" if handle is None else "NULL and GETATTR"
    return f"ok: {len(slots)} workers answered {what}; {len(exports)} exports"


def check_worker(slot: int, handle: bytes | None, deadline_s: int) -> None:
    try:
        with _client(slot, NFS, deadline_s) as client:
            client.call(NULL)
            if handle is not None:
                packer = Packer()
                packer.pack_opaque(handle)
                status = Unpacker(client.call(GETATTR, bytes(packer))).unpack_uint()
                if status != OK:
                    raise Unhealthy(0, f"worker {slot}: GETATTR answered status {status}")
    except (TimeoutError, EOFError, XdrError, RpcError, ConnectionError) as exc:
        raise Unhealthy(0, f"worker {slot}: {exc}") from exc


def mount(slot: int, path: str, deadline_s: int) -> bytes | None:
    """The handle of `path`; None when this host may not mount it, or MOUNT is not answered on this port."""
    packer = Packer()
    packer.pack_string(path.encode("utf-8", "surrogateescape"))
    try:
        with _client(slot, MOUNT, deadline_s) as client:
            reply = Unpacker(client.call(MNT, bytes(packer)))
    except RpcError:
        return None
    except (TimeoutError, EOFError, XdrError, ConnectionError) as exc:
        raise Unhealthy(0, f"MOUNT by worker {slot}: {exc}") from exc
    return reply.unpack_opaque(64) if reply.unpack_uint() == OK else None


def _client(slot: int, program: int, deadline_s: int) -> Client:
    """A connection that worker `slot` serves: two ends over loopback, one of them handed over."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1)) as listener:
        ours = socket.create_connection(listener.getsockname(), deadline_s)
        with closing(listener.accept()[0]) as theirs:
            peer = Address.of("127.0.0.1", ours.getsockname()[1])
            _hand_over(slot, peer, theirs.fileno())
    return Client(ours, program, VERSION, timeout_s=deadline_s)


def _hand_over(slot: int, peer: Address, fd: int) -> None:
    try:
        nfssvc(Nfssvc.ADDSOCK, NfsdArgs(peer, slot), fds=[fd])
    except OSError as exc:
        if exc.errno in (errno.EAGAIN, errno.ETIMEDOUT):
            raise Unhealthy(exc.errno, f"worker {slot} takes no connection") from exc
        raise
