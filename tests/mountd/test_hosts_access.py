"""hosts.allow and hosts.deny: a host never passes because something could not be read."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from oncrpc.hosts_access import HostsAccess


def access(directory: Path, allow: str | None, deny: str | None) -> HostsAccess:
    for name, text in (("hosts.allow", allow), ("hosts.deny", deny)):
        if text is not None:
            (directory / name).write_text(text)
    return HostsAccess(directory)


@pytest.mark.parametrize(("allow", "deny", "address", "may"), [
    (None, None, "192.0.2.1", True),
    ("", "", "192.0.2.1", True),
    (None, "ALL: ALL", "192.0.2.1", False),
    (None, "ALL: ALL\n", "192.0.2.1", False),
    (None, "mountd: ALL", "192.0.2.1", False),
    (None, "other: ALL", "192.0.2.1", True),
    ("mountd: 192.0.2.1", "ALL: ALL", "192.0.2.1", True),
    ("mountd: 192.0.2.1", "ALL: ALL", "192.0.2.11", False),
    ("mountd: 192.0.2.", "ALL: ALL", "192.0.2.11", True),
    ("mountd: 192.0.2.", "ALL: ALL", "192.0.20.1", False),
    ("mountd: 192.0.2.0/24", "ALL: ALL", "192.0.2.99", True),
    ("mountd: 192.0.2.0/255.255.255.0", "ALL: ALL", "192.0.2.99", True),
    ("mountd: 192.0.2.0/255.255.255.0", "ALL: ALL", "192.0.3.99", False),
    ("mountd: 192.0.2.*", "ALL: ALL", "192.0.2.99", True),
    ("mountd: [2001:db8::]/32", "ALL: ALL", "2001:db8::5", True),
    ("mountd: [2001:db8::]/32", "ALL: ALL", "2001:db9::5", False),
    ("mountd: [2001:db8::1]", "ALL: ALL", "2001:db8::1", True),
    ("portmap, mountd: 192.0.2.1, 192.0.2.2", "ALL: ALL", "192.0.2.2", True),
    ("ALL: ALL EXCEPT 192.0.2.1", "ALL: ALL", "192.0.2.1", False),
    ("ALL: ALL EXCEPT 192.0.2.1", "ALL: ALL", "192.0.2.2", True),
    ("ALL: ALL EXCEPT 192.0.2. EXCEPT 192.0.2.7", "ALL: ALL", "192.0.2.7", True),
    (None, "ALL: ALL EXCEPT 192.0.2.1", "192.0.2.1", True),
    (None, "ALL: ALL EXCEPT 192.0.2.1", "192.0.2.2", False),
    (None, "ALL EXCEPT mountd: ALL", "192.0.2.2", True),
    ("mountd: 192.0.2.1: deny", None, "192.0.2.1", False),
    ("mountd: ALL: allow", "ALL: ALL", "192.0.2.1", True),
    (None, "mountd: 192.0.2.1: allow\nALL: ALL", "192.0.2.1", True),
    ("mountd: ALL: severity info", "ALL: ALL", "192.0.2.1", True),
    ("mountd:\\\n 192.0.2.1", "ALL: ALL", "192.0.2.1", True),
    ("# mountd: ALL", "ALL: ALL", "192.0.2.1", False),
    (None, "ALL: ALL", "::ffff:192.0.2.1", False),
    ("mountd: 192.0.2.1", "ALL: ALL", "::ffff:192.0.2.1", True),
    (None, "ALL: ALL", "", True),
])
def test_files_decide_as_in_hosts_access(tmp_path: Path, allow: str | None, deny: str | None, address: str,
                                         may: bool) -> None:
    """hosts_access(5): first hosts.allow, then hosts.deny, else granted; a file that is not there is empty."""
    assert access(tmp_path, allow, deny).allows("mountd", address) is may


@pytest.mark.parametrize("line", [
    "ALL", "ALL ALL", "mountd", ":", "mountd:", ": ALL", "mountd: EXCEPT 192.0.2.1", "mountd: ALL EXCEPT", "mountd: 300.1.1.1",
    "mountd: 192.0.2.0/33", "mountd: 192.0.2.0/255.0.255.0", "mountd: [2001:db8::", "mountd: [2001:db8::]/129",
    "mountd: /etc/file", "mountd: ALL: spawn (rm -rf /)", "mountd: ALL: twist x", "mountd: 192.0.2.1 ]", "mountd: \0",
    "mountd: 999.", "EXCEPT: ALL"])
def test_broken_line_denies_and_never_allows(tmp_path: Path, line: str) -> None:
    """E15: a broken deny file denies; a broken line of hosts.allow grants nothing."""
    assert not access(tmp_path, None, line + "\n").allows("mountd", "192.0.2.1")
    assert not access(tmp_path, line + "\n", "ALL: ALL\n").allows("mountd", "192.0.2.1")


@pytest.mark.parametrize("pattern", ["host.example.org", ".example.org", "@netgroup", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID"])
def test_name_is_never_looked_up_and_lets_nobody_pass(tmp_path: Path, pattern: str) -> None:
    """CVE-2008-4552 and its kind.  In hosts.deny it keeps everybody out: it might have meant him."""
    assert not access(tmp_path, f"mountd: {pattern}", "ALL: ALL").allows("mountd", "192.0.2.1")
    assert not access(tmp_path, "", f"mountd: {pattern}").allows("mountd", "192.0.2.1")
    assert not access(tmp_path, f"mountd: ALL EXCEPT {pattern}", "ALL: ALL").allows("mountd", "192.0.2.1")
    assert not access(tmp_path, "", f"mountd: ALL EXCEPT {pattern}").allows("mountd", "192.0.2.1")


def test_long_line_and_no_newline_at_the_end_are_read(tmp_path: Path) -> None:
    """libwrap skips both, and lets pass whom they name."""
    many = " ".join(f"198.51.{i // 256}.{i % 256}" for i in range(1000))
    assert not access(tmp_path, None, f"mountd: {many} 192.0.2.1").allows("mountd", "192.0.2.1")


def test_file_that_cannot_be_read_denies(tmp_path: Path) -> None:
    (tmp_path / "hosts.deny").mkdir()
    assert not HostsAccess(tmp_path).allows("mountd", "192.0.2.1")
    (tmp_path / "hosts.deny").rmdir()
    (tmp_path / "hosts.deny").write_bytes(b"#" * (2 << 20))
    assert not HostsAccess(tmp_path).allows("mountd", "192.0.2.1")


def test_change_of_a_file_is_seen(tmp_path: Path) -> None:
    hosts = access(tmp_path, None, "")
    assert hosts.allows("mountd", "192.0.2.1")
    (tmp_path / "new").write_text("ALL: ALL")
    os.rename(tmp_path / "new", tmp_path / "hosts.deny")
    assert not hosts.allows("mountd", "192.0.2.1")
    (tmp_path / "hosts.deny").unlink()
    assert hosts.allows("mountd", "192.0.2.1")
