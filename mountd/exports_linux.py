"""exports(5) of Linux and unfsd(8): `/path host(rw,...) 192.0.2.0/24(ro) ...`.

Duty: text in, entries and diagnostics out; no look-ups, no files.  Every error names file, line and column and what was expected.
Source: exports(5) of nfs-utils, unfsd(8).  Stricter than both where they open a share by accident: a blank before a parenthesis,
a number that is none, an unknown option, two opposite options on one client.
"""
from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nfssvc_shim.flags import Ex

from .exports_client import BadClient, linux_client
from .exports_lex import Line, Word, decode, logical_lines, words
from .exports_model import FLAVORS, MAX_PASSWORD, MAX_PATH, Client, Dialect, Entry, Kind, Options, Parsed, Where, Wrong, printable
from .exports_path import check_export_path

_MAX_ID = 0xFFFFFFFE      # -1 is "no change" to the kernel and nobody to NFS

# option -> (what it is about, value there); two different values on one client contradict each other.
_SWITCHES: dict[str, tuple[str, bool]] = {
    "ro": ("readonly", True), "rw": ("readonly", False),
    "secure": ("secure", True), "insecure": ("secure", False),
    "root_squash": ("squash_root", True), "no_root_squash": ("squash_root", False),
    "all_squash": ("squash_all", True), "no_all_squash": ("squash_all", False),
}
_EX: dict[str, tuple[Ex, bool]] = {
    "sync": (Ex.ASYNC, False), "async": (Ex.ASYNC, True),
    "crossmnt": (Ex.CROSSMNT, True), "nocrossmnt": (Ex.CROSSMNT, False),
    "removable": (Ex.REMOVABLE, True), "fixed": (Ex.REMOVABLE, False),
    "subtree_check": (Ex.SUBTREE, True), "no_subtree_check": (Ex.SUBTREE, False),
    "nordirplus": (Ex.NORDIRPLUS, True), "acl": (Ex.NOACL, False), "no_acl": (Ex.NOACL, True),
    "manage_gids": (Ex.MANAGE_GIDS, True), "no_manage_gids": (Ex.MANAGE_GIDS, False),
}
# Accepted, and without effect here: what they choose does not exist or is always so.
_NO_EFFECT = frozenset(("wdelay", "no_wdelay", "hide", "nohide", "auth_nlm", "no_auth_nlm", "secure_locks", "insecure_locks",
                        "no_pnfs", "pnfs", "security_label", "sign_fh", "replicas"))
_VALUED = ("anonuid", "anongid", "fsid", "sec", "password", "mountpoint", "mp", "refer", "replicas", "xprtsec", "reexport")
_KNOWN = (*_SWITCHES, *_EX, *_NO_EFFECT, *_VALUED)


def parse(data: bytes, file: str) -> Parsed:
    """Entries and diagnostics of a file in this dialect."""
    out = Parsed()
    known: dict[str, Client] = {}
    for line in logical_lines(decode(data, file, out), file, out):
        try:
            entry = _entry(line, out, known)
        except Wrong as wrong:
            out.diagnostics.append(wrong.diagnostic)
        else:
            out.entries.append(entry)
    return out


def _entry(line: Line, out: Parsed, known: dict[str, Client]) -> Entry:
    found = words(line)
    path = check_export_path(found[0])
    rest = found[1:]
    base = _Choices()
    if rest and rest[0].raw.startswith("-") and len(rest[0].raw) > 1:
        base.read(rest[0], 1, rest[0].raw[1:], out)
        rest = rest[1:]
        known = {}
    clients = tuple(_clients(rest, base, out, known))
    if not rest and not base.wrong:
        out.warn(found[0].where(), f"{printable(path)} has no clients: exported to everyone, "
                                   f"read-{'only' if base.options().readonly else 'write'}")
        clients = (Client(Kind.WORLD, "*", found[0].where(), base.options()),)
    return Entry(path, found[0].where(), clients, Dialect.LINUX)


def _clients(found: list[Word], base: "_Choices", out: Parsed, known: dict[str, Client]) -> list[Client]:
    """The clients of a line.  An error in one does not hide errors in the next; the caller's file is refused anyway.

    known  clients of words that were read before without a remark: 10,000 lines have few different words
    """
    clients: list[Client] = []
    bare: Word | None = None
    for word in found:
        try:
            _check_stray(word, bare)
            before, n_remarks = known.get(word.raw), len(out.diagnostics)
            clients.append(before.at(word.where()) if before else _client(word, base, out))
            if len(out.diagnostics) == n_remarks:
                known[word.raw] = clients[-1]
        except Wrong as wrong:
            out.diagnostics.append(wrong.diagnostic)
        bare = None if "(" in word.raw else word
    return clients


def _check_stray(word: Word, bare: Word | None) -> None:
    """Refuses `host (opts)`: to every other server that exports to the whole world with opts."""
    if not word.raw.startswith("(") or bare is None:
        return
    raise Wrong(word.where(), f"a blank between {printable(bare.raw)} and its options: these would be for everyone",
                f"{printable(bare.raw + word.raw)}, or *{printable(word.raw)} if everyone is meant")


def _client(word: Word, base: "_Choices", out: Parsed) -> Client:
    name, options = _split(word)
    choices = replace(base, seen={}, values=dict(base.values), given=set(base.given))
    if options is not None:
        choices.read(word, len(name) + 1, options, out)
    if not name:
        out.warn(word.where(), "options without a client: exported to everyone", "*(...) to say so")
    try:
        value = linux_client(name or "*")
    except BadClient as exc:
        raise Wrong(word.where(), str(exc), exc.expected) from None
    if value.note:
        out.warn(word.where(), f"{printable(name)}: {value.note}")
    return Client(value.kind, name or "*", word.where(), choices.options(), value.name, value.network, value.prefix, value.scope)


def _split(word: Word) -> tuple[str, str | None]:
    """Name and options of `name(options)`; options None when there are no parentheses."""
    raw = word.raw
    if word.quoted:
        raise Wrong(word.where(), "quotes around a client", "a client without quotes")
    name, paren, rest = raw.partition("(")
    if not paren:
        if ")" in raw or "," in raw:
            raise Wrong(word.where(), f"{printable(raw[:80])} is no client", "host(options)")
        return raw, None
    if rest.endswith("),"):
        raise Wrong(word.where(len(raw) - 1), "a comma between clients", "a blank alone")
    if not rest.endswith(")"):
        raise Wrong(word.where(len(raw)), "options that are not closed", "host(option,option) without a blank in it")
    if "(" in rest or ")" in rest[:-1]:
        raise Wrong(word.where(len(name) + 1), "parentheses inside options", "host(option,option)")
    return name, rest[:-1]


@dataclass(slots=True)
class _Choices:
    """Options of one client while they are read.  values: field -> value; given: fields set here or by the line's defaults.

    flavors of sec= that was read last; options after a sec= that does not name sys or none are for other flavors, which are
    not served, and only checked.
    """

    values: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    seen: dict[str, tuple[object, str]] = field(default_factory=dict)
    flavors: tuple[int, ...] = ()
    applies: bool = True
    wrong: bool = False

    def read(self, word: Word, offset: int, text: str, out: Parsed) -> None:
        """Reads `text`, which begins at character `offset` of the word."""
        self.seen, self.applies = {}, True
        if not text:
            return
        for option in text.split(","):
            where = word.where(offset)
            offset += len(option) + 1
            if not option:
                out.warn(where, "an empty option")
                continue
            try:
                self._one(option, where, out)
            except Wrong as wrong:
                out.diagnostics.append(wrong.diagnostic)
                self.wrong = True

    def options(self) -> Options:
        values = dict(self.values)
        ex = Ex(0)
        for name, bit in [(n, b) for n, b in values.items() if isinstance(b, Ex)]:
            ex |= bit
            del values[name]
        values["secure_mount"] = values.get("secure", True)
        if self.flavors:
            values["flavors"] = self.flavors
        return Options(ex=ex, **values)

    def _one(self, option: str, where: Where, out: Parsed) -> None:
        name, equals, value = option.partition("=")
        if name in _SWITCHES and not equals:
            self._set(*_SWITCHES[name], option, where)
        elif name in _EX and not equals:
            bit, on = _EX[name]
            self._set(f"{bit.name}", bit if on else Ex(0), option, where)
        elif name in _NO_EFFECT and (not equals or name == "replicas"):
            pass
        elif name in _VALUED and (equals or name in ("mp", "mountpoint")):
            _READERS[name](self, option, value, where, out)
        else:
            raise _unknown(option, name, bool(equals), where)

    def _set(self, about: str, value: object, option: str, where: Where) -> None:
        """Notes a choice; a second, different one on the same client is an error, one against the line's defaults is not."""
        before = self.seen.get(about)
        if before and before[0] != value and self.applies:
            raise Wrong(where, f"{printable(option)} after {printable(before[1])}", "one of the two")
        if self.applies:
            self.seen[about] = (value, option)
            self.values[about] = value

    def _id(self, option: str, value: str, where: Where, out: Parsed) -> None:
        name = option.partition("=")[0]
        if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > _MAX_ID:
            kind = "user" if name == "anonuid" else "group"
            raise Wrong(where, f"{printable(option)}: no number of a {kind}", f"0 to {_MAX_ID}")
        self._set(name, int(value), option, where)

    def _fsid(self, option: str, value: str, where: Where, out: Parsed) -> None:
        if value == "root" or (re.fullmatch(r"[0-9]{1,10}", value) and int(value) <= 0xFFFFFFFF):
            number = 0 if value == "root" else int(value)
            fsid = number.to_bytes(8, "big")
        elif re.fullmatch(r"[0-9a-fA-F]{32}", re.sub(r"[-:]", "", value)):
            fsid = hashlib.blake2b(re.sub(r"[-:]", "", value).lower().encode(), digest_size=8).digest()
        else:
            raise Wrong(where, f"{printable(option)}: no file system id", "a number up to 4294967295, root, or a UUID")
        self._set("fsid", fsid, option, where)

    def _sec(self, option: str, value: str, where: Where, out: Parsed) -> None:
        named = value.split(":")
        for name in named:
            if name not in FLAVORS:
                raise Wrong(where, f"{printable(option)}: no security flavor {printable(name)}", "sys, none, krb5, krb5i, krb5p")
        numbers = tuple(dict.fromkeys(FLAVORS[name] for name in named))
        if "sec" not in self.seen:
            self.flavors = ()
        self.seen["sec"] = ((), option)
        self.flavors = tuple(dict.fromkeys(self.flavors + numbers))[:5]
        self.applies = bool(set(numbers) & {0, 1})

    def _password(self, option: str, value: str, where: Where, out: Parsed) -> None:
        if not value or len(value.encode("utf-8", "surrogateescape")) > MAX_PASSWORD or "/" in value:
            raise Wrong(where, "a password that cannot be given in a mount path", f"1 to {MAX_PASSWORD} bytes without '/'")
        self._set("password", value.encode("utf-8", "surrogateescape"), "password=", where)

    def _mountpoint(self, option: str, value: str, where: Where, out: Parsed) -> None:
        if "=" in option and not value.startswith("/"):
            raise Wrong(where, f"{printable(option)}: no directory", "an absolute path")
        self._set("mountpoint", value.encode("utf-8", "surrogateescape"), option, where)

    def _refer(self, option: str, value: str, where: Where, out: Parsed) -> None:
        out.warn(where, f"{printable(option)}: referrals are of NFSv4, which is not served; nobody may mount this")
        self.values["deny"] = "a referral (NFSv4 only)"

    def _xprtsec(self, option: str, value: str, where: Where, out: Parsed) -> None:
        policies = value.split(":")
        if not set(policies) <= {"none", "tls", "mtls"}:
            raise Wrong(where, f"{printable(option)}: no transport policy", "none, tls, mtls")
        if "none" not in policies:
            out.warn(where, f"{printable(option)}: RPC-with-TLS is not served; nobody may mount this")
            self.values["deny"] = "requires TLS, which is not served"

    def _ignored(self, option: str, value: str, where: Where, out: Parsed) -> None:
        out.warn(where, f"{printable(option)} has no effect here")


_READERS: dict[str, Callable[[_Choices, str, str, Where, Parsed], None]] = {
    "anonuid": _Choices._id, "anongid": _Choices._id, "fsid": _Choices._fsid, "sec": _Choices._sec,
    "password": _Choices._password, "mountpoint": _Choices._mountpoint, "mp": _Choices._mountpoint,
    "refer": _Choices._refer, "replicas": _Choices._ignored, "xprtsec": _Choices._xprtsec, "reexport": _Choices._ignored,
}


def _unknown(option: str, name: str, valued: bool, where: Where) -> Wrong:
    if name in _VALUED:
        return Wrong(where, f"{printable(option)} without a value", f"{name}=...")
    if name in _KNOWN and valued:
        return Wrong(where, f"{printable(option)}: this option takes no value", name)
    near = difflib.get_close_matches(name.lower(), _KNOWN, 1)
    return Wrong(where, f"unknown option {printable(option[:80])}", near[0] if near else "an option of exports(5)")


__all__ = ["MAX_PATH", "parse"]
