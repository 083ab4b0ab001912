"""A small daemon for the rc.d tests: -P or -i names its pid file, -d keeps it in the foreground, -T only says ok.

It writes what happens to LOG (started, reloaded, stopped); STUBBORN=1: TERM does not end it; REFUSE=1: it does not start.
"""
from __future__ import annotations

import getopt
import os
import signal
import sys


def say(word: str) -> None:
    with open(os.environ["LOG"], "a") as log:
        log.write(f"{os.path.basename(sys.argv[0])} {word}\n")


def main() -> int:
    options = dict(getopt.gnu_getopt(sys.argv[1:], "dTn:tuP:i:", ["no-portmap"])[0])
    if "-T" in options or "REFUSE" in os.environ:
        return 1 if "REFUSE" in os.environ else 0
    pidfile = options.get("-P") or options["-i"]
    reading, writing = os.pipe()
    if "-d" not in options and os.fork():
        os.close(writing)
        return 0 if os.read(reading, 1) else 1
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    say(" ".join(["started", *sys.argv[1:-2]]))
    with open(pidfile + ".new", "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(pidfile + ".new", pidfile)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.write(writing, b"1")
    while True:
        got = signal.sigwait({signal.SIGTERM, signal.SIGHUP})
        if got == signal.SIGHUP:
            say("reloaded")
        elif "STUBBORN" not in os.environ:
            say("stopped")
            os.unlink(pidfile)
            return 0


sys.exit(main())
