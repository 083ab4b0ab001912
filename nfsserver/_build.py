"""Builds the extension nfsserver._vnode (cffi, API mode, stable ABI) from the C files beside it.

It includes oncrpc._rpc's declarations, so that a `struct call *` of the one is one of the other; it calls no symbol of it.
Called by setup (cffi_modules = nfsserver/_build.py:ffi), or by hand for a build in place: python nfsserver/_build.py
"""
import os
import sys

from cffi import FFI

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from oncrpc._build import ffi as rpc_ffi

CDEF = """
#define V_GRANT ...
#define V_GARBAGE ...
#define V_PENDING ...
#define V_DROP ...
#define V_FS ...
#define V_STALLED ...
#define V_REPLAYED ...
#define V_WAITS ...
#define V_AGAIN ...
#define V_HOST ...

int vn_init(int state_fd, u32 slot, const u8 *key, u32 max_objs, int root, int harden);
u64 *vn_row(void);
u64 *vn_state(void);
void vn_tick(u32 now_s, u64 now_ns);
void vn_tell(void);
void vn_connected(void);
void vn_sweep(u32 now_s, u32 idle_s, u32 count);
int vn_set_title(unsigned long start, unsigned long end, const char *title);
void vn_errno_table(const int *table);

int exp_begin(u32 n);
int exp_put(u32 id, u32 flags, const char *path, const u8 *fsid, u64 salt, u32 row);
int exp_index(const char *name);
void exp_commit(u32 generation);
u32 exp_row(u32 expid);
i32 fs_add(int fd, const u8 *fsid, int path_scheme);
u64 siphash(const u64 *key, const void *p, size_t n);
int uuid_of_device(const char *directory, u64 dev, u8 *out);

int ident_get(u32 uid, u32 gid, u32 n, const u32 *gids);

int pool_start(int threads);
u64 vn_pending(void);
int vn_done(struct call *c);
void vn_opened_drop(void);

int vn_gate(struct call *c);
u32 vn_expid(const struct call *c);
void vn_grant(const struct call *c, u32 expid, u32 ident, u32 rights);
void vn_forget_grants(void);
void vn_host(const struct call *c, const u8 *name, u32 n, u32 keep_s);
void vn_release_removable(void);
void vn_before_wait(struct rpc_engine *e, u32 n_calls, u64 alone_ns);
u32 vn_release_fs(void);
int ident_root(void);
void vn_fail(struct call *c, u32 status);
int vn_getfh(u32 expid, const char *path, u32 ident, int vers, u8 *out);
int vn_fhopen(const u8 *fh, u32 len, int ident, int mode, u32 *expid);

int drc_begin(struct call *c);
void drc_forget(struct call *c);

int vn_getattr(struct call *c);
int vn_setattr(struct call *c);
int vn_lookup(struct call *c);
int vn_access(struct call *c);
int vn_readlink(struct call *c);
int vn_read(struct call *c);
int vn_write(struct call *c);
int vn_create(struct call *c);
int vn_mkdir(struct call *c);
int vn_symlink(struct call *c);
int vn_mknod(struct call *c);
int vn_remove(struct call *c);
int vn_rmdir(struct call *c);
int vn_rename(struct call *c);
int vn_link(struct call *c);
int vn_readdir(struct call *c);
int vn_readdirplus(struct call *c);
int vn_fsstat(struct call *c);
int vn_fsinfo(struct call *c);
int vn_pathconf(struct call *c);
int vn_commit(struct call *c);

u32 vn_trace_export(const struct call *c);
u32 vn_trace_path(const struct call *c, char *out, u32 room);

int row_getattr(struct call *c);
int row_setattr(struct call *c);
int row_lookup(struct call *c);
int row_access(struct call *c);
int row_readlink(struct call *c);
int row_read(struct call *c);
int row_write(struct call *c);
int row_create(struct call *c);
int row_mkdir(struct call *c);
int row_symlink(struct call *c);
int row_mknod(struct call *c);
int row_remove(struct call *c);
int row_rmdir(struct call *c);
int row_rename(struct call *c);
int row_link(struct call *c);
int row_readdir(struct call *c);
int row_readdirplus(struct call *c);
int row_fsstat(struct call *c);
int row_fsinfo(struct call *c);
int row_pathconf(struct call *c);
int row_commit(struct call *c);
int row_finished(struct call *c);
int row_getacl(struct call *c);
int row_setacl(struct call *c);

int vn_getacl(struct call *c);
int vn_setacl(struct call *c);

int vn2_args(struct call *c);
int vn2_create(struct call *c);
int vn2_write(struct call *c);
int vn2_readdir(struct call *c);
int vn2_statfs(struct call *c);
"""

# The functions that parts.h does not declare, by the beginnings of their lines.
_DECLARED = ("int vn_", "int vn2_", "int row_", "u32 vn_", "u64 *vn_", "u64 vn_", "void vn_", "int exp_", "u32 exp_",
             "void exp_", "i32 fs_", "int ident_get", "int drc_begin", "void drc_forget")

# What parts.h does not declare, for the wrappers that cffi makes.
SOURCE = """
#include "../oncrpc/engine.h"
#include "parts.h"
void vn_sweep(u32, u32, u32);
void vn_errno_table(const int *);
""" + "\n".join(line for line in CDEF.splitlines() if line.startswith(_DECLARED))

# From the ground up, as in parts.h.
SOURCES = [f"nfsserver/{name}.c" for name in (
    "siphash", "worker", "sync", "locks", "grant", "ident", "drc", "handle", "fsid", "fs", "deed", "work", "pool", "jobs",
    "cold", "here", "obj", "removable", "path", "export", "args", "covered", "fh", "rights", "open", "attr", "v2_result", "reply",
    "users", "cluster", "change", "data", "facts", "make", "webnfs", "names", "dir", "acl", "v2", "done", "gate",
    "getfh", "rows", "start", "trace")]

ffi = FFI()
ffi.include(rpc_ffi)
ffi.cdef(CDEF)
ffi.set_source(
    "nfsserver._vnode",
    SOURCE,
    sources=SOURCES,
    include_dirs=["nfsserver", "nfssvc_shim", "oncrpc"],
    depends=["nfsserver/vnode.h", "nfsserver/parts.h", "nfsserver/fh.h", "nfsserver/job.h", "nfsserver/v2.h",
             "nfssvc_shim/state.h", "oncrpc/rpc.h", "oncrpc/engine.h", "oncrpc/trace.h"],
    define_macros=[("_GNU_SOURCE", "1")],
    py_limited_api=True,
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-flto=auto"],  # calls pass through many files
    extra_link_args=["-O2", "-flto=auto"],
    libraries=["pthread"],
)

if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ffi.compile(verbose=True)
