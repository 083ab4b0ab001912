"""`mountd convert --to bsd|linux|json`: exports files in another dialect.

What the other dialect cannot say is an error with its place, or a warning where it is no right (source ports, directories
below): nothing is left out in silence, and a converted file gives nobody more than the file it was made of.
JSON is the data model as it stands.
"""
from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import sys
from typing import Any

from nfssvc_shim.flags import Ex, Nx
from oncrpc.usage import Parser

from . import exports
from .exports_model import AUTH_SYS, FLAVOR_NAMES, Client, CredSpec, Dialect, Entry, Kind, Options, Parsed

_LINUX_EX = {Ex.ASYNC: "async", Ex.CROSSMNT: "crossmnt", Ex.REMOVABLE: "removable", Ex.SUBTREE: "subtree_check",
             Ex.NORDIRPLUS: "nordirplus", Ex.NOACL: "no_acl", Ex.MANAGE_GIDS: "manage_gids"}
_BSD_NX = {Nx.CLIENTS32: "32bitclients", Nx.MANGLEDNAMES: "manglednames", Nx.OFFLINE: "offline"}


def main(argv: list[str]) -> int:
    """Exit status: 0, or 1 when a file has errors or something cannot be said."""
    p = Parser("mountd convert")
    p.add_argument("--to", choices=["bsd", "linux", "json"], required=True)
    p.add_argument("--dialect", choices=[d.value for d in Dialect], help="of the input; default: by a look at each file")
    p.add_argument("files", nargs="*")
    options = p.parse_args(argv)
    parsed = exports.load(options.files or exports.default_files(), Dialect(options.dialect) if options.dialect else None)
    text = convert(parsed, options.to) if not parsed.errors else ""
    for diagnostic in parsed.diagnostics:
        print(diagnostic, file=sys.stderr)
    if parsed.errors:
        return 1
    sys.stdout.write(text)
    return 0


def convert(parsed: Parsed, target: str) -> str:
    """The text; adds an error to `parsed` for each thing that `target` has no words for."""
    if target == "json":
        return json.dumps({"exports": [_json(entry) for entry in parsed.entries]}, indent=2) + "\n"
    lines: list[str] = []
    for entry in parsed.entries:
        lines += _bsd(entry, parsed) if target == "bsd" else _linux(entry, parsed)
    return "".join(line + "\n" for line in lines)


# ---- Linux

def _linux(entry: Entry, parsed: Parsed) -> list[str]:
    clients = []
    for client in entry.clients:
        options = _linux_options(entry, client, parsed)
        name = "@" + client.name if client.kind is Kind.NETGROUP else _client_text(client)
        if client.kind is Kind.NETWORK and client.name:
            parsed.error(client.where, f"{client.name}: the Linux dialect has no names of networks", "address/length")
        if client.kind is Kind.GROUP_OR_HOST:
            parsed.warn(client.where, f"{client.text}: taken as a host; write @{client.text} if it is a netgroup")
        clients.append(f"{name}({','.join(options)})")
    return [" ".join((quote(entry.path), *clients))] if clients else []


def _linux_options(entry: Entry, client: Client, parsed: Parsed) -> list[str]:
    o = client.options
    words = ["ro" if o.readonly else "rw"]
    if not o.secure and not o.secure_mount:
        words.append("insecure")
    elif o.secure != o.secure_mount:
        parsed.warn(client.where, "a source port below 1024 is asked for NFS too, not for MOUNT only")
    words += _linux_squash(client, parsed)
    words += [word for bit, word in _LINUX_EX.items() if o.ex & bit]
    for bit, word in ((o.ex & Ex.PUBLIC, "-public"), (o.nx, "-" + ",".join(w for b, w in _BSD_NX.items() if o.nx & b)),
                      (o.fspath, "-fspath"), (o.fsuuid, "-fsuuid"), (o.index, "-index")):
        if bit:
            parsed.error(client.where, f"{word} has no counterpart in the Linux dialect")
    if not entry.alldirs:
        words.append("subtree_check")
        parsed.warn(entry.where, "directories below may be mounted too: the Linux dialect is always -alldirs")
    if o.flavors != (AUTH_SYS,):
        words.append("sec=" + ":".join(FLAVOR_NAMES[f] for f in o.flavors))
    return [*words, *_linux_valued(client, parsed)]


def _linux_squash(client: Client, parsed: Parsed) -> list[str]:
    o = client.options
    spec = o.everyone if o.squash_all else o.root if o.squash_root else None
    words = ["all_squash"] if o.squash_all else [] if o.squash_root else ["no_root_squash"]
    if o.squash_root and not o.squash_all and o.root is not None and o.root.user in ("root", "0"):
        return ["no_root_squash"]
    uid, gid = o.anonuid, o.anongid
    if spec is not None and spec != CredSpec("nobody"):
        if not _numeric(spec):
            parsed.error(client.where, f"{spec}: the Linux dialect has numbers only, and one group", "uid:gid")
            return words
        uid, gid = int(spec.user), int(spec.groups[0]) if spec.groups else None
    words += [f"anonuid={uid}"] if uid is not None else []
    return words + ([f"anongid={gid}"] if gid is not None else [])


def _numeric(spec: CredSpec) -> bool:
    return spec.user.isdigit() and spec.groups is not None and len(spec.groups) <= 1 and all(g.isdigit() for g in spec.groups)


def _linux_valued(client: Client, parsed: Parsed) -> list[str]:
    o = client.options
    words = [f"password={o.password.decode('utf-8', 'surrogateescape')}"] if o.password else []
    if o.mountpoint is not None:
        words.append("mp" + ("=" + o.mountpoint.decode("utf-8", "surrogateescape") if o.mountpoint else ""))
    if o.fsid:
        number = int.from_bytes(o.fsid, "big")
        if number >> 32:
            parsed.error(client.where, "fsid= with a UUID cannot be written back: only its hash is kept")
        words.append(f"fsid={number}")
    if o.deny:
        parsed.error(client.where, f"the entry {o.deny}; nothing is written for it")
    return words


# ---- BSD

def _bsd(entry: Entry, parsed: Parsed) -> list[str]:
    lines = []
    for client in entry.clients:
        options = _bsd_options(entry, client, parsed)
        if client.kind is Kind.NETWORK:
            options.append("network=" + _client_text(client))
        words = [quote(entry.path)]
        words += ["-" + ",".join(options)] if options else []
        if client.kind in (Kind.HOST, Kind.NETGROUP, Kind.GROUP_OR_HOST):
            words.append(client.name or _client_text(client))
        elif client.kind is Kind.WILDCARD:
            parsed.error(client.where, f"{client.text}: the BSD dialect has no wildcards")
        lines.append(" ".join(words))
    return lines


def _bsd_options(entry: Entry, client: Client, parsed: Parsed) -> list[str]:
    o = client.options
    words = ["ro"] if o.readonly else []
    words += ["alldirs"] if entry.alldirs else []
    words += _bsd_squash(o)
    words += [] if o.secure_mount else ["noresvmnt"]
    words += [word for bit, word in _BSD_NX.items() if o.nx & bit]
    words += ["public"] if o.ex & Ex.PUBLIC else []
    words += [f"index={o.index.decode()}"] if o.index else []
    words += [f"fspath={o.fspath.decode()}"] if o.fspath else []
    words += [f"fsuuid={o.fsuuid}"] if o.fsuuid else []
    if o.flavors != (AUTH_SYS,):
        words.append("sec=" + ":".join(FLAVOR_NAMES[f] for f in o.flavors))
    if o.secure and entry.dialect is Dialect.LINUX:
        parsed.warn(client.where, "the BSD dialect asks for a source port below 1024 for MOUNT only")
    if o.password or o.mountpoint is not None or o.deny or o.ex & (Ex.SUBTREE | Ex.NOACL):
        parsed.error(client.where, "password, mountpoint, subtree_check, no_acl and what is not served: not in the BSD dialect")
    lost = [word for bit, word in _LINUX_EX.items() if o.ex & bit]
    if lost:
        parsed.warn(client.where, f"{', '.join(lost)}: no counterpart in the BSD dialect, left out")
    return words


def _bsd_squash(o: Options) -> list[str]:
    anon = None
    if o.anonuid is not None or o.anongid is not None:
        anon = CredSpec(str(65534 if o.anonuid is None else o.anonuid), (str(65534 if o.anongid is None else o.anongid),))
    if o.squash_all:
        return [f"mapall={o.everyone or anon or 'nobody'}"]
    if not o.squash_root:
        return ["maproot=root"]
    spec = o.root or anon
    return [f"maproot={spec}"] if spec else []


# ---- both

def _client_text(client: Client) -> str:
    if not client.network:
        return (f"{client.name}/{client.prefix}" if client.prefix else client.name) or "*"
    text = str(ipaddress.ip_address(client.network)) + (f"%{client.scope}" if client.scope else "")
    return text if client.prefix == len(client.network) * 8 else f"{text}/{client.prefix}"


def quote(path: bytes) -> str:
    """The path as one word: bytes that a word cannot hold as \\ooo."""
    return re.sub(rb'[\x00-\x20"\\#()\x7f-\xff]', lambda m: b"\\%03o" % m.group()[0], path).decode("ascii")


def _json(entry: Entry) -> dict[str, Any]:
    return {"path": quote(entry.path), "dialect": entry.dialect.value, "alldirs": entry.alldirs, "file": entry.where.file,
            "line": entry.where.line, "clients": [_json_client(client) for client in entry.clients]}


def _json_client(client: Client) -> dict[str, Any]:
    o = client.options
    values = {f.name: _plain(getattr(o, f.name)) for f in dataclasses.fields(o)}
    values["flavors"] = [FLAVOR_NAMES[f] for f in o.flavors]
    values["ex"] = [bit.name.lower() for bit in Ex if o.ex & bit and bit.name]
    values["nx"] = [bit.name.lower() for bit in Nx if o.nx & bit and bit.name]
    values["password"] = bool(o.password)
    return {"kind": client.kind.name.lower(), "client": _client_text(client), "line": client.where.line,
            "column": client.where.column, **values}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, CredSpec) else value
