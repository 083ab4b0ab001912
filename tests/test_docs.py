"""What the documents say: every link leads somewhere, every command's options exist.

Commands are the lines of code blocks and the code spans of the Markdown pages, and the displays of the manual pages.  An option
exists when the program's own help names it.  What other people's programs are told is not looked at.
"""
from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("lab/*.md"), *ROOT.glob("bench/*.md"),
                *ROOT.glob("nfssvc_shim/*.md")])
MANUALS = sorted((ROOT / "man").glob("*.[1-8]"))
MODULES = {"nfsd": "nfsd_master", "unfsd": "nfsd_master.unfsd", "mountd": "mountd", "showmount": "mountd.showmount",
           "portmap": "portmap", "rpcinfo": "portmap.rpcinfo", "nfsstat": "nfsstat"}
SHORT_HELP = {"unfsd", "showmount", "rpcinfo"}  # -h; the others have --help
VERBS = {"nfsd": ("share", "trace"), "mountd": ("why", "convert")}  # with options of their own
ENDS = {"|", "||", "&&", ";", "&", ">", "2>", "<", ">>"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As the usual forges make them from headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def code(page: Path) -> Iterator[str]:
    """Lines of code blocks without their prompts, and code spans."""
    inside = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            yield re.sub(r"^\s*([$#] )?", "", line)
        else:
            yield from re.findall(r"`([^`]+)`", line)


def displays(page: Path) -> Iterator[str]:
    """`.Dl` lines and literal displays of a manual page."""
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith((".Bd -literal", ".Ed")):
            inside = line.startswith(".Bd")
        elif inside or line.startswith(".Dl "):
            yield re.sub(r"^(\.Dl )?([$#] )?", "", line)


def commands(line: str) -> Iterator[list[str]]:
    """Words of each command of ours in a line of shell."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        return  # prose or output with a quote in it
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ENDS:
            if command:
                yield command
            command = []
        elif command or not re.match(r"^\w+=|^(sudo|time|exec|nice)$", word):
            command.append(word)


def program(command: list[str]) -> str | None:
    """Our program that a command calls, by whatever path; None for anybody else's."""
    first = command[0]
    if first.removeprefix(".venv/bin/").rpartition("/")[2] in MODULES and not first.startswith("/usr/lib/"):
        return first.rpartition("/")[2]
    return first if re.match(r"^(\./)?(bench|lab|tools)/[\w/.]+$", first) else None


@functools.cache
def help_of(called: str, verb: str = "") -> str:
    if called in MODULES:
        argv = [sys.executable, "-m", MODULES[called], *([verb] if verb else []), "-h" if called in SHORT_HELP else "--help"]
    else:
        path = ROOT / called
        assert path.exists(), f"{called} is not in the tree"
        python = "python" in path.read_text()[:40]
        argv = [sys.executable, str(path), *([verb] if verb else []), "--help"] if python else ["cat", str(path)]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    return ran.stdout + ran.stderr


def unknown(command: list[str], called: str) -> list[str]:
    """Options of a command that its program's help does not name."""
    verb = next((word for word in command[1:] if word in VERBS.get(called, ("run", "check", "shell", "build"))), "")
    told = help_of(called, verb)
    known = set(re.findall(r"(?<![\w-])--?[A-Za-z0-9][\w-]*", told))
    letters = set(re.findall(r"(?<![\w-])-([A-Za-z0-9])\b", told)) | set("".join(re.findall(r"\[-([A-Za-z0-9]+)\]", told)))
    missing = []
    for word in command[1:command.index("--") if "--" in command else None]:
        option = re.match(r"^(--[a-z][\w-]*|-[A-Za-z0-9]+)", word.strip("[](),.…"))
        if option and option[0] not in known and not (word[1] != "-" and word[1] in letters):
            missing.append(word)
    return missing


@pytest.mark.parametrize("page", [*PAGES, *MANUALS], ids=name)
def test_every_option_that_is_told_exists(page: Path) -> None:
    lines = code(page) if page.suffix == ".md" else displays(page)
    found = [(words, called) for line in lines for words in commands(line.partition("  #")[0]) if (called := program(words))]
    assert [(" ".join(words), lost) for words, called in found if (lost := unknown(words, called))] == []


def test_every_make_target_that_is_told_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    told = {words[1] for page in PAGES for line in code(page) for words in commands(line.partition("  #")[0])
            if words[0] == "make" and len(words) > 1 and not words[1].startswith("-")}
    assert told
    assert told - targets == set()


def test_an_option_that_does_not_exist_is_seen() -> None:
    words = next(commands("FOO=1 .venv/bin/nfsstat --no-such -s | head -3"))
    assert (program(words), unknown(words, "nfsstat")) == ("nfsstat", ["--no-such"])
