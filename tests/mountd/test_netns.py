"""Runs netns_cases.py in network and mount namespaces of its own: loopback only, port 111 free, /run empty, a copy of /etc."""
from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from .conftest import TREE

SET_UP = """
set -e
mount -t tmpfs none /run
ip link set lo up
ip addr add 192.0.2.1/32 dev lo
ip link add v0 type veth peer name v1
ip netns add outside
ip link set v1 netns outside
ip addr add 198.51.100.1/24 dev v0
ip link set v0 up
ip netns exec outside ip addr add 198.51.100.2/24 dev v1
ip netns exec outside ip link set v1 up
cp -a /etc /run/etc
mount --bind /run/etc /etc
rm -f /etc/resolv.conf
printf 'nameserver 127.0.0.1\\noptions timeout:5 attempts:6\\n' > /etc/resolv.conf
exec "$@"
"""


@pytest.mark.root
def test_cases_that_need_a_network_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    base = tmp_path_factory.mktemp("netns")
    done = subprocess.run(["unshare", "--net", "--mount", "sh", "-c", SET_UP, "sh", sys.executable, "-m", "pytest", "-q", "-p",
                           "no:cacheprovider", f"--basetemp={base}/t", "tests/mountd/netns_cases.py"], cwd=TREE,
                          capture_output=True, text=True, timeout=180, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
