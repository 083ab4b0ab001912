"""The nursery: one process that has loaded what a worker needs, and forks the first workers.

Theory of operation.  A start needs several workers at once, and most of what each costs is the same: an interpreter and the
modules.  So the master starts one process (fork and exec, as for every child), which loads them while the master binds, makes the
handles' key where there is none, says READY or why not, forks one worker for each SLOT message, answers with its pid, and ends
when the master hangs up.  The workers then are the master's children (PR_SET_CHILD_SUBREAPER, prctl(2)), like those that it
starts itself.

What forking without exec gives away, and why that is little.  The first workers have the same addresses, stack guard and hash
seed, as an exec would not have given them.  Who crashes one learns about the others.  But a worker that died is replaced by fork
and exec, with addresses of its own, and the nursery is gone by then: there are as many tries against one layout as there are
workers, not one a crash for ever.  No secret is shared by this: each worker reads the key itself after the fork; the nursery has
it in memory only at the first start ever, when it makes it, and what it forks are workers, who have it anyway.
"""
from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Mapping

import prctl

from nfssvc_shim.channel import Channel, Message, ProtocolError
from nfssvc_shim.flags import Nfssvc

from .children import spawn
from .paths import StartError

READY_S = 20.0           # to make or find the key: an entropy-starved first boot included
END_S = 3.0              # to finish a key that it has begun to make, so that no part of one is left


class Nursery:
    """One, from its start until fork() or end()."""

    def __init__(self, argv: list[str], *, output: int) -> None:
        """argv: the command, which finds its channel as descriptor 3; output: as spawn()'s."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.settimeout(READY_S)
        with theirs:
            self._pid = spawn(argv, [theirs.fileno()], output=output)
        self._channel = Channel(mine)

    def fork(self, channels: Mapping[int, int], state_fd: int) -> dict[int, int]:
        """Slot: pid of a worker with that channel.  The nursery is gone then.  Raises StartError: the key cannot be used."""
        prctl.set_child_subreaper(1)
        try:
            self._wait_ready()
            return self._fork(channels, state_fd)
        except (OSError, EOFError, ProtocolError, struct.error) as exc:
            raise StartError(f"the first workers cannot be started: {exc or type(exc).__name__}") from exc
        finally:
            self.end()
            prctl.set_child_subreaper(0)

    def _wait_ready(self) -> None:
        msg, _ = self._channel.recv()
        if msg.errno:
            raise StartError(msg.body.decode(errors="replace"))

    def _fork(self, channels: Mapping[int, int], state_fd: int) -> dict[int, int]:
        for slot, fd in channels.items():
            self._channel.send(Message(Nfssvc.SLOT, slot, struct.pack(">I", slot)), [fd, state_fd])
        pids: dict[int, int] = {}
        while len(pids) < len(channels):
            msg, _ = self._channel.recv()
            if msg.errno:
                raise OSError(msg.errno, os.strerror(msg.errno))
            (pids[msg.serial],) = struct.unpack(">I", msg.body)
        return pids

    def end(self) -> None:
        """It has done its work, or is not needed; what it forked is ours from now on."""
        self._channel.close()
        if not self._pid:
            return
        fd = os.pidfd_open(self._pid)
        try:
            if not select.select([fd], [], [], END_S)[0]:
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        finally:
            os.close(fd)
        self._pid = 0
