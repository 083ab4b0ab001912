"""Random and mutated exports files through both parsers: nothing but a result may come out.

    python -m tests.mountd.fuzz --runs 1000000 [--seed N]

Each run also checks what must hold for any text: an error has a place in the file, and rights beyond the defaults have their word
in it (no mistake opens a share).
"""
from __future__ import annotations

import argparse
import random
import sys
import time

from mountd.exports import guess_dialect, parse_text
from mountd.exports_model import Dialect, Entry, Kind, Parsed

from .test_corpus import SIGNS, cases

ALPHABET = "ab/ \t\n\\\"#()=,-*?[]@:.%0123456789rowu_" + "\x00\r\x7fä"
WORDS = ["/a", "/b", "host", "(rw)", "(ro)", " ", "\n", "\\\n", "-ro", "-maproot=", "-mapall=", "-network", "-mask", "rw",
         "no_root_squash", "anonuid=", "0", "-1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "*", "@g", ",", "(", ")", "\"", "#",
         "-alldirs", "V4:", "insecure", "all_squash", "sec=", "krb5", "\\040", "=", "*.org", "fsid=", "255.255.0.0"]


def seeds() -> list[str]:
    texts = []
    for _, header, _ in cases():
        text = header.partition(": ")[2]
        for sign, char in SIGNS.items():
            text = text.replace(sign, char)
        texts.append(text)
    return texts


def mutate(rng: random.Random, text: str) -> str:
    """One to three small changes."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(text))
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + text[at + rng.randint(1, 4):]
        elif kind == 1:
            text = text[:at] + rng.choice(ALPHABET) + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        else:
            end = min(len(text), at + rng.randint(1, 20))
            text = text[:end] + text[at:end] + text[end:]
    return text


def check(text: str, dialect: Dialect | None) -> Parsed:
    """Parses, and raises AssertionError when a rule is broken."""
    data = text.encode("utf-8", "surrogateescape")
    parsed = parse_text(data, "f", dialect)
    lines = text.split("\n")
    for diagnostic in parsed.diagnostics:
        assert 1 <= diagnostic.where.line <= len(lines), str(diagnostic)
        assert 1 <= diagnostic.where.column <= len(lines[diagnostic.where.line - 1]) + 2, str(diagnostic)
        assert "\n" not in str(diagnostic), str(diagnostic)
    if not parsed.errors:
        logical = text.replace("\\\n", "")
        for entry in parsed.entries:
            assert_earned(entry, logical, (dialect or guess_dialect(text)))
    return parsed


def assert_earned(entry: Entry, text: str, dialect: Dialect) -> None:
    """What a client has beyond the least must be written in the file."""
    assert entry.path.startswith(b"/") and b"\0" not in entry.path and b".." not in entry.path.split(b"/")
    for client in entry.clients:
        o = client.options
        assert client.kind is Kind.WORLD or client.name or client.network
        assert not client.network or client.prefix > 0
        if dialect is Dialect.LINUX:
            assert o.readonly or "rw" in text, text
            assert o.squash_root or "no_root_squash" in text, text
            assert o.secure or "insecure" in text, text
            assert o.anonuid != 0 or "anonuid=0" in text, text


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int, default=20_000)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    a = p.parse_args(argv)
    print(f"seed {a.seed}", flush=True)
    started = time.monotonic()
    n_clean = run(a.seed, a.runs)
    print(f"{a.runs} files, {n_clean} without an error, {time.monotonic() - started:.0f} s")
    return 0


def run(seed: int, runs: int) -> int:
    """Returns how many files had no error."""
    rng, texts, n_clean = random.Random(seed), seeds(), 0
    for number in range(runs):
        if rng.random() < 0.1:
            text = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, 60)))
        elif rng.random() < 0.2:
            text = "".join(rng.choice(WORDS) for _ in range(rng.randint(0, 15)))
        else:
            text = mutate(rng, rng.choice(texts))
        try:
            n_clean += not check(text, (None, Dialect.LINUX, Dialect.BSD)[number % 3]).errors
        except Exception:
            print(f"run {number}: {text!r}", file=sys.stderr)
            raise
    return n_clean


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
