"""Blocks of titled numbers: the shape that BSD's nfsstat prints, and its JSON.

A block is a title and rows of (name, value); a layout says how many a line and how wide.  Called by: macos.py, bsd.py.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    title: str
    rows: Sequence[Row]


def lines(rows: Sequence[Row], per_line: int, width: int, gap: str) -> list[str]:
    """Headers right aligned and cut to `width`, values below them; `gap` after each."""
    out = []
    for at in range(0, len(rows), per_line):
        piece = rows[at:at + per_line]
        out.append("".join(f"{name[:width]:>{width}}{gap}" for name, _ in piece))
        out.append("".join(f"{value:>{width}}{gap}" for _, value in piece))
    return out


def as_object(blocks: Sequence[Block]) -> dict[str, dict[str, int]]:
    return {block.title: dict(block.rows) for block in blocks}
