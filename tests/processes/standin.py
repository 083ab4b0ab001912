"""A small real worker for tests of the master: speaks the channel, serves an echo on its TCP connections and UDP sockets.

Each TCP connection and each datagram is answered with "slot pid\n"; what it was told lands in the shared state as a worker's
would.  `python standin.py --slot N --behaviour serve|crash|mute` with the channel at 3 and the state file at 4.
"""
from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import unpack_export_args, unpack_nfsd_args
from nfssvc_shim.state import S_CONNECTIONS, S_GENERATION, S_HEARTBEAT, S_INCARNATION, S_PID, State


class Worker:
    def __init__(self, slot: int) -> None:
        self.slot = slot
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
            self.selector.register(sock, selectors.EVENT_READ)
        elif msg.flag == Nfssvc.EXPORT:
            self.row[S_GENERATION] = unpack_export_args(msg.body).generation
        elif msg.flag == Nfssvc.GETFH:
            body = struct.pack(">I", 8) + b"handle00"
        elif msg.flag == Nfssvc.STOP:
            sys.exit(0)
        self.channel.reply(msg, body)


def main() -> None:
    slot, behaviour = int(sys.argv[2]), sys.argv[4]
    if behaviour == "crash":
        sys.exit(3)
    worker = Worker(slot)
    if behaviour == "mute":
        signal_forever = selectors.DefaultSelector()
        while True:
            signal_forever.select(60)
    worker.run()


main()
