"""Which addresses are this machine's own.

The kernel takes no packet from the net whose source is one of them, so a caller with such an address is a local one.  Asked anew
each time, by binding to it: no table that could be old, and nothing to watch.
"""
from __future__ import annotations

import socket
from pathlib import Path

from nfssvc_shim.records import AF_INET4, AF_INET6, AF_LOCAL, Address

_NONLOCAL = {AF_INET4: Path("/proc/sys/net/ipv4/ip_nonlocal_bind"), AF_INET6: Path("/proc/sys/net/ipv6/ip_nonlocal_bind")}


def is_own(address: Address) -> bool:
    """Whether `address` is one of this machine's.  False where binding proves nothing (ip_nonlocal_bind)."""
    if address.family == AF_LOCAL:
        return True
    try:
        if _NONLOCAL[address.family].read_text().strip() != "0":
            return False
        family = socket.AF_INET if address.family == AF_INET4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0) if family == socket.AF_INET else (str(address), 0, 0, address.scope))
    except (OSError, KeyError):
        return False
    return True
