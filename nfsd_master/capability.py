"""Which capabilities are missing, and what a server without them cannot do: said once at the start."""
from __future__ import annotations

import os
from pathlib import Path

# Number (linux/capability.h), name, what is not possible without it.
_WANTED = (
    (0, "CAP_CHOWN", "new objects cannot be given to their callers"),
    (1, "CAP_DAC_OVERRIDE", "root of a client is not root here"),
    (2, "CAP_DAC_READ_SEARCH", "file handles go by path: a file that is moved becomes stale"),
    (3, "CAP_FOWNER", "root of a client cannot change other users' files"),
    (6, "CAP_SETGID", "every call runs as this process"),
    (7, "CAP_SETUID", "every call runs as this process"),
    (27, "CAP_MKNOD", "no device nodes"),
)


def identity_is_stuck() -> str:
    """What root lacks to run each call as its caller, or nothing.  It must not start then: all clients would be root.

    Root of a user namespace with nobody else in it (user_namespaces(7)) has nobody to become, and serves as itself.
    """
    if os.geteuid() or Path("/proc/self/setgroups").read_text().strip() == "deny":
        return ""
    effective = _effective()
    return ", ".join(name for number, name, _ in _WANTED if name in ("CAP_SETGID", "CAP_SETUID") and not effective >> number & 1)


def _effective() -> int:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return int(status["CapEff"], 16)


def missing() -> list[str]:
    """Lines "CAP_X: what is not possible" for this process."""
    effective = _effective()
    lost = [(name, what) for number, name, what in _WANTED if not effective >> number & 1]
    by_loss: dict[str, list[str]] = {}
    for name, what in lost:
        by_loss.setdefault(what, []).append(name)
    return [f"{', '.join(names)} missing: {what}" for what, names in by_loss.items()]
