"""One worker (`python -I -m nfsserver`) by itself: the test is its control half and gives it sockets and exports.

For what concerns the engine alone; tests/tools/servers.py starts a whole set.
"""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from nfssvc_shim import state
from nfssvc_shim.channel import Channel, Message
from nfssvc_shim.flags import Ex, Nx, Nxa
from nfssvc_shim.flags import Nfssvc as Flag
from nfssvc_shim.records import (
    Address,
    Cred,
    Export,
    ExportArgs,
    GetfhArgs,
    Net,
    NfsdArgs,
    pack_export_args,
    pack_getfh_args,
    pack_nfsd_args,
)
from oncrpc.xdr import Unpacker

from .rpc import Tcp, Udp

TREE = Path(__file__).resolve().parents[2]
START_S = 20.0
STOP_S = 10.0
_RUN = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); " \
       "runpy.run_module('nfsserver', run_name='__main__', alter_sys=True)"


NONE, PLAIN = Nx(0), Ex(0)


def everyone(flags: Nx = NONE) -> Net:
    """The world, as itself."""
    return Net(Nx.DEFAULTEXPORT | flags, Address(0), 0)


def export_of(path: Path, expid: int, flags: Ex = PLAIN, *nets: Net, index: bytes = b"", password: bytes = b"") -> Export:
    return Export(expid, os.fsencode(path), flags=flags, nets=nets or (everyone(),), index=index, password=password)


class OneWorker:
    """Slot 0, serving `exports`; use as a context manager."""

    def __init__(self, directory: Path, exports: list[Export], *options: str, wrapper: tuple[str, ...] = ()) -> None:
        """`wrapper`: words before the worker's command, which they must exec."""
        self.directory, self.options, self.wrapper = directory, options, wrapper
        self.log_file = directory / "log"
        self.exports: list[Export] = []
        self.stopped = False
        self._state_fd = state.open_state(directory / "state")
        self.state = state.State(self._state_fd)
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(START_S)
        self.channel = Channel(ours)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.process = self._start()
        self._theirs.close()
        try:
            assert self.channel.recv()[0].flag == Flag.READY
            self.load(exports)
            self.ask(Flag.ADDSOCK, pack_nfsd_args(NfsdArgs()), [self._udp.fileno()])
        except BaseException:
            self._kill()
            sys.stderr.write(self.log())
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        key = self.directory / "key"
        subprocess.run([*self._command(), "--make-key", str(key)], check=True)
        theirs, state_fd = self._theirs.fileno(), self._state_fd
        with self.log_file.open("ab") as log:
            words = ["--slot", "0", "--channel-fd", str(theirs), "--state-fd", str(state_fd), "--key", str(key)]
            command = [*self.wrapper, *self._command(), *words, "--log", "stderr", *self.options]
            return subprocess.Popen(command, pass_fds=(theirs, state_fd), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @staticmethod
    def _command() -> list[str]:
        return [sys.executable, "-I", "-c", _RUN, str(TREE)]

    def ask(self, flag: Flag, body: bytes = b"", fds: list[int] | None = None) -> bytes:
        return self.channel.call(flag, body, fds or [])[0]

    def load(self, exports: list[Export]) -> bytes:
        """A new table, under a new generation."""
        self.exports = exports
        words = self.state.words
        words[state.H_GENERATION] = generation = words[state.H_GENERATION] + 1
        return self.ask(Flag.EXPORT, pack_export_args(ExportArgs(Nxa.REPLACE, True, tuple(exports), generation)))

    def root(self, expid: int, *, vers: int = 3, cred: Cred | None = None) -> bytes:
        """The handle of an export's directory, as GETFH gives it."""
        cred = cred or Cred(os.geteuid(), os.getegid())
        return self.getfh(expid, b"", vers=vers, cred=cred)

    def getfh(self, expid: int, path: bytes, *, vers: int, cred: Cred) -> bytes:
        args = GetfhArgs(expid, path, Address.of("127.0.0.1", 700), cred, vers=vers)
        return Unpacker(self.ask(Flag.GETFH, pack_getfh_args(args))).unpack_opaque(64)

    def tcp(self, source: str = "") -> Tcp:
        """A connection of ours (from address `source`), whose other end the worker has."""
        address = self._listener.getsockname()
        transport = Tcp((address[0], address[1]), source=source)
        accepted, peer = self._listener.accept()
        with accepted:
            self.ask(Flag.ADDSOCK, pack_nfsd_args(NfsdArgs(Address.of(*peer), 0)), [accepted.fileno()])
        return transport

    def udp(self) -> Udp:
        address = self._udp.getsockname()
        return Udp((address[0], address[1]))

    def row(self, word: int) -> int:
        """A word of the worker's row in the state file."""
        return int(self.state.slot(0)[word])

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> None:
        """STOP; it must end by itself, with status 0 and no traceback.  May be called again."""
        if self.stopped:
            return
        self.stopped = True
        try:
            self.channel.send(Message(Flag.STOP))
            status = self.process.wait(STOP_S)
        finally:
            self._kill()
        assert status == 0, f"exit status {status}\n{self.log()}"
        assert "Traceback" not in self.log(), self.log()

    def kill(self) -> None:
        """Instead of stop(): whatever it has under way is lost."""
        self.stopped = True
        self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.channel.close()
        self._listener.close()
        self._udp.close()
        self.state.close()
        os.close(self._state_fd)

    def __enter__(self) -> OneWorker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
