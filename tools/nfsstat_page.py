#!/usr/bin/env python3
"""Writes docs/nfsstat.md: the output of every flag of nfsstat, from the server that runs now ($NFSSVC_SOCKET).

usage: tools/nfsstat_page.py > docs/nfsstat.md      while clients do something
"""
from __future__ import annotations

import subprocess
import sys

LONG = 40   # lines of one output that are shown
SHOWN = (
    ("The server, in macOS' layout", "-s"),
    ("Exported directories", "-e"),
    ("Active users", "-u -n net -n user"),
    ("Replies by status", "-E"),
    ("Workers", "-W"),
    ("Latency", "-L"),
    ("Every second", "-w 1 --rounds 3"),
    ("4.4BSD and OpenBSD", "--bsd"),
    ("FreeBSD", "--freebsd"),
    ("FreeBSD's JSON", "--libxo json"),
    ("Linux", "--linux"),
    ("Linux, everything", "--linux -o all"),
    ("Linux, as a list", "-l"),
    ("Linux' /proc/net/rpc/nfsd", "--proc"),
    ("JSON", "-f JSON"),
    ("Exported directories, JSON", "-e -f JSON"),
    ("Active users, JSON", "-u -n net -n user -f JSON"),
    ("The live screen, without a terminal", "top -w 1 --rounds 1"),
    ("Prometheus", "prom"),
    ("Health", "check"),
)

REST = """
## What has no output of its own

| | |
| --- | --- |
| `-z` | zeroes all counters (root, and the user the server runs as); prints nothing |
| `-c` | the client's counters are its kernel's: one line on standard error, exit status 2 |
| `-3`, `-s` | as without: version 3, the server |
| `-n net`, `-n user` | addresses, users as numbers; with `-u` and `top` |
| `serve --listen ADDR:PORT` | what `prom` prints, at `http://ADDR:PORT/metrics` |
| `top` on a terminal | [the live screen](pictures/nfsstat-top.png) |
"""


def output(words: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "nfsstat", *words.split()], capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in ran.stdout.splitlines()]
    return "\n".join(lines if len(lines) <= LONG else [*lines[:LONG], f"... {len(lines) - LONG} more lines"])


def main() -> None:
    print("# nfsstat, every flag\n\nRecorded by `tools/nfsstat_page.py`; the options are in [nfsstat(1)](../man/nfsstat.1),\n"
          "the shape of the JSON in [nfsstat.schema.json](nfsstat.schema.json),\n"
          "a dashboard and alerts for Prometheus in [prometheus/](prometheus/).")
    for title, words in SHOWN:
        print(f"\n## {title}\n\n```\n$ nfsstat {words}\n{output(words)}\n```")
    print(REST, end="")


if __name__ == "__main__":
    main()
