"""What all our commands do with a command line that they cannot understand: one line, and exit status 64.

EX_USAGE of sysexits.h, as the nfsd of macOS and FreeBSD.  The options themselves are shown by --help, not with each mistake.
Called by: mountd, portmap, showmount, rpcinfo.  Loads argparse: not for workers.
"""
from __future__ import annotations

import argparse
import ipaddress
import os
from typing import NoReturn

EX_USAGE = 64


class Parser(argparse.ArgumentParser):
    """Words are taken in full; argparse's abbreviations would change their meaning with each option that is added."""

    def __init__(self, prog: str, *, description: str | None = None, epilog: str | None = None, add_help: bool = True) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, add_help=add_help, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(EX_USAGE, f"{self.prog}: {message.removeprefix('argument ')}; see {self.prog} --help\n")


def port(text: str) -> int:
    return _number(text, 0, 65535)


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
    return int(text)


def open_descriptor(text: str) -> int:
    """A descriptor that our parent left us."""
    number = _number(text, 0, 1 << 20)
    try:
        os.fstat(number)
    except OSError:
        raise argparse.ArgumentTypeError(f"descriptor {number} is not open") from None
    return number


def address(text: str) -> str:
    """Numeric: what a name means may change, what was bound does not."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 or IPv6 address") from None


def why(exc: BaseException) -> str:
    """An error as a person reads it: "Connection refused", "/x: No such file or directory"; without Python's "[Errno 111]"."""
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc) or type(exc).__name__
