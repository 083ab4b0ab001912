"""mountd with the real nfsd and workers: what a reload means for clients that have mounted."""
from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.nfs3 import Nfs3Stat
from tests.tools.servers import ServerSet

from .conftest import wait_until

N_RELOADS = int(os.environ.get("MOUNTD_RELOADS", "40"))  # 1000 takes minutes; each must show the same


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory with a short name, for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="mtd-") as name:
        path = Path(name)
        path.chmod(0o755)
        for part in ("kept", "changed", "comes", "run"):
            (path / part).mkdir()
        yield path


def hup_and_wait(server: ServerSet, text: str) -> None:
    """Returns when mountd says that it has loaded the files."""
    before = server.log().count("exports loaded")
    server.exports_file.write_text(text)
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: server.log().count("exports loaded") > before, "reload", server.log)


def test_client_of_an_unchanged_export_sees_no_error_over_reloads(base: Path) -> None:
    """Issue: HUP under load with exports added, changed and removed; a removed one stops."""
    kept = f"{base}/kept 127.0.0.1(rw,insecure,no_root_squash)\n"
    variants = [kept, kept + f"{base}/changed *(ro,insecure)\n{base}/comes *(rw,insecure)\n",
                kept + f"{base}/changed *(rw,insecure)\n"]
    with ServerSet(base / "run", variants[1]) as server:
        fh, other = server.root(base / "kept"), server.root(base / "comes")
        client = server.client()
        for i in range(N_RELOADS):
            hup_and_wait(server, variants[i % 3])
            for _ in range(5):
                assert client.getattr(fh).status == Nfs3Stat.OK
        hup_and_wait(server, kept)
        wait_until(lambda: client.getattr(other).status != Nfs3Stat.OK, "end of the removed export")
        assert client.getattr(other).status in (Nfs3Stat.STALE, Nfs3Stat.ACCES, Nfs3Stat.BADHANDLE)
        assert client.getattr(fh).status == Nfs3Stat.OK
        client.close()


def test_handles_survive_a_restart_of_everything(base: Path) -> None:
    """Export ids and keys are kept: a client goes on after the machine's daemons were restarted."""
    text = f"{base}/kept 127.0.0.1(rw,insecure)\n{base}/comes *(ro,insecure)\n"
    with ServerSet(base / "run", text) as server:
        fh = server.root(base / "kept")
    with ServerSet(base / "run", text.splitlines()[1] + "\n" + text.splitlines()[0] + "\n") as server:
        client = server.client()
        assert client.getattr(fh).status == Nfs3Stat.OK
        client.close()


def test_mountd_that_is_killed_comes_back_and_answers_who_waited(base: Path) -> None:
    """MOUNT on the NFS port: no error while there is no mountd, which would end a mount(8)."""
    with ServerSet(base / "run", f"{base}/kept *(ro,insecure)\n") as server:
        fh = server.root(base / "kept")
        victim = next(pid for pid in server.pids() if "mountd: privileged" in _title(pid))
        os.kill(victim, signal.SIGKILL)
        client = server.client()
        assert client.getattr(fh).status == Nfs3Stat.OK
        client.close()
        assert server.root(base / "kept") == fh  # the call waits for the next mountd


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
