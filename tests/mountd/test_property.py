"""No mistake opens a share: mutated files against the table that a running mountd puts in force."""
from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mountd.exports import parse_text
from mountd.exports_lex import logical_lines
from mountd.exports_model import Dialect, Parsed
from nfssvc_shim.records import Export

from . import fuzz
from .conftest import Mountd

N_FILES = 200             # mutated files that the running daemon gets


def triples(table: tuple[Export, ...]) -> set[tuple[object, ...]]:
    """(client, path, rights)"""
    return {(net.address, net.prefix, export.path, net.flags, net.maproot, net.mapall) for export in table for net in export.nets}


def readings(text: str) -> list[str]:
    """The logical lines of a file, each as a file of its own."""
    return [line.text + "\n" for line in logical_lines(text, "f", Parsed())]


def test_mutated_files_never_widen_the_table_of_a_running_mountd(mountd: Mountd, tree: Path) -> None:
    """Issue: after HUP the rights are a subset of the old table and of what the file's valid reading says, and a file with any
    error leaves the old table."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    good = (f"{tree}/a 192.0.2.1(rw,no_root_squash) 192.0.2.0/24(ro,all_squash,anonuid=99,anongid=99)\n"
            f"{tree}/b 10.0.0.0/8(ro,insecure) *(ro)\n{tree}/c 192.0.2.9(rw) \\\n 192.0.2.10\n")
    mountd.start(good)
    peer = mountd.peer
    assert peer is not None
    expected = 1
    for _ in range(N_FILES):
        text = fuzz.mutate(rng, good)
        if "\r" in text or any(ord(c) < 9 for c in text):
            continue
        before = triples(peer.tables[-1])
        log_before = mountd.log().count("exports loaded") + mountd.log().count("stay as they were")
        mountd.reload(text)
        mountd.wait_log("exports loaded", 0)
        _wait_verdict(mountd, log_before + 1)
        if parse_text(text.encode(), "f").errors:
            assert len(peer.tables) == expected, text
            continue
        expected += 1
        after = triples(peer.wait_tables(expected))
        allowed = before | _said(text, tree)
        assert after <= allowed, text


def _wait_verdict(mountd: Mountd, count: int) -> None:
    from .conftest import wait_until
    wait_until(lambda: mountd.log().count("exports loaded") + mountd.log().count("stay as they were") >= count, "a verdict",
               mountd.log)


def _said(text: str, tree: Path) -> set[tuple[object, ...]]:
    """What the valid lines of the file say, each read alone with the dialect of the whole."""
    from mountd.exports import guess_dialect
    from mountd.exptab import ExportIds
    from mountd.filesystems import FileSystems
    from mountd.names import NOBODY
    from mountd.table import Builder, build
    said: set[tuple[object, ...]] = set()
    for line in readings(text):
        parsed = parse_text(line.encode(), "f", guess_dialect(text))
        if not parsed.errors:
            table = build(parsed.entries, {NOBODY: ("65534", "65534")}, Builder(FileSystems.now(), ExportIds()))
            said |= triples(table.exports)
    return said


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet=fuzz.ALPHABET, max_size=200), st.sampled_from([None, Dialect.LINUX, Dialect.BSD]))
def test_any_text_gives_a_result(text: str, dialect: Dialect | None) -> None:
    fuzz.check(text, dialect)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([None, Dialect.LINUX, Dialect.BSD]))
def test_any_bytes_give_a_result(data: bytes, dialect: Dialect | None) -> None:
    parse_text(data, "f", dialect)


def test_fuzz_of_the_corpus() -> None:
    """A slice of what `python -m tests.mountd.fuzz --runs 1000000` does."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    assert fuzz.run(seed, 10_000) > 0


def test_options_of_an_entry_are_written_in_its_line() -> None:
    """The rule that the fuzz checks has teeth: a parser that gave rw to all would fail it."""
    parsed = parse_text(b"/a h(rw)", "f", Dialect.LINUX)
    try:
        fuzz.assert_earned(parsed.entries[0], "/a h(ro)", Dialect.LINUX)
    except AssertionError:
        return
    raise RuntimeError("the check found nothing")


def test_hup_many_times_under_mounts_keeps_the_unchanged_export(mountd: Mountd, tree: Path) -> None:
    """Exports come and go; a client of the one that stays is never refused."""
    base = f"{tree}/a 127.0.0.1(ro,insecure)\n"
    mountd.start(base)
    path = os.fsencode(tree / "a")
    for i in range(50):
        mountd.exports.write_text(base + (f"{tree}/b *(rw,insecure)\n" if i % 2 else ""))
        os.kill(mountd.pid, signal.SIGHUP)
        assert mountd.mnt(path)[0] == 0
    assert mountd.stop() == 0
