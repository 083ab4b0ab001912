"""Wrong options, files and places, for every program: one line that says what, its exit status, and nothing half started.

The rule: 64 (EX_USAGE) for a command line or a nfs.conf that cannot be understood; 1 cannot do it; 2 another one runs, or a port
is taken; unfsd says 1 for everything, as it always did.
"""
from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0        # of a command that takes half a second on an idle machine
MODULES = {"nfsd": "nfsd_master", "unfsd": "nfsd_master.unfsd", "mountd": "mountd", "portmap": "portmap", "nfsstat": "nfsstat",
           "showmount": "mountd.showmount", "rpcinfo": "portmap.rpcinfo"}
# In the tables rows end with ";", and D is the directory of the test.
# Options that each daemon gets besides: its own places below D, no port mapper, loopback.
OWN = {"nfsd": "-F --no-portmap -h 127.0.0.1 -p 0 --statedir D/s --key D/key",
       "unfsd": "-d -p -u -l 127.0.0.1 -e D/exports --statedir D/s --socket D/s/sock --key D/key",
       "mountd": "-d --no-portmap -h 127.0.0.1 --statedir D/s --socket D/s/none",
       "portmap": "-f -h 127.0.0.1 -p 0 -s none"}

USAGE = {
    "nfsd": """
        frobnicate; 4 5; -n; -n 0; -n 65; -n x; -n -1; -n 1e3; -p 65536; -p x; -h 999.1.1.1; -h name; -V 4; -V x; -V; --log
        nowhere; --ready-fd x; --ready-fd 999; --portmap-port 0; --statedir=; -x; --bogus; --conf D/none; --conf D; status
        extra; stop extra; enable extra; update extra; checkexports -x; share; share --frob D; share D --port x; share D
        --port 0; share D --to 999.1.1.1; share D --to 1.2.3.4/33; share D --to a(rw); share D --workers 99; start extra;
        check extra
    """,
    "mountd": """
        -p x; -p 65536; -p; -h 999.1.1.1; -h name; --set bogus; --dialect sun; --ready-fd x; --ready-fd 999; --portmap-port
        x; -x; --bogus; --read; why; why one; why a b c d e; convert; convert --to sun
    """,
    "portmap": """
        -p x; -p 65536; -p; -h 999.1.1.1; -h name; --ready-fd x; --ready-fd 999; -x; --bogus; extra
    """,
    "nfsstat": """
        -x; --bogus; -f XML; -f; -w 0; -w x; -w 99999999999; -n host; extra; top extra; top -w x; check --deadline 0; serve
        --listen nowhere; serve --listen 127.0.0.1:x; --libxo xml
    """,
    "showmount": """
        -x; --bogus; one two; -e -a; --port x; --port 65536
    """,
    "rpcinfo": """
        -x; --bogus; -t; -t 127.0.0.1 nonsense; -t 127.0.0.1 -5; -d nfs; -l h 1; -n x -t h nfs; -p -s; --mapper-port x
    """,
}
CANNOT = {
    "nfsd": """
        --user nosuchuser; --statedir /dev/null/x; --statedir D/exports; --key /dev/null/key; --key D/exports; --socket
        /dev/null/sock; --socket D/exports; -P /dev/null/pid; -P D;  share D/none; share D/exports; update;
        stop; -r; check; verbose; verbose sideways; verbose up
    """,
    "unfsd": """
        -e D/none; -e exports; -e D; -n 0; -n x; -n 65536; -n; -m x; -l 999.1.1.1;  -V 4; -x; --bogus; -C;
        --workers 0; --workers 65; extra; --statedir relative; --statedir /dev/null/x; --key /dev/null/key; --socket
        relative; -T -e D/none; -T -e D/bad; -e D/bad
    """,
    "mountd": """
        D/none; D; D/bad; --statedir /dev/null/x D/exports; -i /dev/null/pid D/exports; -T D/none; convert --to bsd D/none
    """,
    "portmap": """
        -s /dev/null/sock; -s D/exports; -w /dev/null/warm; -w D; -i /dev/null/pid; -i D; -u nosuchuser
    """,
    "nfsstat": """
        -s; top; check; -z
    """,
    "showmount": """
        --port 1 127.0.0.1; -e nosuch.invalid
    """,
    "rpcinfo": """
        --mapper-port 1 -p 127.0.0.1; -n 1 -t 127.0.0.1 100003; -p nosuch.invalid
    """,
}


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bad"))
    path.chmod(0o755)
    (path / "data").mkdir()
    (path / "exports").write_text(f"{path}/data 127.0.0.1(rw)\n")
    (path / "bad").write_text(f"{path}/data 127.0.0.1(bogus)\n")
    yield path
    shutil.rmtree(path)


def run(place: Path, program: str, words: str) -> subprocess.CompletedProcess[str]:
    own = "" if words.startswith(("why", "convert")) else OWN.get(program, "")
    argv = f"{own} {words}".replace("D", str(place)) if "--" not in words else f"{own} {words}".replace("D/", f"{place}/")
    command = [sys.executable, "-m", MODULES[program], *(str(place) if word == "D" else word for word in argv.split())]
    environment = {**os.environ, "NFSSVC_SOCKET": str(place / "none.sock"), "RC_CONF_D": str(place), "COLUMNS": "200",
                   "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(place)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, env=environment,
                          stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # it serves: that is the failure
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def rows(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(program, " ".join(words.split())) for program, lines in table.items() for words in lines.split(";")]


def assert_one_line(done: subprocess.CompletedProcess[str], program: str) -> None:
    text = done.stderr + (done.stdout if program == "unfsd" else "")  # unfsd -d talks to stdout, says its manual
    assert len(text.splitlines()) == 1, text
    assert "Errno" not in text and "Traceback" not in text, text
    assert done.stdout == "" or program == "unfsd", done.stdout


@pytest.mark.parametrize(("program", "words"), rows(USAGE))
def test_a_wrong_command_line_is_one_line_and_64(place, program, words):
    done = run(place, program, words)
    assert done.returncode == 64, done
    assert_one_line(done, program)
    assert done.stderr.startswith(program), done.stderr
    assert not (place / "s").exists(), "nothing was made"


@pytest.mark.parametrize(("program", "words"), rows(CANNOT))
def test_what_cannot_be_done_is_one_line_and_1(place, program, words):
    done = run(place, program, words)
    assert done.returncode == 1, done
    assert_one_line(done, program)
    assert sockets_and_pids(place) == []


def sockets_and_pids(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_socket() or (path.suffix == ".pid" and path.is_file())]


CONTRADICTIONS = [
    "nfs.server.port=1\nnfs.server.port=2\n", "nfs.server.port = 99999\n", "nfs.server.nfsd_threads = many\n",
    "[nfsd]\nhost=nowhere\n", "[nfsd]\nthreads\nthreads=2\n", "[nfsd]\nport=2049\n[mountd]\nport=1\n[nfsd]\nport=2050\n",
    "nfs.server.tcp=0\nnfs.server.udp=0\n", "nfs.server.port=" + "9" * 5000 + "\n", "#" * (1 << 20) + "\n",
]


@pytest.mark.parametrize("text", CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_an_nfs_conf_that_cannot_be_is_one_line_and_64(place, text):
    (place / "nfs.conf").write_text(text)
    done = run(place, "nfsd", "--conf D/nfs.conf")
    assert done.returncode == 64
    assert_one_line(done, "nfsd")
    assert len(done.stderr) < 400


@pytest.mark.parametrize("text", ["unknown.key = nonsense\n", "[nfsd]\nthread=2\n", "\0\xff\n"], ids=["key", "slip", "bytes"])
def test_a_key_that_no_nfsd_has_is_told(place, text):
    (place / "nfs.conf").write_bytes(text.encode("latin-1"))
    done = run(place, "nfsd", "--conf D/nfs.conf --key /dev/null/key")
    first = done.stderr.splitlines()[0]
    assert "nfs.conf:" in first
    assert "no such key" in first


def test_a_file_that_is_no_configuration_does_not_fill_the_log(place):
    (place / "nfs.conf").write_text("".join(f"word{n}\n" for n in range(10_000)))
    assert len(run(place, "nfsd", "--conf D/nfs.conf --key /dev/null/key").stderr.splitlines()) <= 12


@pytest.mark.parametrize("text", ["x" * 2_000_000, "/data 127.0.0.1(rw\n", "\0" * 100 + "\n"], ids=["huge", "unclosed", "zeros"])
def test_exports_that_are_none_stop_mountd_and_unfsd_alike(place, text):
    (place / "bad").write_text(text)
    for program, words in (("mountd", "D/bad"), ("unfsd", "-e D/bad")):
        done = run(place, program, words)
        assert done.returncode == 1
        assert all(len(line) < 600 for line in (done.stdout + done.stderr).splitlines())
    assert sockets_and_pids(place) == []


@pytest.mark.parametrize("mode", ["missing", "unreadable", "fifo", "device"])
def test_an_exports_file_that_cannot_be_read_is_named(place, mode):
    bad = place / "bad"
    bad.unlink()
    if mode == "unreadable":
        bad.symlink_to(bad)
    elif mode == "fifo":
        os.mkfifo(bad)
    elif mode == "device":
        bad.symlink_to("/dev/zero")
    done = run(place, "mountd", "D/bad")
    assert done.returncode == 1
    assert_one_line(done, "mountd")
    assert str(bad) in done.stderr


@pytest.mark.parametrize(("program", "words"), [("nfsd", "-p PORT"), ("unfsd", "-n PORT -m PORT"), ("portmap", "-p PORT")])
def test_a_port_that_is_taken_is_one_line_and_names_it(place, program, words):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = run(place, program, words.replace("PORT", port))
    assert done.returncode == {"nfsd": 2}.get(program, 1)
    assert_one_line(done, program)
    assert port in done.stderr + done.stdout
    assert sockets_and_pids(place) == []
