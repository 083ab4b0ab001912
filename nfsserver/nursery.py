"""python -I -m nfsserver --nursery FD: makes the key where there is none, and forks the first workers.

The other end and what it all is for: nfsd_master/nursery.py.  On the channel FD: out READY, with an errno and a text where the
key cannot be used; in SLOT {unsigned slot} with the worker's channel and the state file; out SLOT {unsigned pid}.
One thread and no worker's state until the last fork.
"""
from __future__ import annotations

import errno
import gc
import os
import struct
import sys
from collections.abc import Callable

from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc

from .key import make_key

Work = Callable[[int, int, int], int]    # slot, channel, state file: the exit status of a worker


def serve(channel: Channel, key: str, work: Work) -> int:
    """The exit status of the nursery, or of a worker that it forked."""
    why = _key_error(key)
    gc.collect()
    gc.freeze()  # so that no collection writes to, and thereby copies, the pages that all workers share
    try:
        channel.send(Message(Nfssvc.READY, 0, why.encode(errors="replace"), errno.EINVAL if why else 0))
    except BrokenPipeError:
        return 1  # the master could not start for another reason
    while True:
        try:
            msg, fds = channel.recv()
        except EOFError:
            return 0
        (slot,) = struct.unpack(">I", msg.body)
        pid = _fork(channel, msg)
        if pid == 0:
            channel.close()
            return work(slot, *fds)
        for fd in fds:
            os.close(fd)


def _key_error(key: str) -> str:
    """Makes the key where there is none; why it cannot be used, or nothing."""
    try:
        make_key(key)
    except OSError as exc:
        return f"key {key}: {exc.strerror}"
    except ValueError as exc:
        return str(exc)
    return ""


def _fork(channel: Channel, msg: Message) -> int:
    """0 in the worker; -1 when there is none."""
    sys.stderr.flush()
    try:
        pid = os.fork()
    except OSError as exc:
        channel.reply(msg, errno=exc.errno or errno.EAGAIN)
        return -1
    if pid:
        channel.reply(msg, struct.pack(">I", pid))
    return pid
