/* trace.h: copies of calls and their replies, for whoever watches a running server (nfsd trace).
 *
 * A tracer is a filter and one end of a SOCK_SEQPACKET pair.  The engine shows it each call at its end, that is when its reply
 * is complete or the call is dropped; what passes the filter is copied, cut to `snap` bytes a message, into a buffer that
 * leaves as one packet at the end of the batch.  Sending never waits: a packet that the reader has no room for is lost, and the
 * number of records lost so travels in the next record (one without messages, when there is no other).
 * Only the engine's thread comes here.
 */
#ifndef ONCRPC_TRACE_H
#define ONCRPC_TRACE_H
#include "rpc.h"
#include <stdbool.h>

#define TRACE_SNAP_MAX 65536u       /* of a message: two of them and a path fit into one packet of an ordinary socket buffer */
#define TRACE_PATH_MAX 4096u        /* PATH_MAX */
#define TRACE_SEEN_MAX (16u << 20)  /* bytes of calls that wait for the pool, kept for their records */
enum { TRACE_REPLIED = 1, TRACE_DETACHED = 2 }; /* rpc_trace_head.flags */

/* 0 in a field: all. */
struct rpc_trace_filter {
	u32 family;             /* AF_INET, AF_INET6: clients of this network */
	u32 prefix;
	u8 addr[16];
	u32 by_uid, uid;        /* by_uid 1: the uid that the client sent */
	u32 export_id;
	u32 snap;
};

/* One record; native byte order, same machine.  Behind it the path, the call and the reply (RPC messages without record mark),
 * each as long as the head says and not padded; then 0 to 7 bytes up to `size`. */
struct rpc_trace_head {
	u32 size;               /* of the whole record, a multiple of 8 */
	u32 flags;
	u64 t_call, t_reply;    /* CLOCK_MONOTONIC ns: received, answered or dropped */
	u32 slot;               /* the worker */
	u32 lost;               /* records that did not fit since the last one that did */
	u32 conn, conn_gen;
	u32 proto;              /* RPC_TCP, RPC_UDP, RPC_LOCAL */
	u32 export_id;          /* 0: the call names none */
	u16 family, port;       /* the client */
	u16 local_family, local_port; /* whom it asked; 0: not known */
	u8 addr[16], local_addr[16];
	u32 call_len, call_kept, reply_len, reply_kept, path_len; /* call_len 0: no call, only `lost` */
	u32 reserved;
};

struct tracer;
struct tracer *trace_open(u32 id, u32 slot, int fd, const struct rpc_trace_filter *f); /* takes fd; NULL: no memory */
void trace_close(struct tracer *t);
struct tracer **trace_next(struct tracer *t);    /* for the engine's list */
u32 trace_id(const struct tracer *t);
u32 trace_snap(const struct tracer *t);
/* cred NULL: the call was refused before its credential was read */
bool trace_wants(const struct tracer *t, const struct rpc_peer *peer, const struct rpc_cred *cred);
bool trace_wants_export(const struct tracer *t, u32 export_id);
/* h: all but size, slot, lost and the lengths kept */
void trace_put(struct tracer *t, const struct rpc_trace_head *h, const void *path, const void *call, const void *reply);
bool trace_flush(struct tracer *t);              /* false: the reader is gone */
bool trace_watched(const struct tracer *t);      /* false: the same, for a tracer that has nothing to send */
#endif
