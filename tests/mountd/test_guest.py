"""The kernel's own client and Debian's mount.nfs, in a guest of the laboratory, against our portmap, mountd and nfsd."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TREE

LAB = TREE / "lab" / "vmlab"
CACHE = Path(os.environ.get("VMLAB_CACHE", Path.home() / ".cache" / "vmlab"))
TIMEOUT_S = 150

GUEST = r"""
D=$(showmount -e server | awk 'NR==2{print $1}')
P=$(rpcinfo -p server | awk '$1==100005&&$2==3&&$3=="tcp"{print $4}')
try() { mount -t nfs -o "$1" "$2" /mnt 2>/dev/null && [ -e "/mnt/$3" ] && umount /mnt && echo "ok $1 $2" || echo "no $1 $2"; }
for o in vers=3,nolock vers=3,nolock,mountproto=udp vers=3,nolock,mountproto=tcp "vers=3,nolock,mountport=$P,port=2049"; do
    try $o server:$D hello
done
try vers=3,nolock server:$D/sub .
try vers=3,nolock,proto=tcp6,mountproto=tcp6 [fd99::1]:$D hello
try vers=3,nolock,proto=tcp6,mountproto=udp6 [fd99::1]:$D hello
try vers=3,nolock,noresvport server:$D hello
try vers=3,nolock server:${D%export}secret .
try vers=3,nolock server:/etc .
"""


@pytest.mark.root
def test_mount_nfs_of_a_guest_mounts_what_it_may_and_nothing_else() -> None:
    """MOUNT over TCP, UDP and IPv6, by the port mapper and by explicit ports; refused: another's export, no export, a source port
    that is not reserved."""
    if not CACHE.is_dir() or not any(CACHE.iterdir()):
        pytest.skip("the laboratory is not built: lab/vmlab build")
    done = subprocess.run([sys.executable, str(LAB), "run", "--engine", "uml", "--server",
                           f"bash {shlex.quote(str(Path(__file__).with_name('guest_server.sh')))}", "--", GUEST],
                          env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(TREE)}, capture_output=True, text=True,
                          timeout=TIMEOUT_S, check=False)
    verdicts = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("ok ", "no "))]
    print(done.stdout, done.stderr[-3000:])
    assert verdicts == ["ok"] * 7 + ["no"] * 3
