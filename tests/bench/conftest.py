"""What the tests of the benchmark programs share."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def _loaded(name: str) -> ModuleType:
    """A module of bench/, which no package holds."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nfsload() -> ModuleType:
    return _loaded("nfsload")


@pytest.fixture(scope="module")
def crowd(nfsload: ModuleType) -> ModuleType:
    """With that nfsload."""
    return _loaded("crowd")
