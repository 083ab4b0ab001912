"""What is said about missing capabilities."""
from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from nfsd_master.capability import missing; print('\\n'.join(missing()))"


def said(*prefix: str) -> list[str]:
    done = subprocess.run([*prefix, sys.executable, "-c", CODE], cwd=Path(__file__).parents[2], text=True, capture_output=True,
                          check=True)
    return done.stdout.splitlines()


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("capsh"), reason="needs capsh(1)")
def test_each_missing_capability_is_named_with_its_loss():
    assert said("capsh", "--drop=cap_mknod,cap_setuid,cap_setgid", "--", "-c", 'exec "$@"', "sh") == [
        "CAP_SETGID, CAP_SETUID missing: every call runs as this process", "CAP_MKNOD missing: no device nodes"]
