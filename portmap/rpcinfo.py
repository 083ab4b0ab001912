"""rpcinfo(8): asks a port mapper what is registered, and programs whether they answer.

    rpcinfo [-p | -s] [host]            list (default: rpcbind's; -p: PMAP version 2; -s: short)
    rpcinfo -t|-u host program [version]    NULL over TCP, UDP
    rpcinfo -T netid host program [version]  NULL over udp, tcp, udp6 or tcp6, at the address that rpcbind gives for it
    rpcinfo -l host program version     all transports of one version
    rpcinfo -m [host]                   how often each procedure of the port mapper was called
    rpcinfo -d program version          remove a registration of this machine
"""
from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterable

from oncrpc.client import Client, RpcTimeout
from oncrpc.message import AUTH_NONE, AcceptStat, Auth, RpcError
from oncrpc.pmap import (
    NETIDS,
    PMAP_PORT,
    PMAP_PROG,
    RPCB_VERS4,
    Mapping,
    Pmap,
    Rpcb,
    Rpcbind,
    pack_rpcb,
    rpcbind_socket,
    split_universal,
    unregister,
)
from oncrpc.usage import Parser, port, why
from oncrpc.xdr import Unpacker, XdrError

from .service import MAX_NETBUF, STAT_PROCS

GETADDRLIST, GETSTAT = 11, 12
STATISTICS = {2: ("NULL", "SET", "UNSET", "GETPORT", "DUMP", "CALLIT"),
              3: ("NULL", "SET", "UNSET", "GETADDR", "DUMP", "CALLIT", "TIME", "U2T", "T2U"),
              4: ("NULL", "SET", "UNSET", "GETADDR", "DUMP", "BCAST", "TIME", "U2T", "T2U", "VERADDR", "INDRECT", "GETLIST",
                  "GETSTAT")}
MAX_VERSION = 0xFFFFFFFF    # a version that no program has: its answer names the range
MAX_VERSIONS = 64           # of a range that is asked one by one
NAMES = {100000: "portmapper", 100003: "nfs", 100005: "mountd", 100011: "rquotad", 100021: "nlockmgr", 100024: "status",
         100227: "nfs_acl"}


def program_names() -> dict[int, str]:
    """/etc/rpc, over our own short list."""
    names = dict(NAMES)
    try:
        with open("/etc/rpc", encoding="utf-8", errors="replace") as f:
            for line in f:
                words = line.partition("#")[0].split()
                if len(words) >= 2 and words[1].isdigit():
                    names[int(words[1])] = words[0]
    except OSError:
        pass
    return names


def main(argv: list[str] | None = None) -> int:
    parser = Parser("rpcinfo", description="report RPC information")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-p", dest="how", action="store_const", const="pmap", help="list, by PMAP version 2")
    how.add_argument("-s", dest="how", action="store_const", const="short", help="list, one line a program")
    how.add_argument("-t", dest="how", action="store_const", const="tcp", help="call NULL over TCP")
    how.add_argument("-u", dest="how", action="store_const", const="udp", help="call NULL over UDP")
    how.add_argument("-l", dest="how", action="store_const", const="list", help="list the transports of one version")
    how.add_argument("-d", dest="how", action="store_const", const="delete", help="remove a registration")
    how.add_argument("-m", dest="how", action="store_const", const="stat", help="how often its procedures were called")
    how.add_argument("-T", dest="netid", choices=[*NETIDS], help="call NULL over this transport")
    parser.add_argument("-n", dest="port", type=port, default=0, help="with -t and -u: the program's port, port mapper unasked")
    parser.add_argument("--mapper-port", type=port, default=PMAP_PORT, help="where the port mapper is, when not at 111")
    parser.add_argument("words", nargs="*", metavar="host | program | version")
    options = parser.parse_args(argv)
    if options.netid:
        options.how = "tcp" if NETIDS[options.netid][1] == socket.IPPROTO_TCP else "udp"
    try:
        return COMMANDS[options.how](options, parser)
    except RpcTimeout:
        return _fail("RPC: Timed out")
    except RpcError as exc:
        return _fail(f"RPC: {exc}")
    except (OSError, XdrError) as exc:
        return _fail(why(exc))


def _fail(text: str) -> int:
    print(f"rpcinfo: {text}", file=sys.stderr)
    return 1


def _words(options: argparse.Namespace, parser: Parser, least: int, most: int) -> list[str]:
    words: list[str] = options.words
    if not least <= len(words) <= most:
        parser.error("wrong number of operands")
    return words


def _number(text: str, parser: Parser) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_VERSION:
        parser.error(f"no number: {text!r}")
    return int(text)


def _program(text: str, parser: Parser) -> int:
    for number, name in program_names().items():
        if text == name:
            return number
    return _number(text, parser)


# ---- lists

def list_pmap(options: argparse.Namespace, parser: Parser) -> int:
    host = (*_words(options, parser, 0, 1), "127.0.0.1")[0]
    with Pmap(host, port=options.mapper_port, tcp=True) as mapper:
        found = mapper.dump()
    names = program_names()
    print("   program vers proto   port  service")
    for entry in found:
        proto = {6: "tcp", 17: "udp"}.get(entry.prot, str(entry.prot))
        print(f"{entry.prog:>10} {entry.vers:>4} {proto:>5} {entry.port:>6}  {names.get(entry.prog, '')}".rstrip())
    return 0


def _dump(options: argparse.Namespace, parser: Parser) -> list[Rpcb]:
    words = _words(options, parser, 0, 1)
    path = "" if words or options.mapper_port != PMAP_PORT else rpcbind_socket()
    mapper = Rpcbind(path) if path else Rpcbind(host=(*words, "127.0.0.1")[0], port=options.mapper_port)
    with mapper:
        return mapper.dump()


def list_rpcb(options: argparse.Namespace, parser: Parser) -> int:
    names = program_names()
    found = _dump(options, parser)
    print("   program version netid     address                service    owner")
    for entry in found:
        name = names.get(entry.prog, "-")
        print(f"{entry.prog:>10} {entry.vers:>4}    {entry.netid:<9} {entry.addr:<22} {name:<10} {entry.owner}")
    return 0


def list_short(options: argparse.Namespace, parser: Parser) -> int:
    names = program_names()
    found = _dump(options, parser)
    print("   program version(s) netid(s)                         service     owner")
    for prog in dict.fromkeys(entry.prog for entry in found):
        mine = [entry for entry in found if entry.prog == prog]
        versions = ",".join(str(vers) for vers in sorted({entry.vers for entry in mine}))
        netids = ",".join(dict.fromkeys(entry.netid for entry in mine))
        print(f"{prog:>10}  {versions:<9} {netids:<32} {names.get(prog, '-'):<11} {mine[0].owner}")
    return 0


def statistics(options: argparse.Namespace, parser: Parser) -> int:
    """rpcb_stat_byvers of GETSTAT; SET and UNSET as calls/done."""
    host = (*_words(options, parser, 0, 1), "127.0.0.1")[0]
    with Client.tcp((host, options.mapper_port), PMAP_PROG, RPCB_VERS4, cred=Auth(AUTH_NONE)) as client:
        data = Unpacker(client.call(GETSTAT))
    for vers, procedures in STATISTICS.items():
        counts = [str(data.unpack_int()) for _ in range(STAT_PROCS)]
        for changed in (1, 2):
            counts[changed] += f"/{data.unpack_int()}"
        _skip_lists(data)
        print(f"{'PORTMAP' if vers == 2 else 'RPCBIND'} (version {vers}) statistics")
        print("".join(f"{name:<12}" for name in procedures).rstrip())
        print("".join(f"{count:<12}" for count in counts[:len(procedures)]).rstrip(), end="\n\n")
    return 0


def _skip_lists(data: Unpacker) -> None:
    """rpcbs_addrlist: what was asked for; rpcbs_rmtcalllist: what was forwarded.  Not shown."""
    while data.unpack_bool():
        for take in (data.unpack_uint, data.unpack_uint, data.unpack_int, data.unpack_int):
            take()
        data.unpack_string(MAX_NETBUF)
    while data.unpack_bool():
        for take in (data.unpack_uint, data.unpack_uint, data.unpack_uint, data.unpack_int, data.unpack_int, data.unpack_int):
            take()
        data.unpack_string(MAX_NETBUF)


def list_transports(options: argparse.Namespace, parser: Parser) -> int:
    host, program, version = _words(options, parser, 3, 3)
    prog, vers = _program(program, parser), _number(version, parser)
    with Client.tcp((host, options.mapper_port), PMAP_PROG, RPCB_VERS4, cred=Auth(AUTH_NONE)) as client:
        data = Unpacker(client.call(GETADDRLIST, pack_rpcb(Rpcb(prog, vers, "", "", ""))))
    name = program_names().get(prog, "-")
    print("   program vers  tp_family/name/class    address                service")
    while data.unpack_bool():
        addr, netid = (data.unpack_string(MAX_NETBUF).decode(errors="replace") for _ in range(2))
        kind = {1: "clts", 2: "cots", 3: "cots_ord"}.get(data.unpack_uint(), "-")
        family, _ = data.unpack_string(MAX_NETBUF).decode(errors="replace"), data.unpack_string(MAX_NETBUF)
        print(f"{prog:>10} {vers:>4}  {family + '/' + netid + '/' + kind:<23} {addr:<22} {name}")
    return 0


# ---- calls

def ping(options: argparse.Namespace, parser: Parser) -> int:
    """NULL of one version, or of each that the program says it has."""
    words = _words(options, parser, 2, 3)
    prog = _program(words[1], parser)
    versions: Iterable[int] = [_number(words[2], parser)] if len(words) == 3 else _versions(options, words[0], prog)
    status = 0
    for vers in versions:
        try:
            _null(options, words[0], prog, vers)
        except RpcError as exc:
            print(f"rpcinfo: RPC: {exc}", file=sys.stderr)
            print(f"program {prog} version {vers} is not available")
            status = 1
        else:
            print(f"program {prog} version {vers} ready and waiting")
    return status


def _versions(options: argparse.Namespace, host: str, prog: int) -> Iterable[int]:
    try:
        _null(options, host, prog, MAX_VERSION)
    except RpcError as exc:
        if exc.accept_stat == AcceptStat.PROG_MISMATCH and exc.auth_stat is None:
            return range(exc.low, min(exc.high, exc.low + MAX_VERSIONS) + 1)
        raise
    return [MAX_VERSION]


def _null(options: argparse.Namespace, host: str, prog: int, vers: int) -> None:
    if options.netid:
        host = _address_of(host, NETIDS[options.netid][0])
    port = options.port or _getport(options, host, prog, vers)
    opener = Client.tcp if options.how == "tcp" else Client.udp
    with opener((host, port), prog, vers, cred=Auth(AUTH_NONE)) as client:
        client.call(0)


def _address_of(host: str, family: int) -> str:
    """Numeric, in the family of the transport."""
    return str(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)[0][4][0])


def _getport(options: argparse.Namespace, host: str, prog: int, vers: int) -> int:
    if options.netid:
        with Rpcbind(host=host, port=options.mapper_port) as rpcbind:
            address = rpcbind.getaddr(prog, vers, options.netid)
        if not address:
            raise RpcError(AcceptStat.PROG_UNAVAIL)
        return split_universal(address)[1]
    with Pmap(host, port=options.mapper_port, tcp=options.how == "tcp") as mapper:
        port = mapper.getport(prog, vers, 6 if options.how == "tcp" else 17)
    if not port:
        raise RpcError(AcceptStat.PROG_UNAVAIL)
    return port


def delete(options: argparse.Namespace, parser: Parser) -> int:
    program, version = _words(options, parser, 2, 2)
    prog, vers = _program(program, parser), _number(version, parser)
    unregister([(prog, vers)], port=options.mapper_port)
    with Pmap(port=options.mapper_port, tcp=True) as mapper:
        left = [entry for entry in mapper.dump() if (entry.prog, entry.vers) == (prog, vers)]
    return _fail(f"Could not delete registration for prog {program} version {version}") if left else 0


COMMANDS = {None: list_rpcb, "pmap": list_pmap, "short": list_short, "list": list_transports, "tcp": ping, "udp": ping,
            "delete": delete, "stat": statistics}
__all__ = ["Mapping", "main"]

if __name__ == "__main__":
    sys.exit(main())
