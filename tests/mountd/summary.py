"""Exports entries as short lines of text, for the corpus: what each client of each directory may do."""
from __future__ import annotations

from mountd.exports_model import FLAVOR_NAMES, Client, CredSpec, Entry, Options
from nfssvc_shim.flags import Ex, Nx

PLAIN = Options()


def summary(entry: Entry) -> str:
    """`path[ alldirs-off] | client kind rights | ...`"""
    path = entry.path.decode("utf-8", "backslashreplace").replace(" ", "\\040")
    return " | ".join([path + ("" if entry.alldirs else " (itself)"), *(client_text(client) for client in entry.clients)])


def client_text(client: Client) -> str:
    who = client.name or (f"{client.network.hex()}/{client.prefix}" if client.network else "*")
    return f"{who}{'%' + client.scope if client.scope else ''} {client.kind.name.lower()} {rights(client.options)}"


def rights(o: Options) -> str:
    words = ["ro" if o.readonly else "rw"]
    words += ["root=" + _who(o.root)] if o.squash_root and not o.squash_all else []
    words += ["all=" + _who(o.everyone)] if o.squash_all else []
    words += ["trusted"] if not o.squash_root and not o.squash_all else []
    words += [f"anon={o.anonuid}:{o.anongid}"] if (o.anonuid, o.anongid) != (None, None) else []
    words += {(True, True): ["secure"], (False, True): ["mount-secure"], (True, False): ["nfs-secure"]}.get(
        (o.secure, o.secure_mount), ["anyport"])
    words += ["sec=" + ":".join(FLAVOR_NAMES[f] for f in o.flavors)] if o.flavors != PLAIN.flavors else []
    words += [str(bit.name).lower() for bit in Ex if o.ex & bit]
    words += [str(bit.name).lower() for bit in Nx if o.nx & bit]
    words += [f"{name}={getattr(o, name)!r}"
              for name in ("mountpoint", "fsid", "fspath", "fsuuid", "password", "index", "deny", "quiet")
              if getattr(o, name) != getattr(PLAIN, name)]
    return " ".join(words)


def _who(spec: CredSpec | None) -> str:
    return "anon" if spec is None else str(spec)
