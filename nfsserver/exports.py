"""The export table of a worker: who may do what, as whom.

Pure decisions over nfssvc_shim.records; C asks once for each (client, credential, export) and keeps the answer until the
table changes (gate.c).  Rule of precedence: the longest prefix wins, a host being the longest; then the world entry.
Source: exports(5), "Precedence".
"""
from __future__ import annotations

from dataclasses import dataclass

from nfssvc_shim.flags import Ex, Nx
from nfssvc_shim.records import AF_LOCAL, Address, Cred, Export, Net

NOBODY = 0xFFFFFFFF       # an id of -1 is no id: setfsuid(-1) does nothing, so it must never get that far

# Rights of a grant: R_* of vnode.h.
READONLY, INSECURE_OK, SQUASHED, CLIENTS32, DENIED = 1, 2, 4, 8, 0x80


class Clients:
    """The networks of one export, by family and prefix, longest first.  Sorted when the first caller comes: of ten thousand
    exports few are used between two loads."""

    __slots__ = ("_tables", "_world", "export")

    def __init__(self, export: Export) -> None:
        self.export = export
        self._world: Net | None = None
        self._tables: list[tuple[tuple[int, int], dict[int, Net]]] | None = None

    def _sort(self) -> list[tuple[tuple[int, int], dict[int, Net]]]:
        tables: dict[tuple[int, int], dict[int, Net]] = {}
        for net in self.export.nets:
            if net.flags & Nx.DEFAULTEXPORT:
                self._world = self._world or net
            else:
                key = (net.address.family, net.prefix)
                tables.setdefault(key, {}).setdefault(_network(net.address.packed, net.prefix), net)
        return sorted(tables.items(), key=lambda item: -item[0][1])

    def match(self, peer: Address) -> Net | None:
        """The entry that decides for `peer`, or None.  A local peer (unix socket) is the world's."""
        if self._tables is None:
            self._tables = self._sort()
        if peer.family != AF_LOCAL:
            for (family, prefix), nets in self._tables:
                if family == peer.family and (net := nets.get(_network(peer.packed, prefix))):
                    return net
        return self._world


def _network(packed: bytes, prefix: int) -> int:
    bits = len(packed) * 8
    return int.from_bytes(packed, "big") >> (bits - prefix)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller gets: the identity his calls run under, and rights (the constants above)."""

    cred: Cred
    rights: int

    @property
    def uses_groups(self) -> bool:
        """Does the identity have the groups that came with the credential?"""
        return not self.rights & (SQUASHED | DENIED)


def grant_for(net: Net | None, flavor: int, cred: Cred) -> Grant:
    """Squashing, in the order of exports(5): AUTH_NONE and ids of -1, then mapall, then maproot.

    root_squash (maproot to another than root) also maps gid 0, and gid 0 inside the group list: a group root share is
    root's as much as a file of uid 0.
    """
    if net is None or net.flags & (Nx.DENY | Nx.OFFLINE):
        return Grant(Cred(65534, 65534), DENIED)
    rights = (READONLY if net.flags & Nx.READONLY else 0) | (0 if net.flags & Nx.SECURE else INSECURE_OK)
    if net.flags & Nx.CLIENTS32:
        rights |= CLIENTS32
    if flavor == 0 or cred.uid == NOBODY:
        return Grant(net.anon, rights | SQUASHED)
    if net.flags & Nx.MAPALL:
        return Grant(net.mapall, rights | SQUASHED)
    gids = tuple(gid for gid in cred.gids if gid != NOBODY)
    gid = net.anon.gid if cred.gid == NOBODY else cred.gid
    if not net.flags & Nx.MAPROOT or net.maproot.uid == 0:
        return Grant(Cred(cred.uid, gid, gids), rights)
    if cred.uid == 0:
        return Grant(net.maproot, rights | SQUASHED)
    other = net.maproot.gid
    return Grant(Cred(cred.uid, gid or other, tuple(g or other for g in gids)), rights)


class Table:
    """One generation of exports."""

    def __init__(self, exports: tuple[Export, ...] = (), generation: int = 0) -> None:
        self.generation = generation
        self.by_id = {export.expid: Clients(export) for export in exports}

    def manages_gids(self, expid: int) -> bool:
        """Are the groups this server's, whatever the credential says?"""
        clients = self.by_id.get(expid)
        return clients is not None and bool(clients.export.flags & Ex.MANAGE_GIDS)

    def grant(self, expid: int, peer: Address, flavor: int, cred: Cred) -> Grant:
        """DENIED for an unknown export."""
        clients = self.by_id.get(expid)
        return grant_for(clients.match(peer) if clients else None, flavor, cred)
