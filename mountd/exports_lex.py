"""Logical lines and words of an exports(5) file, for both dialects.

Duty: text in, words with their place (line and column) out.  A backslash at the end of a line joins it with the next; `#` at the
begin of a word starts a comment; double quotes and \\ooo (three octal digits) write what a word could not hold otherwise.
"""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .exports_model import MAX_FILE, MAX_LINE, Parsed, Where, Wrong, printable

_OCTAL = re.compile(r"\\([0-3][0-7]{2})")
_BLANK = re.compile(r"[ \t]+")
_WORD = re.compile(r"[^ \t]+")
_PLAIN = re.compile(r'[^ \t"\\]+')


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line; `starts` are (offset in text, line number, column of that offset) of its pieces."""

    file: str
    text: str
    starts: tuple[tuple[int, int, int], ...]

    def where(self, offset: int) -> Where:
        for start, number, column in reversed(self.starts):
            if offset >= start:
                return Where(self.file, number, column + offset - start)
        return Where(self.file, self.starts[0][1])


@dataclass(frozen=True, slots=True)
class Word:
    """A word: `text` with quotes and escapes undone, `raw` as written, its offset in the line, and whether it was quoted."""

    text: str
    raw: str
    offset: int
    line: Line
    quoted: bool = False

    def where(self, inside: int = 0) -> Where:
        """The place of character `inside` of the word."""
        return self.line.where(self.offset + inside)

    def path(self) -> bytes:
        return self.text.encode("utf-8", "surrogateescape")


def decode(data: bytes, file: str, out: Parsed) -> str:
    """The file's text, or "" with an error in `out`: too long, or with control characters."""
    if len(data) > MAX_FILE:
        out.error(Where(file, 1), f"the file has {len(data)} bytes", f"at most {MAX_FILE}")
        return ""
    text = data.decode("utf-8", "surrogateescape")
    bad = re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    if not bad:
        return text
    line = text.count("\n", 0, bad.start()) + 1
    column = bad.start() - text.rfind("\n", 0, bad.start())
    what = "carriage return: a file with DOS line ends" if bad.group() == "\r" else f"control character {printable(bad.group())}"
    out.error(Where(file, line, column), what, "text")
    return ""


def logical_lines(text: str, file: str, out: Parsed) -> Iterator[Line]:
    """Lines with continuations joined, comments and blank lines left out."""
    pieces: list[str] = []
    starts: list[tuple[int, int, int]] = []
    length = 0
    for number, raw in enumerate(text.split("\n"), 1):
        joined = raw.endswith("\\")
        piece = raw[:-1] if joined else raw
        starts.append((length, number, 1))
        pieces.append(piece)
        length += len(piece)
        if joined:
            continue
        yield from _finish("".join(pieces), tuple(starts), file, out)
        pieces, starts, length = [], [], 0
    if pieces:
        yield from _finish("".join(pieces), tuple(starts), file, out)


def _finish(text: str, starts: tuple[tuple[int, int, int], ...], file: str, out: Parsed) -> Iterator[Line]:
    line = Line(file, text, starts)
    if len(text) > MAX_LINE:
        out.error(line.where(0), f"a line of {len(text)} characters", f"at most {MAX_LINE}")
    elif text.lstrip(" \t").startswith("#"):
        if len(starts) > 1:
            out.warn(line.where(starts[1][0]), "this line belongs to the comment above, which ends with a backslash")
    elif text.strip(" \t"):
        yield line


def words(line: Line) -> list[Word]:
    """The words up to a comment.  Raises Wrong for an open quote or an escape that is none."""
    if '"' not in line.text and "\\" not in line.text:
        return _plain_words(line)
    found: list[Word] = []
    text, pos, end = line.text, 0, len(line.text)
    while pos < end:
        blank = _BLANK.match(text, pos)
        if blank:
            pos = blank.end()
        elif text[pos] == "#":
            break
        else:
            word = _word(line, pos)
            found.append(word)
            pos += len(word.raw)
    return found


def _plain_words(line: Line) -> list[Word]:
    """The words of a line without quotes and escapes: nearly all lines of a large file."""
    found: list[Word] = []
    for match in _WORD.finditer(line.text):
        raw = match.group()
        if raw.startswith("#"):
            break
        found.append(Word(raw, raw, match.start(), line))
    return found


def _word(line: Line, begin: int) -> Word:
    text, pos, parts, quoted = line.text, begin, [], False
    while pos < len(text) and text[pos] not in " \t":
        plain = _PLAIN.match(text, pos)
        if plain:
            parts.append(plain.group())
            pos = plain.end()
        elif text[pos] == '"':
            if parts:
                raise Wrong(line.where(pos), "a quote inside a word", "quotes around the whole path")
            inner, pos = _quoted(line, pos)
            parts.append(inner)
            quoted = True
            if text[pos:pos + 1] not in ("", " ", "\t"):
                raise Wrong(line.where(pos), "text right after a quoted path", "a blank after the quote")
        else:
            char, pos = _octal(line, pos)
            parts.append(char)
    return Word(_bytes_to_text("".join(parts)), text[begin:pos], begin, line, quoted)


def _quoted(line: Line, begin: int) -> tuple[str, int]:
    close = line.text.find('"', begin + 1)
    if close < 0:
        raise Wrong(line.where(begin), "a quote that is not closed", 'a second "')
    parts, pos = [], begin + 1
    while pos < close:
        if line.text[pos] == "\\":
            char, pos = _octal(line, pos)
            parts.append(char)
        else:
            parts.append(line.text[pos])
            pos += 1
    return "".join(parts), close + 1


def _octal(line: Line, pos: int) -> tuple[str, int]:
    match = _OCTAL.match(line.text, pos)
    if not match:
        raise Wrong(line.where(pos), "a backslash that escapes nothing", "three octal digits, as in \\040 for a blank")
    code = int(match.group(1), 8)
    if code == 0:
        raise Wrong(line.where(pos), "a NUL byte", "a path without NUL")
    return chr(code) if code < 0x80 else chr(0xDC00 + code), match.end()


def _bytes_to_text(text: str) -> str:
    """Escaped bytes and characters brought to one form, so that \\303\\244 and the character itself are the same path."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") if text.isascii() is False else text
