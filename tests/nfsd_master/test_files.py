"""Directories, pid files and call sockets that somebody prepared for us (attack table L07), and who holds a port."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nfsd_master import holder
from nfsd_master.nfsd import open_call_socket
from nfsd_master.options import parse
from nfsd_master.paths import StartError, make_private, paths_of
from nfsd_master.pidfile import PidFile, running_pid


def test_directory_that_others_may_write_is_refused(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o777)
    with pytest.raises(StartError, match="alone"):
        make_private(tmp_path / "d", mode=0o700)


def test_directory_that_is_a_link_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "d").symlink_to(tmp_path / "real")
    with pytest.raises(StartError):
        make_private(tmp_path / "d", mode=0o700)


@pytest.mark.root
def test_directory_of_another_user_is_refused(tmp_path: Path):
    (tmp_path / "d").mkdir()
    os.chown(tmp_path / "d", 65534, 65534)
    with pytest.raises(StartError):
        make_private(tmp_path / "d", mode=0o700)


def test_pid_file_that_is_a_link_is_refused_and_its_target_untouched(tmp_path: Path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / "pid").symlink_to(tmp_path / "precious")
    with pytest.raises(StartError):
        PidFile(tmp_path / "pid")
    assert (tmp_path / "precious").read_text() == "text"


def test_pid_file_is_held_as_long_as_its_process_lives(tmp_path: Path):
    path = tmp_path / "pid"
    code = ("import sys; from pathlib import Path; from nfsd_master.pidfile import PidFile\n"
            "held = PidFile(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()")
    holder_process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, cwd=Path(__file__).parents[2])
    assert holder_process.stdout.readline() == "held\n"
    assert running_pid(path) == holder_process.pid
    with pytest.raises(StartError, match=f"pid {holder_process.pid} ") as caught:
        PidFile(path)
    assert caught.value.status == 2
    holder_process.kill()
    holder_process.communicate()
    assert running_pid(path) == 0
    PidFile(path).remove()
    assert not path.exists()


def test_call_socket_of_a_living_server_is_left_alone_and_a_dead_one_replaced(tmp_path: Path):
    path = tmp_path / "sock"
    living = open_call_socket(path)
    with pytest.raises(StartError, match="another nfsd") as caught:
        open_call_socket(path)
    assert caught.value.status == 2
    living.close()
    open_call_socket(path).close()
    assert path.stat().st_mode & 0o777 == 0o666


def test_call_socket_with_a_path_that_is_too_long_is_one_line(tmp_path: Path):
    with pytest.raises(StartError):
        open_call_socket(tmp_path / ("x" * 120))


def test_file_in_the_place_of_the_call_socket_is_not_removed(tmp_path: Path):
    (tmp_path / "sock").write_text("precious")
    with pytest.raises(StartError):
        open_call_socket(tmp_path / "sock")
    assert (tmp_path / "sock").read_text() == "precious"


def test_places_of_an_ordinary_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/not/believed")
    monkeypatch.setenv("HOME", "/home/u")
    paths = paths_of(parse([]))
    assert paths.socket == Path("/run/user/1000/nfsd/nfssvc.sock")
    assert paths.key == Path("/home/u/.local/state/nfsd/key")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths_of(parse([])).statedir == Path("/tmp/nfsd-1000/nfsd")


@pytest.mark.parametrize("kind, number", [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_holder_of_a_port_is_named(kind, number):
    with socket.socket(socket.AF_INET, number) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == "tcp":
            sock.listen()
        assert holder.who_holds(kind, sock.getsockname()[1]).startswith(f"pid {os.getpid()} (")
