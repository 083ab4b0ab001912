"""The corpus: exports files, each with the table or the errors that it must give.

A case in corpus/*.txt:

    linux: /a host (rw)          dialect (linux, bsd or guess), the file; ⏎ stands for a new line, ␉ for a tab, ␛ for a CR
      ! 1:9 a blank between      an error with line, column and the begin of its text
      ~ 1:3 options without      a warning
      = /a | host host ro ...    an entry (see summary.py); there are no others
"""
from __future__ import annotations

from pathlib import Path

import pytest

from mountd.exports import parse_text
from mountd.exports_model import Diagnostic, Dialect

from .summary import summary

CORPUS = Path(__file__).parent / "corpus"
SIGNS = {"⏎": "\n", "␉": "\t", "␛": "\r", "␀": "\0"}


def cases() -> list[tuple[str, str, list[str]]]:
    """(place, header line, expectations) of every case of every file."""
    found: list[tuple[str, str, list[str]]] = []
    for path in sorted(CORPUS.glob("*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("  "):
                found[-1][2].append(line[2:])
            elif line and not line.startswith("#"):
                found.append((f"{path.stem}:{number}", line, []))
    return found


def outcome(header: str) -> list[str]:
    """What the parser says, in the words of the corpus."""
    name, _, text = header.partition(": ")
    for sign, char in SIGNS.items():
        text = text.replace(sign, char)
    parsed = parse_text(text.encode("utf-8", "surrogateescape"), "f", None if name == "guess" else Dialect(name))
    said = [_said(d) for d in sorted(parsed.diagnostics, key=lambda d: (d.where, d.what))]
    return said if parsed.errors else [*said, *("= " + summary(entry) for entry in parsed.entries)]


def _said(d: Diagnostic) -> str:
    return f"{'!' if d.error else '~'} {d.where.line}:{d.where.column} {d.what}"


@pytest.mark.parametrize(("place", "header", "expected"), cases(), ids=[case[0] for case in cases()])
def test_file_gives_its_table_or_its_errors(place: str, header: str, expected: list[str]) -> None:
    """exports(5) of both dialects; design: an error has file, line, column and what was expected."""
    assert outcome(header) == expected


def test_corpus_has_at_least_300_files() -> None:
    assert len(cases()) >= 300
