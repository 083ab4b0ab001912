"""Calls with AUTH_KERB4, as 4.4BSD serves them: this server has no keys, so a daemon that has is asked whose the ticket is.

Theory of operation.  While a caller of nfssvc(NFSSVC_NFSD) can be asked (AUTHIN says so), a call whose credential is a full name
is detached, and ticket and verifier go to the control half (NEEDAUTH); its answer is a credential, under which the call is
served as if it had come with AUTH_SYS, or nobody's, or none in ASK_S: then AUTH_TOOWEAK, as 4.4BSD.  Each call is asked about:
nicknames need the session key's DES, which is not here, and are AUTH_REJECTEDCRED; replies have no Kerberos verifier.

Source: sys/nfs/nfs_socket.c (nfs_getreq) and nfs_syscalls.c of 4.4BSD, Sun's AUTH_KERB.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oncrpc._rpc import ffi
from oncrpc._rpc import lib as rpc

from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Nfssvc
from nfssvc_shim.records import Address, NeedAuth, pack_needauth, unpack_authin
from oncrpc.server import Server
from oncrpc.xdr import Unpacker, XdrError

Call = Any

KERB4 = 4
FULLNAME = 0             # RPCAKN_FULLNAME; 1 is RPCAKN_NICKNAME
VERIFIER = 16            # bytes of a full name's verifier: its kind, and 12 that are encrypted
MAX_ASKED = 64           # calls of this worker that wait for an answer: as many daemons as there can be
ASK_S = 10.0             # a daemon that decrypts takes milliseconds; one that hangs is not waited for
ROOM = 1024              # of the reply; it grows if need be
REJECTEDCRED, BADVERF, TOOWEAK = 2, 3, 5


class RefusedError(Exception):
    """Its argument is the auth_stat."""


class Kerb4:
    def __init__(self, server: Server, channel: Channel, address_of: Callable[[Call], Address]) -> None:
        self._server, self._channel, self._address_of = server, channel, address_of
        self._waiting: dict[int, tuple[Call, int]] = {}    # serial of NEEDAUTH -> the detached call, its row
        self._serial = 0

    def switch(self, on: bool) -> None:
        """Somebody can be asked, or nobody any more."""
        self._server.kerb4(self.row if on else None)

    def row(self, call: Call) -> None:
        """A call with AUTH_KERB4."""
        try:
            auth, verf = self._ticket(call)
        except RefusedError as refused:
            rpc.rpc_deny_auth(call, refused.args[0])
            return
        row, client = int(call.word[0]), self._address_of(call)
        parked = rpc.rpc_detach(call, ROOM) if len(self._waiting) < MAX_ASKED else ffi.NULL
        if parked == ffi.NULL:
            rpc.rpc_deny_auth(call, TOOWEAK)
            return
        parked.word[0] = 0
        self._serial = self._serial % 0xFFFFFFFF + 1
        self._waiting[self._serial] = parked, row
        self._server.call_later(ASK_S, lambda serial=self._serial: self._refuse(serial))  # type: ignore[misc]
        self._ask(self._serial, NeedAuth(client, auth, verf))

    def _ask(self, serial: int, question: NeedAuth) -> None:
        try:
            self._channel.send(Message(Nfssvc.NEEDAUTH, serial, pack_needauth(question)))
        except BlockingIOError:  # the control half does not read
            self._refuse(serial)

    @staticmethod
    def _ticket(call: Call) -> tuple[bytes, bytes]:
        """nsd_authstr and nsd_verfstr of a call whose credential is a full name."""
        place, size = ffi.new("const u8 **"), ffi.new("size_t *")
        rpc.rpc_message(call, place, size)
        u = Unpacker(ffi.buffer(place[0], size[0])[:])
        u.skip(24 + 4)
        cred = u.unpack_opaque(400)
        flavor, verf = u.unpack_uint(), u.unpack_opaque(400)
        c = Unpacker(cred)
        try:
            if c.unpack_uint() != FULLNAME:
                raise RefusedError(REJECTEDCRED)
            auth = c.peek(400)
            c.unpack_opaque(400)  # the ticket, and
            c.unpack_uint()       # the window
        except XdrError as exc:
            raise RefusedError(REJECTEDCRED) from exc
        if flavor != KERB4 or len(verf) != VERIFIER or verf[:4] != bytes(4):
            raise RefusedError(BADVERF)
        return auth, verf[4:]

    def answered(self, msg: Message) -> None:
        """NEEDAUTH came back: errno 0 and whose call it is, or nobody's."""
        if msg.errno:
            self._refuse(msg.serial)
            return
        who = unpack_authin(msg.body).cred
        parked, row = self._waiting.pop(msg.serial, (None, 0))
        if parked is None:
            return
        if rpc.rpc_become(parked, who.uid, who.gid, len(who.gids), list(who.gids)):
            rpc.rpc_deny_auth(parked, TOOWEAK)
        else:
            self._server.resume(parked, row)

    def _refuse(self, serial: int) -> None:
        parked, _ = self._waiting.pop(serial, (None, 0))
        if parked is not None:
            rpc.rpc_deny_auth(parked, TOOWEAK)
