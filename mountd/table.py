"""The export table: entries and answers in, nfssvc records and what MOUNT needs out.

Duty: `build` is a function of its arguments; the disk is behind `filesystems`, ids behind `exptab`.  Whatever is not known (a
name that does not resolve, a user that does not exist, a directory that is not there) gives nobody anything.

Rules of matching, used for MOUNT here and by the workers for every call:
    1. the deepest exported directory that holds the path and lists the client
    2. in it the entry with the longest mask; a host has /32 or /128, an address that matched a wildcard or a netgroup too
    3. among equal masks: host, network, wildcard, netgroup; then the order of the file
    4. the entry for everyone
"""
from __future__ import annotations

import fnmatch
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nfssvc_shim.flags import Ex, Nx
from nfssvc_shim.records import AF_INET4, AF_INET6, AF_NONE, MAX_EXPORTS, Address, Cred, Export, Net

from .exports_client import BadClient, classful, significant
from .exports_model import NO_EX, Client, CredSpec, Diagnostic, Entry, Kind, Options, Where, printable
from .exptab import ExportIds
from .filesystems import FileSystems, Place
from .names import NOBODY, Answers, Ask, Question, user_question

WORLD_ADDRESS = Address(AF_NONE)
NOBODY_CRED = Cred(65534, 65534)
_ALL_MUST = Ex.ASYNC | Ex.CROSSMNT     # bits of a directory that hold only when each of its clients has them
_RANK = {Kind.HOST: 0, Kind.GROUP_OR_HOST: 0, Kind.NETWORK: 1, Kind.WILDCARD: 2, Kind.NETGROUP: 3, Kind.WORLD: 4}


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the table with the line it comes from."""

    net: Net
    client: Client
    alldirs: bool


@dataclass(slots=True)
class Mountable:
    """One exported directory.

    written    the directory as the file has it
    rules      winners only: no two have the same network
    wildcards  (client, alldirs) whose addresses are found out when they ask
    """

    export: Export
    written: bytes
    where: Where
    rules: tuple[Rule, ...]
    wildcards: tuple[tuple[Client, bool], ...] = ()
    clients: tuple[Client, ...] = ()
    _index: dict[tuple[int, int], dict[bytes, Rule]] | None = None

    def match(self, peer: Address) -> Rule | None:
        """The entry that decides for `peer`, None when none lists it."""
        if self._index is None:
            self._index = _index(self.rules)
        for (family, prefix), rules in self._index.items():
            if family == AF_NONE:
                return rules[b""]
            if family == peer.family:
                rule = rules.get(_masked(peer.packed, prefix))
                if rule is not None and rule.net.address.scope in (0, peer.scope):
                    return rule
        return None


@dataclass(slots=True)
class Table:
    """What is in force.  aliases: directories as written -> real ones, where they differ."""

    mountables: dict[bytes, Mountable] = field(default_factory=dict)
    aliases: dict[bytes, bytes] = field(default_factory=dict)
    warnings: list[Diagnostic] = field(default_factory=list)
    errors: list[Diagnostic] = field(default_factory=list)
    by_wildcard: bool = False

    @property
    def exports(self) -> tuple[Export, ...]:
        return tuple(m.export for m in self.mountables.values())

    def holding(self, path: bytes) -> Iterator[tuple[Mountable, bytes]]:
        """The exported directories that hold `path` (clean, absolute), deepest first, with the rest of the path below each."""
        for written in dict.fromkeys((self.real(path), path)):
            head = written
            while True:
                found = self.mountables.get(head)
                if found:
                    yield found, written[len(head):].lstrip(b"/")
                if head == b"/":
                    break
                head = head[:head.rfind(b"/")] or b"/"

    def real(self, path: bytes) -> bytes:
        """`path` with the exported directory that it begins with, as it was written in the file, replaced by the real one."""
        head = path
        while head != b"/":
            if head in self.aliases:
                return (self.aliases[head].rstrip(b"/") + path[len(head):]) or b"/"
            head = head[:head.rfind(b"/")] or b"/"
        return path


@dataclass(slots=True)
class Builder:
    """Arguments of `build` that stay the same from load to load.

    reserved  False: no entry asks for a source port below 1024 (mountd -n)
    always    Ex bits of every export (unfsd's options)
    cluster   exports at and below these directories have tags(7) (unfsd -C)
    """

    filesystems: FileSystems
    ids: ExportIds
    reserved: bool = True
    always: Ex = NO_EX
    cluster: tuple[bytes, ...] = ()


def build(entries: Sequence[Entry], answers: Answers, builder: Builder) -> Table:
    """The table.  `table.errors` is filled when it must not be put in force."""
    return _Build(builder, answers).run(entries)


class _Build:
    def __init__(self, builder: Builder, answers: Answers) -> None:
        self.b = builder
        self.answers = answers
        self.table = Table()
        self.nobody = _cred(answers.get(NOBODY)) or NOBODY_CRED
        self.nets: dict[tuple[object, ...], tuple[Net, ...]] = {}
        self.rights: dict[int, tuple[Nx, Cred, Cred, Cred]] = {}
        self.reverse = {q.name: found for q, found in answers.items() if q.ask is Ask.REVERSE}
        self.warned: set[str] = set()
        self.fsids: dict[bytes, tuple[bytes, Where]] = {}   # root of a file system -> its fsid=, and where that stands

    def run(self, entries: Sequence[Entry]) -> Table:
        grouped: dict[bytes, list[tuple[Entry, Place]]] = {}
        for entry in entries:
            place = self._place(entry)
            if place is not None:
                grouped.setdefault(place.path, []).append((entry, place))
                if place.path != entry.path:
                    self.table.aliases[entry.path] = place.path
        for path, members in grouped.items():
            self.table.mountables[path] = self._mountable(members)
        if len(grouped) > MAX_EXPORTS:
            where = grouped[list(grouped)[MAX_EXPORTS]][0][0].where
            self.table.errors.append(Diagnostic(where, f"{len(grouped)} exported directories", f"at most {MAX_EXPORTS}"))
        return self.table

    def _warn(self, where: Where, what: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            self.table.warnings.append(Diagnostic(where, what, error=False))

    # ---- directories

    def _place(self, entry: Entry) -> Place | None:
        """Where the directory lies, None (with a warning) when it is not to be exported now."""
        options = entry.clients[0].options if entry.clients else Options()
        if Ex.REMOVABLE in options.ex or Ex.REMOVABLE in self.b.always:
            return Place(entry.path, entry.path, "", 0)
        try:
            place = self.b.filesystems.locate(entry.path)
        except OSError as exc:
            if not options.quiet:
                self._warn(entry.where, f"{printable(entry.path)} is not exported: {exc.strerror}")
            return None
        why = self._why_not(place, options)
        if why:
            self._warn(entry.where, f"{printable(entry.path)} is not exported: {why}")
        return None if why else place

    def _why_not(self, place: Place, options: Options) -> str:
        if not place.is_directory and not self.b.always & Ex.REGULAR:
            return "not a directory"
        if options.mountpoint is not None and not self.b.filesystems.is_mount_point(options.mountpoint or place.path):
            return f"{printable(options.mountpoint or place.path)} is not a mount point"
        if options.fspath and options.fspath != place.fspath:
            return f"its file system is mounted on {printable(place.fspath)}, not on {printable(options.fspath)}"
        if options.fsuuid and options.fsuuid != place.uuid:
            return f"its file system's UUID is {place.uuid or 'not known'}, not {options.fsuuid}"
        return ""

    def _mountable(self, members: list[tuple[Entry, Place]]) -> Mountable:
        place, first = members[0][1], members[0][0]
        clients = [(client, entry.alldirs) for entry, _ in members for client in entry.clients]
        rules = self._rules(clients)
        wild = tuple((c, alldirs) for c, alldirs in clients if c.kind is Kind.WILDCARD)
        self.table.by_wildcard |= bool(wild)
        export = Export(
            expid=self.b.ids.id_of(place.uuid, place.path), fspath=place.fspath, exppath=place.exppath,
            flags=self._flags(first, [client.options for client, _ in clients]) | self._tags(first),
            fsid=self._fsid(first, place, [c.options.fsid for c, _ in clients if c.options.fsid]),
            password=clients[0][0].options.password if clients else b"",
            index=next((c.options.index for c, _ in clients if c.options.index), b""),
            nets=tuple(rule.net for rule in rules))
        return Mountable(export, first.path, first.where, rules, wild, tuple(client for client, _ in clients))

    def _tags(self, entry: Entry) -> Ex:
        return Ex.CLUSTER if any(is_below(entry.path, top) for top in self.b.cluster) else NO_EX

    def _fsid(self, entry: Entry, place: Place, given: list[bytes]) -> bytes:
        """The id of the directory's file system, which has one in all handles: the first that the files give; b"" without."""
        if not given:
            return b""
        first, where = self.fsids.setdefault(place.fspath, (given[0], entry.where))
        if any(fsid != first for fsid in given):
            self._warn(entry.where, f"{printable(entry.path)}: its file system {printable(place.fspath)} has another fsid= "
                                    f"at {where}, which stays")
        return first

    def _flags(self, entry: Entry, options: list[Options]) -> Ex:
        if len({one.ex for one in options}) < 2:
            ex = options[0].ex if options else NO_EX
            return ex | self.b.always if self.b.always else ex
        some, every = NO_EX, _ALL_MUST
        for one in options:
            some |= one.ex
            every &= one.ex
        for bit in (Ex.ASYNC, Ex.CROSSMNT):
            if some & bit and not every & bit:
                self._warn(entry.where, f"{printable(entry.path)}: {str(bit.name).lower()} is of the whole directory; "
                                        "not all of its clients have it, so none has")
        return (some & ~_ALL_MUST) | every | self.b.always

    # ---- clients

    def _rules(self, clients: list[tuple[Client, bool]]) -> tuple[Rule, ...]:
        winners: dict[tuple[Address, int], Rule] = {}
        for client, alldirs in sorted(clients, key=lambda pair: _RANK[pair[0].kind]):
            for net in self._nets(client):
                winners.setdefault((net.address, net.prefix), Rule(net, client, alldirs))
        return tuple(winners.values())

    def _nets(self, client: Client) -> tuple[Net, ...]:
        key = (client.key, client.options)
        found = self.nets.get(key)
        if found is None:
            found = self.nets[key] = tuple(self._new_nets(client))
        return found

    def _new_nets(self, client: Client) -> Iterator[Net]:
        if client.kind is Kind.WORLD:
            yield self._net(client, WORLD_ADDRESS, 0)
        elif client.network:
            scope = _scope(client.scope)
            if client.scope and not scope:
                self._warn(client.where, f"{printable(client.text)}: no interface {client.scope}; nobody matches it")
            else:
                family = AF_INET4 if len(client.network) == 4 else AF_INET6
                yield self._net(client, Address(family, client.network, 0, scope), client.prefix)
        elif client.kind is Kind.NETWORK:
            yield from self._named_network(client)
        else:
            for text in self._addresses(client):
                address = Address.of(text)
                yield self._net(client, address, len(address.packed) * 8)

    def _named_network(self, client: Client) -> Iterator[Net]:
        """Of networks(5); without a mask that of its class, and of the bytes that are not 0."""
        numbers = self.answers.get(Question(Ask.NETWORK, client.name), ())
        try:
            packed, natural = classful(numbers[0] if numbers else "")
        except BadClient:
            self._warn(client.where, f"{printable(client.name)} is no network of networks(5); denied until it is")
            return
        prefix = client.prefix or max(natural, significant(packed))
        yield self._net(client, Address(AF_INET4, _masked(packed, prefix)), prefix)

    def _addresses(self, client: Client) -> list[str]:
        if client.kind is Kind.WILDCARD:
            matches = _pattern(client.name)
            return [address for address, names in self.reverse.items() if any(matches(name) for name in names)]
        ask = {Kind.HOST: Ask.HOST, Kind.NETGROUP: Ask.NETGROUP}.get(client.kind, Ask.GROUP_OR_HOST)
        found = self.answers.get(Question(ask, client.name), ())
        if not found:
            self._warn(client.where, f"{printable(client.text)} does not resolve; denied until it does")
        return [text for text in found if "%" not in text]

    def _net(self, client: Client, address: Address, prefix: int) -> Net:
        known = self.rights.get(id(client.options))  # alive: the entry holds it
        if known is None:
            known = self.rights[id(client.options)] = self._rights(client)
        flags, root, everyone, anon = known
        if client.kind is Kind.WORLD:
            flags |= Nx.DEFAULTEXPORT
        return Net(flags, address, prefix, root, everyone, anon, client.options.flavors)

    def _rights(self, client: Client) -> tuple[Nx, Cred, Cred, Cred]:
        """Flags, and who root, everyone and the anonymous are."""
        o = client.options
        anon = Cred(self.nobody.uid if o.anonuid is None else o.anonuid, self.nobody.gid if o.anongid is None else o.anongid)
        root, everyone = self._spec(client, o.root, anon), self._spec(client, o.everyone, anon)
        flags = o.nx | _bit(o.readonly, Nx.READONLY) | _bit(o.secure and self.b.reserved, Nx.SECURE)
        flags |= _bit(bool(o.deny) or root is None or everyone is None, Nx.DENY)
        # -maproot=root squashes nobody: with MAPROOT set, a caller's gid 0 would be taken away.
        squashes = o.squash_root and not (root is not None and root.uid == 0 and o.root is not None)
        flags |= _bit(squashes, Nx.MAPROOT) | _bit(o.squash_all, Nx.MAPALL)
        return flags, root or anon, everyone or anon, anon

    def _spec(self, client: Client, spec: CredSpec | None, anon: Cred) -> Cred | None:
        """Credential of a user as written; `anon` where none is; None, with a warning, where it is not known."""
        if spec is None:
            return anon
        cred = _cred(self.answers.get(user_question(spec)))
        if cred is None:
            self._warn(client.where, f"{printable(str(spec))}: no such user or group; {printable(client.text)} is denied")
        return cred


def _bit(on: bool, bit: Nx) -> Nx:
    return bit if on else Nx(0)


def _cred(ids: tuple[str, ...] | None) -> Cred | None:
    if not ids or len(ids) < 2:
        return None
    numbers = tuple(map(int, ids))
    return Cred(numbers[0], numbers[1], numbers[2:])


def _scope(interface: str) -> int:
    """The interface's index, 0 when there is none of that name."""
    try:
        return int(interface) if interface.isdigit() else socket.if_nametoindex(interface) if interface else 0
    except OSError:
        return 0


def _pattern(pattern: str) -> Callable[[str], bool]:
    """Matches host names; * and ? match dots too, as in exports(5) of Linux."""
    compiled = re.compile(fnmatch.translate(pattern.lower().replace("[^", "[!")))
    return lambda name: bool(compiled.match(name.lower().rstrip(".")))


def _masked(packed: bytes, prefix: int) -> bytes:
    bits = len(packed) * 8
    if prefix >= bits:
        return packed
    shift = bits - prefix
    return (int.from_bytes(packed, "big") >> shift << shift).to_bytes(len(packed), "big")


def _index(rules: Sequence[Rule]) -> dict[tuple[int, int], dict[bytes, Rule]]:
    """Rules by (family, prefix), longest prefix first, the world last."""
    by_length: dict[tuple[int, int], dict[bytes, Rule]] = {}
    for rule in sorted(rules, key=lambda r: (r.net.address.family == AF_NONE, -r.net.prefix)):
        table = by_length.setdefault((rule.net.address.family, rule.net.prefix), {})
        table.setdefault(rule.net.address.packed, rule)
    return by_length


def is_below(path: bytes, top: bytes) -> bool:
    """Whether `path` is `top` or lies below it, by components."""
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def wildcard_clients(mountable: Mountable, names: Sequence[str]) -> list[Client]:
    """The wildcard entries of a directory that one of `names` matches."""
    return [client for client, _ in mountable.wildcards if any(_pattern(client.name)(name) for name in names)]


__all__ = ["Builder", "Mountable", "Rule", "Table", "build", "is_below", "wildcard_clients"]
