"""Small stateful parts: mountdtab, names, rate limit, nonces, state files, the resolver's answers."""
from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from mountd import resolver
from mountd.atomic import escape_path, read_file, unescape_path, write_file
from mountd.exports import parse_text
from mountd.helper import ask_all, parse_reply
from mountd.logs import LINES_PER_S, RateLimit
from mountd.names import MAX_ANSWERS, REFRESH_S, RETRY_FIRST_S, STALE_S, Ask, NameCache, Question, questions
from mountd.passwords import NONCE_S, Nonces, otp_matches, parse_secret
from mountd.rmtab import MAX_ENTRIES, MAX_PER_HOST, MountTab

HOST = Question(Ask.HOST, "h")


# ---- mountdtab

def test_mountdtab_escapes_blanks_and_newlines() -> None:
    """Other systems write two words for a path with a blank."""
    tab = MountTab()
    tab.add(b"192.0.2.1", b"/with blank/and\nnewline\\")
    assert tab.text().count(b"\n") == 1
    assert list(MountTab(tab.text())) == list(tab)


def test_mountdtab_is_bounded_in_all_and_by_host() -> None:
    tab = MountTab()
    for i in range(MAX_PER_HOST + 10):
        tab.add(b"greedy", b"/%d" % i)
    assert len(tab) == MAX_PER_HOST
    for i in range(MAX_ENTRIES + 10):
        tab.add(b"host%d" % i, b"/a")
    assert len(tab) == MAX_ENTRIES


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"one-word\n", b" /a\n", b"host relative\n", b"\n\n", b"host\t/a\n"])
def test_mountdtab_with_junk_is_read_without_it(junk: bytes) -> None:
    assert list(MountTab(junk + b"h /a\n")) == [(b"h", b"/a")]


def test_mountdtab_adds_once_and_removes_what_is_there() -> None:
    tab = MountTab()
    tab.add(b"h", b"/a")
    tab.changed = False
    tab.add(b"h", b"/a")
    tab.remove(b"h", b"/b")
    tab.remove_host(b"other")
    assert (tab.changed, list(tab)) == (False, [(b"h", b"/a")])
    tab.remove_host(b"h")
    assert (tab.changed, list(tab), tab.hosts()) == (True, [], [])


# ---- names

def test_good_answer_is_kept_when_a_later_one_fails() -> None:
    """A DNS server that stops must not unmount anybody."""
    cache = NameCache()
    assert cache.due([HOST], 0.0) == [HOST]
    assert cache.answered(HOST, ("192.0.2.1",), 0.0)
    assert cache.due([HOST], REFRESH_S - 1) == []
    assert cache.due([HOST], REFRESH_S) == [HOST]
    assert not cache.answered(HOST, (), REFRESH_S)
    assert cache.answers() == {HOST: ("192.0.2.1",)}


def test_name_that_was_removed_goes_at_once() -> None:
    """Its address may be another host's tomorrow."""
    cache = NameCache()
    cache.answered(HOST, ("192.0.2.1",), 0.0)
    assert cache.answered(HOST, (), 1.0, definite=True)
    assert cache.answers() == {}


def test_good_answer_does_not_last_for_ever() -> None:
    cache = NameCache()
    cache.answered(HOST, ("192.0.2.1",), 0.0)
    assert not cache.answered(HOST, (), STALE_S)
    assert cache.answered(HOST, (), STALE_S + 1)


def test_addresses_of_strangers_are_bounded() -> None:
    """A flood of MNTs from many addresses, while an entry has a wildcard."""
    cache = NameCache()
    for i in range(MAX_ANSWERS + 100):
        question = Question(Ask.REVERSE, f"192.0.2.{i}")
        cache.due([question], 0.0)
        if i < 10:
            cache.answered(question, ("name.example.org",), 0.0)
    cache.answered(HOST, ("192.0.2.1",), 0.0)
    cache.trim()
    assert len(cache.unanswered([Question(Ask.REVERSE, f"192.0.2.{i}") for i in range(10)])) == 0
    assert HOST in cache.answers()
    assert len(cache._states) <= MAX_ANSWERS


def test_failed_name_is_asked_again_later_and_later() -> None:
    cache, now, asked = NameCache(), 0.0, []
    for _ in range(2000):
        if cache.due([HOST], now):
            asked.append(now)
            cache.answered(HOST, (), now)
        now += 1.0
    gaps = [b - a for a, b in pairwise(asked)]
    assert gaps[0] == RETRY_FIRST_S
    assert gaps == sorted(gaps)
    assert gaps[-1] == 600.0


def test_question_is_given_out_once_while_it_is_open() -> None:
    cache = NameCache()
    assert cache.due([HOST], 0.0) == [HOST]
    assert cache.due([HOST], 1.0) == []
    assert cache.unanswered([HOST]) == [HOST]
    cache.answered(HOST, (), 1.0)
    assert cache.unanswered([HOST]) == []


def test_hup_asks_for_all_names_again() -> None:
    cache = NameCache()
    cache.due([HOST], 0.0)
    cache.answered(HOST, ("192.0.2.1",), 0.0)
    cache.ask_again()
    assert cache.due([HOST], 1.0) == [HOST]


def test_questions_of_a_file_are_its_names_and_users() -> None:
    parsed = parse_text(b"/a -maproot=bin:wheel h1 192.0.2.1\n/b -mapall=5 -network 10.0.0.0/8\n", "f")
    assert {(q.ask, q.name) for q in questions(parsed.entries)} == {
        (Ask.USER, "nobody"), (Ask.USER, "bin:wheel"), (Ask.USER, "5"), (Ask.GROUP_OR_HOST, "h1")}


def test_forget_keeps_what_is_still_asked() -> None:
    cache = NameCache()
    other = Question(Ask.HOST, "other")
    for question in (HOST, other):
        cache.due([question], 0.0)
        cache.answered(question, ("192.0.2.1",), 0.0)
    cache.forget([HOST])
    assert set(cache.answers()) == {HOST}


# ---- the resolver

def test_resolver_answers_hosts_users_and_addresses() -> None:
    asked = {Question(Ask.HOST, "localhost"), Question(Ask.REVERSE, "127.0.0.1"), Question(Ask.USER, "root"),
             Question(Ask.USER, "root:"), Question(Ask.USER, "5:6:7"), Question(Ask.HOST, "no-such-host.invalid"),
             Question(Ask.NETGROUP, "no-such-group"), Question(Ask.USER, "no-such-user")}
    found = ask_all(asked, 10.0)
    assert "127.0.0.1" in found[Question(Ask.HOST, "localhost")]
    assert "localhost" in found[Question(Ask.REVERSE, "127.0.0.1")]
    assert found[Question(Ask.USER, "root")][:2] == ("0", "0")
    assert found[Question(Ask.USER, "5:6:7")] == ("5", "6", "7")
    assert not {q.name for q in found} & {"no-such-host.invalid", "no-such-group", "no-such-user"}


@pytest.mark.parametrize(("spec", "ids"), [("-2", ["65534", "65534"]), ("4000000000:-2", ["4000000000", "65534"]),
                                           ("0:", ["0", "65534"]), ("987654321", ["987654321", "65534"])])
def test_numbers_of_users_and_groups(spec: str, ids: list[str]) -> None:
    """-2 is nobody to every BSD; a number without an account has no group of ours, above all not 0."""
    assert resolver.answer(Ask.USER, spec) == (ids, True)


@pytest.mark.parametrize("packet", [b"", b"{", b"[]", b"1", b'{"id": 1}', b'{"id": "x", "answer": []}',
                                    b'{"id": 1, "answer": 5}'])
def test_packet_of_the_resolver_that_is_none_is_nobodys(packet: bytes) -> None:
    assert parse_reply(packet) == (0, (), False)


@pytest.mark.parametrize("answer", ["[1]", '[""]', "[null]", '["' + "x" * 256 + '"]'])
def test_answer_of_the_resolver_that_is_none_counts_as_failure(answer: str) -> None:
    assert parse_reply(b'{"id": 3, "answer": ' + answer.encode() + b"}") == (3, (), False)


# ---- the rest

def test_rate_limit_counts_what_it_leaves_out() -> None:
    limiter = RateLimit()
    allowed = [limiter.allow("a", 0.5) for _ in range(LINES_PER_S + 5)]
    assert allowed == [""] * LINES_PER_S + [None] * 5
    assert limiter.allow("b", 0.5) == ""
    assert limiter.allow("a", 1.6) == " (5 like it left out)"


def test_nonce_is_its_clients_own_good_once_and_not_for_ever() -> None:
    nonces = Nonces()
    nonce = nonces.give(b"a", 0.0)
    assert nonces.take(b"b", 0.0) == b""
    assert nonces.take(b"a", 1.0) == nonce
    assert nonces.take(b"a", 1.0) == b""
    nonces.give(b"a", 0.0)
    assert nonces.take(b"a", NONCE_S + 1) == b""


def test_one_time_password_never_matches_without_a_nonce() -> None:
    import hashlib
    answer = hashlib.md5(b"secret").hexdigest()
    assert not otp_matches(b"", b"secret", answer)
    assert otp_matches(b"n", b"secret", hashlib.md5(b"nsecret").hexdigest().upper())


@pytest.mark.parametrize(("path", "secret", "rest"), [
    (b"/a", b"", b"/a"), (b"@password:x/a/b", b"x", b"/a/b"), (b"@password:x", b"x", b""), (b"@otp:ab/a", "ab", b"/a"),
    (b"@password:/a", b"", b"/a"), (b"@other:x/a", b"", b"@other:x/a")])
def test_secret_in_a_path(path: bytes, secret: bytes | str, rest: bytes) -> None:
    assert parse_secret(path) == (secret, rest)


def test_state_file_is_replaced_whole_and_not_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "victim"
    target.write_bytes(b"untouched")
    path = tmp_path / "tab"
    path.symlink_to(target)
    write_file(path, b"new")
    assert (path.is_symlink(), path.read_bytes(), target.read_bytes()) == (False, b"new", b"untouched")
    assert sorted(os.listdir(tmp_path)) == ["tab", "victim"]
    assert read_file(tmp_path / "none") == b""


def test_any_path_survives_escaping() -> None:
    path = bytes(range(1, 256))
    assert unescape_path(escape_path(path)) == path
    assert b" " not in escape_path(path)
    assert b"\n" not in escape_path(path)
