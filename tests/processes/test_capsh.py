"""Root with one capability less: it serves, or one line says why not (`capsh --drop`)."""
from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DEADLINE_S

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("capsh"), reason="needs capsh(1)")]


def start(directory: Path, capability: str, ready_fd: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "nfsd_master", "-F", "-n", "1", "--no-portmap", "-h", "127.0.0.1", "-p", "0", "--statedir",
             f"{directory}/s", "--key", f"{directory}/key", "--ready-fd", str(ready_fd)]
    return subprocess.Popen(["capsh", f"--drop={capability}", "--", "-c", 'exec "$@"', "sh", *words], stderr=subprocess.PIPE,
                            text=True, pass_fds=[ready_fd])


@pytest.mark.parametrize("capability", ["cap_setgid", "cap_setuid", "cap_setgid,cap_setuid"])
def test_root_that_cannot_become_its_callers_does_not_start(directory, capability):
    read, write = os.pipe()
    nfsd = start(directory, capability, write)
    os.close(write)
    said = nfsd.communicate(timeout=DEADLINE_S)[1]
    os.close(read)
    assert nfsd.returncode == 1
    assert len(said.splitlines()) == 1, said
    assert capability.upper().replace(",", ", ") in said
    assert not (directory / "s").exists()


@pytest.mark.parametrize("capability", [
    "cap_chown", "cap_dac_override", "cap_dac_read_search", "cap_fowner", "cap_mknod", "cap_kill", "cap_setpcap",
    "cap_sys_chroot", "cap_net_bind_service", "cap_sys_resource", "cap_ipc_lock"])
def test_it_serves_without_any_other_and_ends_by_term(directory, capability):
    read, write = os.pipe()
    nfsd = start(directory, capability, write)
    os.close(write)
    assert select.select([read], [], [], DEADLINE_S)[0]
    assert os.read(read, 64).startswith(b"READY ")
    os.close(read)
    nfsd.terminate()
    said = nfsd.communicate(timeout=DEADLINE_S)[1]
    assert nfsd.returncode == 0
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2, said
