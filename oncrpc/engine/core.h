/* core.h: the state of an engine, which receives ONC RPC calls and sends the replies (RFC 5531, record marking section 11).
 *
 * One engine a process, one thread that polls it.
 *
 * Receiving.  epoll is level-triggered.  Ready sockets stand in one queue and get turns in order, so that nobody starves;
 * a turn ends after `turn_quota` messages (lim.quota, or less beside others that take less: share.c), or when its replies may
 * exceed TURN_REPLY, or after BITE bytes.  A connection is received into the worker's one buffer; complete single-fragment
 * records are used where they lie, without a copy.
 * Whatever cannot be used at once goes to a buffer of the connection's:
 *     left   bytes beyond the end of this turn, moved once, then consumed by offset in later turns
 *     rec    one record that is not complete; the next bytes are received straight into it (recvmsg with two vectors)
 * An idle connection has neither.  Buffers that calls of a batch point into are freed only when the batch is over.
 *
 * Sending.  Replies for one connection are written one after another into e->out and leave with one send() when the next
 * call belongs to another connection, when the buffer is full, or at the next rpc_poll().  What the socket does not take
 * is kept with the connection (chain of buffers, not copied when large), and until it has left nothing more is read there.
 *
 * Death.  kill_conn() closes the descriptor, moves the generation on and keeps the struct until the batch is over.
 * Calls carry (conn, conn_gen); replies to a dead connection are written and forgotten.
 *
 * Not trusted: every byte received.  A length is compared before it is used, and nothing is allocated because of a length
 * alone once half of the budget for unfinished records is spent.
 *
 * What each file does with it: parts.h.  A limit that one file alone needs stands there.
 */
#ifndef ONCRPC_ENGINE_CORE_H
#define ONCRPC_ENGINE_CORE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../engine.h"
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

/* ---- limits, each with its reason */
enum {
	REGION = 512 << 10,       /* the receive buffer: two bites, or many small ones */
	REGION_MIN = 16 << 10,    /* no recv() into less than this: the batch ends instead */
	TURN_REPLY = 1 << 20,     /* bytes that the replies of one turn may have, by rpc_weight() */
	MAX_RECORD = (1 << 20) + 4096 + 1024, /* wtmax, arguments' other fields, header with 2 * 400 bytes of authentication */
	MAX_REPLY = 16 << 20,     /* a larger room is a bug */
	MIN_MESSAGE = 24,         /* xid, CALL, rpcvers, prog, vers, proc: less is no call, and cannot be answered */
	MAX_AUTH = 400,           /* RFC 5531 section 8.2 */
	MAX_ROWS = 2048,
	MAX_PROGRAMS = 32,        /* (prog, vers) pairs; the largest daemon has 9 */
	RECENT = 8,               /* batches; all their credentials together fill half of the table at the most */
	TABLE = 4096,             /* credentials, and peers, that are remembered at a time; > RPC_BATCH + MAX_DETACHED */
	DATAGRAM = 65536,         /* largest UDP payload and a byte to notice truncation */
	UDP_SLOTS = 32,           /* datagrams a batch: 2 MiB of addresses, touched as needed */
	UDP_OUT = 64,             /* replies a sendmmsg() */
	EPOLL_BATCH = 256,
	ADDRESSES = 4096,         /* buckets of connection counts; a collision counts two addresses as one */
	SMALL_REPLY = 16 << 10,   /* detached replies up to here are collected, larger ones sent from where they are */
	SWEEP_MS = 1000,
	SPIN_PAUSE = 64,          /* short sleeps before the next try after a miss; doubles with each */
};
#define NONE 0xffffffffu
#define NS 1000000000ull

enum { SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR }; /* accept_stat, RFC 5531 section 9 */
enum { NONE_FLAVOR = 0, SYS_FLAVOR = 1 }; /* AUTH_NONE, AUTH_SYS */

struct buf {
	struct buf *next;
	size_t cap, off, len; /* off, len: for chains of replies and leftovers */
	u8 data[];
};

struct conn {
	int fd;
	u32 id, gen;
	u8 kind, proto, queued, eof, dead, armed, in_record, last, mark_have, mark[4], peercred;
	u16 port;
	u32 next;                 /* in the ready queue */
	u32 older, newer;         /* by last activity */
	struct rpc_peer addr;     /* serial unused */
	u32 bucket;               /* of addr, in by_address */
	u32 peer, peer_serial;    /* its place among eng->peers, if it still has that serial */
	u32 cred, cred_serial;    /* the last credential seen */
	u64 had;                  /* calls, in parts, by share.c's scale */
	struct buf *left, *rec;
	u32 have, frag_left, n_frags;
	u64 t_record, t_stall, t_active;
	struct buf *out, *out_tail;
	size_t out_len;
	u32 n_detached;
	u64 detached_bytes;
	uid_t uid;
	struct conn *morgue;
};

/* What the bridge knows of a call beyond struct call; call.owner points here. */
struct slot {
	struct buf *own;          /* holds the record of this call alone */
	const u8 *msg;
	u32 msg_len, serial, transport;
	u8 *seen;                 /* detached, while somebody watches: the first bytes of its message */
	u32 seen_len;
	u8 gone;                  /* detached or dropped: rpc_deny() after an exception must not answer it */
	struct sockaddr_in6 from; /* UDP: large enough for both families */
	socklen_t from_len;
	u32 local_family, ifindex;
	u8 local[16];
	u8 spec[4];               /* IPv4: ipi_spec_dst, what the answer leaves from */
};

struct detached {
	struct call call;
	struct slot slot;
	struct buf *args, *reply;
	size_t room;              /* of the reply, in charged */
	u64 charged;
	u32 bucket;               /* of its address, in waiting */
	u32 place;                /* 1 + where it stands in finished[] */
	struct detached *next;
};

/* Calls of one address that wait, also of connections that are gone.  full: they are so many that nothing more is read from it. */
struct waiting { u32 n; u64 bytes; bool full; };

struct program { u32 prog, vers, nproc; i32 *rows; };

/* Interned records with serials: credentials and peers.  record[0..3] is the serial, the rest the key. */
struct table {
	u8 *records;
	u32 size;
	u32 serial, hand;
	u32 head[TABLE], chain[TABLE], hash[TABLE];
	u64 used[TABLE];          /* the last batch that used it */
	u16 pins[TABLE];          /* detached calls that hold it */
};

struct engine {
	struct rpc_engine pub;    /* first: the same address */
	struct rpc_limits lim;
	struct rpc_counters count;
	int ep, wakefd;
	u64 now, batch, swept, key[2];
	u64 deadline;             /* rpc_deadline() */
	u32 hits, pause, pause_left; /* spinning: see learn() */
	bool stopped, starved;    /* starved: a listener is disarmed for lack of descriptors */
	u32 n_calls, n_finished, n_events, n_seen; /* n_seen: events that the last rpc_poll() returned */
	struct call calls[RPC_BATCH];
	struct slot slots[RPC_BATCH];
	struct call *finished[RPC_BATCH];
	struct rpc_event events[EPOLL_BATCH];
	struct table creds, peers;
	u8 cred_raw[TABLE][MAX_AUTH];
	u16 cred_raw_len[TABLE];
	struct conn **conns;
	u32 *gens;
	u32 conn_cap, free_head, *free_next;
	u32 queue_head, queue_tail, n_queued;
	u32 oldest, newest;
	u64 t_shared;             /* the last call by a socket that stands for many clients */
	u32 by_address[ADDRESSES];
	struct waiting waiting[ADDRESSES];
	u64 dice;
	struct conn *morgue;
	struct buf *graveyard, *pool[16]; /* CLASSES are used */
	u32 n_pool[16];
	struct program programs[MAX_PROGRAMS];
	u32 n_programs, last_program;
	i32 kerb4_row;            /* -1: AUTH_KERB4 is refused */
	u8 tails[MAX_ROWS];
	int (*direct[MAX_ROWS])(struct call *);
	void (*before_wait)(struct rpc_engine *, u32, u64);
	int (*on_finished)(struct call *); /* NULL: finished calls are handed out */
	u32 at;                   /* the first call of the batch that nobody looked at */
	bool looked;              /* that call is known not to be for a function in C, or was left over by it */
	bool woken_now;           /* by rpc_wake() or a signal */
	u8 *region;
	size_t region_pos;
	struct buf *out;
	/* how the worker is shared: share.c */
	u64 share;
	u32 turn_most, taken, takers, sated; /* of this batch: longest turn, calls, who sent them, turns that took all there was */
	/* this turn */
	u32 turn_msgs, turn_quota, turn_clients;
	u64 turn_reply;
	/* UDP */
	u8 *udp_in;
	u32 udp_used;
	struct buf *udp_out;
	size_t udp_pos;
	u32 udp_n;
	struct { u32 conn, gen; size_t off, len; struct slot slot; } udp_msgs[UDP_OUT];
	struct buf *relay_out;
	/* completed calls */
	_Atomic(struct detached *) done;
	struct detached *done_head, *done_tail;
	atomic_int woken;         /* by rpc_wake(), and nobody heeded it yet */
	/* who watches */
	struct tracer *tracers;
	u32 seen_bytes;           /* of all slot.seen */
	void (*before_sending)(void); /* NULL: nobody wants to know */
	u32 (*trace_export)(const struct call *);
	u32 (*trace_path)(const struct call *, char *, u32);
};

#define ENGINE(p) ((struct engine *)(p))

static inline u64 now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * NS + (u64)t.tv_nsec;
}
#endif
