"""nfsd(8)'s command line."""
from __future__ import annotations

import pytest

from nfsd_master import unfsd_options as unfsd
from nfsd_master.options import UsageError, parse


def test_no_word_means_four_workers_both_transports_and_port_2049():
    options = parse([])
    assert (options.n_workers, options.tcp, options.udp, options.port, options.families) == (4, True, True, 2049, "46")


@pytest.mark.parametrize("words, tcp, udp", [(["-t"], True, False), (["-u"], False, True), (["-tu"], True, True),
                                             ([], True, True)])
def test_either_of_t_and_u_alone_switches_the_other_off(words, tcp, udp):
    options = parse(words)
    assert (options.tcp, options.udp) == (tcp, udp)


@pytest.mark.parametrize("words", [["-n", "6"], ["6"], ["-tun", "6"], ["-tu", "6"], ["6", "-t"]])
def test_count_by_option_or_as_a_bare_number(words):
    assert parse(words).n_workers == 6


def test_addresses_are_numeric_and_repeatable():
    assert parse(["-h", "127.0.0.1", "-h", "::1"]).binds == ("127.0.0.1", "::1")
    with pytest.raises(UsageError, match="localhost"):
        parse(["-h", "localhost"])


@pytest.mark.parametrize("words", [["-n", "0"], ["-n", "65"], ["-n", "-1"], ["-n", "4x"], ["-n", "٤"], ["-p", "65536"], ["-x"],
                                   ["-n"],
                                   ["1", "2"], ["start"], ["-P", ""], ["--log", "file"], ["-n", "9" * 5000]])
def test_wrong_values_are_named_in_one_line(words):
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert "\n" not in str(caught.value)


def test_more_than_32_addresses_are_refused():
    with pytest.raises(UsageError):
        parse(["-h", "127.0.0.1"] * 33)


def test_unfsd_u_chooses_ports_and_a_later_n_wins():
    """unfs3's source: -u sets both ports to 0."""
    assert (unfsd.parse(["-u"]).nfs_port, unfsd.parse(["-u"]).mount_port) == (0, 0)
    assert unfsd.parse(["-u", "-n", "3049"]).nfs_port == 3049


def test_unfsd_flags_become_flags_of_every_export():
    assert set(unfsd.parse(["-s", "-b", "-r", "-3"]).export_flags) == {"crossmnt", "singleuser", "bruteforce", "readable_exec",
                                                                       "fileid32"}


def test_unfsd_w_is_accepted_without_effect():
    assert unfsd.parse(["-w"]) == unfsd.parse([])


def test_big_c_has_absolute_paths():
    assert unfsd.parse(["-C", "/a:/b/c"]).cluster == "/a:/b/c"
    for wrong in ("a", "/a:", "/a:b"):
        with pytest.raises(UsageError):
            unfsd.parse(["-C", wrong])
