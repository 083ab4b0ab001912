"""The call socket in a loop of the test's own."""
from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nfsd_master.callsock import CallSocket
from nfsd_master.loop import Loop
from nfssvc_shim import state
from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc

LIMIT_S = 20.0


@pytest.fixture
def shared(tmp_path: Path) -> state.State:
    fd = state.open_state(tmp_path / "state")
    try:
        return state.State(fd)
    finally:
        os.close(fd)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "call"))
        sock.listen(8)
        yield sock


def asked(listener: socket.socket, flag: int) -> Channel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(listener.getsockname())
    channel = Channel(sock)
    channel.send(Message(flag, 1))
    return channel


def run_until_readable(loop: Loop, channel: Channel) -> None:
    loop._running = True  # also a second time
    loop.watch(channel.fileno(), loop.stop)
    loop.call_later(LIMIT_S, loop.stop)
    loop.run()
    channel.sock.settimeout(0.1)


def test_a_lack_of_descriptors_is_waited_out(shared: state.State, listener: socket.socket) -> None:
    """accept(2) gives EMFILE: the call socket rests, and takes newcomers when there are descriptors again."""
    loop, (soft, hard) = Loop(), resource.getrlimit(resource.RLIMIT_NOFILE)
    calls = CallSocket(loop, listener, os.geteuid(), shared, on_call=lambda *_: None, on_gone=lambda _: None)
    channel = asked(listener, Nfssvc.USERCOUNT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    loop.call_later(0.25, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    try:
        run_until_readable(loop, channel)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert channel.recv()[0].body == bytes(4)
    channel.close()
    calls.stop_accepting()


def test_connections_that_asked_nothing_yet_are_kept_when_no_more_are_taken(shared: state.State, listener: socket.socket) -> None:
    """While the server stops: who is connected may still ask."""
    loop = Loop()
    calls = CallSocket(loop, listener, os.geteuid(), shared, on_call=lambda client, msg, fds: calls.reply(client, msg, b"x"),
                       on_gone=lambda _: None)
    first = asked(listener, Nfssvc.USERCOUNT)
    run_until_readable(loop, first)
    first.recv()
    calls.stop_accepting()
    first.send(Message(Nfssvc.USERCOUNT, 2))
    run_until_readable(loop, first)
    assert first.recv()[0].body == b"x"
    first.close()
    for client in calls.clients():
        calls.drop(client, "the test is over")


@pytest.mark.parametrize("what", ["timer", "descriptor"])
def test_who_asks_without_pause_keeps_the_loop_from_nothing(shared: state.State, listener: socket.socket, what: str) -> None:
    """The loop waits in the hands that answer; they look at its timers and descriptors between two answers."""
    loop = Loop()
    calls = CallSocket(loop, listener, os.geteuid(), shared, on_call=lambda *_: None, on_gone=lambda _: None)
    often, (out, into) = asked(listener, Nfssvc.USERCOUNT), os.pipe2(os.O_NONBLOCK)

    def ask() -> None:
        with suppress(EOFError, OSError):  # until it is shut down
            while True:
                often.recv()
                often.send(Message(Nfssvc.USERCOUNT, 1))
                if what == "descriptor":
                    os.write(into, b"x")

    thread = threading.Thread(target=ask)
    watchdog = threading.Timer(LIMIT_S, often.sock.shutdown, (socket.SHUT_RDWR,))  # then the loop sees nothing else
    for each in (thread, watchdog):
        each.start()
    loop.watch(out, loop.stop)
    if what == "timer":
        loop.call_later(0.5, loop.stop)  # shorter, and the client might pause so long by itself
    loop.run()
    in_time = watchdog.is_alive()
    watchdog.cancel()
    often.sock.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert in_time
    often.close()
    calls.stop_accepting()
    for fd in (out, into):
        os.close(fd)


def test_the_one_that_was_silent_for_longest_makes_room(shared: state.State, listener: socket.socket) -> None:
    """A kept connection that asks now and then stays where it is answered without a turn of Python, whoever else connects."""
    loop, in_python = Loop(), list[int]()
    calls = CallSocket(loop, listener, os.geteuid(), shared, on_call=lambda client, msg, fds: in_python.append(msg.flag),
                       on_gone=lambda _: None)
    often, silent = asked(listener, Nfssvc.USERCOUNT), list[socket.socket]()
    for serial in range(2, 50):
        run_until_readable(loop, often)
        assert often.recv()[0].body == bytes(4)
        silent.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        silent[-1].connect(listener.getsockname())
        often.send(Message(Nfssvc.USERCOUNT, serial))
    run_until_readable(loop, often)
    assert not in_python
    for sock in (*silent, often):
        sock.close()
    calls.stop_accepting()
    for client in calls.clients():
        calls.drop(client, "the test is over")
