"""What the tests of the benchmark programs share."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def nfsload() -> ModuleType:
    """bench/nfsload.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("nfsload", BENCH / "nfsload.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nfsload"] = module
    spec.loader.exec_module(module)
    return module
