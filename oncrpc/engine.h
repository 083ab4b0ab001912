/* engine.h: what Python calls in the RPC bridge.  Contract between the two bridges: rpc.h; theory of operation: engine/core.h.
 *
 * Every function belongs to the thread that runs rpc_poll(), except rpc_complete() and rpc_wake().
 * Errors are returned as negative errno.
 */
#ifndef ONCRPC_ENGINE_H
#define ONCRPC_ENGINE_H
#include "rpc.h"
#include "trace.h"

/* Kinds of descriptors, for rpc_attach(). */
enum {
	RPC_LISTEN = 1, /* listening TCP or unix stream socket: accepted here */
	RPC_CONN,       /* connected TCP or unix stream socket */
	RPC_DGRAM,      /* UDP socket */
	RPC_RELAYED,    /* SOCK_SEQPACKET: struct rpc_relay_head and one RPC message a packet, and back */
	RPC_EVENT,      /* anything else that can be polled: only reported; the caller's to read and to close */
};

#define RPC_MORE 0x10000 /* > RPC_BATCH */
enum { RPC_EV_READ = 1, RPC_EV_CLOSED = 2 }; /* rpc_event.what; CLOSED: a RELAYED socket ended and was closed */

struct rpc_event { u32 id, what; };

/* One call that another process received, as it travels over a RELAYED socket; native byte order, same machine. */
struct rpc_relay_head {
	u32 serial;         /* the sender's; comes back, alone, in front of the reply message */
	u32 proto;          /* RPC_TCP, RPC_UDP or RPC_LOCAL: how the client reached the sender */
	u16 family, port;   /* the client's */
	u8 addr[16];
	u32 scope;
};

/* 0 in a field means the default, which engine/ names with its reason. */
struct rpc_limits {
	u32 max_conns, max_record, quota, record_s, stall_s, max_detached;
	u64 in_budget, out_budget, detached_budget;
};

struct rpc_counters {
	u64 calls, denied, badauth, garbage, dropped, badrecord, accepted, closed, evicted, deadline, stalled,
	    accept_errors, udp_in, udp_dropped, send_errors, detached;
	u64 conns, partial, pending_conns, in_bytes, out_bytes, detached_now, detached_bytes; /* now, not since the start */
};

struct rpc_engine *rpc_new(const struct rpc_limits *limits);
void rpc_free(struct rpc_engine *e);

/* Procedures 0..nproc-1 of (prog, vers) get rows first_row...; a hole is answered PROC_UNAVAIL. */
int rpc_program(struct rpc_engine *e, u32 prog, u32 vers, u32 nproc, u32 first_row);
int rpc_hole(struct rpc_engine *e, u32 prog, u32 vers, u32 proc);
/* The reply to `row` may be as long as the u32 that stands `tail` bytes before the end of the arguments (READ's count). */
int rpc_weight(struct rpc_engine *e, u32 row, u32 tail);

/* Calls of `row` go to a function in C, which returns 0 when it ended the call; else the call is handed out with call.status. */
int rpc_direct(struct rpc_engine *e, u32 row, int (*fn)(struct call *));
/* Runs before each batch is received, and is told how many calls the one before had, and how long ago somebody else was heard than the
 * connection that was heard last; NULL: nothing does. */
void rpc_before_wait(struct rpc_engine *e, void (*fn)(struct rpc_engine *, u32 n_calls, u64 alone_ns));

/* Returns the id.  The engine owns the descriptor from then on (EVENT: no).  sa: the peer of a CONN, NULL: ask the kernel. */
int rpc_attach(struct rpc_engine *e, int fd, int kind, const void *sa, u32 sa_len);
int rpc_close(struct rpc_engine *e, u32 conn);      /* any id; EVENT: forgotten, not closed */
int rpc_hangup(struct call *c);                     /* close the connection of this call, replies of its batch included */
void rpc_stop_reading(struct rpc_engine *e, int on);/* CONN and DGRAM only */

/* Sends what the last batch left and waits at most timeout_ms for the next.  Returns how many calls from the first on are left that is
 * not for a function of rpc_direct(), with RPC_MORE when there are finished calls or events, or the deadline has come.  With timeout_ms
 * -1 it goes on while there is nothing of these, no signal came and nobody called rpc_wake(). */
int rpc_poll(struct rpc_engine *e, int timeout_ms);
void rpc_deadline(struct rpc_engine *e, u64 ns);    /* CLOCK_MONOTONIC at which rpc_poll() shall return; 0: none */
int rpc_next(struct rpc_engine *e);                 /* place of the next call that is handed out; -1: the batch is over */
struct call *rpc_call_at(struct rpc_engine *e, u32 i);
int rpc_n_finished(struct rpc_engine *e);
struct call *rpc_finished_at(struct rpc_engine *e, u32 i); /* NULL once it was answered */
/* Finished calls go to a function in C first, which returns 0 when it ended the call or detached it again; else the call is handed out
 * with call.status. */
void rpc_on_finished(struct rpc_engine *e, int (*fn)(struct call *));
int rpc_n_events(struct rpc_engine *e);
const struct rpc_event *rpc_events(struct rpc_engine *e);
int rpc_flush(struct rpc_engine *e);                /* before a pause outside rpc_poll() */
void rpc_wake(struct rpc_engine *e);                /* any thread, signal handlers too: rpc_poll() returns soon */
const struct rpc_counters *rpc_count(struct rpc_engine *e);

/* Watching (trace.h).  fd: one end of a SOCK_SEQPACKET pair, the engine's from then on, also on error.  An id that is there is
 * replaced.  The server of the calls says which export a call is for (0: none) and what its object is called (length, 0: not
 * known); both may be NULL. */
int rpc_trace_start(struct rpc_engine *e, u32 id, u32 slot, int fd, const struct rpc_trace_filter *f);
int rpc_trace_stop(struct rpc_engine *e, u32 id);
void rpc_trace_sweep(struct rpc_engine *e);       /* now and then: lets go those that nobody reads any more */
void rpc_trace_names(struct rpc_engine *e, u32 (*export_id)(const struct call *), u32 (*path)(const struct call *, char *, u32));

/* `hook` is called before replies leave, once for all that leave together. */
void rpc_before_sending(struct rpc_engine *e, void (*hook)(void));

/* Replies, for Python. */
int rpc_null(struct call *c);                                  /* SUCCESS, no results */
int rpc_reply(struct call *c, const void *results, size_t len);/* SUCCESS and these results */
int rpc_reply_raw(struct call *c, const void *msg, size_t len);/* a whole RPC reply made elsewhere; its xid becomes c's */
void rpc_deny(struct call *c, u32 accept_stat);                /* nothing, when c was detached or dropped */
void rpc_deny_auth(struct call *c, u32 auth_stat);
void rpc_drop(struct call *c);
struct call *rpc_detach(struct call *c, size_t room);
void rpc_complete(struct call *d);

/* Calls with AUTH_KERB4 go to `row` (-1: they are refused, as at first), with AUTH_NONE's credential and the row that they asked for
 * in call.word[0].  Whoever serves it detaches the call, finds out who it is for, and gives it that credential. */
#define RPC_KERB4 4
void rpc_kerb4(struct rpc_engine *e, i32 row);
int rpc_become(struct call *c, u32 uid, u32 gid, u32 n, const u32 *gids); /* as if it had come with AUTH_SYS; -EINVAL, -ENOMEM */

/* About a call. */
int rpc_message(struct call *c, const u8 **msg, size_t *len);  /* from the xid on; for relaying; not for a detached call */
void rpc_relay(struct call *c, u32 serial, struct rpc_relay_head *head);
u32 rpc_transport(struct call *c);                             /* RPC_TCP, RPC_UDP, RPC_LOCAL; of a relayed call the real one */
int rpc_is_local(struct call *c);                              /* reached a loopback address of ours, or a unix socket */
int64_t rpc_unix_uid(struct call *c);                          /* SO_PEERCRED of connect(2), or -1 */
int rpc_local_addr(struct call *c, u8 addr[16]);               /* AF_INET, AF_INET6 or 0; which of our addresses was asked */
u32 rpc_message_size(struct call *c);                          /* bytes of the RPC message */
#endif
