"""python -I -m nfsserver: a worker of nfsd, started by the master; or the maker of the handles' key.

    --slot N --channel-fd FD --state-fd FD --key FILE [--log syslog|stderr] [-v]...
    --make-key FILE
"""
from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import socket
import sys


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nfsserver", description="worker of nfsd(8); started by it, not by hand")
    parser.add_argument("--make-key", metavar="FILE")
    parser.add_argument("--slot", type=int)
    parser.add_argument("--channel-fd", type=int)
    parser.add_argument("--state-fd", type=int)
    parser.add_argument("--key", metavar="FILE")
    parser.add_argument("--log", choices=("syslog", "stderr"), default="syslog")
    parser.add_argument("--no-harden", action="store_true", help="keep privileges and core dumps (for debuggers)")
    parser.add_argument("-v", dest="verbose", action="count", default=0)
    options = parser.parse_args()
    if options.make_key is None and None in (options.slot, options.channel_fd, options.state_fd, options.key):
        parser.error("--slot, --channel-fd, --state-fd and --key are needed")
    return options


def _set_title(title: str) -> None:
    """The name that ps(1) shows: the thread's, and the process's arguments (proc(5): arg_start, arg_end)."""
    from ._vnode import lib
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(title[:15])
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(") ")[2].split()
    lib.vn_set_title(int(fields[45]), int(fields[46]), title.encode())


def _log_to(where: str, slot: int, verbose: int) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if where == "syslog" and os.path.exists("/dev/log"):
        handler = logging.handlers.SysLogHandler("/dev/log", logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.setFormatter(logging.Formatter(f"nfsd: worker {slot}: %(message)s"))
    logging.basicConfig(handlers=[handler], level=max(logging.DEBUG, logging.WARNING - 10 * verbose))


def main() -> int:
    options = _options()
    from .key import make_key, read_key
    try:
        if options.make_key is not None:
            make_key(options.make_key)
            return 0
        key = read_key(options.key)
    except (OSError, ValueError) as exc:
        print(f"nfsd: key: {exc}", file=sys.stderr)
        return 1
    _set_title(f"nfsd: worker {options.slot}")
    _log_to(options.log, options.slot, options.verbose)
    from nfssvc_shim.channel import Channel

    from ._vnode import lib
    from .worker import MAX_OBJECTS, Worker
    channel = Channel(socket.socket(fileno=options.channel_fd))
    root = os.geteuid() == 0
    error = lib.vn_init(options.state_fd, options.slot, key, MAX_OBJECTS, root, not options.no_harden)
    if error:
        print(f"nfsd: worker {options.slot}: start: {os.strerror(error)}", file=sys.stderr)
        return 1
    Worker(options.slot, channel, root=root).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
