"""`mountd why CLIENT PATH [USER]`: which line decides, and what the client would get."""
from __future__ import annotations

import argparse
import ipaddress
import socket
import sys

from nfssvc_shim.flags import Nx
from nfssvc_shim.records import Address, Cred, Net
from oncrpc.hosts_access import HostsAccess
from oncrpc.usage import Parser, port

from . import exports
from .exports_model import Dialect, Entry, Kind, Parsed, printable
from .exptab import ExportIds
from .filesystems import FileSystems
from .helper import ask_all
from .mount import Caller, Granted, decide
from .names import Ask, Question, questions
from .options import default_statedir
from .passwords import parse_secret
from .table import Builder, Table, build

NAMES_S = 5.0


def main(argv: list[str]) -> int:
    """Exit status: 0 the client may mount, 1 it may not, 2 wrong words or files with errors."""
    options = _parser().parse_args(argv)
    parsed = exports.load(options.files or exports.default_files(), Dialect(options.dialect) if options.dialect else None)
    if parsed.errors:
        for diagnostic in parsed.errors:
            print(diagnostic, file=sys.stderr)
        return 2
    addresses = _addresses(options.client)
    if not addresses:
        print(f"mountd why: {options.client} does not resolve", file=sys.stderr)
        return 2
    table = _table(parsed, addresses, not options.n)
    user = _user(options.user)
    if user is None:
        print(f"mountd why: {options.user}: no such user", file=sys.stderr)
        return 2
    hosts = HostsAccess(options.hosts_access)
    allowed = [_let_in(hosts, address) and explain(table, address, options.path, user, options.port, reserved=not options.n)
               for address in addresses]
    return 0 if all(allowed) else 1


def _let_in(hosts: HostsAccess, address: str) -> bool:
    """hosts.allow and hosts.deny, which are asked before the exports; prints a refusal."""
    plain = address.partition("%")[0]
    if ipaddress.ip_address(plain).is_loopback or hosts.allows("mountd", plain):
        return True
    print(f"{address}:\n  refused: hosts.deny")
    return False


def _parser() -> Parser:
    p = Parser("mountd why")
    p.add_argument("client", help="host name or address")
    p.add_argument("path")
    p.add_argument("user", nargs="?", default="0", help="uid or name of the caller; default root")
    p.add_argument("-f", dest="files", action="append", default=[], metavar="exportsfile")
    p.add_argument("-n", action="store_true", help="as mountd -n")
    p.add_argument("--port", type=port, default=1023, help="the client's source port")
    p.add_argument("--hosts-access", default="/etc", metavar="DIR", help="where hosts.allow and hosts.deny are")
    p.add_argument("--dialect", choices=[d.value for d in Dialect])
    p.add_argument("--statedir", default=str(default_statedir()), help=argparse.SUPPRESS)
    return p


def _addresses(client: str) -> list[str]:
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(client, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def _user(text: str) -> Cred | None:
    answers = ask_all({Question(Ask.USER, text)}, NAMES_S)
    ids = answers.get(Question(Ask.USER, text))
    return Cred(int(ids[0]), int(ids[1]), tuple(map(int, ids[2:]))) if ids else None


def _table(parsed: Parsed, addresses: list[str], reserved: bool) -> Table:
    wanted = questions(parsed.entries)
    if any(client.kind is Kind.WILDCARD for entry in parsed.entries for client in entry.clients):
        wanted |= {Question(Ask.REVERSE, address) for address in addresses}
    return build(parsed.entries, ask_all(wanted, NAMES_S), Builder(FileSystems.now(), ExportIds(), reserved))


def explain(table: Table, address: str, path: str, user: Cred, port: int, *, reserved: bool) -> bool:
    """Prints the verdict for one address; returns whether MNT would be answered with a handle."""
    secret, clean = parse_secret(path.encode("utf-8", "surrogateescape"))
    peer = Address.of(address.partition("%")[0], port)
    one_time = (b"", secret) if isinstance(secret, str) else None  # its nonce is in the running mountd, not here
    decision = decide(table, clean, Caller(peer), reserved=reserved, secret=secret if isinstance(secret, bytes) else b"",
                      one_time=one_time)
    print(f"{address} {printable(clean)}:")
    rule = decision.rule
    if rule is not None:
        print(f"  decides: {rule.client.where}: {printable(rule.client.text)}")
    if not isinstance(decision, Granted):
        print(f"  refused: {decision.reason}")
        for warning in _about(table, clean):
            print(f"  note: {warning}")
        return False
    net = decision.rule.net
    print(f"  export: {printable(decision.mountable.export.path)} (id {decision.mountable.export.expid:08x})")
    print(f"  access: read-{'only' if net.flags & Nx.READONLY else 'write'}")
    print(f"  caller: {_ids(user)} acts as {_ids(mapped(net, user))}")
    return True


def mapped(net: Net, user: Cred) -> Cred:
    """The credential that calls of `user` run with.  Source: design of nfs_export_net_args, nfssvc(2)."""
    if net.flags & Nx.MAPALL:
        return net.mapall
    if 0xFFFFFFFF in (user.uid, user.gid):
        return net.anon
    if not net.flags & Nx.MAPROOT:
        return user
    if user.uid == 0:
        return net.maproot
    return Cred(user.uid, user.gid or net.maproot.gid, tuple(gid for gid in user.gids if gid))


def _ids(cred: Cred) -> str:
    groups = f" groups {','.join(map(str, cred.gids))}" if cred.gids else ""
    return f"uid {cred.uid} gid {cred.gid}{groups}"


def _about(table: Table, path: bytes) -> list[str]:
    """Warnings of the load that may explain a refusal."""
    lines = {m.where.line for m, _ in table.holding(path)}
    return [str(w) for w in table.warnings if not lines or w.where.line in lines or printable(path) in w.what]


__all__ = ["Entry", "explain", "main", "mapped"]
