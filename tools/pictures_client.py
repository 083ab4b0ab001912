"""What clients do while tools/pictures takes its pictures: calls that are worth to be looked at, from addresses of a network."""
from __future__ import annotations

import json
import os
import signal
import sys

from nfssvc_shim.call import nfssvc
from nfssvc_shim.flags import Nfssvc
from tests.tools.nfs3 import Mount, Nfs3, connect
from tests.tools.rpc import auth_sys

SERVER = ("192.0.2.1", 2049)


def client(host: int, port: int, uid: int, proto: str = "tcp") -> Nfs3:
    return Nfs3(connect(SERVER, proto=proto, source=f"192.0.2.{host}", source_port=port), auth_sys(uid, uid))


def trace() -> None:
    """Two users over TCP, one over UDP."""
    root = Mount(connect(SERVER, source="192.0.2.7", source_port=911), auth_sys(0, 0)).mnt(b"/srv/data").fh
    anna, otto, paul = client(7, 833, 1000), client(23, 702, 1001), client(40, 1019, 1002, "udp")
    anna.fsinfo(root)
    anna.getattr(root)
    letters = anna.lookup(root, b"letters").fh
    anna.access(letters, 63)
    anna.readdirplus(letters, dircount=512, maxcount=8192)
    photo = anna.lookup(letters, b"photo.jpg").fh
    anna.read(photo, 0, 131072)
    anna.read(photo, 131072, 131072)
    otto.access(root, 63)
    otto.lookup(root, b"nothing here")
    draft = otto.create(letters, b"draft.txt", mode=1).fh
    otto.write(draft, b"x" * 32768, stable=0)
    otto.commit(draft)
    paul.getattr(root)
    otto.rename(letters, b"draft.txt", letters, b"final.txt")
    otto.remove(root, b"README")
    paul.null()


def log() -> None:
    """A worker that is killed."""
    slots = json.loads(nfssvc(Nfssvc.STATUS))["slots"]
    os.kill(slots[1]["pid"], signal.SIGKILL)


if __name__ == "__main__":
    {"trace": trace, "log": log}[sys.argv[1]]()
