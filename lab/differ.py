#!/usr/bin/env python3
"""differ.py ONE TWO: random NFSv3 calls to two servers, and where their answers tell them apart.

In the guest ONE is this machine's server and TWO the guest's own kernel server (knfsd.sh), as HOST:PORT:MOUNTPORT:PATH.  Both get
the same calls of the same callers, also wrong ones and ones on objects that are gone.  Compared: the status, which optional parts a
reply has, attributes, data, names, and for each object of the call which of its three times moved.  Not compared, for two machines
differ in them: handles, cookies, verifiers, fileids, clocks, the space that a file uses.

Prints each kind of difference once, with how often it came and its first example; exits with 1 if one is not in ARGUED, where
those stand that RFC 1813 leaves open, with the reason.  --seed repeats a run.
"""
from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.tools.nfs3 import (
    DATA_SYNC,
    EXCLUSIVE,
    FILE_SYNC,
    GUARDED,
    NF3DIR,
    UNCHECKED,
    UNSTABLE,
    Fattr3,
    Mount,
    Nfs3,
    Proc,
    Res,
    Sattr3,
    Time,
    WccData,
    connect,
    pack_MKNOD3args,
    pack_SETATTR3args,
)
from tests.tools.rpc import RpcFailed, auth_sys

Who = tuple[int, int, tuple[int, ...]]
USERS: list[Who] = [(0, 0, ()), (0, 0, ()), (1000, 1000, ()), (1000, 1000, (77,)), (1001, 1001, (77, 78)), (1001, 77, ())]
NAMES = [b"a", b"b", b"c", b"d", b"\xff"]
ODD_NAMES = [b".", b"..", b"", b"x" * 255, b"x" * 256, b"a/b", b"n\0l", b"x" * 5000]
MODES = [0o777, 0o755, 0o700, 0o644, 0o600, 0o000, 0o1777, 0o2775, 0o4755, 0o6711, 0o2644, 0o177777]
CLIENT_TIMES = [(1, 0), (10**9, 123456789), (2**31 - 1, 0), (2**31, 5), (2**32 - 1, 999999999)]
OFFSETS = [0, 0, 1, 3, 100, 4096, 5000, 2**31, 2**32 + 7, 2**43, 2**44, 2**63 - 1, 2**63, 2**64 - 1]
SIZES = [0, 0, 1, 10, 5000, 2**32 + 1, 2**44, 2**63 - 1, 2**63, 2**64 - 1]
COUNTS = [0, 1, 10, 4096, 70000, 262144]   # no more than nfsd's rtmax
TICK_S = 0.025   # longer than a tick of the clocks that stamp files, so that a time that was set anew differs

# kinds of difference (matched from the start of their line) that are right on both sides, and why
ARGUED: list[tuple[str, str]] = [
    (r".*: status \w+ / RPC 0 4", "names of 0 or over 255 bytes, with NUL or '/': nfsd does not decode them, RFC 1813 has statuses"),
    (r"READLINK .*: status INVAL / ISDIR", "RFC 1813 section 3.3.5 has INVAL for what is no link"),
    (r"READDIR(PLUS)? .*TOOSMALL", "RFC 1813 section 3.3.16: TOOSMALL when not one entry fits; nfsd sends an empty page"),
    (r"COMMIT .*: status OK / ACCES", "RFC 1813 section 3.3.21 has no ACCES: who wrote may commit, whatever the mode is by now"),
    (r"(FSINFO|PATHCONF) .*: info", "nfsd's rtmax goes by memory; its linkmax 32000, no_trunc false and time_delta 1 s are not ext4's"),
    (r"ACCESS .*: access \d+ / \d+ at OK", "bits above 0x3f belong to version 4.2"),
    (r"MKNOD .*: status OK / INVAL", "a size is nothing to what has none; nfsd makes the object and says INVAL"),
    (r"READ of file: atime0 kept / now", "a READ that finds nothing is none, and must not move the verifier of an EXCLUSIVE CREATE"),
    (r"CREATE .*: status OK / EXIST", "the same verifier again: a READ in between made nfsd forget it (atime)"),
    (r"READDIR(PLUS)? of directory: atime0 kept / now", "a listing that is known still is not read from the directory again"),
    (r"(SETATTR|CREATE) .*: (wcc.after|object0|attr) mode at", "a new size by who is not root clears setuid, as ftruncate(2) does; nfsd leaves it"),
    (r"READDIRPLUS .*: plus at OK", "who may not search a directory gets names alone, '.' and '..' among them"),
    (r"LINK of gone \w+: wcc.after at STALE", "nothing was looked at after the object that is gone"),
    (r"RENAME .*: status INVAL / (PERM|NOTDIR)", "both refuse: '.' and '..' are INVAL, RFC 1813 section 3.3.14"),
    (r"(WRITE|SETATTR) .*: status (ISDIR|INVAL|STALE) / FBIG", "both refuse: first what the object is, or first how far it reaches"),
    (r"SETATTR .*: status (NOT_SYNC|PERM) / (ACCES|ISDIR|INVAL)", "both refuse: first the guard and the owner, or first the right to write"),
    (r"\w+ .*: status (NOENT|EXIST|NOTDIR|ISDIR|INVAL|NAMETOOLONG|STALE) / ACCES", "both refuse: first the name, as local calls do, or first the right"),
    (r"\w+ .*: status (NAMETOOLONG|STALE|NOTDIR|EXIST) / (NOTDIR|EXIST|INVAL|BADTYPE)", "both refuse: of two reasons another one"),
]


@dataclass
class Side:
    """One server: a connection, the export's root, the handles by the number of the object, attributes as last seen."""

    name: str
    nfs: Nfs3
    root: bytes
    handles: list[bytes] = field(default_factory=list)
    seen: dict[int, Fattr3 | None] = field(default_factory=dict)

    def as_(self, who: Who) -> Nfs3:
        return self.nfs.as_(auth_sys(*who))


@dataclass(frozen=True)
class Step:
    """One call: what it is in words, which objects it concerns, how it is made, and whether it may find or make an object."""

    text: str
    objects: tuple[int, ...]
    call: Callable[[Nfs3, Callable[[int], bytes]], Res]
    finds: bool = False


@dataclass
class Tally:
    """Differences by kind: how many, and the first in full."""

    verbose: bool
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        n, first = self.kinds.get(kind, (0, example))
        self.kinds[kind] = n + 1, first


def side(where: str) -> Side:
    host, port, mountport, path = where.split(":", 3)
    transport = connect((host, int(mountport)))
    answer = Mount(transport).mnt(path.encode())
    transport.close()
    if answer.status:
        raise SystemExit(f"{where}: MOUNT says {answer.status}")
    return Side(host, Nfs3(connect((host, int(port)))), answer.fh)


# --- What is compared of an answer --------------------------------------------------------------------------------------------

TYPES = ["", "file", "directory", "block", "char", "symlink", "socket", "fifo"]


def attributes(attr: Fattr3 | None) -> object:
    if attr is None:
        return None
    return TYPES[attr.type], oct(attr.mode), attr.nlink, attr.uid, attr.gid, attr.size if attr.type != NF3DIR else "", attr.rdev


def wcc(data: WccData | None) -> dict[str, object]:
    """pre_op_attr counts by its presence alone."""
    return {} if data is None else {"before": data.before is not None, "after": attributes(data.after)}


def facts(res: Res) -> dict[str, object]:
    """What of a result must be the same from both."""
    found: dict[str, object] = {
        "status": res.status.name, "attr": attributes(res.attr), "dir_attr": attributes(res.dir_attr), "fh": res.fh is not None,
        "access": res.access, "data": res.data, "count": res.count, "eof": res.eof, "committed": res.committed, "info": res.info,
        "names": sorted(entry.name for entry in res.entries),
        "plus": sorted((entry.name, entry.attr is not None, entry.fh is not None) for entry in res.entries),
    }
    for name, data in (("wcc", res.wcc), ("wcc2", res.wcc2)):
        found |= {f"{name}.{key}": value for key, value in wcc(data).items()}
    return found


def moved(before: Fattr3 | None, after: Fattr3 | None) -> dict[str, str]:
    """Of each time: did it stay, was it set to what a client said, or to the clock."""
    if before is None or after is None:
        return {}
    words = {}
    for name in ("atime", "mtime", "ctime"):
        old, new = getattr(before, name), getattr(after, name)
        words[name] = "kept" if old == new else str(new) if new in CLIENT_TIMES else "now" if new[0] > 1.7e9 else "another"
    return words


# --- Calls --------------------------------------------------------------------------------------------------------------------

def short(name: bytes) -> str:
    return repr(name) if len(name) < 20 else f"{len(name)} bytes"


class Calls:
    """Random steps; `n` objects are known, 0 is the directory of this run."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def name(self) -> bytes:
        return self.rng.choice(ODD_NAMES if self.rng.random() < 0.05 else NAMES)

    def time(self) -> Time | str | None:
        return self.rng.choice([None, None, "server", self.rng.choice(CLIENT_TIMES)])

    def maybe(self, values: list[int]) -> int | None:
        return self.rng.choice(values) if self.rng.random() < 0.35 else None

    def sattr(self) -> Sattr3:
        maybe = self.maybe
        return Sattr3(maybe(MODES), maybe([0, 1000, 1001]), maybe([0, 77, 78, 1000]), maybe(SIZES), self.time(), self.time())

    def new_sattr(self) -> Sattr3:
        """Mostly as real clients send it: the mode alone.  Never an owner: nfsd passes over what others than root ask for, and files of
        a size that cannot be are left behind, with other attributes."""
        attr = replace(self.sattr(), uid=None, gid=None, size=self.rng.choice([None, 0, 1, 5000]))
        return attr if self.rng.random() < 0.15 else Sattr3(mode=self.rng.choice(MODES))

    def some(self, n: int) -> int:
        """Mostly a recent object or the top."""
        return self.rng.choice([0, self.rng.randrange(n), self.rng.randrange(max(0, n - 4), n)])

    def step(self, n: int) -> Step:
        kinds = [self.getattr, self.setattr, self.setattr, self.lookup, self.lookup, self.access, self.readlink, self.read, self.read,
                 self.write, self.write, self.create, self.create, self.create, self.mkdir, self.mkdir, self.symlink, self.mknod,
                 self.remove, self.rmdir, self.rename, self.rename, self.link, self.readdir, self.readdirplus, self.info, self.commit]
        return self.rng.choice(kinds)(n)

    def getattr(self, n: int) -> Step:
        o = self.some(n)
        return Step(f"GETATTR {o}", (o,), lambda nfs, h: nfs.getattr(h(o)))

    def setattr(self, n: int) -> Step:
        o, attr = self.some(n), self.sattr()
        if self.rng.random() < 0.5:  # one thing alone
            attr = self.rng.choice([Sattr3(mode=self.rng.choice(MODES)), Sattr3(size=self.rng.choice(SIZES)), Sattr3(mtime="server"),
                                    Sattr3(uid=1000), Sattr3(gid=77), Sattr3(atime="server", mtime="server"), Sattr3()])
        guard = self.rng.choice([None, None, None, (5, 5)])
        return Step(f"SETATTR {o} {attr} guard {guard}", (o,),
                    lambda nfs, h: nfs.call(Proc.SETATTR, pack_SETATTR3args(h(o), attr, guard)))

    def lookup(self, n: int) -> Step:
        o, name = self.some(n), self.name()
        return Step(f"LOOKUP {o} {short(name)}", (o,), lambda nfs, h: nfs.lookup(h(o), name), finds=name not in (b".", b".."))

    def access(self, n: int) -> Step:
        o, mask = self.some(n), self.rng.choice([0x3F, 0x3F, 0, 1, 0xFFFFFFFF])
        return Step(f"ACCESS {o} {mask:#x}", (o,), lambda nfs, h: nfs.access(h(o), mask))

    def readlink(self, n: int) -> Step:
        o = self.some(n)
        return Step(f"READLINK {o}", (o,), lambda nfs, h: nfs.readlink(h(o)))

    def read(self, n: int) -> Step:
        o, offset, count = self.some(n), self.rng.choice(OFFSETS), self.rng.choice(COUNTS)
        return Step(f"READ {o} {offset} {count}", (o,), lambda nfs, h: nfs.read(h(o), offset, count))

    def write(self, n: int) -> Step:
        o, offset, data = self.some(n), self.rng.choice(OFFSETS), self.rng.randbytes(self.rng.choice([0, 1, 9, 5000]))
        stable = self.rng.choice([UNSTABLE, DATA_SYNC, FILE_SYNC])
        return Step(f"WRITE {o} {offset} {len(data)} bytes stable {stable}", (o,),
                    lambda nfs, h: nfs.write(h(o), data, offset, stable=stable))

    def create(self, n: int) -> Step:
        o, name, how, attr = self.some(n), self.name(), self.rng.choice([UNCHECKED, GUARDED, EXCLUSIVE]), self.new_sattr()
        verf = self.rng.choice([b"verifier", b"another.", bytes(8)])
        what = verf if how == EXCLUSIVE else attr
        return Step(f"CREATE {o} {short(name)} {['UNCHECKED', 'GUARDED', 'EXCLUSIVE'][how]} {what!r}", (o,),
                    lambda nfs, h: nfs.create(h(o), name, attr, mode=how, verf=verf), finds=True)

    def mkdir(self, n: int) -> Step:
        """Without setuid and setgid, which a kernel server drops here: what mkdir(2) of a client never sends."""
        o, name, attr = self.some(n), self.name(), self.new_sattr()
        attr = replace(attr, mode=None if attr.mode is None else attr.mode & 0o1777)
        return Step(f"MKDIR {o} {short(name)} {attr}", (o,), lambda nfs, h: nfs.mkdir(h(o), name, attr), finds=True)

    def symlink(self, n: int) -> Step:
        o, name, attr = self.some(n), self.name(), self.new_sattr()
        target = self.rng.choice([b"a", b"../a", b"", b"t" * 4095, b"t" * 4096, b"n\0l", b"/nowhere"])
        return Step(f"SYMLINK {o} {short(name)} {target[:9]!r} ({len(target)}) {attr}", (o,),
                    lambda nfs, h: nfs.symlink(h(o), name, target, attr), finds=True)

    def mknod(self, n: int) -> Step:
        o, name, attr, kind = self.some(n), self.name(), self.new_sattr(), self.rng.choice([1, 2, 3, 4, 4, 5, 6, 7, 7, 0, 8])
        rdev = self.rng.choice([(1, 3), (0, 0), (4095, 2**20 - 1), (4096, 0), (2**32 - 1, 2**32 - 1)])
        return Step(f"MKNOD {o} {short(name)} type {kind} {rdev} {attr}", (o,),
                    lambda nfs, h: nfs.call(Proc.MKNOD, pack_MKNOD3args(h(o), name, kind, attr, rdev)), finds=True)

    def remove(self, n: int) -> Step:
        o, name = self.some(n), self.name()
        return Step(f"REMOVE {o} {short(name)}", (o,), lambda nfs, h: nfs.remove(h(o), name))

    def rmdir(self, n: int) -> Step:
        o, name = self.some(n), self.name()
        return Step(f"RMDIR {o} {short(name)}", (o,), lambda nfs, h: nfs.rmdir(h(o), name))

    def rename(self, n: int) -> Step:
        o, to, name, to_name = self.some(n), self.some(n), self.name(), self.name()
        return Step(f"RENAME {o} {short(name)} {to} {short(to_name)}", (o, to),
                    lambda nfs, h: nfs.rename(h(o), name, h(to), to_name))

    def link(self, n: int) -> Step:
        o, to, name = self.some(n), self.some(n), self.name()
        return Step(f"LINK {o} {to} {short(name)}", (o, to), lambda nfs, h: nfs.link(h(o), h(to), name))

    def readdir(self, n: int) -> Step:
        o, count = self.some(n), self.rng.choice([0, 10, 8192, 32768, 2**32 - 1])
        return Step(f"READDIR {o} {count}", (o,), lambda nfs, h: nfs.readdir(h(o), count=count))

    def readdirplus(self, n: int) -> Step:
        o, dircount, count = self.some(n), self.rng.choice([0, 10, 8192, 2**32 - 1]), self.rng.choice([0, 10, 32768, 2**32 - 1])
        return Step(f"READDIRPLUS {o} {dircount} {count}", (o,), lambda nfs, h: nfs.readdirplus(h(o), dircount=dircount, maxcount=count))

    def info(self, n: int) -> Step:
        o, which = self.some(n), self.rng.choice(["FSINFO", "PATHCONF"])
        return Step(f"{which} {o}", (o,), lambda nfs, h: nfs.fsinfo(h(o)) if which == "FSINFO" else nfs.pathconf(h(o)))

    def commit(self, n: int) -> Step:
        o, offset, count = self.some(n), self.rng.choice(OFFSETS), self.rng.choice(COUNTS)
        return Step(f"COMMIT {o} {offset} {count}", (o,), lambda nfs, h: nfs.commit(h(o), offset, count))


# --- A run --------------------------------------------------------------------------------------------------------------------

def answer(at: Side, step: Step, who: Who) -> tuple[dict[str, object], bytes | None]:
    """What the server says, as comparable facts, and the handle that it gave."""
    try:
        res = step.call(at.as_(who), lambda number: at.handles[number])
    except RpcFailed as refused:
        return {"status": f"RPC {refused.reply.stat} {refused.reply.detail}"}, None
    except ValueError as nonsense:
        return {"status": f"not in RFC 1813: {nonsense}"}, None
    except EOFError:
        raise SystemExit(f"{at.name} closed the connection at {step.text}") from None
    return facts(res), res.fh


def look(at: Side, number: int) -> Fattr3 | None:
    return at.nfs.getattr(at.handles[number]).attr


def kinds_of(one: Side, step: Step) -> str:
    return " ".join("gone" if (attr := one.seen.get(o)) is None else TYPES[attr.type] for o in step.objects)


def differences(first: dict[str, object], second: dict[str, object]) -> dict[str, tuple[object, object]]:
    if first["status"] != second["status"]:
        return {"status": (first["status"], second["status"])}
    return {key: (first.get(key), second.get(key)) for key in {*first, *second}
            if first.get(key) != second.get(key) and not spared(key, str(first["status"]), first.get(key), second.get(key))}


def spared(key: str, status: str, this: object, that: object) -> bool:
    """Where ONE only tells more than TWO does: optional attributes; and pre_op_attr beside an error, which changed nothing."""
    return that is None or (key.endswith("before") and (that is False or status != "OK"))


FIELDS = ["type", "mode", "nlink", "uid", "gid", "size", "rdev"]


def unlike(this: object, that: object) -> str:
    """Which attributes differ, of two as attributes() gives them; nothing for other values."""
    if not (isinstance(this, tuple) and isinstance(that, tuple) and len(this) == len(that) == len(FIELDS)):
        return ""
    return "".join(f" {name}" for name, first, second in zip(FIELDS, this, that, strict=True) if first != second)


def compare(one: Side, two: Side, step: Step, who: Who, tally: Tally) -> bool:
    """The call to both; False when from now on the two trees differ."""
    time.sleep(TICK_S)
    said = [answer(at, step, who) for at in (one, two)]
    found = differences(said[0][0], said[1][0])
    procedure, status = step.text.split(" ", 1)[0], said[0][0]["status"]
    context = f"{procedure} of {kinds_of(one, step)}"
    if "status" not in found:
        found |= after(one, two, step)
    for key, (this, that) in found.items():
        plain = key in ("status", "access") or "time" in key or "before" in key
        pair = f" {this} / {that}" if plain else unlike(this, that)
        kind = f"{context}: {key}{pair}" + ("" if key == "status" else f" at {status}")
        tally.add(kind, f"{step.text} as {who}: {this!r} / {that!r}")
        if tally.verbose:
            print("      ", kind, this, that)
    if said[0][1] is not None and said[1][1] is not None and step.finds:
        know(one, two, said[0][1], said[1][1])
    done = {facts["status"] == "OK" for facts, _ in said}
    return len(done) == 1 and not any(key == "attr" or key.startswith("object") for key in found)


def after(one: Side, two: Side, step: Step) -> dict[str, tuple[object, object]]:
    """The objects of the call as they are now, on both, and which of their times moved."""
    found: dict[str, tuple[object, object]] = {}
    for index, number in enumerate(dict.fromkeys(step.objects)):
        now = [look(at, number) for at in (one, two)]
        if attributes(now[0]) != attributes(now[1]):
            found[f"object{index}"] = attributes(now[0]), attributes(now[1])
        times = [moved(at.seen.get(number), attr) for at, attr in zip((one, two), now, strict=True)]
        found |= {f"{name}{index}": (times[0].get(name), times[1].get(name)) for name in times[0]
                  if times[0].get(name) != times[1].get(name) and getattr(now[0], name) != getattr(now[1], name, None)}
        for at, attr in zip((one, two), now, strict=True):
            at.seen[number] = attr
    return found


def know(one: Side, two: Side, first: bytes, second: bytes) -> None:
    """A new object, unless it is known already."""
    if first in one.handles or second in two.handles:
        return
    for at, fh in ((one, first), (two, second)):
        at.handles.append(fh)
        at.seen[len(at.handles) - 1] = look(at, len(at.handles) - 1)


def refresh(one: Side, two: Side) -> None:
    for at in (one, two):
        for number in range(len(at.handles)):
            at.seen[number] = look(at, number)


def run(one: Side, two: Side, rng: random.Random, steps: int, tally: Tally) -> int:
    """Random calls in a new directory of both; returns how many were made before the trees differed."""
    top = b"run-" + os.urandom(4).hex().encode()  # not by the seed: a run may be repeated on the same exports
    for end, at in ((b"-1", one), (b"-2", two)):  # both may be one server: then nothing differs
        at.handles, at.seen = [at.nfs.mkdir(at.root, top + end, Sattr3(mode=0o777)).must().h], {}
    refresh(one, two)
    calls = Calls(rng)
    for number in range(steps):
        step, who = calls.step(len(one.handles)), rng.choice(USERS)
        if tally.verbose:
            print(f"{step.text} as {who}", flush=True)
        if not compare(one, two, step, who, tally):
            return number + 1
        refresh(one, two)
    return steps


def report(tally: Tally) -> int:
    """Prints every kind; returns how many are not argued."""
    open_ = 0
    for kind, (n, example) in sorted(tally.kinds.items(), key=lambda row: -row[1][0]):
        reason = next((why for pattern, why in ARGUED if re.match(pattern, kind)), "")
        open_ += not reason
        print(f"{'ARGUED' if reason else 'DIFFERS'} {n:5} {kind}\n              {reason or example}")
    return open_


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one")
    parser.add_argument("two")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("-v", "--verbose", action="store_true")
    args = parser.parse_args()
    rng, tally, made, begun, runs = random.Random(args.seed), Tally(args.verbose), 0, time.monotonic(), 0
    one, two = side(args.one), side(args.two)
    while time.monotonic() - begun < args.seconds:
        made += run(one, two, rng, args.steps, tally)
        runs += 1
    open_ = report(tally)
    print(f"{runs} runs, {made} calls to each (seed {args.seed}); kinds of difference: {len(tally.kinds)}, not argued: {open_}")
    return 1 if open_ else 0


if __name__ == "__main__":
    sys.exit(main())
