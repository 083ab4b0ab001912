"""A small real worker for tests of the master: speaks the channel, serves an echo on its TCP connections and UDP sockets.

Each TCP connection and each datagram is answered with "slot pid\n"; what it was told lands in the shared state as a worker's
would.  `python standin.py --slot N --behaviour WHAT` with the channel at 3 and the state file at 4; WHAT is serve, crash, mute,
generous (60 descriptors ride on each answer), or what the first worker of a slot sends instead of an answer to GETFH:
junk, pickle, version, long, memfd, descriptors.
"""
from __future__ import annotations

import fcntl
import os
import pickle
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nfssvc_shim.channel import BY_MEMFD, MAGIC, VERSION, Channel, Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import unpack_export_args, unpack_nfsd_args
from nfssvc_shim.state import S_CONNECTIONS, S_GENERATION, S_HEARTBEAT, S_INCARNATION, S_PID, S_TCPCONN, State


def oversize() -> int:
    """100 MiB in memory, sealed."""
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 100 << 20)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0xF)
    return fd


def misbehave(sock: socket.socket, how: str) -> None:
    """Attack table L03: what is no message of the protocol."""
    null = os.open("/dev/null", os.O_RDONLY)
    head = struct.Struct(">6I")
    if how == "junk":
        sock.send(os.urandom(1000))
    elif how == "pickle":
        sock.send(pickle.dumps({"flag": 8}))
    elif how == "version":
        sock.send(head.pack(MAGIC, 77, Nfssvc.ADDSOCK, 1, 0, 0))
    elif how == "long":
        sock.send(head.pack(MAGIC, VERSION, Nfssvc.ADDSOCK, 1, 0, 100_000) + bytes(100_000))
    elif how == "memfd":
        socket.send_fds(sock, [head.pack(MAGIC, VERSION, Nfssvc.GETFH | BY_MEMFD, 1, 0, 100 << 20)], [oversize()])
    else:
        socket.send_fds(sock, [head.pack(MAGIC, VERSION, Nfssvc.ADDSOCK, 1, 0, 0)], [null] * 250)


class Worker:
    def __init__(self, slot: int, behaviour: str) -> None:
        self.slot = slot
        self.behaviour = behaviour
        self.channel = Channel(socket.socket(fileno=3))
        self.row = State(4).slot(slot)
        self.row[S_INCARNATION] += 1
        self.row[S_PID], self.row[S_CONNECTIONS] = os.getpid(), 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(3, selectors.EVENT_READ)
        self.answer = f"{slot} {os.getpid()}\n".encode()
        self.udp: list[socket.socket] = []
        self.channel.send(Message(Nfssvc.READY))

    def run(self) -> None:
        while True:
            self.row[S_HEARTBEAT] = time.monotonic_ns()
            for key, _ in self.selector.select(1.0):
                if key.fd == 3:
                    self.control()
                else:
                    self.serve(key.fileobj)

    def serve(self, sock: socket.socket) -> None:
        if sock in self.udp:
            _, peer = sock.recvfrom(2048)
            sock.sendto(self.answer, peer)
            return
        try:
            data = sock.recv(2048)
        except OSError:
            data = b""
        if data:
            sock.sendall(self.answer)
        else:
            self.selector.unregister(sock)
            sock.close()
            self.row[S_CONNECTIONS] -= 1

    def control(self) -> None:
        try:
            msg, fds = self.channel.recv()
        except EOFError:
            sys.exit(0)
        body = b""
        if msg.flag == Nfssvc.ADDSOCK:
            sock = socket.socket(fileno=fds.pop())
            if unpack_nfsd_args(msg.body).name is None:
                self.udp.append(sock)
            else:
                self.row[S_CONNECTIONS] += 1
                self.row[S_TCPCONN] += 1
            self.selector.register(sock, selectors.EVENT_READ)
        elif msg.flag == Nfssvc.EXPORT:
            self.row[S_GENERATION] = unpack_export_args(msg.body).generation
        elif msg.flag == Nfssvc.GETFH:
            body = struct.pack(">I", 8) + b"handle00"
        elif msg.flag == Nfssvc.STOP:
            sys.exit(0)
        bad = self.behaviour not in ("serve", "generous") and self.row[S_INCARNATION] == 1
        if bad and msg.flag == Nfssvc.GETFH:
            misbehave(self.channel.sock, self.behaviour)
            return
        self.channel.reply(msg, body, fds=[0] * 60 if self.behaviour == "generous" else [])


def main() -> None:
    slot, behaviour = int(sys.argv[2]), sys.argv[4]
    if behaviour == "crash":
        sys.exit(3)
    worker = Worker(slot, behaviour)
    if behaviour == "mute":
        signal_forever = selectors.DefaultSelector()
        while True:
            signal_forever.select(60)
    worker.run()


main()
