"""Passwords in the mount path, as unfsd has them.

    @password:SECRET/path     the secret itself, in clear
    @getnonce                 MNT answers 32 random bytes as a handle
    @otp:HEX/path             HEX = md5(nonce, secret); a nonce is bound to the client that asked for it and good for one try

Source: unfsd(8), option password.  unfsd has one nonce for all clients, so that two of them spoil each other's mounts.
"""
from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field

NONCE_SIZE = 32           # a v1 handle holds no more
NONCE_S = 60.0            # for a person to type the next command
MAX_NONCES = 1024         # clients that may be between the two steps


@dataclass(slots=True)
class Nonces:
    """Nonces by client; the oldest goes when there are too many."""

    _given: dict[bytes, tuple[float, bytes]] = field(default_factory=dict)

    def give(self, host: bytes, now_s: float) -> bytes:
        self._given.pop(host, None)
        if len(self._given) >= MAX_NONCES:
            del self._given[next(iter(self._given))]
        nonce = os.urandom(NONCE_SIZE)
        self._given[host] = now_s, nonce
        return nonce

    def take(self, host: bytes, now_s: float) -> bytes:
        """The client's nonce, which is used up by that; b"" when there is none."""
        given_s, nonce = self._given.pop(host, (0.0, b""))
        return nonce if now_s - given_s <= NONCE_S else b""


def parse_secret(path: bytes) -> tuple[bytes | str, bytes]:
    """(secret, path): bytes of @password:, text of @otp: (hex digits), b"" where there is neither."""
    for prefix in (b"@password:", b"@otp:"):
        if path.startswith(prefix):
            secret, slash, rest = path[len(prefix):].partition(b"/")
            return (secret.decode("ascii", "replace") if prefix == b"@otp:" else secret), slash + rest
    return b"", path


def otp_matches(nonce: bytes, secret: bytes, answer: str) -> bool:
    """Whether `answer` is md5(nonce, secret) in hex; never without a nonce."""
    wanted = hashlib.md5(nonce + secret, usedforsecurity=False).hexdigest()
    return bool(nonce) and hmac.compare_digest(wanted.encode(), answer.lower().encode("ascii", "replace"))
