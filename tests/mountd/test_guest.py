"""The kernel's own client and Debian's mount.nfs, in a guest of the laboratory, against our portmap, mountd and nfsd."""
from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TREE

LAB = TREE / "lab" / "vmlab"
CACHE = Path(os.environ.get("VMLAB_CACHE", Path.home() / ".cache" / "vmlab"))
TIMEOUT_S = 150

EXPORT = r"""
for i in $(seq 30); do D=$(showmount -e server | awk 'NR==2{print $1}'); [ -n "$D" ] && break; sleep 1; done
"""

GUEST = EXPORT + r"""
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


# The guest's own port mapper goes, ours takes its place.  A mount with locks starts rpc.statd and the kernel's lockd there.
MAPPER = EXPORT + r"""
kill $(pgrep rpcbind)
(cd portmap-tree && PYTHONPATH=. exec python3 -m portmap -f) & PORTMAP=$!
for i in $(seq 30); do rpcinfo -p >/dev/null 2>&1 && break; sleep 1; done
services() { rpcinfo -p | awk '$1==100024||$1==100021{print $1,$2,$3}' | sort -u | tr '\n' ';'; }
mount -t nfs -o vers=3 server:$D /mnt && echo "mounted $(services)"
umount /mnt && echo "unmounted $(services)"
kill $PORTMAP; wait $PORTMAP
"""


UDP = EXPORT + r"""
try() { mount -t nfs -o "vers=3,nolock,$1" "$2" /mnt && [ -e /mnt/hello ] && grep -q "proto=udp" /proc/mounts && umount /mnt \
        && echo "ok $1"; }
try proto=udp,mountproto=udp server:$D
try proto=udp,port=2049 server:$D
try proto=udp6,mountproto=udp6 [fd99::1]:$D
"""


def vmlab(command: str, *options: str, engine: str = "uml") -> str:
    """What the guest prints; skips where there is no laboratory."""
    if not CACHE.is_dir() or not any(CACHE.iterdir()):
        pytest.skip("the laboratory is not built: lab/vmlab build")
    server = f"bash {shlex.quote(str(Path(__file__).with_name('guest_server.sh')))}"
    done = subprocess.run([sys.executable, str(LAB), "run", "--engine", engine, "--server", server, *options, "--", command],
                          env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(TREE)}, capture_output=True, text=True,
                          timeout=TIMEOUT_S, check=False)
    print(done.stdout, done.stderr[-3000:])
    return done.stdout


@pytest.mark.root
def test_lockd_and_statd_of_a_guest_register_with_our_portmap_there(tmp_path: Path) -> None:
    """Kernel and nfs-utils find it on 111, and lockd unregisters after the last mount."""
    tree = tmp_path / "portmap-tree"
    for package in ("oncrpc", "portmap"):
        shutil.copytree(TREE / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("_cffi_backend", "prctl", "_prctl"):
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        shutil.copy(found.origin, tree)
    lines = vmlab(MAPPER, "--put", str(tree)).splitlines()
    mounted = next((line for line in lines if line.startswith("mounted ")), "")
    for program in ("100021 1", "100021 3", "100021 4", "100024 1"):
        assert f"{program} tcp;" in mounted
        assert f"{program} udp;" in mounted
    unmounted = next((line for line in lines if line.startswith("unmounted ")), "")
    assert "100024 1 tcp;" in unmounted
    assert "100021" not in unmounted


@pytest.mark.root
def test_mount_nfs_of_a_guest_over_udp() -> None:
    """Debian's kernels refuse it; the laboratory has a module that does not, for its qemu guests, which take a minute."""
    if not os.environ.get("MOUNTD_QEMU") or not (CACHE / "nfs-udp.ko").is_file():
        pytest.skip("set MOUNTD_QEMU=1, after lab/vmlab build --udp")
    assert vmlab(UDP, engine="qemu").count("ok ") == 3


@pytest.mark.root
def test_mount_nfs_of_a_guest_mounts_what_it_may_and_nothing_else() -> None:
    """MOUNT over TCP, UDP and IPv6, by the port mapper and by explicit ports; refused: another's export, no export, a source port
    that is not reserved."""
    verdicts = [line.split()[0] for line in vmlab(GUEST).splitlines() if line.startswith(("ok ", "no "))]
    assert verdicts == ["ok"] * 7 + ["no"] * 3
