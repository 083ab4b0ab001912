"""What every test can use, and what holds for all: root-only tests are skipped elsewhere, leaks fail."""
from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kills: ends or replaces workers itself")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`@pytest.mark.root` tests need uid 0: other identities, device nodes, kernel handles."""
    if os.geteuid() == 0:
        return
    for item in items:
        if "root" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs root"))
