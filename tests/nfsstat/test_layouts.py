"""nfsstat's tables, as each system prints them."""
from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfsstat import macos, stats
from nfssvc_shim.flags import Nfssvc
from tests.nfssvc_shim.callserver import CallServer

from .conftest import Run, srvstats

MACOS = """\
Server Info:
RPC Counts:
     Getattr      Setattr       Lookup     Readlink         Read        Write
         101          102          103          105          106          107
      Create       Remove       Rename         Link      Symlink        Mkdir
         108          112          114          115          110          109
       Rmdir      Readdir     RdirPlus       Access        Mknod       Fsstat
         113          116          117          104          111          118
      Fsinfo     PathConf       Commit
         119          120          121
Server Faults:
  RPC Errors       Errors
         123          124
Server Cache Stats:
      Inprog         Idem     Non-idem       Misses
         125          126          127          128
Server Write Gathering:
    WriteOps     WriteRPC      Opsaved
         129          107            0
"""


def test_default_layout_is_that_of_macos(server: CallServer, nfsstat: Run) -> None:
    """nfsstat(1) of macOS; each cell is 12 wide and a blank follows."""
    out = nfsstat("-s").stdout
    assert "\n".join(line.rstrip() for line in out.splitlines()) + "\n" == MACOS
    assert out.splitlines()[2] == "     Getattr      Setattr       Lookup     Readlink         Read        Write "
    assert nfsstat().stdout == out


def test_bsd_layout_has_eight_columns_of_nine(server: CallServer, nfsstat: Run) -> None:
    lines = nfsstat("--bsd").stdout.splitlines()
    assert lines[1] == "  Getattr   Setattr    Lookup  Readlink      Read     Write    Create    Remove "
    assert lines[lines.index("Server Ret-Failed") + 1] == f"{123:>17}"
    assert lines[lines.index("Server Faults") + 1] == f"{124:>13}"


def test_freebsd_layout_cuts_two_titles_at_thirteen(server: CallServer, nfsstat: Run) -> None:
    lines = nfsstat("--freebsd").stdout.splitlines()
    assert lines[1].startswith("      Getattr      Setattr")
    assert "Server Write " in lines
    assert "Server Cache " in lines


def test_linux_layout_shows_rpc_and_the_version_that_was_called(server: CallServer, nfsstat: Run) -> None:
    lines = nfsstat("--linux").stdout.splitlines()
    assert lines[:3] == ["Server rpc stats:", "calls      badcalls   badfmt     badauth    badclnt",
                         f"{sum(range(100, 122)):<8}   8          2          6          0"]
    assert "Server nfs v3:" in lines
    assert "Server nfs v2:" not in lines
    assert "null             getattr          setattr          lookup           access" in lines
    assert "Server packet stats:" in nfsstat("--linux", "-o", "all").stdout


def test_linux_list_has_a_line_for_each_procedure(server: CallServer, nfsstat: Run) -> None:
    out = nfsstat("-l").stdout
    assert "nfs v3 server      getattr:      101" in out


def test_proc_text_has_the_lines_that_agents_parse(server: CallServer, nfsstat: Run) -> None:
    """/proc/net/rpc/nfsd: node_exporter and others read rc, fh, io, th, net, rpc, proc3."""
    rows = {line.split()[0]: line.split()[1:] for line in nfsstat("--proc").stdout.splitlines()}
    assert rows["proc3"] == ["22", *(str(100 + i) for i in range(22))]
    assert rows["net"] == ["50", "10", "40", "6"]
    assert rows["io"] == ["2000", "4000"]
    assert rows["th"][0] == "2"


def test_json_has_the_titles_as_keys(server: CallServer, nfsstat: Run) -> None:
    info = json.loads(nfsstat("-f", "JSON").stdout)["Server Info"]
    assert info["RPC Counts"]["Getattr"] == 101
    assert info["Server Cache Stats"] == {"Inprog": 125, "Idem": 126, "Non-idem": 127, "Misses": 128}
    assert info["Latency"]["getattr"]["calls"] == 100
    assert 2 <= info["Latency"]["getattr"]["p50 us"] <= 4
    assert 1000 <= info["Latency"]["getattr"]["p99 us"] <= 2100
    assert [worker["Pid"] for worker in info["Workers"]] == [1000, 1001]


def test_libxo_json_has_freebsds_containers(server: CallServer, nfsstat: Run) -> None:
    found = json.loads(nfsstat("--libxo", "json").stdout)["nfsstat"]["serverstats"]
    assert found["operations"]["rdirplus"] == 117
    assert found["server"]["faults"] == 124


def test_exports_text_and_json(server: CallServer, nfsstat: Run) -> None:
    lines = nfsstat("-e").stdout.splitlines()
    assert lines[0] == "Exported Directory Info:"
    assert lines[3] == "           1            10           100  /export/1"
    assert json.loads(nfsstat("-e", "-f", "json").stdout)["Exported Directory Info"]["/export/2"]["Write Bytes"] == 200


def test_no_exports_and_no_users_say_so_and_json_stays_json(server: CallServer, nfsstat: Run) -> None:
    server.answers[Nfssvc.EXPORTSTATS] = (0, b"\1\0\0\0" + bytes(8), None)
    server.answers[Nfssvc.USERSTATS] = (0, b"\1\0\0\0" + bytes(4), None)
    assert nfsstat("-e").stdout == "No export stat data found\n"
    assert nfsstat("-u").stdout == "No NFS active user statistics found.\n"
    assert json.loads(nfsstat("-u", "-f", "JSON").stdout) == {"NFS Active User Info": {}}


def test_users_by_number_show_uid_and_address(server: CallServer, nfsstat: Run) -> None:
    out = nfsstat("-u", "-n", "net", "-n", "user").stdout
    assert "/export/0:" in out
    assert " 1000     127.0.0.1" in out
    user = json.loads(nfsstat("-u", "-n", "net", "-n", "user", "-f", "JSON").stdout)["NFS Active User Info"]["/export/0"]
    assert user["1000@127.0.0.1"]["Uuid"] == 1000


def test_idle_time_is_hours_minutes_seconds() -> None:
    user = stats.UserStat("/x", 0, "", 1, 2, 3, 0, 100)
    assert macos.Naming(now=lambda: 100 + 3600 + 62).idle(user) == "1:01:02"
    assert macos.Naming(now=lambda: 99).idle(user) == "0:00:00"


def test_errors_are_four_a_line(server: CallServer, nfsstat: Run) -> None:
    lines = nfsstat("-E").stdout.splitlines()
    assert lines[0] == "NFS Server Errors Info:"
    assert lines[1].split() == ["NFS_OK", "NFSERR_PERM", "NFSERR_NOENT", "NFSERR_IO"]
    assert lines[2].split() == ["130", "131", "132", "133"]


def test_interval_lines_are_differences_after_the_first(server: CallServer, nfsstat: Run) -> None:
    out = nfsstat("-w", "1", "--rounds", "2").stdout.splitlines()
    assert out[0] == " " * 11 + " Getattr  LookupReadlink    Read   Write  Rename  Access Readdir"
    assert out[1].split()[2:] == ["101", "103", "105", "106", "107", "114", "104", "233"]
    assert out[2].split()[2:] == ["0"] * 8


@pytest.mark.parametrize("cut", [0, 487, 489, 600, -1])
def test_a_truncated_reply_is_told_not_a_traceback(server: CallServer, nfsstat: Run, cut: int) -> None:
    server.answers[Nfssvc.SRVSTATS] = (0, srvstats()[:cut], None)
    ran = nfsstat("-s")
    assert ran.returncode == 1
    assert ran.stderr.startswith("nfsstat: SRVSTATS")


@pytest.mark.parametrize("argv", [("-x",), ("-n", "host"), ("-f", "XML"), ("-w", "0"), ("-w", "x"), ("word",), ("--listen",)])
def test_wrong_options_are_one_line_and_exit_64(nfsstat: Run, argv: tuple[str, ...]) -> None:
    ran = nfsstat(*argv)
    assert ran.returncode == 64
    assert len(ran.stderr.splitlines()) == 1


def test_client_statistics_are_the_kernels(server: CallServer, nfsstat: Run) -> None:
    assert nfsstat("-c").returncode == 2


def test_zero_asks_the_server_and_a_refusal_is_told(server: CallServer, nfsstat: Run) -> None:
    assert nfsstat("-z").returncode == 0
    assert server.seen[-1].flag == Nfssvc.ZEROSTATS
    server.answers[Nfssvc.ZEROSTATS] = (1, b"", None)
    ran = nfsstat("-z")
    assert (ran.returncode, ran.stderr.partition(":")[2][:25]) == (1, " Operation not permitted:")


def test_quantile_lies_inside_the_bucket() -> None:
    histogram = [0] * 40
    histogram[10] = 100
    assert 1024 <= stats.quantile_ns(histogram, 0.01) < stats.quantile_ns(histogram, 0.99) <= 2048
    assert stats.quantile_ns([0] * 40, 0.5) == 0.0


def test_top_without_a_terminal_prints_plain_blocks(server: CallServer, nfsstat: Run) -> None:
    """Lines that grep reads: no frame, no colour, no blanks at the end, a headline that fits its line."""
    out = nfsstat("top", "-w", "1", "--rounds", "1").stdout
    headline, _, rest = out.partition("\n")
    assert headline.startswith("nfsd 0.1.0") and "2 workers" in headline and headline.endswith("/1 s")
    assert "\nExports, by calls\n" in rest and "\nWorkers\n" in rest
    assert not set(out) & set("\x1b\u256d\u2502") and " \n" not in out


def test_top_and_prom_show_an_ordinary_user_what_is_for_everyone(server: CallServer, nfsstat: Run) -> None:
    server.answers[Nfssvc.EXPORTSTATS] = server.answers[Nfssvc.USERSTATS] = (errno.EPERM, b"", None)
    out = nfsstat("top", "-w", "1", "--rounds", "1").stdout
    assert "\nExports and clients: shown to root and the user the server runs as\n" in out and "\nWorkers\n" in out
    exposition = nfsstat("prom").stdout
    assert "\nnfsd_up 1.0\n" in exposition and "nfsd_requests_total" in exposition and "nfsd_export_requests" not in exposition


class Terminal:
    """nfsstat top on a pseudo-terminal of 100 columns."""

    def __init__(self, socket_path: Path, *words: str) -> None:
        self.fd, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}  # its own size counts
        env |= {"NFSSVC_SOCKET": str(socket_path), "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
        self.process = subprocess.Popen([sys.executable, "-m", "nfsstat", "top", *words], stdin=other, stdout=other, stderr=other,
                                        env=env, start_new_session=True)
        self.settings = termios.tcgetattr(other)
        self.other, self.seen = other, ""

    def until(self, text: str) -> None:
        end = time.monotonic() + 30
        while text not in self.seen:
            assert select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0], f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.fd, 65536).decode(errors="replace")

    def press(self, key: str) -> None:
        self.seen = ""
        os.write(self.fd, key.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self.other)


@pytest.fixture
def terminal(server: CallServer) -> Iterator[Terminal]:
    made = Terminal(server.path, "-w", "60")
    yield made
    made.close()


def test_keys_of_the_screen_sort_change_the_interval_and_end_it(server: CallServer, terminal: Terminal) -> None:
    terminal.until("/60 s")
    for key, shown in (("r", "Exports, by read"), ("w", "Clients, by write"), ("o", "Exports, by calls"), ("-", "/59 s")):
        terminal.press(key)
        terminal.until(shown)
    terminal.press("q")
    assert terminal.process.wait(30) == 0
    assert termios.tcgetattr(terminal.other) == terminal.settings, "the terminal is as it was"


def test_the_screen_outlives_the_server(server: CallServer, terminal: Terminal) -> None:
    terminal.until("/60 s")
    server.answers[Nfssvc.SRVSTATS] = (errno.ESHUTDOWN, b"", None)
    terminal.press(" ")
    terminal.until("no server answers")
    del server.answers[Nfssvc.SRVSTATS]
    server.answers[Nfssvc.SRVSTATS] = (0, srvstats(), None)
    terminal.press(" ")
    terminal.until("2 workers")


# ---- what a person reads when it does not work

@pytest.mark.parametrize("words", [("-s",), ("top",), ("check",), ("-z",)])
def test_no_server_names_the_socket_that_was_asked(nfsstat: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = nfsstat(*words)
    assert (ran.returncode, ran.stderr) == (1, f"nfsstat: no server answers at {tmp_path}/nfssvc.sock ($NFSSVC_SOCKET)\n")


def test_without_the_variable_each_place_that_was_tried_is_named(tmp_path: Path) -> None:
    if Path("/run/nfsd/nfssvc.sock").exists():
        pytest.skip("a server of this machine answers")
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-m", "nfsstat"], env=env, capture_output=True, text=True, timeout=30)
    assert ran.stderr == (f"nfsstat: no server answers at /run/nfsd/nfssvc.sock or {tmp_path}/nfsd/nfssvc.sock; "
                          "NFSSVC_SOCKET=DIR/nfssvc.sock asks the one of nfsd --statedir DIR\n")


def test_what_only_administrators_may_ask_is_said_in_words(server: CallServer, nfsstat: Run) -> None:
    for word, flag in (("-z", Nfssvc.ZEROSTATS), ("-e", Nfssvc.EXPORTSTATS), ("-u", Nfssvc.USERSTATS)):
        server.answers[flag] = (errno.EPERM, b"", None)
        assert nfsstat(word).stderr == "nfsstat: Operation not permitted: that is for root and the user the server runs as\n"
