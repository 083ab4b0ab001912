/* rpc.h: what the RPC bridge (oncrpc/_rpc) and the vnode bridge (nfsserver/_vnode) share.
 *
 * The RPC bridge receives, finds records, decodes call headers and sends replies; the vnode bridge fills a reply in
 * place.  They are two extension modules and call no symbol of one another: the second reaches the first through the
 * function pointers of struct rpc_engine, and both use the inline XDR writers below.
 *
 * Life of a call.  rpc_poll() hands out `struct call`s, valid until the next rpc_poll().  Whoever serves one does exactly
 * one of:
 *   reply_open(c, room); put_*(c, ...) ...; reply_close(c)    a reply with accept_stat SUCCESS
 *   c->eng->deny(c, accept_stat)                              a reply without results (GARBAGE_ARGS, SYSTEM_ERR, ...)
 *   c->eng->deny_auth(c, auth_stat)                           MSG_DENIED AUTH_ERROR
 *   c->eng->drop(c)                                           no reply (a retransmission whose first is still running)
 *   d = c->eng->detach(c, room)                               the call is to be answered later: d is a copy that owns its
 *                                                             arguments and a reply buffer of `room` bytes; any thread may
 *                                                             fill d; then exactly one e->complete(d), from any thread.
 *                                                             A later rpc_poll() returns d in finished[]; the loop then
 *                                                             ends it with reply_close(d), deny(d) or drop(d), which
 *                                                             frees it, or sends it to a thread again: detach(d, room)
 *                                                             gives d itself, with its arguments and an empty reply.
 * An abandoned reply_open (an error found half way) starts again with another reply_open: nothing was sent.
 * Only detach'd calls may outlive a rpc_poll(); only complete() may be called by another thread than the loop's.
 */
#ifndef ONCRPC_RPC_H
#define ONCRPC_RPC_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <arpa/inet.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int32_t i32;
typedef uint64_t u64;

#define RPC_BATCH 256      /* calls that one rpc_poll() returns at the most */
#define RPC_GIDS 16        /* RFC 5531 appendix A: gids<16> */
#define RPC_HEADER 28      /* record mark + xid, REPLY, MSG_ACCEPTED, verf AUTH_NONE 0, SUCCESS */

enum { RPC_TCP = 6, RPC_UDP = 17, RPC_LOCAL = 1, RPC_RELAY = 2 }; /* call.proto: LOCAL is a unix stream socket */

/* One credential as clients send it.  `serial` is never used twice, so a cache keyed by it cannot take one for another. */
struct rpc_cred {
	u32 serial;
	u16 flavor;         /* 0 AUTH_NONE, 1 AUTH_SYS; others are refused before a call is handed out */
	u16 ngids;
	u32 uid, gid;       /* AUTH_NONE: 0xffffffff both */
	u32 gids[RPC_GIDS];
};

/* One client address, without port; v4-mapped IPv6 addresses are unwrapped. */
struct rpc_peer {
	u32 serial;
	u32 family;         /* AF_INET, AF_INET6, AF_UNIX (addr: 0) */
	u8 addr[16];
	u32 scope;          /* link-local IPv6: interface index */
};

struct rpc_engine;

struct call {
	u32 xid, prog, vers, proc;
	u32 row;            /* what rpc_program() was told for (prog, vers, proc) */
	u32 cred, peer;     /* places in eng->creds, eng->peers */
	u16 port;           /* the client's source port, host order */
	u8 proto, detached;
	u32 conn, conn_gen; /* connection or UDP socket; a gen that moved on means: it is gone */
	const u8 *arg, *end;/* the arguments */
	struct rpc_engine *eng;
	u8 *mark;           /* where the reply's record begins */
	u8 *res;            /* first byte of the results */
	u8 *rep, *rep_end;  /* where the next result byte goes; the end of the room that was asked for */
	u64 t0;             /* CLOCK_MONOTONIC ns when its batch was received */
	void *owner;        /* the RPC bridge's: where a UDP reply goes, what a detached call holds */
	/* For the server of the call.  The RPC bridge sets them to 0 in a new call and copies them on detach. */
	i32 obj, obj2, err;
	u32 exp, ident, rights, state, drc, drc_gen;
	u64 word[4];
	i32 status;         /* what its row in C returned, see rpc_direct(), rpc_on_finished() */
};

struct rpc_engine {
	struct rpc_cred *creds;
	struct rpc_peer *peers;
	u8 *out_pos, *out_end;   /* the reply being collected for connection out_conn, out_gen */
	u32 out_conn, out_gen;
	int (*room)(struct call *, size_t);       /* slow path of reply_open: flush, change connection, grow; 0 or -1 */
	void (*close)(struct call *);             /* slow path of reply_close: datagrams, relays, detached calls */
	void (*deny)(struct call *, u32 accept_stat);
	void (*deny_auth)(struct call *, u32 auth_stat);
	void (*drop)(struct call *);
	struct call *(*detach)(struct call *, size_t room); /* NULL: no memory, or the budget for unfinished calls is spent */
	int (*full)(const struct call *, size_t room);      /* would it be spent?  For who must know before he begins */
	void (*complete)(struct call *);
	int (*flush)(struct rpc_engine *);        /* sends what is collected: before the loop does something that takes long */
	void (*trace)(struct call *, int replied); /* NULL: nobody watches; else it sees each call at its end */
};

/* ---- XDR writers (RFC 4506).  The caller has asked for the room. */

static inline void put_u32(struct call *c, u32 v) { v = htonl(v); memcpy(c->rep, &v, 4); c->rep += 4; }
static inline void put_u64(struct call *c, u64 v) { put_u32(c, (u32)(v >> 32)); put_u32(c, (u32)v); }
static inline void put_pad(struct call *c, size_t n) { while (n++ & 3) *c->rep++ = 0; }
static inline void put_bytes(struct call *c, const void *p, size_t n)
{
	memcpy(c->rep, p, n);
	c->rep += n;
	put_pad(c, n);
}
static inline void put_opaque(struct call *c, const void *p, size_t n) { put_u32(c, (u32)n); put_bytes(c, p, n); }

static inline u32 get_u32(const u8 *p) { u32 v; memcpy(&v, p, 4); return ntohl(v); }
static inline u64 get_u64(const u8 *p) { return (u64)get_u32(p) << 32 | get_u32(p + 4); }

/* Begins a reply with accept_stat SUCCESS and `room` bytes for results.  0, or -1: no memory (drop the call). */
static inline int reply_open(struct call *c, size_t room)
{
	struct rpc_engine *e = c->eng;
	if (!c->detached && c->proto == RPC_TCP && e->out_conn == c->conn && e->out_gen == c->conn_gen
	    && (size_t)(e->out_end - e->out_pos) >= room + RPC_HEADER) {
		c->mark = e->out_pos;
	} else if (e->room(c, room)) /* sets c->mark to room + RPC_HEADER free bytes */
		return -1;
	c->rep = c->mark + 4;
	c->rep_end = c->mark + RPC_HEADER + room;
	put_u32(c, c->xid);
	put_u32(c, 1); /* REPLY */
	put_u32(c, 0); /* MSG_ACCEPTED */
	put_u64(c, 0); /* verf: AUTH_NONE, length 0 */
	put_u32(c, 0); /* SUCCESS */
	c->res = c->rep;
	return 0;
}

/* Ends the record.  For a call of the current batch the bytes leave with the batch. */
static inline void reply_close(struct call *c)
{
	u32 mark = htonl(0x80000000u | (u32)(c->rep - c->mark - 4));
	memcpy(c->mark, &mark, 4);
	if (__builtin_expect(c->eng->trace != NULL, 0))
		c->eng->trace(c, 1);
	if (!c->detached && c->proto == RPC_TCP)
		c->eng->out_pos = c->rep;
	else
		c->eng->close(c);
}
#endif
