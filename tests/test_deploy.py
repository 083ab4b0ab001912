"""What is installed beside the programs: systemd units, manual pages, shell scripts."""
from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEADLINE_S = 30.0
UNITS = sorted(path.name for path in (ROOT / "systemd").glob("*.service"))
PAGES = sorted((ROOT / "man").glob("*.[1-8]"))
SCRIPTS = [ROOT / ".ci" / "run", ROOT / "tools" / "deps.sh", *sorted((ROOT / "tools" / "fresh").iterdir()),
           *sorted(p for p in (ROOT / "rc.d").iterdir() if p.is_file())]
# Goal of each unit's exposure (systemd-analyze security); nfsd must act as its callers.
EXPOSURE = {"portmap.service": 3.0, "mountd.service": 3.0, "nfsd.service": 5.0}
HELP = {"portmap.8": "portmap", "rpcinfo.8": "portmap.rpcinfo", "mountd.8": "mountd", "showmount.8": "mountd.showmount",
        "nfsd.8": "nfsd_master", "unfsd.8": "nfsd_master.unfsd", "nfsstat.1": "nfsstat"}


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that is there whatever is installed."""
    for path in (ROOT / "systemd").iterdir():
        text = re.sub(r"/usr/local/bin/\w+", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    return tmp_path


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_understood_by_systemd(units: Path, unit: str) -> None:
    analyze = need("systemd-analyze")
    user = ["--user"] if "user" in unit else []
    ran = subprocess.run([analyze, *user, "verify", "--recursive-errors=one", str(units / unit)], capture_output=True, text=True)
    complaints = [line for line in ran.stderr.splitlines() if unit in line]
    assert complaints == []


@pytest.mark.parametrize(("unit", "limit"), EXPOSURE.items())
def test_unit_is_not_more_exposed_than_its_goal(units: Path, unit: str, limit: float) -> None:
    command = [need("systemd-analyze"), "security", "--offline=true", str(units / unit)]
    ran = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", ran.stdout)
    if found is None:
        pytest.skip("this systemd-analyze knows no --offline")
    assert float(found[1]) <= limit


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_page_is_clean_mdoc(page: Path) -> None:
    ran = subprocess.run([need("mandoc"), "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True)
    assert ran.stdout == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_page_has_examples(page: Path) -> None:
    assert ".Sh EXAMPLES" in page.read_text()


@pytest.mark.parametrize(("page", "module"), HELP.items())
def test_every_option_of_the_help_is_in_the_manual(page: str, module: str) -> None:
    """Letters as `.Fl d`, also in a bundle (`.Op Fl dfl`); words as `Fl -name`."""
    option = "-h" if module.endswith(("rpcinfo", "showmount", "unfsd")) else "--help"
    ran = subprocess.run([sys.executable, "-m", module, option], capture_output=True, text=True, cwd=ROOT)
    said = ran.stdout + ran.stderr
    text = (ROOT / "man" / page).read_text()
    words = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", said)) - {"help", "version", "macos"}
    assert {word for word in words if f"-{word}" not in text} == set()
    documented = set("".join(re.findall(r"(?:Fl|Cm) ([A-Za-z0-9]+)\b", text)))
    letters = set(re.findall(r"(?<![\w-])-([A-Za-z0-9])\b", said)) - {"h"}
    assert letters - documented == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_shell_script_parses(script: Path, shell: str) -> None:
    subprocess.run([need(shell), "-n", str(script)], check=True)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory of programs as PATH would have them."""
    for name, module in HELP.items():
        program = tmp_path / name.partition(".")[0]
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("line", "expected"), [
    (["nfsd", "st"], {"start", "stop", "status"}), (["nfsd", "verbose", ""], {"up", "down"}),
    (["nfsd", "--stated"], {"--statedir"}), (["nfsstat", "-n", "u"], {"user"}),
    (["nfsstat", "--lin"], {"--linux"}), (["unfsd", "--work"], {"--workers"}),
    (["portmap", "--read"], {"--ready-fd"}), (["mountd", "--no-p"], {"--no-portmap"}),
    (["nfsd", "trace", "--pc"], {"--pcapng"}), (["mountd", "convert", "--dia"], {"--dialect"}),
])
def test_completion_offers_what_the_program_has(programs: Path, line: list[str], expected: set[str]) -> None:
    code = 'source "$1"; shift; COMP_WORDS=("$@"); _nfssvc "$1" "${@: -1}" "${@: -2:1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    script = str(ROOT / "completion" / "nfssvc.bash")
    ran = subprocess.run([need("bash"), "-c", code, "bash", script, str(programs / line[0]), *line[1:]], capture_output=True,
                         text=True, check=True)
    assert set(ran.stdout.split()) == expected


# A key that prints what stands in the line; `read''y` so that the echoed command itself is not taken for its output.
ZSH = """PS1=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D
show() {{ print -r -- "<$BUFFER>" }}; zle -N show; bindkey '^X' show; echo read''y
"""


@pytest.mark.parametrize(("line", "expected"), [
    ("nfsd verb", "<nfsd verbose >"), ("nfsd verbose u", "<nfsd verbose up >"), ("nfsd --stated", "<nfsd --statedir >"),
    ("unfsd --work", "<unfsd --workers >"), ("nfsstat -n us", "<nfsstat -n user >"),
    ("nfsd trace --pc", "<nfsd trace --pcapng >"),
])
def test_zsh_completes_what_the_program_has(programs: Path, line: str, expected: str) -> None:
    need("zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb"})
    try:
        os.write(terminal, ZSH.format(folder=ROOT / "completion").encode())
        read_until(terminal, b"ready\r\n")
        os.write(terminal, line.encode() + b"\t\x18")
        read_until(terminal, expected.encode())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def read_until(terminal: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], DEADLINE_S)[0], seen
        seen += os.read(terminal, 4096)
