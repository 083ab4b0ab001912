"""The table of attacks in README.md: every row has a test, and each test that is named exists."""
from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = [f"E{n:02}" for n in range(1, 21, 2)] + [f"P{n:02}" for n in range(1, 12, 2)]
_TEST = re.compile(r"`([./\w]+\.py)::(\w+)`")


def test_every_row_names_tests_that_exist() -> None:
    found = {}
    for line in (HERE / "README.md").read_text().splitlines():
        row = re.match(r"\| ([EP]\d\d) \|", line)
        if row:
            found.setdefault(row.group(1), []).extend(_TEST.findall(line))
    assert list(found) == ROWS
    for row, tests in found.items():
        assert tests, row
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (HERE / file).read_text(), re.M), f"{row}: {file}::{name}"
