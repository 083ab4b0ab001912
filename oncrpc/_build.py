"""Builds the extension oncrpc._rpc (cffi, API mode, stable ABI) from the C files in engine/.

Called by setup (cffi_modules = oncrpc/_build.py:ffi), or by hand for a build in place: python oncrpc/_build.py
"""
import os

from cffi import FFI

# Struct fields must be those of rpc.h and engine.h; the compiler checks types and offsets.
CDEF = """
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef int32_t i32; typedef uint64_t u64;

struct rpc_cred { u32 serial; u16 flavor; u16 ngids; u32 uid, gid; u32 gids[16]; };
struct rpc_peer { u32 serial; u32 family; u8 addr[16]; u32 scope; };
struct call;
struct rpc_engine { struct rpc_cred *creds; struct rpc_peer *peers; int (*room)(struct call *, size_t); ...; };
struct call {
    u32 xid, prog, vers, proc;
    u32 row;
    u32 cred, peer;
    u16 port;
    u8 proto, detached;
    u32 conn, conn_gen;
    const u8 *arg, *end;
    struct rpc_engine *eng;
    u8 *mark;
    u8 *res;
    u8 *rep, *rep_end;
    u64 t0;
    void *owner;
    i32 obj, obj2, err;
    u32 exp, ident, rights, state, drc, drc_gen;
    u64 word[4];
    i32 status;
};

#define RPC_BATCH ...
#define RPC_MORE ...
#define RPC_HEADER ...
enum { RPC_TCP, RPC_UDP, RPC_LOCAL, RPC_RELAY, ... };
enum { RPC_LISTEN, RPC_CONN, RPC_DGRAM, RPC_RELAYED, RPC_EVENT, ... };
enum { RPC_EV_READ, RPC_EV_CLOSED, ... };
struct rpc_event { u32 id, what; };
struct rpc_relay_head { u32 serial; u32 proto; u16 family, port; u8 addr[16]; u32 scope; };
struct rpc_limits {
    u32 max_conns, max_record, quota, record_s, stall_s, max_detached;
    u64 in_budget, out_budget, detached_budget;
};
struct rpc_counters {
    u64 calls, denied, badauth, garbage, dropped, badrecord, accepted, closed, evicted, deadline, stalled,
        accept_errors, udp_in, udp_dropped, send_errors, detached;
    u64 conns, partial, pending_conns, in_bytes, out_bytes, detached_now, detached_bytes;
};

struct rpc_trace_filter { u32 family; u32 prefix; u8 addr[16]; u32 by_uid, uid; u32 export_id; u32 snap; };
#define TRACE_SNAP_MAX ...
int rpc_trace_start(struct rpc_engine *e, u32 id, u32 slot, int fd, const struct rpc_trace_filter *f);
int rpc_trace_stop(struct rpc_engine *e, u32 id);
void rpc_trace_sweep(struct rpc_engine *e);
void rpc_before_sending(struct rpc_engine *e, void (*hook)(void));
void rpc_trace_names(struct rpc_engine *e, u32 (*export_id)(const struct call *), u32 (*path)(const struct call *, char *, u32));

struct rpc_engine *rpc_new(const struct rpc_limits *limits);
void rpc_free(struct rpc_engine *e);
int rpc_program(struct rpc_engine *e, u32 prog, u32 vers, u32 nproc, u32 first_row);
int rpc_hole(struct rpc_engine *e, u32 prog, u32 vers, u32 proc);
int rpc_weight(struct rpc_engine *e, u32 row, u32 tail);
int rpc_direct(struct rpc_engine *e, u32 row, int (*fn)(struct call *));
void rpc_before_wait(struct rpc_engine *e, void (*fn)(struct rpc_engine *, u32, u64));
int rpc_next(struct rpc_engine *e);
int rpc_attach(struct rpc_engine *e, int fd, int kind, const void *sa, u32 sa_len);
int rpc_close(struct rpc_engine *e, u32 conn);
int rpc_hangup(struct call *c);
void rpc_stop_reading(struct rpc_engine *e, int on);
int rpc_poll(struct rpc_engine *e, int timeout_ms);
void rpc_deadline(struct rpc_engine *e, u64 ns);
struct call *rpc_call_at(struct rpc_engine *e, u32 i);
int rpc_n_finished(struct rpc_engine *e);
struct call *rpc_finished_at(struct rpc_engine *e, u32 i);
void rpc_on_finished(struct rpc_engine *e, int (*fn)(struct call *));
int rpc_n_events(struct rpc_engine *e);
const struct rpc_event *rpc_events(struct rpc_engine *e);
int rpc_flush(struct rpc_engine *e);
void rpc_wake(struct rpc_engine *e);
const struct rpc_counters *rpc_count(struct rpc_engine *e);
int rpc_null(struct call *c);
int rpc_reply(struct call *c, const void *results, size_t len);
int rpc_reply_raw(struct call *c, const void *msg, size_t len);
void rpc_deny(struct call *c, u32 accept_stat);
void rpc_deny_auth(struct call *c, u32 auth_stat);
void rpc_drop(struct call *c);
struct call *rpc_detach(struct call *c, size_t room);
void rpc_complete(struct call *d);
#define RPC_KERB4 ...
void rpc_kerb4(struct rpc_engine *e, i32 row);
int rpc_become(struct call *c, u32 uid, u32 gid, u32 n, const u32 *gids);
int rpc_message(struct call *c, const u8 **msg, size_t *len);
void rpc_relay(struct call *c, u32 serial, struct rpc_relay_head *head);
u32 rpc_transport(struct call *c);
int rpc_is_local(struct call *c);
int64_t rpc_unix_uid(struct call *c);
int rpc_local_addr(struct call *c, u8 addr[16]);
u32 rpc_message_size(struct call *c);
"""

# From the ground up, as in engine/parts.h.
SOURCES = [f"oncrpc/engine/{name}.c" for name in (
    "buf", "table", "conn", "evict", "address", "send", "datagram_out", "room", "trace", "watch", "program", "detach", "reply",
    "cred", "message", "share", "record", "datagram_in", "relay", "attach", "listen", "wait", "poll", "engine")]

ffi = FFI()
ffi.cdef(CDEF)
ffi.set_source(
    "oncrpc._rpc",
    '#include "engine.h"',
    sources=SOURCES,
    include_dirs=["oncrpc"],
    depends=["oncrpc/rpc.h", "oncrpc/engine.h", "oncrpc/trace.h", "oncrpc/engine/core.h", "oncrpc/engine/parts.h"],
    py_limited_api=True,
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-flto=auto"],  # calls pass through many files
    extra_link_args=["-O2", "-flto=auto"],
)

if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ffi.compile(verbose=True)
