"""manage-gids: the groups of a user as this server knows them, instead of the 16 that AUTH_SYS carries.

A uid is known (the answer is kept for KEEP_S), or a helper process (helper.py) is asked while the calls wait, detached; without
an answer they get JUKEBOX: they ask again.  A user whom this server does not know keeps the groups that he sent, as with Linux'
mountd --manage-gids.
Used by: worker.py, when it decides what a caller may do.
"""
from __future__ import annotations

import struct
from collections.abc import Callable

from oncrpc.server import Server

from .helper import Helper

KEEP_S = 300.0          # FreeBSD's nfsuserd: 60, Linux: 1800
MAX_KNOWN = 16384       # users; with 16 groups each about 4 MB

Then = Callable[[bool], None]   # called once: True when known() has the answer


class Groups:
    """The users' groups.

    become_root  see helper.Helper
    on_old       the answers were thrown away: so must be what was decided from them
    """

    def __init__(self, server: Server, *, become_root: Callable[[], object], on_old: Callable[[], object]) -> None:
        self._server, self._on_old = server, on_old
        self._helper = Helper(server, "groups", "groups of users", become_root=become_root)
        self._known: dict[int, tuple[int, ...] | None] = {}

    def known(self, uid: int) -> tuple[bool, tuple[int, ...] | None]:
        """Is there an answer, and which: the groups, or None for a user whom nobody knows here."""
        return uid in self._known, self._known.get(uid)

    def ask(self, uid: int, then: Then) -> None:
        self._helper.ask(struct.pack("=I", uid), lambda answer: then(self._keep(uid, answer)))

    def stop(self) -> None:
        self._helper.stop()

    def _old(self) -> None:
        self._known.clear()
        self._on_old()

    def _keep(self, uid: int, answer: bytes | None) -> bool:
        if answer is None or len(answer) % 4:
            return False
        if not self._known:
            self._server.call_later(KEEP_S, self._old)
        if uid not in self._known and len(self._known) >= MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        known, *gids = struct.unpack(f"={len(answer) // 4}I", answer)
        self._known[uid] = tuple(gids) if known else None
        return True
