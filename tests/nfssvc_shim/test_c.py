"""The C library: a program that includes only nfssvc.h, built against an installed tree, and ctypes."""
from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from nfssvc_shim.flags import Nfssvc, Nx, Nxa
from nfssvc_shim.records import Address, Cred, Export, ExportArgs, Net, NfsdArgs, unpack_export_args, unpack_nfsd_args

from .callserver import EXPORTSTATS, CallServer

SOURCE = Path(__file__).with_name("client.c")


def run_client(tree: Path, workdir: Path, *defines: str) -> dict[str, str]:
    """Name of the step -> "result errno", and what it printed below it."""
    env = os.environ | {"PKG_CONFIG_PATH": str(tree / "lib/pkgconfig"), "LD_LIBRARY_PATH": str(tree / "lib")}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libnfssvc"], env=env, check=True, capture_output=True, text=True)
    program = workdir / "client"
    subprocess.run(["cc", "-Wall", "-Werror", *(f"-D{name}" for name in defines), "-o", program, SOURCE, *flags.stdout.split()],
                   check=True)
    ran = subprocess.run([program], env=env, check=True, capture_output=True, text=True, timeout=60)
    steps: dict[str, str] = {}
    name = ""
    for line in ran.stdout.splitlines():
        if line.startswith("  "):
            steps[name] += line
        else:
            name, _, steps[line.split()[0]] = line.partition(" ")
    return steps


def failed(number: int) -> str:
    return f"-1 {number}"


def test_every_call_of_the_header_gives_its_errno(tree: Path, tmp_path: Path, server: CallServer) -> None:
    """nfssvc(2), ERRORS: and no bad pointer ends the caller."""
    got = run_client(tree, tmp_path)
    want = {
        "unknown": failed(errno.EINVAL), "two-at-once": failed(errno.EINVAL), "nothing": failed(errno.EINVAL),
        "addsock-tcp": "0 0", "addsock-udp": "0 0", "addsock-tcp-unnamed": failed(errno.EACCES),
        "addsock-name-hole": failed(errno.EFAULT), "addsock-namelen": failed(errno.EINVAL),
        "addsock-file": failed(errno.ENOTSOCK), "addsock-closed": failed(errno.EBADF),
        "addsock-null": failed(errno.EFAULT), "addsock-hole": failed(errno.EFAULT),
        "export-add": "0 0", "export-delete-all": "0 0", "export-check-add": failed(errno.EINVAL),
        "export-holed-mask": failed(errno.EINVAL), "export-nets-hole": failed(errno.EFAULT),
        "export-path-hole": failed(errno.EFAULT), "export-path-at-end": "0 0", "export-path-null": failed(errno.EFAULT),
        "export-null": failed(errno.EFAULT),
        "exportstats-0": "0 0  size 3159 count 0 used 0",
        "exportstats-11": failed(errno.ENOMEM) + "  size 3159 count 0 used 0",
        "exportstats-12": "0 0  size 3159 count 0 used 12",
        "exportstats-2200": "0 0  size 3159 count 2 used 2110",
        "exportstats-3159": "0 0  size 3159 count 3 used 3159",
        "userstats-7": failed(errno.ENOMEM) + "  size 1207 count 0 used 0",
        "userstats-1100": "0 0  size 1207 count 1 used 1034",
        "userstats-5000": "0 0  size 1207 count 2 used 1207",
        "userstats-narrow-5000": failed(errno.EINVAL) + "  size 0 count 0 used 0",
        "usercount-0": "0 0  size 4 used 0 first 0", "usercount-3": failed(errno.ENOMEM) + "  size 4 used 0 first 0",
        "usercount-4": "0 0  size 0 used 4 first 7",
        "srvstats-487": failed(errno.ENOMEM) + "  size 488 used 0 first 0",
        "srvstats-1000": "0 0  size 0 used 488 first 1000",
        "zerostats": "0 0", "srvstats-null": failed(errno.EFAULT), "srvstats-hole": failed(errno.EFAULT),
        "srvstats-size-hole": failed(errno.EFAULT),
        "fhopen": "0 0  fds 1 cloexec 1", "fhopen-hole": failed(errno.EFAULT), "fhopen-null": failed(errno.EFAULT),
        "nfsd": "0 0",
    }
    assert got == want


def test_c_records_arrive_as_the_python_records(tree: Path, tmp_path: Path, server: CallServer) -> None:
    """One wire format, two writers: what client.c sends, read by records.py."""
    run_client(tree, tmp_path)
    addsock = [seen for seen in server.seen if seen.flag == Nfssvc.ADDSOCK]
    assert [unpack_nfsd_args(seen.body) for seen in addsock] == [NfsdArgs(Address.of("192.0.2.1", 700)), NfsdArgs(None)]
    assert all(seen.kinds == [stat.S_IFSOCK] for seen in addsock)
    first, delete_all, _ = [unpack_export_args(seen.body) for seen in server.seen if seen.flag == Nfssvc.EXPORT]
    nets = (Net(Nx.READONLY | Nx.MAPROOT, Address.of("192.0.2.0"), 24, maproot=Cred(1000, 1001, (1002,))),
            Net(Nx.DEFAULTEXPORT, Address(0), 0))
    assert first == ExportArgs(Nxa.ADD, False, (Export(77, b"/export", b"sub/dir", fsid=bytes(7) + b"\5", nets=nets),))
    assert delete_all == ExportArgs(Nxa.DELETE_ALL, False)


def test_44bsd_personality_answers_as_a_kernel_without_a_client(tree: Path, tmp_path: Path, server: CallServer) -> None:
    server.answers[Nfssvc.ADDSOCK] = (errno.EEXIST, b"", None)
    assert run_client(tree, tmp_path, "NFSSVC_PERSONALITY_44BSD") == {
        "biod": failed(errno.ENOSYS), "mntd": failed(errno.ENOSYS), "gotauth": failed(errno.ENOSYS),
        "authin-alone": failed(errno.EINVAL), "unknown": failed(errno.EINVAL), "nfsd-null": failed(errno.EFAULT),
        "nfsd-hole": failed(errno.EFAULT),
        "nfsd": "0 0", "authin": "0 0", "addsock": failed(errno.EPERM),
    }


def test_freebsd_personality_suspends_and_resumes(tree: Path, tmp_path: Path, server: CallServer) -> None:
    assert run_client(tree, tmp_path, "NFSSVC_PERSONALITY_FREEBSD") == {
        "suspend": "0 0", "resume": "0 0", "nfsd-null": failed(errno.EINVAL), "nfsd-hole": failed(errno.EFAULT),
        "nfsd": "0 0", "addsock-file": failed(errno.EPERM), "unknown": failed(errno.EINVAL),
        "getstats": "0 0  getattr 1001 create 1008 commit 1021 errs 1023 misses 1028", "getstats-zero": "0 0",
        "getstats-unknown": failed(errno.EPERM),
        "getstats-new": "0 0  getattr 1001 create 1008 mknod 1011 commit 1021 errs 1023 misses 1028",
        "getstats-new-hole": failed(errno.EFAULT), "getstats-hole": failed(errno.EFAULT),
        "getstats-suspend": failed(errno.EINVAL),
    }
    assert server.seen[-1].flag == Nfssvc.SRVSTATS
    assert [seen.flag for seen in server.seen].count(Nfssvc.ZEROSTATS) == 1
    assert [seen.body for seen in server.seen if seen.flag == Nfssvc.SUSPEND] == [b"\0\0\0\1", b"\0\0\0\0"]


@pytest.fixture
def library(tree: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(tree / "lib/libnfssvc.so"), use_errno=True)


def test_ctypes_reads_the_statistics(library: ctypes.CDLL, server: CallServer) -> None:
    class iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]

    data, size = ctypes.create_string_buffer(8000), ctypes.c_int()
    iov = (iovec * 2)(iovec(ctypes.addressof(data), 8000), iovec(ctypes.addressof(size), 4))
    assert library.nfssvc(Nfssvc.EXPORTSTATS, iov) == 0
    assert size.value == len(EXPORTSTATS)
    assert data.raw[:size.value] == EXPORTSTATS


@pytest.mark.parametrize("pointer", [0, 1, 0x1000, 2**63, 2**64 - 1])
@pytest.mark.parametrize("flag", [Nfssvc.ADDSOCK, Nfssvc.EXPORT, Nfssvc.SRVSTATS, Nfssvc.USERSTATS, Nfssvc.GETFH])
def test_ctypes_with_a_wild_pointer_gets_efault(library: ctypes.CDLL, server: CallServer, flag: int, pointer: int) -> None:
    ctypes.set_errno(0)
    assert library.nfssvc(flag, ctypes.c_void_p(pointer)) == -1
    assert ctypes.get_errno() == errno.EFAULT


def test_no_server_is_enosys(library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel without an NFS server; also for a socket file that a dead server left."""
    path = tmp_path / "gone.sock"
    monkeypatch.setenv("NFSSVC_SOCKET", str(path))
    for _ in range(2):
        assert library.nfssvc(Nfssvc.ZEROSTATS, None) == -1
        assert ctypes.get_errno() == errno.ENOSYS
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            if not path.exists():
                dead.bind(str(path))
