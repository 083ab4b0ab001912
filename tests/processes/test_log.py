"""How the log looks: plain, in colour on a terminal, JSON; the same of every daemon."""
from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from oncrpc import logformat
from tests.tools.servers import free_port

from .conftest import DEADLINE_S

ESCAPE = "\033["


def line(where: str, stream: io.StringIO, level: int = logging.WARNING) -> str:
    record = logging.LogRecord("x", level, __file__, 1, "slot %d: %s", (3, "a \"b\"\n"), None)
    handler = logformat.handler(where, "nfsd: master", stream, pid=True)
    handler.emit(record)
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_where_nobody_watches():
    assert line("stderr", io.StringIO()).startswith(f"nfsd: master[{os.getpid()}]: slot 3: a")


def test_in_colour_on_a_terminal_unless_the_user_wants_none(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert line("stderr", Terminal()).startswith(ESCAPE)
    assert ESCAPE not in line("stderr", Terminal(), logging.INFO), "what is ordinary is not coloured"
    monkeypatch.setenv("NO_COLOR", "1")
    assert ESCAPE not in line("stderr", Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert ESCAPE not in line("stderr", Terminal())


@pytest.mark.parametrize(("level", "word"), [(logging.ERROR, "err"), (logging.WARNING, "warning"), (25, "notice"),
                                             (logging.INFO, "info"), (logging.DEBUG, "debug")])
def test_json_is_one_object_a_line_with_syslogs_priorities(level, word):
    text = line("json", Terminal(), level)
    assert text.count("\n") == 1
    said = json.loads(text)
    assert (said["priority"], said["program"], said["pid"]) == (word, "nfsd: master", os.getpid())
    assert said["message"] == 'slot 3: a "b"\n'
    assert said["time"].endswith("Z")


def test_all_of_unfsd_speaks_json(directory: Path):
    """Each line of each process; the end by TERM included."""
    directory.chmod(0o755)
    (directory / "data").mkdir()
    (directory / "exports").write_text(f"{directory}/data 127.0.0.1(rw)\n")
    port = str(free_port())
    own = ["-e", f"{directory}/exports", "--statedir", f"{directory}/s", "--socket", f"{directory}/s/sock", "--key",
           f"{directory}/key", "-n", port, "-m", port, "-l", "127.0.0.1"]
    with subprocess.Popen([sys.executable, "-m", "nfsd_master.unfsd", "-d", "-v", "-p", "--workers", "1", "--log", "json", *own],
                          stdout=subprocess.PIPE, text=True) as unfsd:
        assert unfsd.stdout is not None
        lines = []
        while not any("serving" in said and '"unfsd"' in said for said in lines):
            lines.append(unfsd.stdout.readline())
            assert lines[-1], "it ended"
        unfsd.terminate()
        lines += unfsd.communicate(timeout=DEADLINE_S)[0].splitlines()
    programs = {json.loads(said)["program"] for said in lines if said.strip()}
    assert {"unfsd", "mountd", "nfsd: master"} <= programs


def test_portmap_at_a_terminal_says_what_it_serves():
    master, slave = pty.openpty()
    read, write = os.pipe()
    command = [sys.executable, "-m", "portmap", "-d", "-p", "0", "-s", "none", "--ready-fd", str(write)]
    with subprocess.Popen(command, stderr=slave, pass_fds=[write], env={**os.environ, "TERM": "xterm"}) as portmap:
        os.close(write)
        assert os.read(read, 64).startswith(b"READY")
        portmap.terminate()
        portmap.wait(DEADLINE_S)
    assert b"portmap: serving port" in os.read(master, 4096)
    for fd in (read, slave, master):
        os.close(fd)
