"""What went over loopback, judged by a foreign decoder: dumpcap captures, tshark decodes, faults are counted.

    with Capture(tmp_path / "x.pcapng", [port]) as capture: ...   # traffic to and from these ports
    assert capture.faults() == []

    python -m tests.tools.capture --port 2049 --port 111 -- COMMAND...   the same around a command; exit 1 on faults

Begin and end are certain without waiting a fixed time: a datagram of our own to a port of our own is sent until
the file holds it (dumpcap runs), and once more at the end (all that came before it is in the file).
The judging is `lab/vmlab check`, which needs tshark alone.  It leaves our datagrams out: to tshark, one in 230 of random bytes
is a malformed RTCP or another protocol that it knows by its looks.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VMLAB = Path(__file__).resolve().parents[2] / "lab" / "vmlab"
LIMIT_S = 60.0   # to start, and to write what came: on a busy machine, too


def why_not() -> str:
    """The reason why nothing can be captured here, for a skip; empty when it can."""
    for tool in ("dumpcap", "tshark"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    done = subprocess.run(["dumpcap", "-q", "-i", "lo", "-a", "duration:0", "-w", os.devnull], capture_output=True, text=True)
    if done.returncode:
        return "dumpcap may not capture on lo: " + (done.stderr.strip().splitlines() or ["?"])[-1]
    return ""


class Capture:
    """dumpcap on loopback, from enter to exit, for TCP and UDP of some ports."""

    def __init__(self, path: Path, ports: list[int], *, interface: str = "lo", buffer_mib: int = 64) -> None:
        self.path, self.ports, self.interface, self.buffer_mib = path, ports, interface, buffer_mib
        self.process: subprocess.Popen[bytes] | None = None
        self.dropped = 0   # packets that came and are not in the file, as dumpcap counts them at its end
        self.mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.mark.bind(("127.0.0.1", 0))
        self.mark_port = self.mark.getsockname()[1]

    def __enter__(self) -> Capture:
        wanted = " or ".join(f"port {p}" for p in [*self.ports, self.mark_port])
        self.path.touch()  # dumpcap may have given up the rights to make it
        command = ["dumpcap", "-q", "-i", self.interface, "-B", str(self.buffer_mib), "-f", wanted, "-w", str(self.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self._await_mark()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._await_mark()
        finally:
            self._stop()

    def _await_mark(self) -> None:
        """Returns when a datagram sent after this call began is in the file."""
        assert self.process is not None
        token, end, since = self._token(), time.monotonic() + LIMIT_S, self.path.stat().st_size
        while token not in self._tail(since):
            if self.process.poll() is not None:
                assert self.process.stderr is not None
                raise RuntimeError("dumpcap ended: " + self.process.stderr.read().decode(errors="replace"))
            if time.monotonic() > end:
                raise TimeoutError(f"dumpcap wrote nothing within {LIMIT_S} s")
            self.mark.sendto(token, self.mark.getsockname())
            time.sleep(0.05)  # dumpcap writes its file out every half second

    @staticmethod
    def _token() -> bytes:
        """What no other datagram holds."""
        return os.urandom(24)

    def _tail(self, offset: int) -> bytes:
        with self.path.open("rb") as f:
            f.seek(offset)
            return f.read()

    def _stop(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        self.process.terminate()
        said = self.process.communicate(timeout=LIMIT_S)[1].decode(errors="replace")
        lost = re.search(r"received/dropped on interface .*: \d+/(\d+)", said)
        self.dropped = int(lost[1]) if lost else 0
        self.mark.close()

    def decoded(self) -> dict[str, Any]:
        """`lab/vmlab check` of the file, and where that is: frames, calls, replies, malformed, unanswered_calls, expert, ...

        Raises RuntimeError when packets were dropped, or tshark cannot read the file.
        """
        if self.dropped:
            raise RuntimeError(f"{self.dropped} packets were dropped on their way to {self.path}; it tells nothing")
        ports = [word for p in self.ports for word in ("--rpc-port", str(p))] + ["--not-port", str(self.mark_port)]
        done = subprocess.run([sys.executable, str(VMLAB), "check", *ports, str(self.path)], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return {"file": str(self.path), **found}

    def faults(self) -> list[str]:
        """What is wrong with the traffic, or that there was none."""
        found = self.decoded()
        out = [f"malformed: {found['malformed']}"] if found["malformed"] else []
        errors = [e for e in found["expert"] if e["severity"] == "error"]
        out += [f"error in frame {e['first_frame']}: {e['message']}" for e in errors]
        if not found["calls"] or not found["replies"]:
            out.append(f"{found['calls']} calls, {found['replies']} replies")
        return [f"{fault} (in {self.path})" for fault in out]


def main() -> int:
    ap = argparse.ArgumentParser(prog="capture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--port", type=int, action="append", required=True)
    ap.add_argument("--keep", metavar="FILE", help="where the capture stays")
    ap.add_argument("command", nargs="+")
    args = ap.parse_args()
    if reason := why_not():
        print("capture:", reason, file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        with Capture(Path(args.keep or f"{tmp}/x.pcapng"), args.port) as capture:
            status = subprocess.run(args.command).returncode
        print(json.dumps(capture.decoded(), indent=2))
        return 1 if capture.faults() else status


if __name__ == "__main__":
    sys.exit(main())
