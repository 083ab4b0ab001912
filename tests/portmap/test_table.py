"""Who may register and remove what (attack rows P01 to P11), without a process."""

from __future__ import annotations

import pytest

from oncrpc.pmap import Rpcb, universal_address
from portmap.table import MAX_ENTRIES, MAX_ENTRIES_OF_ONE, Caller, Table, check_address

ROOT = Caller(local=True, privileged=True, uid=0)
USER = Caller(local=True, uid=1000)
OTHER = Caller(local=True, uid=1001)
UNKNOWN = Caller(local=True)
STRANGER = Caller(local=False)


def addr(port: int) -> str:
    return universal_address("0.0.0.0", port)


@pytest.mark.parametrize(
    ("caller", "prog", "port", "done"),
    [
        (ROOT, 100003, 2049, True),
        (ROOT, 7, 1, True),
        (ROOT, 100000, 111, False),
        (USER, 7, 5000, True),
        (USER, 7, 1023, False),
        (USER, 7, 2049, False),
        (USER, 100003, 5000, False),
        (USER, 100005, 5000, False),
        (UNKNOWN, 7, 5000, True),
        (UNKNOWN, 7, 80, False),
        (UNKNOWN, 100003, 5000, False),
        (STRANGER, 7, 5000, False),
        (Caller(local=False, privileged=True), 7, 5000, False),
    ],
)
def test_who_may_set_what(caller: Caller, prog: int, port: int, done: bool) -> None:
    table = Table()
    assert table.set(caller, prog, 1, "tcp", addr(port)) is done
    assert len(table) == done


def test_port_mapper_of_an_ordinary_user_guards_no_programs() -> None:
    assert Table(guarded=False).set(UNKNOWN, 100003, 3, "tcp", addr(5000))


def test_service_registers_its_own_guarded_program_and_no_other() -> None:
    """rpc.statd is not root any more when it registers."""
    table = Table(services={100024: frozenset({1000})})
    assert table.set(USER, 100024, 1, "tcp", addr(5000))
    assert not table.set(OTHER, 100024, 1, "udp", addr(5000))
    assert not table.set(UNKNOWN, 100024, 1, "udp", addr(5000))
    assert not table.set(USER, 100021, 4, "tcp", addr(5000))
    assert not table.set(USER, 100024, 1, "udp", addr(700))
    assert not table.unset(OTHER, 100024, 1)
    assert table.unset(USER, 100024, 1)


def test_taken_entry_is_refused_unless_it_is_the_same() -> None:
    table = Table()
    assert table.set(USER, 7, 1, "tcp", addr(5000))
    assert table.set(USER, 7, 1, "tcp", addr(5000))
    assert not table.set(USER, 7, 1, "tcp", addr(5001))
    assert not table.set(OTHER, 7, 1, "tcp", addr(5000))
    assert not table.set(ROOT, 7, 1, "tcp", addr(5001))


@pytest.mark.parametrize(
    ("setter", "remover", "done"),
    [
        (USER, USER, True),
        (USER, ROOT, True),
        (USER, OTHER, False),
        (USER, UNKNOWN, False),
        (ROOT, USER, False),
        (ROOT, UNKNOWN, False),
        (UNKNOWN, UNKNOWN, True),
        (UNKNOWN, USER, False),
        (UNKNOWN, ROOT, True),
        (USER, STRANGER, False),
    ],
)
def test_who_may_unset_what(setter: Caller, remover: Caller, done: bool) -> None:
    table = Table()
    table.set(setter, 7, 1, "tcp", addr(5000))
    assert table.unset(remover, 7, 1) is done
    assert len(table) == (not done)


def test_unset_without_netid_removes_all_of_ours_and_says_no_when_some_stay() -> None:
    table = Table()
    table.set(USER, 7, 1, "tcp", addr(5000))
    table.set(ROOT, 7, 1, "udp", addr(5000))
    assert not table.unset(USER, 7, 1)
    assert [entry.netid for entry in table] == ["udp"]


def test_own_program_cannot_be_removed() -> None:
    table = Table()
    table.add_own([Rpcb(100000, 2, "tcp", addr(111), "superuser")])
    assert not table.unset(ROOT, 100000, 2)


def test_other_version_answers_and_other_protocol_does_not() -> None:
    """Attack row P09."""
    table = Table()
    table.set(ROOT, 7, 1, "tcp", addr(5001))
    table.set(ROOT, 7, 3, "tcp", addr(5003))
    found = table.find(7, 9, "tcp")
    assert found and found.vers == 3
    assert table.find(7, 9, "tcp", exactly=True) is None
    assert table.find(7, 1, "udp") is None


def test_table_is_bounded_for_all_and_for_one() -> None:
    table = Table()
    assert sum(table.set(USER, n, 1, "tcp", addr(5000)) for n in range(1, 200)) == MAX_ENTRIES_OF_ONE
    assert table.set(OTHER, 5000, 1, "tcp", addr(5000))
    for n in range(10_000, 10_000 + MAX_ENTRIES):
        table.set(ROOT, n, 1, "tcp", addr(5000))
    assert len(table) == MAX_ENTRIES


@pytest.mark.parametrize(
    ("netid", "text", "port"),
    [
        ("tcp", "1.2.3.4.8.1", 2049),
        ("udp6", "::.8.1", 2049),
        ("tcp6", "fe80::1%eth0.8.1", 2049),
        ("local", "/run/x.sock", 0),
        ("tcp", "::.8.1", None),
        ("tcp6", "1.2.3.4.8.1", None),
        ("tcp", "1.2.3.4.0.0", None),
        ("tcp", "1.2.3.4.256.1", None),
        ("tcp", "1.2.3.4.-1.1", None),
        ("tcp", "1.2.3", None),
        ("tcp", "", None),
        ("tcp", "x" * 200, None),
        ("local", "", None),
        ("local", "/" * 200, None),
        ("local", "a\nb", None),
        ("sctp", "1.2.3.4.8.1", None),
        ("", "1.2.3.4.8.1", None),
    ],
)
def test_addresses(netid: str, text: str, port: int | None) -> None:
    """Attack row P11 and others of its kind."""
    assert check_address(netid, text) == port
