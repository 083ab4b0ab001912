"""rpcinfo(8): its layouts and its exit status."""

from __future__ import annotations

import pytest

from oncrpc.pmap import register
from portmap.rpcinfo import main

from .conftest import Portmap


def run(portmap: Portmap, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    status = main(["--mapper-port", str(portmap.port), *words])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


@pytest.mark.root
def test_p_lists_version_2_mappings(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    register([(100003, 3, "tcp", 2049)], port=portmap.port, path=portmap.path)
    status, lines, _ = run(portmap, capsys, "-p", "127.0.0.1")
    assert status == 0
    assert lines[0] == "   program vers proto   port  service"
    assert lines[-1] == "    100003    3   tcp   2049  nfs"


def test_default_list_names_netid_address_and_owner(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = run(portmap, capsys)
    assert lines[0] == "   program version netid     address                service    owner"
    assert any(line.split() == ["100000", "4", "local", portmap.path, "portmapper", "superuser"] for line in lines)


def test_s_is_one_line_a_program(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = run(portmap, capsys, "-s")
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["100000", "2,3,4"]


@pytest.mark.parametrize("flag", ["-t", "-u"])
def test_t_and_u_ask_each_version(portmap: Portmap, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    status, lines, _ = run(portmap, capsys, flag, "127.0.0.1", "portmapper")
    assert (status, lines) == (0, [f"program 100000 version {v} ready and waiting" for v in (2, 3, 4)])


@pytest.mark.parametrize(("netid", "host"), [("tcp", "127.0.0.1"), ("udp", "localhost"), ("tcp6", "::1"), ("udp6", "::1")])
def test_big_t_asks_over_one_transport(portmap: Portmap, capsys: pytest.CaptureFixture[str], netid: str, host: str) -> None:
    status, lines, err = run(portmap, capsys, "-T", netid, host, "portmapper", "4")
    assert (status, lines) == (0, ["program 100000 version 4 ready and waiting"]), err


def test_big_t_of_what_is_not_registered_there(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(portmap, capsys, "-T", "tcp6", "::1", "300000", "1")[0] == 1


def test_m_counts_calls(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        run(portmap, capsys, "-p", "127.0.0.1")
    status, lines, _ = run(portmap, capsys, "-m")
    assert status == 0
    assert lines[0] == "PORTMAP (version 2) statistics"
    assert lines[1].split() == ["NULL", "SET", "UNSET", "GETPORT", "DUMP", "CALLIT"]
    assert lines[2].split() == ["0", "0/0", "0/0", "0", "3", "0"]
    assert lines[-2].split()[-1] == "1"  # GETSTAT itself


def test_version_that_is_not_there(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, err = run(portmap, capsys, "-t", "127.0.0.1", "100000", "9")
    assert (status, lines) == (1, ["program 100000 version 9 is not available"])
    assert "versions 2 to 4" in err


def test_program_that_is_not_registered(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(portmap, capsys, "-u", "127.0.0.1", "300000", "1")[0] == 1


def test_l_lists_transports(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines, _ = run(portmap, capsys, "-l", "127.0.0.1", "100000", "4")
    assert ["100000", "4", "inet/udp/clts"] in [line.split()[:3] for line in lines]


@pytest.mark.root
def test_d_removes(portmap: Portmap, capsys: pytest.CaptureFixture[str]) -> None:
    register([(100003, 3, "tcp", 2049)], port=portmap.port, path=portmap.path)
    assert run(portmap, capsys, "-d", "100003", "3")[0] == 0
    assert run(portmap, capsys, "-d", "100000", "2")[0] == 1


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mapper-port", "1", "-p", "127.0.0.1"]) == 1
    assert capsys.readouterr().err.startswith("rpcinfo: ")


@pytest.mark.parametrize("words", [["-t"], ["-d", "nfs"], ["-l", "h", "1"], ["-t", "h", "nonsense"], ["-t", "h", "-5"]])
def test_wrong_operands_are_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 64
