"""The directory of an exports(5) line, checked as text."""
from __future__ import annotations

from .exports_lex import Word
from .exports_model import MAX_PATH, Wrong, printable


def check_export_path(word: Word) -> bytes:
    """The path of `word` without doubled or trailing slashes.  Raises Wrong: not absolute, too long, "." or ".." inside."""
    path = word.path()
    if not path.startswith(b"/"):
        raise Wrong(word.where(), f"{printable(word.raw[:80])} is no directory", "an absolute path first on the line")
    parts = [part for part in path.split(b"/") if part]
    if b".." in parts or b"." in parts:
        raise Wrong(word.where(), f"{printable(path[:80])} has a component '.' or '..'", "a path without them")
    if "(" in word.raw and word.raw.endswith(")") and not word.quoted:
        raise Wrong(word.where(), f"{printable(path[:80])}: options right after the directory", "a client between them")
    clean = b"/" + b"/".join(parts)
    if len(clean) > MAX_PATH:
        raise Wrong(word.where(), f"a path of {len(clean)} bytes", f"at most {MAX_PATH}")
    return clean
