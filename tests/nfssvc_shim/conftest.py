"""Fixtures of the nfssvc tests: a call socket with fixed answers, the C library installed into a temporary tree."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .callserver import CallServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CallServer]:
    path = tmp_path / "nfssvc.sock"
    monkeypatch.setenv("NFSSVC_SOCKET", str(path))
    running = CallServer(path)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that `make install-lib` filled."""
    prefix = tmp_path_factory.mktemp("prefix")
    subprocess.run(["make", "-s", "-C", str(ROOT), "install-lib", f"PREFIX={prefix}",
                    f"BUILD={tmp_path_factory.mktemp('build')}", "DESTDIR="], check=True, env=os.environ | {"MAKEFLAGS": ""})
    return prefix
