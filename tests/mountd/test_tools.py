"""showmount, mountd why, mountd convert, mountd -T: what they print and how they end."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mountd import showmount
from mountd.convert import convert
from mountd.exports import parse_text
from mountd.exports_model import Dialect, Options, Parsed, printable
from mountd.mount import pack_exports, pack_mountlist
from oncrpc.xdr import XdrError

from .conftest import TREE, Mountd
from .summary import rights, summary
from .test_corpus import SIGNS, cases


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], cwd=TREE, capture_output=True, text=True, timeout=30, check=False)


# ---- showmount

def test_showmount_e_of_linux_and_bsd_layout(mountd: Mountd, tree: Path) -> None:
    mountd.start(f"{tree}/a *(ro)\n{tree}/b 10.0.0.0/8 192.0.2.1\n")
    port = str(mountd.port)
    linux = run("mountd.showmount", "-e", "--port", port, "127.0.0.1")
    assert linux.stdout.splitlines() == ["Export list for 127.0.0.1:", f"{tree}/a (everyone)", f"{tree}/b 10.0.0.0/8,192.0.2.1"]
    bsd = run("mountd.showmount", "-e", "--bsd", "-1", "--port", port, "127.0.0.1")
    assert bsd.stdout.splitlines()[0] == "Exports list on 127.0.0.1:"
    assert bsd.stdout.splitlines()[1].endswith(" Everyone")
    bare = run("mountd.showmount", "-e", "--no-headers", "--port", port, "127.0.0.1")
    assert bare.stdout.splitlines() == linux.stdout.splitlines()[1:]


@pytest.mark.parametrize(("option", "expected"), [
    ("-a", ["All mount points on 127.0.0.1:", "127.0.0.1:T"]), ("-d", ["Directories on 127.0.0.1:", "T"]),
    (None, ["Hosts on 127.0.0.1:", "127.0.0.1"])])
def test_showmount_of_mounts(mountd: Mountd, tree: Path, option: str | None, expected: list[str]) -> None:
    mountd.start(f"{tree} *(ro,insecure)\n")
    mountd.mnt(os.fsencode(tree / "a"))
    done = run("mountd.showmount", *([option] if option else []), "--port", str(mountd.port), "127.0.0.1")
    assert done.stdout.splitlines() == [line.replace("T", f"{tree}/a") if i else line for i, line in enumerate(expected)]


def test_showmount_of_nobody_ends_with_1_and_one_line() -> None:
    done = run("mountd.showmount", "-e", "--port", "1", "127.0.0.1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("data", [b"", bytes(3), b"\0\0\0\1", b"\0\0\0\1\0\0\0\xff", b"\0\0\0\1\xff\xff\xff\xff", b"\0\0\0\2"])
def test_answer_of_a_strange_server_is_an_error(data: bytes) -> None:
    with pytest.raises(XdrError):
        showmount.unpack_exports(data)
    with pytest.raises(XdrError):
        showmount.unpack_mountlist(data)


def test_lists_survive_packing() -> None:
    mounts = [(b"192.0.2.1", b"/a b"), (b"h", b"/c")]
    assert showmount.unpack_mountlist(pack_mountlist(mounts, 10_000)) == mounts
    exports = [(b"/a", [b"x", b"y"]), (b"/b", [])]
    assert showmount.unpack_exports(pack_exports(exports, 10_000)) == exports


def test_lists_are_cut_at_whole_entries() -> None:
    exports = [(b"/" + b"x" * 100, [b"g"] * 10)] * 1000
    packed = pack_exports(exports, 8192)
    assert len(packed) <= 8192
    assert 0 < len(showmount.unpack_exports(packed)) < 1000


def test_showmount_escapes_terminal_codes() -> None:
    assert printable(b"/a\x1b[31m\n\xff") == "/a\\033[31m\\012\\377"


# ---- why

def test_why_names_the_line_that_decides_and_the_mapped_caller(tree: Path, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.write_text(f"# one\n{tree}/a 192.0.2.0/24(rw) 192.0.2.7(ro,all_squash,anonuid=7,anongid=8)\n")
    done = run("mountd", "why", "-f", str(exports), "192.0.2.7", f"{tree}/a/sub", "0")
    assert done.returncode == 0
    assert f"{exports}:2:" in done.stdout
    assert "read-only" in done.stdout
    assert "acts as uid 7 gid 8" in done.stdout
    done = run("mountd", "why", "-f", str(exports), "192.0.2.8", f"{tree}/a", "0")
    assert "read-write" in done.stdout
    assert "acts as uid 65534 gid 65534" in done.stdout


@pytest.mark.parametrize(("client", "path", "words", "reason"), [
    ("192.0.3.1", "a", [], "no entry of"), ("192.0.2.1", "b", [], "not exported"),
    ("192.0.2.1", "a", ["--port", "4000"], "source port 4000")])
def test_why_says_why_not(tree: Path, tmp_path: Path, client: str, path: str, words: list[str], reason: str) -> None:
    exports = tmp_path / "exports"
    exports.write_text(f"{tree}/a 192.0.2.0/24(rw)\n")
    done = run("mountd", "why", "-f", str(exports), *words, client, f"{tree}/{path}")
    assert done.returncode == 1
    assert f"refused: {reason}" in done.stdout


@pytest.mark.parametrize(("line", "path", "words", "reason"), [
    ("{t}/a *(rw)", "../a", [], "not the clean name of a directory"),
    ("{t}/a 192.0.2.1(rw,sec=krb5)", "a", [], "sec=krb5, which is not served"),
    ("{t}/a 192.0.2.1(rw,xprtsec=tls)", "a", [], "requires TLS"),
    ("{t}/a 192.0.2.1(rw,refer=/x@198.51.100.1)", "a", [], "a referral (NFSv4 only)"),
    ("{t}/a 192.0.2.1(rw,password=x)", "a", [], "no password"),
    ("{t}/a 192.0.2.1(rw,password=x)", "@password:y", [], "wrong password"),
    ("{t}/a 192.0.2.1(rw,password=x)", "@otp:00", [], "wrong one-time password"),
    ("{t}/a -maproot=nobody-of-that-name 192.0.2.1", "a", [], "a user or group of the entry is not known"),
    ("{t}/a -ro 192.0.2.1", "a/sub", [], "a directory below one that is exported without -alldirs"),
    ("{t}/a -tls 192.0.2.1", "a", [], "requires TLS"),
    ("{t}/a 192.0.2.1(rw)", "a", ["--hosts-access", "{d}"], "hosts.deny"),
])
def test_why_tells_each_refusal_with_its_line(tree: Path, tmp_path: Path, line: str, path: str, words: list[str],
                                              reason: str) -> None:
    exports = tmp_path / "exports"
    exports.write_text(line.format(t=tree) + "\n")
    (tmp_path / "hosts.deny").write_text("mountd: ALL\n")
    asked = f"{path}{tree}/a" if path.startswith("@") else f"{tree}/{path}"
    done = run("mountd", "why", "-f", str(exports), *(word.format(d=tmp_path) for word in words), "192.0.2.1", asked)
    assert done.returncode == 1, done.stderr
    assert f"refused: {reason}" in done.stdout
    if not words and not path.startswith(".."):
        assert f"decides: {exports}:1:" in done.stdout


def test_why_with_a_bad_file_ends_with_2(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.write_text("/a h (rw)\n")
    done = run("mountd", "why", "-f", str(exports), "192.0.2.1", "/a")
    assert done.returncode == 2
    assert f"{exports}:1:6" in done.stderr


# ---- -T

def test_check_counts_errors_and_prints_all(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.write_text("/a h (rw)\n/b h(roo,anonuid=x)\nc h\n")
    done = run("mountd", "-T", str(exports))
    assert done.returncode == 4
    assert [line.split(":")[1:3] for line in done.stderr.splitlines()] == [["1", "6"], ["2", "6"], ["2", "10"], ["3", "1"]]


def test_check_ends_with_125_at_the_most(tmp_path: Path) -> None:
    """A count of 256 errors would be status 0."""
    exports = tmp_path / "exports"
    exports.write_text("nonsense\n" * 256)
    assert run("mountd", "-T", str(exports)).returncode == 125


@pytest.mark.parametrize(("line", "warning"), [
    ("T/a *(rw)", "writable for everyone"), ("T/a 10.0.0.0/8(no_root_squash)", "trusted with root"),
    ("T/a h(all_squash,anonuid=0)", "becomes root"), ("T/a ghost.invalid", "does not resolve"), ("T/none *", "not exported"),
    ("T/a h h", "already a client"), ("T/a h\nT/a/sub k", "lies in"), ("T/a h(fsid=1)\nT/b h(fsid=1)", "has the fsid of"),
    ("/ *(ro)", "whole root file system"), ("T/open h", "written by every local user"), ("/dev/shm h", "may not survive")])
def test_check_warns_and_ends_with_0(tree: Path, tmp_path: Path, line: str, warning: str) -> None:
    (tree / "open").mkdir()
    (tree / "open").chmod(0o777)
    exports = tmp_path / "exports"
    exports.write_text(line.replace("T/", f"{tree}/") + "\n")
    done = run("mountd", "-T", str(exports))
    assert done.returncode == 0, done.stderr
    assert warning in done.stderr


def test_check_of_a_good_file_is_silent(tree: Path, tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.write_text(f"{tree}/a 192.0.2.1(rw,fsid=5)\n")
    done = run("mountd", "-T", str(exports))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--bogus"], ["-p", "70000"], ["-p", "x"], ["--set", "bogus"], ["--dialect", "sun"],
                                   ["--read"]])
def test_wrong_option_ends_with_64(words: list[str]) -> None:
    done = run("mountd", *words)
    assert done.returncode == 64
    assert done.stderr.startswith("mountd: ")


# ---- convert

def converted(parsed: Parsed, target: str, dialect: Dialect) -> Parsed | None:
    """The converted file parsed again; None when it cannot be said."""
    text = convert(parsed, target)
    return None if parsed.errors else parse_text(text.encode("utf-8", "surrogateescape"), "g", dialect)


def every_good_file() -> list[tuple[str, Parsed]]:
    found = []
    for place, header, _ in cases():
        name, _, text = header.partition(": ")
        for sign, char in SIGNS.items():
            text = text.replace(sign, char)
        parsed = parse_text(text.encode(), "f", None if name == "guess" else Dialect(name))
        if not parsed.errors:
            found.append((place, parsed))
    return found


def trusts_root(o: Options) -> bool:
    return not o.squash_all and (not o.squash_root or o.anonuid == 0 or (o.root is not None and o.root.user in ("0", "root")))


@pytest.mark.parametrize("target", [Dialect.LINUX, Dialect.BSD])
def test_convert_never_gives_more_than_the_file_it_was_made_of(target: Dialect) -> None:
    """Each good file of the corpus there: the same directories and clients, and no right that was not there before."""
    n_converted = 0
    for place, parsed in every_good_file():
        again = converted(parsed, target.value, target)
        if again is None:
            continue
        n_converted += 1
        assert not again.errors, (place, [str(e) for e in again.errors], convert(parsed, target.value))
        old = {(e.path, c.name, c.network, c.prefix): c.options for e in parsed.entries for c in e.clients}
        new = {(e.path, c.name, c.network, c.prefix): c.options for e in again.entries for c in e.clients}
        assert set(new) <= set(old), place
        for key, options in new.items():
            before = old[key]
            assert options.readonly >= before.readonly, place
            assert trusts_root(options) <= trusts_root(before), place
            assert options.squash_all >= before.squash_all, place
            assert set(options.flavors) <= set(before.flavors), place
            assert options.deny or not before.deny, place
    assert n_converted > 100


def test_convert_of_the_same_dialect_changes_nothing() -> None:
    for place, parsed in every_good_file():
        if {entry.dialect for entry in parsed.entries} != {Dialect.LINUX}:
            continue
        again = converted(parsed, "linux", Dialect.LINUX)
        if again is not None:
            assert [summary(e) for e in again.entries] == [summary(e) for e in parsed.entries], place


def test_convert_to_json_is_the_model() -> None:
    parsed = parse_text(b"/a h(rw,password=x,sec=krb5:sys)", "f")
    (export,) = json.loads(convert(parsed, "json"))["exports"]
    (client,) = export["clients"]
    assert (export["path"], client["client"], client["readonly"], client["flavors"]) == ("/a", "h", False, ["krb5", "sys"])
    assert client["password"] is True  # not the secret itself


def test_convert_says_what_it_cannot(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    exports.write_text("/a *.example.org(rw)\n")
    done = run("mountd", "convert", "--to", "bsd", str(exports))
    assert done.returncode == 1
    assert f"{exports}:1:4" in done.stderr
    assert done.stdout == ""


def test_summary_tells_rights_apart() -> None:
    texts = [b"/a h(ro)", b"/a h(rw)", b"/a h(rw,no_root_squash)", b"/a h(rw,all_squash)", b"/a h(rw,insecure)"]
    assert len({rights(parse_text(t, "f").entries[0].clients[0].options) for t in texts}) == len(texts)
