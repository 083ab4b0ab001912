"""The helper process that asks the name service, so that nobody else ever waits for it.

One SEQPACKET pair.  Request {"id", "ask", "name"}, reply {"id", "answer": [...], "definite"}, each one packet of JSON; an empty
answer: there is no such name (definite), or nobody could say.  Threads do the asking, for a resolver may block for 30 s and
another name must not wait behind it; what the parent does not get in time it treats as pending.  Ends when the parent's end
closes.
"""
from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401  what getaddrinfo loads; a process without rights may not be able to read it
import grp
import json
import os
import pwd
import queue
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from .names import Ask

N_THREADS = 8             # names that may hang at once
MAX_ADDRESSES = 256       # of one name; more is no host but an attack or a mistake: no answer
MAX_MEMBERS = 4096        # of a netgroup
MAX_PACKET = 65_536
_NO_SUCH_NAME = frozenset((socket.EAI_NONAME, socket.EAI_NODATA))
_HOST_NOT_FOUND = 1       # h_errno of gethostbyaddr(3)
_groups_lock = threading.Lock()  # setnetgrent(3) has one cursor a process


def serve(sock: socket.socket) -> None:
    """Answers until the other end closes.  Runs in a process of its own."""
    work: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for _ in range(N_THREADS):
        threading.Thread(target=_work, args=(work, sock), daemon=True).start()
    while True:
        try:
            packet = sock.recv(MAX_PACKET)
        except ConnectionResetError:  # the other end closed with an answer of ours unread
            packet = b""
        if not packet:
            os._exit(0)  # threads may hang in the resolver; nothing is buffered
        work.put(packet)


def _work(work: "queue.SimpleQueue[bytes]", sock: socket.socket) -> None:
    while True:
        request = json.loads(work.get())
        found, definite = answer(Ask(request["ask"]), request["name"])
        try:
            sock.send(json.dumps({"id": request["id"], "answer": found, "definite": definite}).encode())
        except OSError:  # the parent is gone, or the answer is longer than a packet
            continue


def answer(ask: Ask, name: str) -> tuple[list[str], bool]:
    """The answer, [] when there is none, and whether that is definite: the name service knows that there is none."""
    try:
        found = _ANSWERS[ask](name)
    except socket.gaierror as exc:
        return [], exc.errno in _NO_SUCH_NAME
    except socket.herror as exc:
        return [], exc.errno == _HOST_NOT_FOUND
    except (KeyError, ValueError):
        return [], True
    except OSError:
        return [], False
    return found, True


def host_addresses(name: str) -> list[str]:
    """All addresses of a name, in order of family and value."""
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    found = {a for a in found if a.partition("%")[0] not in ("0.0.0.0", "::")}
    return sorted(found) if len(found) <= MAX_ADDRESSES else []


def reverse_names(address: str) -> list[str]:
    """Names of an address that resolve back to it.  Source: the rule of hosts_access(5), PARANOID."""
    name, aliases, _ = socket.gethostbyaddr(address)
    return [n for n in dict.fromkeys((name, *aliases)) if not _numeric(n) and address in _addresses_or_none(n)]


def _numeric(name: str) -> bool:
    return ":" in name or bool(re.fullmatch(r"[0-9.]+", name))


def _addresses_or_none(name: str) -> list[str]:
    try:
        return host_addresses(name)
    except OSError:
        return []


def group_addresses(name: str) -> list[str]:
    """Addresses of a netgroup's hosts.  A member without a host means every host to innetgr(3); here it means none."""
    addresses: dict[str, None] = {}
    for host in netgroup_hosts(name):
        addresses.update(dict.fromkeys(_addresses_or_none(host)))
    return list(addresses)


def netgroup_hosts(name: str) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    fields = [ctypes.c_char_p() for _ in range(3)]
    buffer = ctypes.create_string_buffer(4096)
    hosts: list[str] = []
    with _groups_lock:
        if not libc.setnetgrent(name.encode()):
            return []
        try:
            while len(hosts) < MAX_MEMBERS and libc.getnetgrent_r(*(ctypes.byref(f) for f in fields), buffer,
                                                                  ctypes.c_size_t(len(buffer))) == 1:
                if fields[0].value and fields[0].value != b"-":
                    hosts.append(fields[0].value.decode("ascii"))
        finally:
            libc.endnetgrent()
    return hosts


def network_number(name: str) -> list[str]:
    """What networks(5) says: `name number alias ...`."""
    for line in Path("/etc/networks").read_text(errors="replace").splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and name.lower() in (word.lower() for word in (words[0], *words[2:])):
            return [words[1]]
    raise KeyError(name)


def _group_or_host(name: str) -> list[str]:
    return group_addresses(name) or host_addresses(name)


def user_ids(spec: str) -> list[str]:
    """uid, gid, groups of `user` (all of the account's), `user:` (none) or `user:group:...` (these)."""
    user, *groups = spec.split(":")
    if ":" not in spec:
        return _account(user)
    gids = [_gid(group) for group in groups if group]
    return [str(_uid(user)), *map(str, gids or [65534])]


def _account(user: str) -> list[str]:
    uid = _uid(user)
    try:
        entry = pwd.getpwuid(uid) if re.fullmatch(r"-?[0-9]+", user) else pwd.getpwnam(user)
    except KeyError:
        return [str(uid), "65534"]  # a number without an account: no group of ours
    return [str(uid), *map(str, dict.fromkeys((entry.pw_gid, *os.getgrouplist(entry.pw_name, entry.pw_gid))))]


def _uid(user: str) -> int:
    return _number(user) if re.fullmatch(r"-?[0-9]+", user) else pwd.getpwnam(user).pw_uid


def _gid(group: str) -> int:
    return _number(group) if re.fullmatch(r"-?[0-9]+", group) else grp.getgrnam(group).gr_gid


def _number(text: str) -> int:
    """-2, nobody to every BSD, is 65534 here; other negative numbers are what the kernel makes of them."""
    return 65534 if int(text) == -2 else int(text) & 0xFFFFFFFF


_ANSWERS: dict[Ask, Callable[[str], list[str]]] = {
    Ask.HOST: host_addresses, Ask.REVERSE: reverse_names, Ask.NETGROUP: group_addresses, Ask.GROUP_OR_HOST: _group_or_host,
    Ask.USER: user_ids, Ask.NETWORK: network_number,
}
