"""The shared state: state.h against state.py, and what makes a file be believed."""
from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nfssvc_shim import state

HEADER = Path(__file__).parents[2] / "nfssvc_shim" / "state.h"
RENAMED = {"STATE_SIZE": "SIZE"}


def c_values() -> dict[str, int]:
    """Every #define of state.h that is an expression of numbers and earlier names."""
    values: dict[str, int] = {}
    for name, text in re.findall(r"^#define (\w+) ([^/\n]+)", HEADER.read_text(), re.MULTILINE):
        values[name] = int(eval(text, {"__builtins__": {}}, values))
    return values


@pytest.mark.parametrize("name", sorted(c_values()))
def test_state_h_and_state_py_agree(name: str) -> None:
    assert getattr(state, RENAMED.get(name, name)) == c_values()[name]


def test_every_word_of_state_py_is_in_state_h() -> None:
    words = {name for name in vars(state) if re.fullmatch(r"[HSC]_[A-Z0-9_]+", name)}
    assert words - set(c_values()) == set()


def test_state_of_another_boot_or_layout_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fd = state.open_state(path)
    os.pwrite(fd, b"\7", state.OFF_SLOTS)
    os.close(fd)
    fd = state.open_state(path)
    assert os.pread(fd, 1, state.OFF_SLOTS) == b"\7"
    os.pwrite(fd, b"X", 20)  # within the boot id
    os.close(fd)
    fd = state.open_state(path)
    assert os.pread(fd, 1, state.OFF_SLOTS) == b"\0"
    verifier = os.pread(fd, 8, state.H_VERIFIER * 8)
    assert verifier != bytes(8)
    os.close(fd)


def test_state_behind_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        state.open_state(tmp_path / "state")
    assert not (tmp_path / "elsewhere").exists()


def test_foreign_file_is_not_mapped(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, state.SIZE)
    with pytest.raises(ValueError, match="not a state file"):
        state.State(fd)
    os.close(fd)
