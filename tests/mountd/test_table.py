"""From entries to the workers' table: networks, credentials, ids, what is left out; and which entry matches."""
from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from mountd.exports import parse_text
from mountd.exports_model import NO_EX, Dialect
from mountd.exptab import ExportIds, hash_of
from mountd.filesystems import FileSystems, read_mounts
from mountd.mount import Caller, Granted, Refused, decide
from mountd.names import NOBODY, Ask, Question
from mountd.service import failed_exports
from mountd.table import Builder, Table, build
from nfssvc_shim.flags import Ex, Nx
from nfssvc_shim.records import AF_NONE, Address, Cred

ANSWERS = {
    NOBODY: ("65534", "65534"),
    Question(Ask.HOST, "h1"): ("192.0.2.1", "2001:db8::1"),
    Question(Ask.HOST, "h2"): ("192.0.2.2",),
    Question(Ask.GROUP_OR_HOST, "h1"): ("192.0.2.1",),
    Question(Ask.NETGROUP, "g"): ("192.0.2.1", "192.0.2.9"),
    Question(Ask.REVERSE, "192.0.2.77"): ("pc77.example.org",),
    Question(Ask.NETWORK, "lab"): ("198.51.100",),
    Question(Ask.NETWORK, "home"): ("192.0.2.128",),
    Question(Ask.NETWORK, "all"): ("0.0.0.0",),
    Question(Ask.USER, "daemon"): ("1", "1", "5"),
    Question(Ask.USER, "root"): ("0", "0"),
    Question(Ask.USER, "0:10"): ("0", "10"),
    Question(Ask.USER, "100:20:30"): ("100", "20", "30"),
}


@pytest.fixture
def make(tree: Path):  # type: ignore[no-untyped-def]
    """Builds a table; T/ in the text is the tree of test directories."""
    def of(text: str, dialect: Dialect = Dialect.LINUX, *, reserved: bool = True, always: Ex = NO_EX) -> Table:
        parsed = parse_text(text.replace("T/", f"{tree}/").encode(), "f", dialect)
        assert not parsed.errors, [str(e) for e in parsed.errors]
        return build(parsed.entries, ANSWERS, Builder(FileSystems.now(), ExportIds(), reserved, always))
    return of


def only_net(table: Table):  # type: ignore[no-untyped-def]
    (export,) = table.exports
    (net,) = export.nets
    return net


def test_linux_defaults_are_read_only_root_squashed_secure(make) -> None:  # type: ignore[no-untyped-def]
    net = only_net(make("T/a 192.0.2.1"))
    assert net.flags == Nx.READONLY | Nx.MAPROOT | Nx.SECURE
    assert (net.address, net.prefix, net.maproot) == (Address.of("192.0.2.1"), 32, Cred(65534, 65534))


def test_bsd_defaults_are_writable_and_root_squashed(make) -> None:  # type: ignore[no-untyped-def]
    assert only_net(make("T/a 192.0.2.1", Dialect.BSD)).flags == Nx.MAPROOT


def test_no_root_squash_maps_nobody(make) -> None:  # type: ignore[no-untyped-def]
    assert only_net(make("T/a *(no_root_squash,insecure,rw)")).flags == Nx.DEFAULTEXPORT


@pytest.mark.parametrize("spec", ["root", "0:10"])
def test_maproot_root_maps_nobody(make, spec: str) -> None:  # type: ignore[no-untyped-def]
    """With MAPROOT set a caller's gid 0 would be taken away."""
    assert only_net(make(f"T/a -maproot={spec} 192.0.2.1", Dialect.BSD)).flags == Nx(0)


def test_maproot_and_mapall_take_the_credential_of_the_user(make) -> None:  # type: ignore[no-untyped-def]
    assert only_net(make("T/a -maproot=daemon 192.0.2.1", Dialect.BSD)).maproot == Cred(1, 1, (5,))
    net = only_net(make("T/a -mapall=100:20:30 192.0.2.1", Dialect.BSD))
    assert net.mapall == Cred(100, 20, (30,))
    assert net.flags & Nx.MAPALL


@pytest.mark.parametrize(("option", "network"), [
    ("-network lab", "198.51.100.0/24"), ("-network=lab/25", "198.51.100.0/25"), ("-network home", "192.0.2.128/32"),
    ("-network lab -mask 255.255.0.0", "198.51.0.0/16")])
def test_network_by_its_name(make, option: str, network: str) -> None:  # type: ignore[no-untyped-def]
    """networks(5); a mask is of its class, or as long as its number."""
    net = only_net(make(f"T/a {option}", Dialect.BSD))
    assert f"{net.address}/{net.prefix}" == network


@pytest.mark.parametrize("name", ["nowhere", "all"])
def test_network_that_is_not_known_or_is_everything_denies(make, name: str) -> None:  # type: ignore[no-untyped-def]
    table = make(f"T/a -network {name}", Dialect.BSD)
    assert [export.nets for export in table.exports] == [()]
    assert "is no network of networks(5)" in str(table.warnings[0])


def test_unknown_user_denies_the_entry(make) -> None:  # type: ignore[no-untyped-def]
    """Never root instead of somebody who does not exist."""
    table = make("T/a -maproot=ghost 192.0.2.1", Dialect.BSD)
    assert only_net(table).flags & Nx.DENY
    assert "ghost" in str(table.warnings[0])


def test_anonuid_goes_into_every_squashed_credential(make) -> None:  # type: ignore[no-untyped-def]
    net = only_net(make("T/a *(all_squash,anonuid=7,anongid=8)"))
    assert (net.mapall, net.anon, net.maproot) == (Cred(7, 8), Cred(7, 8), Cred(7, 8))
    assert net.flags & Nx.MAPALL


def test_name_with_several_addresses_gives_an_entry_for_each(make) -> None:  # type: ignore[no-untyped-def]
    (export,) = make("T/a h1").exports
    assert {(str(net.address), net.prefix) for net in export.nets} == {("192.0.2.1", 32), ("2001:db8::1", 128)}


def test_name_that_is_not_known_gives_no_entry(make) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a ghost(rw) h2(ro)")
    assert [str(net.address) for net in table.exports[0].nets] == ["192.0.2.2"]
    assert "does not resolve" in str(table.warnings[0])


def test_wildcard_matches_names_that_are_known(make) -> None:  # type: ignore[no-untyped-def]
    assert str(only_net(make("T/a PC*.Example.org(ro)")).address) == "192.0.2.77"
    assert make("T/a *.example.com(ro)").exports[0].nets == ()


def test_among_equal_addresses_a_host_wins_over_a_netgroup(make) -> None:  # type: ignore[no-untyped-def]
    (export,) = make("T/a @g(rw) h1(ro)").exports
    flags = {str(net.address): net.flags for net in export.nets}
    assert flags["192.0.2.1"] & Nx.READONLY
    assert not flags["192.0.2.9"] & Nx.READONLY


def test_missing_directory_is_left_out_with_a_warning(make) -> None:  # type: ignore[no-untyped-def]
    table = make("T/nowhere *(rw)\nT/a *(ro)")
    assert len(table.exports) == 1
    assert "not exported" in str(table.warnings[0])


def test_removable_directory_need_not_exist(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    (export,) = make("T/cdrom *(ro,removable)").exports
    assert (export.path, export.flags) == (os.fsencode(tree / "cdrom"), Ex.REMOVABLE)


def test_file_instead_of_a_directory_is_left_out(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    (tree / "file").write_text("")
    assert make("T/file *(ro)").exports == ()


def test_mountpoint_option_leaves_out_what_is_none(make) -> None:  # type: ignore[no-untyped-def]
    assert make("T/a *(mp)").exports == ()
    assert len(make("T/a *(mp=/)").exports) == 1


def test_fspath_that_does_not_match_leaves_the_directory_out(make) -> None:  # type: ignore[no-untyped-def]
    assert make("T/a -fspath=/nowhere h1", Dialect.BSD).exports == ()


def test_async_holds_only_when_all_clients_have_it(make) -> None:  # type: ignore[no-untyped-def]
    """An option of the whole directory; durability is not lost by half."""
    assert make("T/a h1(async) h2(async)").exports[0].flags & Ex.ASYNC
    table = make("T/a h1(async) h2")
    assert not table.exports[0].flags & Ex.ASYNC
    assert "async" in str(table.warnings[0])


def test_options_for_all_exports(make) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a *(ro)\nT/b *(ro)", reserved=False, always=Ex.CROSSMNT | Ex.FILEID32)
    assert [e.flags for e in table.exports] == [Ex.CROSSMNT | Ex.FILEID32] * 2
    assert not any(net.flags & Nx.SECURE for e in table.exports for net in e.nets)


def test_tags_are_of_the_exports_at_and_below_a_path(tree: Path) -> None:
    """unfsd -C; by components: /x/a is not above /x/ab."""
    (tree / "ab").mkdir()
    parsed = parse_text(f"{tree}/a *\n{tree}/a/sub *\n{tree}/ab *\n{tree}/b *\n".encode(), "f")
    table = build(parsed.entries, ANSWERS, Builder(FileSystems.now(), ExportIds(), cluster=(os.fsencode(tree / "a"),)))
    assert [bool(export.flags & Ex.CLUSTER) for export in table.exports] == [True, True, False, False]


def test_file_system_has_one_fsid_the_first(make) -> None:  # type: ignore[no-untyped-def]
    """It is in the handles of all its exports: the last to be loaded must not decide."""
    table = make("T/a *(fsid=7)\nT/b *\nT/c *(fsid=8)\n")
    assert [export.fsid[-1:] for export in table.exports] == [b"\7", b"", b"\7"]
    (warning,) = table.warnings
    assert "another fsid= at f:1:1, which stays" in str(warning)
    assert str(warning).startswith("f:3:1: warning: ")


def test_two_names_of_one_directory_are_one_export(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    (tree / "link").symlink_to("a")
    table = make("T/link h1(rw)\nT/a h2(ro)")
    (export,) = table.exports
    assert len(export.nets) == 3
    assert table.real(os.fsencode(tree / "link" / "sub")) == os.fsencode(tree / "a" / "sub")


# ---- matching

def who(table: Table, path: str, address: str, port: int = 900) -> str:
    """The client text of the entry that decides, or why not."""
    decision = decide(table, os.fsencode(path), Caller(Address.of(address, port)))
    return decision.rule.client.text if isinstance(decision, Granted) else f"refused: {decision.reason}"


def test_longest_mask_wins_whatever_the_order(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a *(rw) 192.0.0.0/8 192.0.2.0/24 192.0.2.1(ro) 2001:db8::/32")
    path = f"{tree}/a"
    assert who(table, path, "192.0.2.1") == "192.0.2.1"
    assert who(table, path, "192.0.2.5") == "192.0.2.0/24"
    assert who(table, path, "192.9.9.9") == "192.0.0.0/8"
    assert who(table, path, "10.0.0.1") == "*"
    assert who(table, path, "2001:db8::9") == "2001:db8::/32"
    assert who(table, path, "2001:db9::9") == "*"


def test_deepest_directory_that_lists_the_client_decides(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a 192.0.2.0/24 10.0.0.0/8\nT/a/sub 192.0.2.1")
    assert who(table, f"{tree}/a/sub", "192.0.2.1") == "192.0.2.1"
    assert who(table, f"{tree}/a/sub/deeper", "192.0.2.1") == "192.0.2.1"
    assert who(table, f"{tree}/a/sub", "10.0.0.1") == "10.0.0.0/8"
    assert who(table, f"{tree}/a/sub", "11.0.0.1").startswith("refused")


def test_path_is_matched_by_components(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    """unfsd's textual prefix let /srv/a cover /srv/ab."""
    table = make("T/a *(ro)")
    assert who(table, f"{tree}/a", "192.0.2.1") == "*"
    assert who(table, f"{tree}/ab", "192.0.2.1") == "refused: not exported"


def test_directory_below_needs_alldirs_in_the_bsd_dialect(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a -ro\nT/b -ro -alldirs", Dialect.BSD)
    assert who(table, f"{tree}/a", "192.0.2.1") == "*"
    assert "alldirs" in who(table, f"{tree}/a/sub", "192.0.2.1")
    assert who(table, f"{tree}/b/x", "192.0.2.1") == "*"


def test_bsd_mount_asks_for_a_reserved_port_and_noresvmnt_does_not(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a -ro\nT/b -ro -noresvmnt", Dialect.BSD)
    assert "source port" in who(table, f"{tree}/a", "192.0.2.1", 2000)
    assert who(table, f"{tree}/b", "192.0.2.1", 2000) == "*"


def test_flavor_that_is_not_served_denies(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    """sec=krb5 must not become sec=sys."""
    table = make("T/a *(sec=krb5)\nT/b *(sec=krb5:sys)")
    assert "krb5" in who(table, f"{tree}/a", "192.0.2.1")
    assert who(table, f"{tree}/b", "192.0.2.1") == "*"
    assert only_flavors(table) == [(390003,), (390003, 1)]


def only_flavors(table: Table) -> list[tuple[int, ...]]:
    return [export.nets[0].flavors for export in table.exports]


def test_entry_that_asks_for_tls_denies_and_does_not_fall_through(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a 192.0.2.1(rw,xprtsec=tls) *(ro)")
    assert "TLS" in who(table, f"{tree}/a", "192.0.2.1")
    assert who(table, f"{tree}/a", "192.0.2.2") == "*"


def test_scoped_address_matches_only_its_interface(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    table = make("T/a fe80::1%lo")
    peer = Address.of("fe80::1", 900)
    inside = Address(peer.family, peer.packed, 900, 1)
    outside = Address(peer.family, peer.packed, 900, 9999)
    assert isinstance(decide(table, os.fsencode(tree / "a"), Caller(inside)), Granted)
    assert isinstance(decide(table, os.fsencode(tree / "a"), Caller(outside)), Refused)


def test_world_entry_has_no_address(make) -> None:  # type: ignore[no-untyped-def]
    net = only_net(make("T/a *"))
    assert (net.address.family, net.prefix) == (AF_NONE, 0)


# ---- ids and mounts

def test_export_ids_survive_in_the_file_and_collisions_differ() -> None:
    ids = ExportIds()
    first = ids.id_of("", b"/a b")
    taken = ExportIds(b"%08x - /other\n" % hash_of("", b"/a b"))
    assert taken.id_of("", b"/a b") not in (first, 0)
    again = ExportIds(taken.text())
    assert again.id_of("", b"/a b") == taken.id_of("", b"/a b")
    assert not again.changed


@pytest.mark.parametrize("junk", [b"", b"zz", b"00000000 - /a\n", b"12345678 /a\n", b"\xff" * 100, b"12345678 - relative\n"])
def test_export_id_file_with_junk_is_ignored(junk: bytes) -> None:
    assert ExportIds(junk).id_of("", b"/a") == hash_of("", b"/a")


def test_mountinfo_with_blanks_in_a_mount_point_is_read() -> None:
    """proc(5): blanks are \\040."""
    mounts = read_mounts(b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n")
    assert mounts == {b"/mnt 2": "98:0"}
    place = FileSystems({b"/": "1:1", **mounts}, {"98:0": "uuid"}).place(b"/mnt 2/x/y", 0o040755)
    assert (place.fspath, place.exppath, place.uuid) == (b"/mnt 2", b"x/y", "uuid")


def test_ten_thousand_exports_load_in_two_seconds(tree: Path) -> None:
    """Issue: 10,000 exports that share 1,000 networks.  Processor time: the machine may have other things to do."""
    for i in range(10_000):
        (tree / f"d{i}").mkdir()
    networks = [f"10.{i % 250}.{i // 250}.0/24" for i in range(1000)]
    text = "".join(f"{tree}/d{i} {networks[i % 1000]}(rw) {networks[i * 7 % 1000]}(ro)\n" for i in range(10_000)).encode()
    began = time.process_time()
    parsed = parse_text(text, "f")
    table = build(parsed.entries, ANSWERS, Builder(FileSystems.now(), ExportIds()))
    seconds = time.process_time() - began
    print(f"{seconds:.2f} s")
    assert len(table.exports) == 10_000
    assert seconds < 2.0
    began = time.process_time()
    for i in range(10_000):
        assert who(table, f"{tree}/d{i % 100}", "10.99.0.1").startswith(("10", "refused"))
    assert (time.process_time() - began) / 10_000 < 200e-6


def test_exports_that_workers_could_not_open_are_named(make, tree: Path) -> None:  # type: ignore[no-untyped-def]
    """The reply of EXPORT: pairs of id and errno."""
    table = make("T/a *(ro)\nT/b *(ro)")
    body = struct.pack(">II", table.exports[1].expid, 24) + struct.pack(">II", 12345, 5) + b"odd"
    (error,) = failed_exports(table, body)
    assert (str(error.where), error.what) == ("f:2:1", f"{tree}/b is not served: Too many open files")
