"""The shared state file: what must survive a worker, and a restart of the master in the same boot.

One 0600 file on tmpfs (/run/nfsd/state), made by the master, mapped by the control half and every worker.  All numbers are 64-bit
in the host's byte order.  state.h is the same layout for C; a test compares the two.

    header      4096 bytes, words below
    slots       N_SLOTS rows of SLOT_WORDS words, each written by the worker of that slot alone
    bases       two sets of N_SLOTS rows: what the slots' rows held at the last ZEROSTATS; H_BASE says which set is in force.  A
                reader shows row - base.  ZEROSTATS fills the other set and then changes H_BASE, so that whoever dies in the
                middle of it leaves the old base whole
    exports     N_EXPORTS rows of EXPORT_WORDS words: expid, requests, bytes read, bytes written (atomic adds by all workers)
    users       N_USERS rows of USER_WORDS words, written by the workers under the header's users lock
    drc         the duplicate request cache, opaque here

An unknown or foreign header (other layout, other boot) is ignored: the file is made anew.
"""
from __future__ import annotations

import mmap
import os
import struct

MAGIC = b"NFSDSTAT"
LAYOUT = 2
HEADER_SIZE = 4096
N_SLOTS = 64             # workers at the most
SLOT_WORDS = 2048        # 16 KiB a row: counters, and one histogram of HIST words a procedure
N_EXPORTS = 16384
EXPORT_WORDS = 8
N_USERS = 1024           # as macOS: active users
USER_WORDS = 16
DRC_SIZE = 16 << 20      # 31,744 entries of 512 bytes and their locks: at 10,000 changes a second over 3 s

OFF_SLOTS = HEADER_SIZE
OFF_BASES = OFF_SLOTS + N_SLOTS * SLOT_WORDS * 8
OFF_EXPORTS = OFF_BASES + 2 * N_SLOTS * SLOT_WORDS * 8
OFF_USERS = OFF_EXPORTS + N_EXPORTS * EXPORT_WORDS * 8
OFF_DRC = OFF_USERS + N_USERS * USER_WORDS * 8
SIZE = OFF_DRC + DRC_SIZE

# Words of the header (index of 64-bit words).
H_GENERATION = 16        # export table generation that every request must be served under
H_VERIFIER = 17          # write verifier, the same for all workers
H_ZEROED = 18            # CLOCK_REALTIME ns of the last ZEROSTATS
H_SUSPENDED = 19         # not 0: workers hand out no calls (SUSPENDNFSD)
H_STARTED = 20           # CLOCK_REALTIME ns of the first start
H_USERS_LOST = 21        # users that had no place
H_USERS_SERIAL = 22      # serial number of the last user row that was taken
H_BASE = 23              # 0 or 1: the set of bases in force

# Words of an export's row.
X_EXPID, X_REQUESTS, X_READ, X_WRITTEN = range(4)

# Words of an active user's row.  U_STATE: 0 free, else a serial number, so that who remembers a row sees that it changed hands.
# The address is two big-endian halves of 16 bytes (IPv4: the first four); family 1 IPv4, 2 IPv6, 3 local; times in seconds.
U_STATE, U_EXPID, U_UID, U_FAMILY, U_ADDR_HIGH, U_ADDR_LOW, U_REQUESTS, U_READ, U_WRITTEN, U_FIRST, U_LAST = range(11)

# Words of a slot's row.
S_PID = 0
S_INCARNATION = 1        # raised by each worker that takes the slot
S_CONNECTIONS = 2        # open TCP connections
S_GENERATION = 3         # export generation in force
S_HEARTBEAT = 4          # CLOCK_MONOTONIC ns of the last turn of the loop
S_UNSYNCED = 5           # not 0: written data not yet committed
S_PACKETS_UDP = 8
S_PACKETS_TCP = 9
S_TCPCONN = 10           # connections ever
S_BADCALLS = 11
S_BADFMT = 12
S_BADAUTH = 13
S_READ_BYTES = 14
S_WRITE_BYTES = 15
S_DRC_INPROGRESS = 16
S_FH_HITS = 17
S_FH_MISSES = 18
S_FH_STALE = 19
S_FDS_READ = 20
S_FDS_WRITE = 21
S_EXCEPTIONS = 22        # our own mistakes: tracebacks in the log
S_OBJECTS = 23           # objects in the handle cache
S_COUNTERS = 32          # 61 words: struct nfsrvstats of macOS, see nfssvc(2)
S_V2 = 96                # 18 words: calls a v2 procedure
S_ACL = 120              # 8 words: calls an NFS_ACL procedure
S_ERRORS_PROC = 128      # 22 words: replies with an error a v3 procedure
S_TIME_PROC = 160        # 22 words: ns spent a v3 procedure, receive to reply
S_HIST = 256             # 22 x HIST words: calls a v3 procedure by log2 of ns; bucket i holds 2^i <= ns < 2^(i+1)
HIST = 40
N_PROCS3 = 22

# Words of nfsrvstats (S_COUNTERS + index).
C_PROCS = 0              # 23 words, index = v3 procedure number, 22 = NOOP
C_RPC_ERRS = 23
C_SRV_ERRS = 24
C_INPROG_HITS = 25
C_IDEM_HITS = 26
C_NONIDEM_HITS = 27
C_MISSES = 28
C_VOP_WRITES = 29
C_ERRS = 30              # 30 words, errs_common in the order of nfssvc(2) section 5.2
C_ERRS_UNKNOWN = 60
N_COUNTERS = 61

_HEAD = struct.Struct("=8sII16sQ")


class State:
    """The mapped file.  Words are read and written through `words`, a memoryview of 64-bit numbers; C code gets `map`."""

    def __init__(self, fd: int) -> None:
        """Maps the file behind `fd` (which stays the caller's).  Raises ValueError when it is not a state file of this layout."""
        self.map = mmap.mmap(fd, SIZE)
        if self.map[: _HEAD.size] != _header():
            self.map.close()
            raise ValueError("not a state file of this layout and boot")
        self.words = memoryview(self.map).cast("B").cast("Q")

    def close(self) -> None:
        self.words.release()
        self.map.close()

    def slot(self, number: int) -> memoryview:
        start = OFF_SLOTS // 8 + number * SLOT_WORDS
        return self.words[start:start + SLOT_WORDS]

    def base(self, number: int) -> memoryview:
        """What the row of slot `number` held at the last ZEROSTATS."""
        start = OFF_BASES // 8 + (self.words[H_BASE] * N_SLOTS + number) * SLOT_WORDS
        return self.words[start:start + SLOT_WORDS]

    def export(self, number: int) -> memoryview:
        start = OFF_EXPORTS // 8 + number * EXPORT_WORDS
        return self.words[start:start + EXPORT_WORDS]

    def user(self, number: int) -> memoryview:
        start = OFF_USERS // 8 + number * USER_WORDS
        return self.words[start:start + USER_WORDS]


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # no codec to import: the control half has dropped its rights
        return bytes.fromhex(file.read().decode().strip().replace("-", ""))


def _header() -> bytes:
    return _HEAD.pack(MAGIC, LAYOUT, N_SLOTS, _boot_id(), SIZE)


def open_state(path: str | os.PathLike[str]) -> int:
    """A descriptor of the state file at `path`, made anew unless it is one of this layout and boot.

    The directory must belong to the caller: the file is opened O_NOFOLLOW and refused when it is another user's.
    Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid():
            raise PermissionError(f"{os.fspath(path)}: owned by uid {info.st_uid}")
        if info.st_size != SIZE or os.pread(fd, _HEAD.size, 0) != _header():
            os.ftruncate(fd, 0)
            os.ftruncate(fd, SIZE)
            verifier = int.from_bytes(os.urandom(8), "little")
            os.pwrite(fd, verifier.to_bytes(8, "little"), H_VERIFIER * 8)
            os.pwrite(fd, _header(), 0)  # last: a file that was not finished is not believed
    except BaseException:
        os.close(fd)
        raise
    return fd
