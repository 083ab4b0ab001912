"""Builds nfssvc_shim._nfssvc (cffi, API mode): the C call for Python, and the sums of the counters for the server.

`python nfssvc_shim/_build.py` builds it in place."""
from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ["copy.c", "xdr.c", "records.c", "channel.c", "kept.c", "bsd44.c", "nfssvc.c", "stats.c", "answer.c"]

ffi = FFI()
ffi.cdef("""
    struct nfssvc_msg {
        const void *body; size_t body_len;
        const int *fds; unsigned n_fds;
        unsigned n_reply_fds; void *reply; size_t reply_len; int reply_fds[64];
    };
    int nfssvc(int flags, void *argstructp);
    int nfssvc_44bsd(int flags, void *argstructp);
    int nfssvc_freebsd(int flags, void *argstructp);
    int nfssvc_message(const char *path, unsigned flag, struct nfssvc_msg *msg);
    void free(void *ptr);

    void stats_sums(const uint64_t *state, uint64_t *sums);
    void stats_row(const uint64_t *state, unsigned slot, uint64_t *words);
    void stats_zero(uint64_t *state, uint64_t now_ns);
    uint32_t stats_usercount(const uint64_t *state, uint64_t since_s);
    #define USER_IDLE_S ...
    #define ANSWER_ROOM ...
    int answer_open(const uint64_t *state, int listener, int rest);
    int answer_listen(int on);
    int answer_wait(int timeout_ms, int *handed, int *accept_error);
    int answer_close(int *handed);
""")
# Paths relative to the root: setuptools wants them so.
ffi.set_source(
    "nfssvc_shim._nfssvc", '#include <stdlib.h>\n#include "nfssvc.h"\n#include "stats.h"\n#include "answer.h"\n',
    sources=[f"nfssvc_shim/{name}" for name in SOURCES], include_dirs=["nfssvc_shim"],
    depends=["nfssvc_shim/nfssvc.h", "nfssvc_shim/wire.h", "nfssvc_shim/stats.h", "nfssvc_shim/answer.h", "nfssvc_shim/state.h"],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"],
    py_limited_api=True,
)

if __name__ == "__main__":
    import os

    os.chdir(HERE.parent)
    ffi.compile(tmpdir=".", verbose=False)
