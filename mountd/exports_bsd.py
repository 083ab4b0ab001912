"""exports(5) of 4.4BSD, FreeBSD, OpenBSD, NetBSD and macOS: `/path [/path ...] -ro -maproot=user host ... | -network N -mask M`.

Duty: text in, entries and diagnostics out; no look-ups, no files.  The union of the four systems' options; what is not served
(V4: lines, TLS) is reported, and an entry that asks for it lets nobody in.  Every line is a directory export of its own, as on
macOS: options belong to the directory, not to its file system.
"""
from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nfssvc_shim.flags import Ex, Nx

from .exports_client import BadClient, Value, classful, host, masked, prefix_length, significant
from .exports_client import network as client_network
from .exports_lex import Line, Word, decode, logical_lines, words
from .exports_model import (
    BSD_DEFAULTS,
    FLAVORS,
    MAX_CRED_GROUPS,
    Client,
    CredSpec,
    Dialect,
    Entry,
    Kind,
    Parsed,
    Where,
    Wrong,
    printable,
)
from .exports_path import check_export_path

_ALIASES = {"root": "maproot", "r": "maproot", "o": "ro", "n": "network", "net": "network", "m": "mask", "k": "kerb"}
_FLAGS: dict[str, dict[str, Any]] = {
    "ro": {"readonly": True},
    "32bitclients": {"nx": Nx.CLIENTS32},
    "manglednames": {"nx": Nx.MANGLEDNAMES},
    "offline": {"nx": Nx.OFFLINE},
    "public": {"ex": Ex.PUBLIC},
    "quiet": {"quiet": True},
    "noresvport": {"secure": False},
    "noresvmnt": {"secure_mount": False},
}
_NETWORK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
_VALUED = ("maproot", "mapall", "network", "mask", "sec", "index", "fspath", "fsuuid")
_OTHER = ("alldirs", "webnfs", "kerb", "tls", "tlscert", "tlscertuser")
_KNOWN = (*_FLAGS, *_VALUED, *_OTHER, *_ALIASES)
_NUMBER = re.compile(r"-?[0-9]{1,10}")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.$-]{0,63}")


def parse(data: bytes, file: str) -> Parsed:
    """Entries and diagnostics of a file in this dialect."""
    out = Parsed()
    for line in logical_lines(decode(data, file, out), file, out):
        try:
            found = words(line)
            if found[0].raw == "V4:":
                out.warn(found[0].where(), "V4: NFSv4 is not served; the line has no effect")
                continue
            entries = _LineParser(line, out).run(found)
        except Wrong as wrong:
            out.diagnostics.append(wrong.diagnostic)
        else:
            out.entries += entries
    return out


@dataclass(slots=True)
class _LineParser:
    """One line while it is read; options and hosts hold for all of it wherever they stand."""

    line: Line
    out: Parsed
    values: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    hosts: list[tuple[Word, Value]] = field(default_factory=list)
    net: tuple[str, Where] | None = None
    mask: tuple[str, Where] | None = None
    alldirs: bool = False
    bad_hosts: bool = False

    def run(self, found: list[Word]) -> list[Entry]:
        dirs = self._directories(found)
        rest = found[len(dirs):]
        while rest:
            rest = self._word(rest)
        self._cross_check(found[0].where(), len(dirs))
        if self.bad_hosts:
            return []  # the errors are noted; a line that lost its hosts must not look like one for everyone
        clients = self._clients(found[0])
        return [Entry(check_export_path(word), word.where(), clients, Dialect.BSD, self.alldirs) for word in dirs]

    def _directories(self, found: list[Word]) -> list[Word]:
        dirs: list[Word] = []
        for word in found:
            if not (word.text.startswith("/") or word.quoted or not dirs):
                break
            check_export_path(word)
            dirs.append(word)
        return dirs

    def _word(self, rest: list[Word]) -> list[Word]:
        """Takes one word and perhaps the next one as its value; returns what is left."""
        word, after = rest[0], rest[1:]
        if word.raw.startswith("-"):
            taken = self._options(word, after[0] if after else None)
            return after[taken:]
        if word.text.startswith("/"):
            raise Wrong(word.where(), f"the directory {printable(word.raw[:80])} after options or hosts", "directories first")
        try:
            self.hosts.append((word, _host(word.raw)))
        except BadClient as exc:
            self.out.error(word.where(), str(exc), exc.expected)
            self.bad_hosts = True
        return after

    def _options(self, word: Word, following: Word | None) -> int:
        """Reads one group `-opt,opt=value`.  Returns 1 when the last option's value was the following word."""
        offset = 1
        group = word.raw[1:].split(",")
        for index, option in enumerate(group):
            where = word.where(offset)
            offset += len(option) + 1
            name, equals, value = option.partition("=")
            name = _ALIASES.get(name, name)
            borrowed = index == len(group) - 1 and name in _VALUED and not equals
            if borrowed and following is not None and not following.raw.startswith("-"):
                equals, value = " ", following.raw
            else:
                borrowed = False
            self._option(option, name, value if equals else None, where)
        return int(borrowed)

    def _option(self, option: str, name: str, value: str | None, where: Where) -> None:
        if name not in _KNOWN or not name:
            near = difflib.get_close_matches(name.lower(), [known for known in _KNOWN if len(known) > 1], 1)
            raise Wrong(where, f"unknown option {printable(option[:80]) or '-'}", near[0] if near else "an option of exports(5)")
        if name in _VALUED and not value:
            raise Wrong(where, f"-{name} without a value", f"-{name}=...")
        if name not in _VALUED and name != "kerb" and value is not None:
            raise Wrong(where, f"{printable(option[:80])}: this option takes no value", f"-{name}")
        if name in self.seen and self.seen[name] != (value or ""):
            raise Wrong(where, f"-{name} twice with different values", "one of the two")
        self.seen[name] = value or ""
        if name in _FLAGS:
            self._merge(_FLAGS[name])
        else:
            _READERS[name](self, value or "", where)

    def _merge(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.values[name] = self.values[name] | value if name in ("ex", "nx") and name in self.values else value

    def _maproot(self, value: str, where: Where) -> None:
        self.values["root"] = self._cred(value, where)

    def _mapall(self, value: str, where: Where) -> None:
        self.values["everyone"] = self._cred(value, where)
        self.values["squash_all"] = True

    def _cred(self, value: str, where: Where) -> CredSpec:
        user, *groups = value.split(":")
        for name, kind in ((user, "user"), *((group, "group") for group in groups if group)):
            if not (_valid_number(name) if _NUMBER.fullmatch(name) else _USER.fullmatch(name)):
                what = f"{printable(value[:80])}: {printable(name[:80]) or 'nothing'} is no {kind}"
                raise Wrong(where, what, "user or user:group:...")
        if ":" not in value:
            return CredSpec(user)
        if len(groups) > MAX_CRED_GROUPS:
            self.out.warn(where, f"{len(groups)} groups; only the first {MAX_CRED_GROUPS} are used")
        return CredSpec(user, tuple(group for group in groups[:MAX_CRED_GROUPS] if group))

    def _network(self, value: str, where: Where) -> None:
        self.net = value, where

    def _mask(self, value: str, where: Where) -> None:
        self.mask = value, where

    def _sec(self, value: str, where: Where) -> None:
        names = value.split(":")
        for name in names:
            if name not in FLAVORS:
                raise Wrong(where, f"no security flavor {printable(name[:80])}", "sys, none, krb5, krb5i, krb5p")
        if len(names) > 5:
            raise Wrong(where, f"{len(names)} security flavors", "at most 5")
        self.values["flavors"] = tuple(dict.fromkeys(FLAVORS[name] for name in names))

    def _index(self, value: str, where: Where) -> None:
        if "/" in value or value in (".", "..") or len(value) > 255:
            raise Wrong(where, f"-index={printable(value[:80])}", "the name of a file in the directory")
        self.values["index"] = value.encode("utf-8", "surrogateescape")

    def _fspath(self, value: str, where: Where) -> None:
        if not value.startswith("/"):
            raise Wrong(where, f"-fspath={printable(value[:80])}", "an absolute path")
        self.values["fspath"] = value.rstrip("/").encode("utf-8", "surrogateescape") or b"/"

    def _fsuuid(self, value: str, where: Where) -> None:
        if not re.fullmatch(r"[0-9A-Fa-f-]{4,36}", value):
            raise Wrong(where, f"-fsuuid={printable(value[:80])}", "a UUID")
        self.values["fsuuid"] = value.lower()

    def _alldirs(self, value: str, where: Where) -> None:
        self.alldirs = True

    def _webnfs(self, value: str, where: Where) -> None:
        self._merge({"readonly": True, "ex": Ex.PUBLIC})
        self._mapall("nobody", where)

    def _kerb(self, value: str, where: Where) -> None:
        self.out.warn(where, "-kerb: Kerberos IV is not served; nobody may mount this")
        self.values["deny"] = "requires Kerberos IV, which is not served"

    def _tls(self, value: str, where: Where) -> None:
        self.out.warn(where, "RPC-with-TLS is not served; nobody may mount this")
        self.values["deny"] = "requires TLS, which is not served"

    def _cross_check(self, where: Where, n_dirs: int) -> None:
        if "maproot" in self.seen and "mapall" in self.seen:
            raise Wrong(where, "-maproot and -mapall on one line", "one of the two")
        if self.alldirs and n_dirs > 1:
            raise Wrong(where, "-alldirs has multiple directories", "one directory")
        if self.mask and not self.net:
            raise Wrong(self.mask[1], "-mask without -network", "-network=... -mask=...")
        if self.net and self.hosts:
            raise Wrong(self.hosts[0][0].where(), "hosts and -network on one line", "a line of its own for each")

    def _clients(self, first: Word) -> tuple[Client, ...]:
        options = replace(BSD_DEFAULTS, **self.values)
        if self.net:
            text, where = self.net
            try:
                value = _network_value(text, self.mask[0] if self.mask else "")
            except BadClient as exc:
                raise Wrong(where, str(exc), exc.expected) from None
            if value.note:
                self.out.warn(where, f"{printable(text)}: {value.note}")
            return (_make(_shown(value), where, value, options),)
        if self.hosts:
            return tuple(_make(word.raw, word.where(), value, options) for word, value in self.hosts)
        self.out.warn(first.where(), f"{printable(first.raw)} has no hosts: exported to everyone, "
                                     f"read-{'only' if options.readonly else 'write'}")
        return (Client(Kind.WORLD, "*", first.where(), options),)


def _make(text: str, where: Where, value: Value, options: Any) -> Client:
    return Client(value.kind, text, where, options, value.name, value.network, value.prefix, value.scope)


def _valid_number(text: str) -> bool:
    """An id: 0 to 4294967294, or a negative 32-bit number but not -1, which is nobody's id."""
    return -0x80000000 <= int(text) <= 0xFFFFFFFE and int(text) != -1


def _host(word: str) -> Value:
    if "/" in word:
        raise BadClient(f"{printable(word[:80])} is no host", "-network=address/length")
    value = host(word)
    return replace(value, kind=Kind.GROUP_OR_HOST) if value.name else value


def _network_value(text: str, mask: str) -> Value:
    """Network of -network and -mask: address/length, or number and mask, or number of a class, or a name of networks(5)."""
    address, slash, length = text.partition("/")
    if slash and mask:
        raise BadClient("-mask beside a prefix length", "one of the two")
    if ":" in address:
        if not slash and not mask:
            raise BadClient(f"{printable(text[:80])} without a prefix length", "-network=address/length")
        return client_network(address, length or mask)
    if _NETWORK_NAME.fullmatch(address):
        return Value(Kind.NETWORK, name=address, prefix=prefix_length(length if slash else mask, 32) if slash or mask else 0)
    packed, natural = classful(address)
    if slash or mask:
        return masked(packed, prefix_length(length if slash else mask, 32))
    value = masked(packed, max(natural, significant(packed)))
    return replace(value, note=f"no mask; taken as {_shown(value)}")


def _shown(value: Value) -> str:
    if value.name:
        return f"{value.name}/{value.prefix}" if value.prefix else value.name
    return f"{ipaddress.ip_address(value.network)}/{value.prefix}"


_READERS: dict[str, Callable[[_LineParser, str, Where], None]] = {
    "maproot": _LineParser._maproot, "mapall": _LineParser._mapall, "network": _LineParser._network, "mask": _LineParser._mask,
    "sec": _LineParser._sec, "index": _LineParser._index, "fspath": _LineParser._fspath, "fsuuid": _LineParser._fsuuid,
    "alldirs": _LineParser._alldirs, "webnfs": _LineParser._webnfs, "kerb": _LineParser._kerb, "tls": _LineParser._tls,
    "tlscert": _LineParser._tls, "tlscertuser": _LineParser._tls,
}
