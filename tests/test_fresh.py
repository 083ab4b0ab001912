"""The packages in a Debian that is thrown away: built, installed, used, removed (tools/fresh).

Each takes minutes and needs the network, so they run on request: NFSSVC_FRESH=1 [NFSSVC_FRESH_SUITE=trixie].
"""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FRESH = Path(__file__).parents[1] / "tools" / "fresh"

pytestmark = [
    pytest.mark.skipif(not os.environ.get("NFSSVC_FRESH"), reason="takes minutes and the network: NFSSVC_FRESH=1"),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mmdebstrap") or not shutil.which("slirp4netns"),
                       reason="needs root, mmdebstrap, slirp4netns"),
]


@pytest.mark.parametrize("trial", ["readme", "wheel", "deb", "systemd"])
def test_in_a_fresh_debian(trial: str) -> None:
    suite = os.environ.get("NFSSVC_FRESH_SUITE", "bookworm")
    ran = subprocess.run([FRESH / "root", "-s", suite, FRESH / trial], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
