"""Versions 2 of NFS and NFS_ACL as a foreign decoder sees them: every procedure once, no malformed message."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.tools.capture import Capture, why_not
from tests.tools.nfs2 import Nfs2, Sattr
from tests.tools.nfsacl import ACL, DEFAULT, GROUP_OBJ, OTHER, USER_OBJ, NfsAcl
from tests.tools.rpc import Tcp, Udp

from .conftest import Spot

REASON = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(REASON), reason=REASON)]


def session(spot: Spot) -> None:
    nfs, fh = spot.nfs, spot.fh
    nfs.null()
    file = nfs.create(fh, b"file", Sattr(mode=0o100640, size=0)).must().fh
    nfs.write(file, b"five5").must()
    nfs.read(file).must()
    nfs.getattr(file).must()
    nfs.setattr(file, Sattr(mode=0o600, atime=(1, 2), mtime=(3, 4))).must()
    nfs.symlink(fh, b"link", b"file").must()
    nfs.readlink(nfs.lookup(fh, b"link").must().fh).must()
    nfs.mkdir(fh, b"dir").must()
    nfs.link(file, fh, b"second").must()
    nfs.rename(fh, b"second", fh, b"third").must()
    nfs.readdir(fh).must()
    nfs.statfs(fh).must()
    nfs.remove(fh, b"third").must()
    nfs.rmdir(fh, b"dir").must()
    assert nfs.lookup(fh, b"none").status


def acl_session(spot: Spot) -> None:
    acl, entries = NfsAcl(spot.nfs.transport, vers=2), ((USER_OBJ, 0, 7), (GROUP_OBJ, 0, 5), (OTHER, 0, 5))
    acl.raw(0)
    assert acl.setacl(spot.fh, ACL | DEFAULT, entries, entries).status == 0
    assert acl.getacl(spot.fh).status == 0
    assert acl.getattr2(spot.fh).status == 0
    assert acl.access2(spot.fh, 0x3F).status == 0


def port_of(nfs: Nfs2) -> int:
    assert isinstance(nfs.transport, Tcp | Udp)
    return int(nfs.transport.sock.getpeername()[1])


def decoded_names(path: Path, port: int) -> list[str]:
    """What tshark calls the procedures and the file in the replies."""
    fields = ["-e", "nfs.name", "-e", "nfs.data", "-e", "nfs.readlink.data"]
    ports = ["-d", f"tcp.port=={port},rpc", "-d", f"udp.port=={port},rpc"]
    done = subprocess.run(["tshark", "-r", str(path), *ports, "-T", "json", *fields], capture_output=True, text=True, check=True)
    return [name for packet in json.loads(done.stdout) for name in packet["_source"].get("layers", {}).get("nfs.name", [])]


def test_every_procedure_decodes(spot: Spot, tmp_path: Path) -> None:
    with Capture(tmp_path / "x.pcapng", [port_of(spot.nfs)]) as capture:
        session(spot)
    assert capture.faults() == []
    found = capture.decoded()
    assert (found["calls"], found["replies"]) == (17, 17), found
    assert {"file", "link", "dir", "third"} <= set(decoded_names(tmp_path / "x.pcapng", port_of(spot.nfs)))


def test_every_acl_procedure_decodes(spot: Spot, tmp_path: Path) -> None:
    with Capture(tmp_path / "x.pcapng", [port_of(spot.nfs)]) as capture:
        acl_session(spot)
    assert capture.faults() == []
    found = capture.decoded()
    assert (found["calls"], found["replies"]) == (5, 5), found
