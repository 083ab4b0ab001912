"""The helper process that watches the machine's addresses and interfaces.

Why: names that did not resolve because the network came up after mountd are asked again at once instead of after minutes, and an
entry for `fe80::/64%eth1` begins to match when eth1 appears and ends when it goes.

Theory of operation.  rtnetlink(7) says that something changed; after SETTLE_S without a further change everything is asked for
anew and compared, so that an event that was lost (ENOBUFS) or means nothing here costs nothing but the look.  A difference goes
to the parent as one line of text.  The parent has listen() before it asks for any name, so that nothing is missed while this
process starts.  Ends when the parent's end closes.  A process of its own, because pyroute2 takes 25 MB, and because nothing that
reads such messages needs a right.  Called by: service.
"""
from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from .privsep import drop_rights

log = logging.getLogger(__name__)

SETTLE_S = 0.2            # an interface that comes up makes a dozen events
MAX_NEWS = 4000           # characters of one line to the parent; the rest is counted
MAX_PACKET = 8192
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100   # linux/rtnetlink.h
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR


def listen() -> socket.socket:
    """The socket of events."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    events.bind((0, _GROUPS))
    return events


def serve(sock: socket.socket, events: socket.socket, empty: Path | None) -> None:
    """The whole life of the process."""
    from pyroute2 import IPRoute  # noqa: PLC0415  here only: no other process pays for it

    drop_rights(empty)

    def look() -> set[str]:
        with IPRoute() as route:
            return names(route.get_links(), route.get_addr())

    run(sock, events, look)


def run(sock: socket.socket, events: socket.socket, look: Callable[[], set[str]]) -> None:
    """look: what there is now."""
    early, known = _settled(events), look()
    if early:
        sock.send(b"while this process started")
    while True:
        ready = select.select([sock, events], [], [])[0]
        if sock in ready:
            return
        _settled(events)
        now = look()
        if now != known:
            sock.send(news(known, now).encode(errors="replace")[:MAX_PACKET])
        known = now


def _settled(events: socket.socket) -> bool:
    """Takes events until none has come for SETTLE_S; whether there was one."""
    found = False
    while select.select([events], [], [], SETTLE_S)[0]:
        _drain(events)
        found = True
    return found


def _drain(events: socket.socket) -> None:
    try:
        while events.recv(65536):
            pass
    except BlockingIOError:
        return
    except OSError as exc:  # ENOBUFS: some were lost; everything is looked at anyway
        log.debug("netlink: %s", exc)


def names(links: Iterable[object], addresses: Iterable[object]) -> set[str]:
    """`eth0` for an interface with its index, `192.0.2.1%eth0` for an address.  Arguments: messages of pyroute2."""
    by_index = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}  # type: ignore[index,attr-defined]
    found = {f"{name} (interface {index})" for index, name in by_index.items()}
    for message in addresses:
        address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")  # type: ignore[attr-defined]
        found.add(f"{address}%{by_index.get(message['index'], '?')}")  # type: ignore[index]
    return found


def news(before: set[str], now: set[str]) -> str:
    """`+192.0.2.9%eth0 -192.0.2.8%eth0`"""
    words = [f"+{name}" for name in sorted(now - before)] + [f"-{name}" for name in sorted(before - now)]
    text = ""
    for number, word in enumerate(words):
        if len(text) + len(word) > MAX_NEWS:
            return f"{text} and {len(words) - number} more"
        text += (" " if text else "") + word
    return text


__all__ = ["listen", "names", "news", "run", "serve"]
