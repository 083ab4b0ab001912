"""The C files of a bridge stand on one another: each calls those that its _build.py names before it, never one that comes later.

Reads the sources as text in the shape that they have: definitions begin in the first column, declarations end with a semicolon.
"""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEFINITION = re.compile(r"^(?!static\b|typedef\b|extern\b|return\b|#)[a-z_][\w \*]*?\b(\w+)\([^;]*$", re.M)
STATIC = re.compile(r"^static\b[^;={]*?\b(\w+)(?:\(|\[| =|;)", re.M)
ONE_LINE = re.compile(r"^(?!static\b)[a-z_][\w \*]*?\b(\w+)\(.*\) \{.*\}$", re.M)
NOT_CODE = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', re.S)


def sources(package: str) -> list[Path]:
    spec = importlib.util.spec_from_file_location(f"{package}_build", ROOT / package / "_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [ROOT / path for path in module.SOURCES]


def code(path: Path) -> str:
    return NOT_CODE.sub(" ", path.read_text())


@pytest.mark.parametrize(("package", "folder"), [("oncrpc", "engine"), ("nfsserver", ".")])
def test_every_c_file_is_built(package: str, folder: str) -> None:
    there = {path.resolve() for path in (ROOT / package / folder).glob("*.c") if not path.name.startswith("_")}
    assert {path.resolve() for path in sources(package)} == there


@pytest.mark.parametrize("package", ["oncrpc", "nfsserver"])
def test_no_c_file_calls_one_that_stands_above_it(package: str) -> None:
    texts = {path: code(path) for path in sources(package)}
    defined = {name: path for path, text in texts.items() for name in DEFINITION.findall(text) + ONE_LINE.findall(text)}
    assert len(defined) > 50, "the definitions are not found any more"
    order = list(texts)
    upward = []
    for path, text in texts.items():
        own = set(STATIC.findall(text))
        for name in set(re.findall(r"\b\w+\b", text)) - own:
            home = defined.get(name)
            if home and order.index(home) > order.index(path) and re.search(rf"\b{name}\b\s*[(,;)]", text):
                upward.append(f"{path.name} uses {name} of {home.name}")
    assert sorted(upward) == []
