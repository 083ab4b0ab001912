"""What is legal in exports files and still not meant: warnings of `mountd -T` and of `nfsd checkexports`."""
from __future__ import annotations

import os
import stat
import sys

from nfssvc_shim.flags import Ex

from . import exports
from .exports_model import Client, Diagnostic, Entry, Kind, Parsed, printable
from .exptab import ExportIds
from .filesystems import FileSystems
from .helper import ask_all
from .names import questions
from .options import Options
from .table import Builder, build

NAMES_S = 5.0             # for all names together
MAX_STATUS = 125          # a shell reports 126 and more for its own failures
UNSTABLE = ("overlay", "tmpfs", "fuse", "nfs", "proc", "sysfs", "ramfs")  # handles may not outlive a restart of the machine


def check(options: Options) -> int:
    """Prints every error and warning to stderr; returns the number of errors, MAX_STATUS at the most."""
    parsed = exports.load(options.exports(), options.dialect)
    look_over(parsed)
    if not parsed.errors:
        answers = ask_all(questions(parsed.entries), NAMES_S)
        table = build(parsed.entries, answers, Builder(FileSystems.now(), ExportIds(), options.reserved, options.always))
        parsed.diagnostics += [*table.errors, *table.warnings]
    for diagnostic in sorted(parsed.diagnostics, key=lambda d: d.where):
        print(diagnostic, file=sys.stderr)
    return min(len(parsed.errors), MAX_STATUS)


def look_over(parsed: Parsed) -> None:
    """Adds warnings about the entries as they stand in the files, and about their directories."""
    types = _types_of_mounts()
    fsids: dict[bytes, Entry] = {}
    for entry in parsed.entries:
        for client in entry.clients:
            _rights(parsed, entry, client)
        _directory(parsed, entry, types)
        fsid = next((c.options.fsid for c in entry.clients if c.options.fsid), b"")
        before = fsids.setdefault(fsid, entry)
        if fsid and before.path != entry.path:
            parsed.warn(entry.where, f"{printable(entry.path)} has the fsid of {printable(before.path)} ({before.where})")
    _nested(parsed)


def _rights(parsed: Parsed, entry: Entry, client: Client) -> None:
    options = client.options
    many = client.kind not in (Kind.HOST, Kind.GROUP_OR_HOST)
    path = printable(entry.path)
    if client.kind is Kind.WORLD and not options.readonly:
        parsed.warn(client.where, f"{path} is writable for everyone who reaches this machine")
    root = not options.squash_root or options.anonuid == 0 or (options.root is not None and options.root.user in ("root", "0"))
    if many and root and not options.squash_all:
        parsed.warn(client.where, f"{path}: every host of {printable(client.text)} is trusted with root")
    everyone_root = options.everyone is not None and options.everyone.user in ("0", "root")
    if everyone_root or (options.squash_all and options.anonuid == 0):
        parsed.warn(client.where, f"{path}: everyone on {printable(client.text)} becomes root")


def _directory(parsed: Parsed, entry: Entry, types: dict[bytes, str]) -> None:
    try:
        place = FileSystems({path: "" for path in types}, {}).locate(entry.path)
    except OSError:
        return  # the table says so
    if place.path == b"/":
        parsed.warn(entry.where, "the whole root file system is exported")
    if stat.S_IMODE(place.mode) & 0o002 and not stat.S_IMODE(place.mode) & 0o1000:
        parsed.warn(entry.where, f"{printable(entry.path)} may be written by every local user")
    kind = types.get(place.fspath, "")
    if kind.split(".")[0] in UNSTABLE and not any(c.options.fsid or c.options.ex & Ex.REMOVABLE for c in entry.clients):
        parsed.warn(entry.where, f"{printable(entry.path)} lies on {kind}: file handles may not survive a restart", "fsid=")


def _nested(parsed: Parsed) -> None:
    """A directory below another one: who is refused in the inner one may still come through the outer one."""
    by_path = {entry.path: entry for entry in parsed.entries}
    for path, entry in by_path.items():
        head = os.path.dirname(path)
        while head != path and head not in by_path and head != b"/":
            head = os.path.dirname(head)
        if head != path and head in by_path:
            parsed.warn(entry.where, f"{printable(path)} lies in {printable(head)} ({by_path[head].where}): clients of that one "
                                     "reach it too, with the rights they have there")


def _types_of_mounts() -> dict[bytes, str]:
    with open("/proc/self/mounts", "rb") as stream:
        fields = [line.split(b" ") for line in stream]
    return {f[1].replace(b"\\040", b" "): f[2].decode("ascii", "replace") for f in fields if len(f) > 2}


__all__ = ["Diagnostic", "check", "look_over"]
