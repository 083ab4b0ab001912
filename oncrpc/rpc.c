/* rpc.c: receives ONC RPC calls and sends the replies (RFC 5531, record marking section 11).
 *
 * One engine a process, one thread that polls it.
 *
 * Receiving.  epoll is level-triggered.  Ready sockets stand in one queue and get turns in order, so that nobody starves;
 * a turn ends after `quota` messages, or when its replies may exceed TURN_REPLY, or after BITE bytes.  A connection is
 * received into the worker's one buffer; complete single-fragment records are used where they lie, without a copy.
 * Whatever cannot be used at once goes to a buffer of the connection's:
 *     left   bytes beyond the quota of this turn, moved once, then consumed by offset in later turns
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
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "engine.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* ---- limits, each with its reason */
enum {
	BITE = 256 << 10,         /* one recv(): larger ones leave the processor's cache and halve large writes (measured) */
	REGION = 512 << 10,       /* the receive buffer: two bites, or many small ones */
	REGION_MIN = 16 << 10,    /* no recv() into less than this: the batch ends instead */
	LARGE = 32 << 10,         /* records from here on are received into their own buffer without overshooting */
	OVERSHOOT = 4 << 10,      /* what is received beyond the end of a LARGE record: the next header, cheap to move */
	QUOTA = 64,               /* messages of one connection a turn */
	TURN_REPLY = 1 << 20,     /* bytes that the replies of one turn may have, by rpc_weight() */
	MAX_RECORD = (1 << 20) + 4096 + 1024, /* wtmax, arguments' other fields, header with 2 * 400 bytes of authentication */
	MAX_REPLY = 16 << 20,     /* a larger room is a bug */
	MIN_MESSAGE = 24,         /* xid, CALL, rpcvers, prog, vers, proc: less is no call, and cannot be answered */
	MAX_FRAGMENTS = 2048,     /* of a record; Sun's library sends 4000-byte fragments, so 263 are ordinary */
	MAX_AUTH = 400,           /* RFC 5531 section 8.2 */
	MAX_MACHINE = 255,        /* RFC 5531 appendix A */
	MAX_ROWS = 2048,
	MAX_PROGRAMS = 32,        /* (prog, vers) pairs; the largest daemon has 9 */
	MAX_PROC = 256,           /* NLM, the longest, has 24 */
	RECENT = 8,               /* batches; all their credentials together fill half of the table at the most */
	TABLE = 4096,             /* credentials, and peers, that are remembered at a time; > RPC_BATCH + MAX_DETACHED */
	MAX_DETACHED = 2048,      /* calls that wait for the pool */
	CONN_DETACHED = 256,      /* ... of one connection; its reading pauses */
	CONN_DETACHED_BYTES = 16 << 20,
	RECORD_S = 30,            /* for a record to arrive, and one second more for each RECORD_RATE bytes that did */
	RECORD_RATE = 4096,
	YOUNG_S = 2,
	HARD = 4,
	STALL_S = 60,             /* a client that takes no byte of its replies for so long is closed */
	ACCEPTS = 64,             /* a turn of a listening socket */
	RELAYS = 32,              /* packets a turn */
	DATAGRAM = 65536,         /* largest UDP payload and a byte to notice truncation */
	UDP_SLOTS = 32,           /* datagrams a batch: 2 MiB of addresses, touched as needed */
	UDP_OUT = 64,             /* replies a sendmmsg() */
	UDP_MAX_REPLY = 65507,
	EPOLL_BATCH = 256,
	HOG_SHARE = 4,            /* an address with more than 1/4 of all connections makes room for its own newcomers */
	HOG_SAMPLES = 64,         /* places looked at to find one of its connections: about 4 are enough */
	ADDRESSES = 4096,         /* buckets of connection counts; a collision counts two addresses as one */
	UDP_BUFFER = 1 << 20,     /* bytes that the kernel may hold: bursts of 32 KiB writes */
	FD_RESERVE = 64,          /* descriptors that connections leave to everything else */
	CONN_CEILING = 65000,
	SMALL_REPLY = 16 << 10,   /* detached replies up to here are collected, larger ones sent from where they are */
	OUT_FIRST = 256 << 10,
	SWEEP_MS = 1000,
	SPIN_NS = 60000,          /* how long to look for the next call before sleeping: going to sleep and waking cost 5 to 10 us */
	SPIN_CALLS = 2,           /* after a batch of so few; larger ones are a client that does not wait for each answer */
	SPIN_HITS = 4,            /* misses that are forgiven after as many hits */
	SPIN_PAUSE = 64,          /* short sleeps before the next try after a miss; doubles with each */
	SPIN_PAUSE_MAX = 8192,
	MAX_WAIT_MS = 60000,
};
#define IN_BUDGET (64ull << 20)        /* all unfinished records and leftovers together */
#define OUT_BUDGET (128ull << 20)      /* all replies that clients do not take */
#define DETACHED_BUDGET (256ull << 20) /* arguments and reply room of all detached calls */
#define LAST_FRAGMENT 0x80000000u
#define NONE 0xffffffffu
#define NS 1000000000ull

enum { SUCCESS, PROG_UNAVAIL, PROG_MISMATCH, PROC_UNAVAIL, GARBAGE_ARGS, SYSTEM_ERR };
enum { AUTH_BADCRED = 1, AUTH_REJECTEDCRED = 2, AUTH_BADVERF = 3 };
enum { NONE_FLAVOR = 0, SYS_FLAVOR = 1 };

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
	u32 place;                /* 1 + where it stands in finished[] */
	struct detached *next;
};

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
	u32 by_address[ADDRESSES];
	u64 dice;
	struct conn *morgue;
	struct buf *graveyard, *pool[16]; /* CLASSES are used */
	u32 n_pool[16];
	struct program programs[MAX_PROGRAMS];
	u32 n_programs, last_program;
	i32 kerb4_row;            /* -1: AUTH_KERB4 is refused */
	u8 tails[MAX_ROWS];
	int (*direct[MAX_ROWS])(struct call *);
	void (*before_wait)(void);
	u32 at;                   /* the first call of the batch that nobody looked at */
	bool looked;              /* that call is known not to be for a function in C, or was left over by it */
	bool woken_now;           /* by rpc_wake() or a signal */
	u8 *region;
	size_t region_pos;
	struct buf *out;
	/* this turn */
	u32 turn_msgs, turn_quota;
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
	atomic_int woken;
	/* who watches */
	struct tracer *tracers;
	u32 seen_bytes;           /* of all slot.seen */
	void (*before_sending)(void); /* NULL: nobody wants to know */
	u32 (*trace_export)(const struct call *);
	u32 (*trace_path)(const struct call *, char *, u32);
};

#define ENGINE(p) ((struct engine *)(p))

static void flush_tcp(struct engine *e);
static void flush_udp(struct engine *e);

static u64 now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * NS + (u64)t.tv_nsec;
}

/* ---- buffers: powers of two from 4 KiB, and a record of wtmax; a few of each kept, so that large writes do not fault in
 * new pages */

enum { CLASSES = 9 };
static const size_t class_size[CLASSES] = { 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, MAX_RECORD };

static int pool_class(size_t cap)
{
	int k = 0;
	while (k < CLASSES && class_size[k] < cap)
		k++;
	return k;
}

static struct buf *buf_new(struct engine *e, size_t cap)
{
	int k = pool_class(cap);
	struct buf *b;
	if (k < CLASSES && e->pool[k]) {
		b = e->pool[k];
		e->pool[k] = b->next;
		e->n_pool[k]--;
	} else {
		if (k < CLASSES)
			cap = class_size[k];
		if (!(b = malloc(sizeof *b + cap)))
			return NULL;
		b->cap = cap;
	}
	b->next = NULL;
	b->off = b->len = 0;
	return b;
}

static void buf_free(struct engine *e, struct buf *b)
{
	if (!b)
		return;
	int k = pool_class(b->cap);
	u32 keep = k < 6 ? 16 : 3; /* at most 16 * 252 KiB and 3 * 1.75 MiB */
	if (k < CLASSES && b->cap == class_size[k] && e->n_pool[k] < keep) {
		b->next = e->pool[k];
		e->pool[k] = b;
		e->n_pool[k]++;
	} else {
		free(b);
	}
}

/* Input buffers count against in_budget while a connection holds them. */
static struct buf *in_new(struct engine *e, size_t cap)
{
	struct buf *b = buf_new(e, cap);
	if (b)
		e->count.in_bytes += b->cap;
	return b;
}

/* To be freed when no call of this batch can point into it. */
static void bury(struct engine *e, struct buf *b)
{
	if (!b)
		return;
	e->count.in_bytes -= b->cap;
	b->next = e->graveyard;
	e->graveyard = b;
}

/* ---- interned credentials and peers.  SipHash-1-3 with a key of this process: a client cannot choose collisions. */

#define ROT(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define SIPROUND do { v0 += v1; v1 = ROT(v1, 13) ^ v0; v0 = ROT(v0, 32); v2 += v3; v3 = ROT(v3, 16) ^ v2; \
	v0 += v3; v3 = ROT(v3, 21) ^ v0; v2 += v1; v1 = ROT(v1, 17) ^ v2; v2 = ROT(v2, 32); } while (0)

static u32 keyed_hash(const u64 key[2], const u8 *p, size_t n)
{
	u64 v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull;
	u64 v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull, m, end = (u64)n << 56;
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&m, p, 8);
		v3 ^= m;
		SIPROUND;
		v0 ^= m;
	}
	m = 0;
	memcpy(&m, p, n);
	m |= end;
	v3 ^= m;
	SIPROUND;
	v0 ^= m;
	v2 ^= 0xff;
	SIPROUND;
	SIPROUND;
	SIPROUND;
	m = v0 ^ v1 ^ v2 ^ v3;
	return (u32)m ^ (u32)(m >> 32);
}

static void table_init(struct table *t, void *records, u32 size)
{
	t->records = records;
	t->size = size;
	t->serial = 1;
	memset(t->head, 0xff, sizeof t->head);
	memset(t->chain, 0xff, sizeof t->chain);
}

static u32 record_serial(const struct table *t, u32 i)
{
	u32 v;
	memcpy(&v, t->records + (size_t)i * t->size, 4);
	return v;
}

static void unchain(struct table *t, u32 i)
{
	u32 *p = &t->head[t->hash[i] % TABLE];
	while (*p != NONE && *p != i)
		p = &t->chain[*p];
	if (*p == i)
		*p = t->chain[i];
}

/* The place of `record` (its first 4 bytes are ignored), newly made if need be; NONE when every place is held. */
static u32 intern(struct engine *e, struct table *t, const void *record)
{
	const u8 *key = (const u8 *)record + 4;
	u32 h = keyed_hash(e->key, key, t->size - 4), i;
	for (i = t->head[h % TABLE]; i != NONE; i = t->chain[i])
		if (t->hash[i] == h && !memcmp(t->records + (size_t)i * t->size + 4, key, t->size - 4)) {
			t->used[i] = e->batch;
			return i;
		}
	if (t->serial == NONE) /* serials are never used twice: rpc_poll() ends the worker, 4 * 10^9 strangers later */
		return NONE;
	/* The clock: the first that neither this batch nor a detached call holds.  Recently used: one more lap. */
	for (u32 lap = 0; lap < 2 * TABLE; lap++) {
		i = t->hand;
		t->hand = (t->hand + 1) % TABLE;
		if (t->pins[i] || t->used[i] == e->batch || (lap < TABLE && t->used[i] && t->used[i] + RECENT > e->batch))
			continue;
		if (record_serial(t, i))
			unchain(t, i);
		memcpy(t->records + (size_t)i * t->size + 4, key, t->size - 4);
		u32 serial = t->serial++;
		memcpy(t->records + (size_t)i * t->size, &serial, 4);
		t->hash[i] = h;
		t->chain[i] = t->head[h % TABLE];
		t->head[h % TABLE] = i;
		t->used[i] = e->batch;
		return i;
	}
	return NONE;
}

static void set_peer(struct rpc_peer *p, u16 *port, const void *sa, size_t len)
{
	memset(p, 0, sizeof *p);
	*port = 0;
	u16 family = AF_UNIX;
	if (len >= sizeof family)
		memcpy(&family, sa, sizeof family);
	p->family = family;
	if (family == AF_INET && len >= sizeof(struct sockaddr_in)) {
		struct sockaddr_in in;
		memcpy(&in, sa, sizeof in);
		memcpy(p->addr, &in.sin_addr, 4);
		*port = ntohs(in.sin_port);
	} else if (family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
		struct sockaddr_in6 in;
		memcpy(&in, sa, sizeof in);
		*port = ntohs(in.sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
			p->family = AF_INET;
			memcpy(p->addr, in.sin6_addr.s6_addr + 12, 4);
		} else {
			memcpy(p->addr, &in.sin6_addr, 16);
			p->scope = in.sin6_scope_id;
		}
	} else {
		p->family = AF_UNIX;
	}
}

/* ---- connections */

static struct conn *find(struct engine *e, u32 id, u32 gen)
{
	return id < e->conn_cap && e->gens[id] == gen ? e->conns[id] : NULL;
}

static void enqueue(struct engine *e, struct conn *c)
{
	if (c->queued || c->dead)
		return;
	c->queued = 1;
	c->next = NONE;
	if (e->queue_tail == NONE)
		e->queue_head = c->id;
	else
		e->conns[e->queue_tail]->next = c->id;
	e->queue_tail = c->id;
	e->n_queued++;
}

static void unqueue(struct engine *e, struct conn *c)
{
	if (!c->queued)
		return;
	u32 before = NONE;
	for (u32 i = e->queue_head; i != c->id; i = e->conns[i]->next)
		before = i;
	if (before == NONE)
		e->queue_head = c->next;
	else
		e->conns[before]->next = c->next;
	if (e->queue_tail == c->id)
		e->queue_tail = before;
	c->queued = 0;
	e->n_queued--;
}

static void age_unlink(struct engine *e, struct conn *c)
{
	if (c->older == NONE)
		e->oldest = c->newer;
	else
		e->conns[c->older]->newer = c->newer;
	if (c->newer == NONE)
		e->newest = c->older;
	else
		e->conns[c->newer]->older = c->older;
}

static void age_link(struct engine *e, struct conn *c)
{
	c->newer = NONE;
	c->older = e->newest;
	if (e->newest == NONE)
		e->oldest = c->id;
	else
		e->conns[e->newest]->newer = c->id;
	e->newest = c->id;
}

static void touch(struct engine *e, struct conn *c)
{
	c->t_active = e->now;
	if (e->newest == c->id)
		return;
	age_unlink(e, c);
	age_link(e, c);
}

/* May more calls be taken from it now? */
static bool blocked(const struct engine *e, const struct conn *c)
{
	if (e->stopped && (c->kind == RPC_CONN || c->kind == RPC_DGRAM))
		return true;
	return c->out_len || (c->kind != RPC_DGRAM /* many clients */
			      && (c->n_detached >= CONN_DETACHED || c->detached_bytes >= CONN_DETACHED_BYTES));
}

static void arm(struct engine *e, struct conn *c)
{
	u8 want = (c->eof || blocked(e, c) ? 0 : EPOLLIN) | (c->out_len ? EPOLLOUT : 0);
	if (c->dead || want == c->armed)
		return;
	struct epoll_event ev = { .events = want, .data.u64 = (u64)c->gen << 32 | c->id };
	if (!epoll_ctl(e->ep, EPOLL_CTL_MOD, c->fd, &ev))
		c->armed = want;
}

static void end_record(struct engine *e, struct conn *c)
{
	if (c->in_record)
		e->count.partial--;
	c->in_record = c->last = c->mark_have = 0;
	c->have = c->frag_left = c->n_frags = 0;
}

static void rearm_listeners(struct engine *e)
{
	e->starved = false;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer)
		if (e->conns[i]->kind == RPC_LISTEN)
			arm(e, e->conns[i]);
}

static void kill_conn(struct engine *e, struct conn *c)
{
	if (c->dead)
		return;
	unqueue(e, c);
	age_unlink(e, c);
	c->dead = 1;
	epoll_ctl(e->ep, EPOLL_CTL_DEL, c->fd, NULL);
	if (c->kind != RPC_EVENT)
		close(c->fd);
	if (c->kind == RPC_CONN) {
		e->count.conns--;
		e->count.closed++;
		e->by_address[c->bucket]--;
	}
	if (c->kind == RPC_RELAYED && e->n_events < EPOLL_BATCH)
		e->events[e->n_events++] = (struct rpc_event){ c->id, RPC_EV_CLOSED };
	end_record(e, c);
	bury(e, c->left);
	bury(e, c->rec);
	c->left = c->rec = NULL;
	if (c->out_len) {
		e->count.pending_conns--;
		e->count.out_bytes -= c->out_len;
	}
	for (struct buf *b = c->out, *next; b; b = next) {
		next = b->next;
		buf_free(e, b);
	}
	c->out = c->out_tail = NULL;
	c->out_len = 0;
	e->gens[c->id]++;
	e->conns[c->id] = NULL;
	e->free_next[c->id] = e->free_head;
	e->free_head = c->id;
	c->morgue = e->morgue; /* someone up the stack may still look at it */
	e->morgue = c;
	if (e->starved)
		rearm_listeners(e);
}

/* A connection of an address that has very many: of those met at random places the one that was idle longest. */
static struct conn *hog(struct engine *e, u32 bucket)
{
	struct conn *victim = NULL;
	for (u32 i = 0, met = 0; i < HOG_SAMPLES && met < 4; i++) {
		e->dice = e->dice * 6364136223846793005ull + 1442695040888963407ull;
		struct conn *c = e->conns[(u32)(e->dice >> 33) % e->conn_cap];
		if (!c || c->kind != RPC_CONN || c->bucket != bucket)
			continue;
		met++;
		if (!victim || c->t_active < victim->t_active)
			victim = c;
	}
	return victim;
}

/* Makes room for a newcomer (its address, if known): the connection that was idle longest, rather one that waits for
 * nothing; but who holds a large share of all connections makes room for himself. */
static bool evict(struct engine *e, u32 bucket)
{
	struct conn *victim = NULL;
	u32 looked = 0;
	if (bucket != NONE && e->by_address[bucket] > e->count.conns / HOG_SHARE && e->by_address[bucket] < e->count.conns)
		victim = hog(e, bucket);
	for (u32 i = e->oldest; !victim && i != NONE && looked < 4096; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c->kind != RPC_CONN)
			continue;
		looked++;
		if (!c->n_detached && !c->out_len)
			victim = c;
	}
	for (u32 i = e->oldest; !victim && i != NONE; i = e->conns[i]->newer)
		if (e->conns[i]->kind == RPC_CONN)
			victim = e->conns[i];
	if (!victim)
		return false;
	e->count.evicted++;
	kill_conn(e, victim);
	return true;
}

/* Over the budget for unfinished records: close the one whose record has been arriving longest.  Honest ones arrive within
 * YOUNG_S, and may have up to HARD times the budget for that. */
static void evict_partial(struct engine *e, struct conn *except, size_t want)
{
	struct conn *victim = NULL;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c != except && c->in_record && c->rec && (!victim || c->t_record < victim->t_record))
			victim = c;
	}
	bool hard = e->count.in_bytes + want > HARD * e->lim.in_budget;
	if (victim && (hard || e->now - victim->t_record > YOUNG_S * NS)) {
		e->count.evicted++;
		kill_conn(e, victim);
	}
}

static void evict_stalled(struct engine *e)
{
	struct conn *victim = NULL;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c->out_len && (!victim || c->t_stall < victim->t_stall))
			victim = c;
	}
	if (victim) {
		e->count.stalled++;
		kill_conn(e, victim);
	}
}

static int grow_conns(struct engine *e)
{
	u32 cap = e->conn_cap ? e->conn_cap * 2 : 64;
	struct conn **conns = realloc(e->conns, cap * sizeof *conns);
	if (!conns)
		return -1;
	e->conns = conns;
	u32 *gens = realloc(e->gens, cap * sizeof *gens);
	if (!gens)
		return -1;
	e->gens = gens;
	u32 *next = realloc(e->free_next, cap * sizeof *next);
	if (!next)
		return -1;
	e->free_next = next;
	for (u32 i = cap; i-- > e->conn_cap;) {
		conns[i] = NULL;
		gens[i] = 1;
		next[i] = e->free_head;
		e->free_head = i;
	}
	e->conn_cap = cap;
	return 0;
}

int rpc_attach(struct rpc_engine *pub, int fd, int kind, const void *sa, u32 sa_len)
{
	struct engine *e = ENGINE(pub);
	struct sockaddr_storage ss;
	int family = 0, on = 1;
	socklen_t len = sizeof family;

	if (kind < RPC_LISTEN || kind > RPC_EVENT)
		return -EINVAL;
	if (kind != RPC_EVENT && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	if (e->free_head == NONE && grow_conns(e))
		return -ENOMEM;
	struct conn *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->fd = fd;
	c->kind = (u8)kind;
	c->next = c->older = c->newer = NONE;
	c->peer = c->cred = NONE;
	c->t_active = e->now;
	if (kind == RPC_CONN) {
		c->proto = family == AF_UNIX ? RPC_LOCAL : RPC_TCP;
		if (!sa || !sa_len) {
			sa_len = sizeof ss;
			memset(&ss, 0, sizeof ss);
			if (getpeername(fd, (struct sockaddr *)&ss, &sa_len)) {
				int err = errno;
				free(c);
				return -err;
			}
			sa = &ss;
			if (family == AF_UNIX)
				sa_len = sizeof ss.ss_family;
		}
		set_peer(&c->addr, &c->port, sa, sa_len);
		c->bucket = keyed_hash(e->key, (u8 *)&c->addr + 4, sizeof c->addr - 4) % ADDRESSES;
		while (e->count.conns >= e->lim.max_conns && evict(e, c->bucket))
			;
		if (c->proto == RPC_TCP) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
			setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
		} else {
			struct ucred cr;
			len = sizeof cr;
			if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cr, &len)) {
				c->uid = cr.uid;
				c->peercred = 1;
			}
		}
	} else if (kind == RPC_DGRAM) {
		c->proto = RPC_UDP;
		int room = UDP_BUFFER;
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
		if (family == AF_INET)
			setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
		else
			setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
		if (!e->udp_in && !(e->udp_in = malloc((size_t)UDP_SLOTS * DATAGRAM))) {
			free(c);
			return -ENOMEM;
		}
	} else if (kind == RPC_RELAYED) {
		c->proto = RPC_RELAY;
	} else if (kind == RPC_LISTEN) {
		int flags = fcntl(fd, F_GETFL);
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
			int err = errno;
			free(c);
			return -err;
		}
	}
	u32 id = e->free_head;
	c->id = id;
	c->gen = e->gens[id];
	c->armed = blocked(e, c) ? 0 : EPOLLIN;
	struct epoll_event ev = { .events = c->armed, .data.u64 = (u64)c->gen << 32 | id };
	if (epoll_ctl(e->ep, EPOLL_CTL_ADD, fd, &ev)) {
		int err = errno;
		free(c);
		return -err;
	}
	e->free_head = e->free_next[id];
	e->conns[id] = c;
	age_link(e, c);
	if (kind == RPC_CONN) {
		e->count.conns++;
		e->count.accepted++;
		e->by_address[c->bucket]++;
	}
	return (int)id;
}

int rpc_close(struct rpc_engine *pub, u32 id)
{
	struct engine *e = ENGINE(pub);
	if (id >= e->conn_cap || !e->conns[id])
		return -ENOENT;
	if (e->pub.out_conn == id && e->pub.out_gen == e->gens[id])
		flush_tcp(e);
	if (e->conns[id])
		kill_conn(e, e->conns[id]);
	return 0;
}

int rpc_hangup(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	struct conn *conn = find(e, c->conn, c->conn_gen);
	if (!conn || conn->kind != RPC_CONN)
		return -ENOENT;
	kill_conn(e, conn);
	return 0;
}

void rpc_stop_reading(struct rpc_engine *pub, int on)
{
	struct engine *e = ENGINE(pub);
	e->stopped = on;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		arm(e, e->conns[i]);
		if (!on && e->conns[i]->left)
			enqueue(e, e->conns[i]);
	}
}

/* ---- sending */

static void keep(struct engine *e, struct conn *c, struct buf *b)
{
	if (!c->out_len) {
		c->t_stall = e->now;
		e->count.pending_conns++;
	}
	b->next = NULL;
	if (c->out_tail)
		c->out_tail->next = b;
	else
		c->out = b;
	c->out_tail = b;
	c->out_len += b->len;
	e->count.out_bytes += b->len;
}

/* Sends, or keeps what the socket does not take.  *own, if given, is the buffer that holds p, and may be taken over (then
 * it becomes NULL) instead of copied. */
static void send_bytes(struct engine *e, struct conn *c, const u8 *p, size_t n, struct buf **own)
{
	while (!c->out_len && n) {
		ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
				break;
			e->count.send_errors++;
			kill_conn(e, c);
			return;
		}
		p += sent;
		n -= (size_t)sent;
	}
	if (!n)
		return;
	struct buf *tail = c->out_tail;
	if (tail && tail->cap - tail->off - tail->len >= n) {
		memcpy(tail->data + tail->off + tail->len, p, n);
		tail->len += n;
		c->out_len += n;
		e->count.out_bytes += n;
		return;
	}
	struct buf *b;
	if (own && n >= SMALL_REPLY) {
		b = *own;
		b->off = (size_t)(p - b->data);
		*own = NULL;
	} else {
		if (!(b = buf_new(e, n))) {
			kill_conn(e, c);
			return;
		}
		memcpy(b->data, p, n);
	}
	b->len = n;
	keep(e, c, b);
	arm(e, c);
	if (e->count.out_bytes > e->lim.out_budget)
		evict_stalled(e);
}

/* The socket takes bytes again. */
static void drain(struct engine *e, struct conn *c)
{
	while (c->out_len) {
		struct iovec iov[16];
		size_t k = 0;
		for (struct buf *b = c->out; b && k < 16; b = b->next)
			iov[k++] = (struct iovec){ b->data + b->off, b->len };
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = k };
		ssize_t sent = sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
				e->count.send_errors++;
				kill_conn(e, c);
			}
			return;
		}
		c->t_stall = e->now;
		c->out_len -= (size_t)sent;
		e->count.out_bytes -= (u64)sent;
		while (sent > 0 || (c->out && !c->out->len)) {
			struct buf *b = c->out;
			size_t n = (size_t)sent < b->len ? (size_t)sent : b->len;
			b->off += n;
			b->len -= n;
			sent -= (ssize_t)n;
			if (b->len)
				break;
			c->out = b->next;
			if (!c->out)
				c->out_tail = NULL;
			buf_free(e, b);
		}
	}
	e->count.pending_conns--;
	arm(e, c);
	if (c->left || c->eof)
		enqueue(e, c);
}

static void before_sending(struct engine *e)
{
	if (e->before_sending)
		e->before_sending();
}

static void flush_tcp(struct engine *e)
{
	struct rpc_engine *r = &e->pub;
	size_t n = e->out ? (size_t)(r->out_pos - e->out->data) : 0;
	if (n) {
		before_sending(e);
		struct conn *c = find(e, r->out_conn, r->out_gen);
		if (c)
			send_bytes(e, c, e->out->data, n, &e->out);
	}
	r->out_pos = e->out ? e->out->data : NULL;
	r->out_end = e->out ? e->out->data + e->out->cap : NULL;
}

static void flush_udp(struct engine *e)
{
	struct mmsghdr mm[UDP_OUT];
	struct iovec iov[UDP_OUT];
	union { u8 b[CMSG_SPACE(sizeof(struct in6_pktinfo))]; struct cmsghdr align; } ctl[UDP_OUT];
	u32 i = 0;
	before_sending(e);
	while (i < e->udp_n) { /* one sendmmsg() for each run of the same socket */
		u32 k = 0, first = i;
		struct conn *c = find(e, e->udp_msgs[i].conn, e->udp_msgs[i].gen);
		for (; i < e->udp_n && e->udp_msgs[i].conn == e->udp_msgs[first].conn
		       && e->udp_msgs[i].gen == e->udp_msgs[first].gen; i++, k++) {
			struct slot *s = &e->udp_msgs[i].slot;
			iov[k] = (struct iovec){ e->udp_out->data + e->udp_msgs[i].off, e->udp_msgs[i].len };
			mm[k].msg_hdr = (struct msghdr){ .msg_name = &s->from, .msg_namelen = s->from_len,
				.msg_iov = &iov[k], .msg_iovlen = 1, .msg_control = &ctl[k] };
			struct msghdr *mh = &mm[k].msg_hdr;
			struct cmsghdr *cm = &ctl[k].align;
			memset(&ctl[k], 0, sizeof ctl[k]);
			if (s->local_family == AF_INET) {
				struct in_pktinfo pi = { 0 };
				memcpy(&pi.ipi_spec_dst, s->spec, 4);
				cm->cmsg_level = IPPROTO_IP;
				cm->cmsg_type = IP_PKTINFO;
				cm->cmsg_len = CMSG_LEN(sizeof pi);
				memcpy(CMSG_DATA(cm), &pi, sizeof pi);
				mh->msg_controllen = CMSG_SPACE(sizeof pi);
			} else if (s->local_family == AF_INET6 && s->local[0] != 0xff) {
				struct in6_pktinfo pi = { 0 };
				memcpy(&pi.ipi6_addr, s->local, 16);
				pi.ipi6_ifindex = s->ifindex;
				cm->cmsg_level = IPPROTO_IPV6;
				cm->cmsg_type = IPV6_PKTINFO;
				cm->cmsg_len = CMSG_LEN(sizeof pi);
				memcpy(CMSG_DATA(cm), &pi, sizeof pi);
				mh->msg_controllen = CMSG_SPACE(sizeof pi);
			} else {
				mh->msg_control = NULL;
			}
		}
		for (u32 at = 0; c && at < k;) {
			int n = sendmmsg(c->fd, mm + at, k - at, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0) { /* this one cannot be sent (no route, full queue, firewall): the client asks again */
				e->count.send_errors++;
				n = 1;
			}
			at += (u32)n;
		}
	}
	e->udp_n = 0;
	e->udp_pos = 0;
}

static void send_relay(struct engine *e, struct conn *c, u32 serial, const u8 *msg, size_t len)
{
	struct iovec iov[2] = { { &serial, 4 }, { (void *)(uintptr_t)msg, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	before_sending(e);
	while (sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		if (errno != EINTR) { /* full: the client's retransmission comes again */
			e->count.send_errors++;
			if (errno == EPIPE || errno == ECONNRESET)
				kill_conn(e, c);
			return;
		}
}

static bool reserve(struct engine *e, struct buf **b, size_t used, size_t need)
{
	if (*b && (*b)->cap - used >= need)
		return true;
	struct buf *n = buf_new(e, used + need);
	if (!n)
		return false;
	if (*b)
		memcpy(n->data, (*b)->data, used);
	buf_free(e, *b);
	*b = n;
	return true;
}

/* rpc_engine.room.  For a detached call: any thread, touches that call only. */
static int op_room(struct call *c, size_t room)
{
	struct engine *e = ENGINE(c->eng);
	size_t need = room + RPC_HEADER;
	if (room > MAX_REPLY)
		return -1;
	if (c->detached) {
		struct detached *d = (struct detached *)c;
		if (d->reply->cap < need) {
			struct buf *b = malloc(sizeof *b + need);
			if (!b)
				return -1;
			*b = (struct buf){ .cap = need };
			free(d->reply);
			d->reply = b;
		}
		c->mark = d->reply->data;
		return 0;
	}
	if (c->proto == RPC_UDP) {
		if (e->udp_n == UDP_OUT || (e->udp_out && e->udp_out->cap - e->udp_pos < need))
			flush_udp(e);
		if (!reserve(e, &e->udp_out, e->udp_pos, need))
			return -1;
		c->mark = e->udp_out->data + e->udp_pos;
		return 0;
	}
	if (c->proto == RPC_RELAY) {
		if (!reserve(e, &e->relay_out, 0, need))
			return -1;
		c->mark = e->relay_out->data;
		return 0;
	}
	struct rpc_engine *r = &e->pub;
	if (r->out_conn != c->conn || r->out_gen != c->conn_gen || (size_t)(r->out_end - r->out_pos) < need)
		flush_tcp(e);
	if ((size_t)(r->out_end - r->out_pos) < need) {
		struct buf *b = buf_new(e, need > OUT_FIRST ? need : OUT_FIRST);
		if (!b)
			return -1;
		buf_free(e, e->out);
		e->out = b;
		r->out_pos = b->data;
		r->out_end = b->data + b->cap;
	}
	r->out_conn = c->conn;
	r->out_gen = c->conn_gen;
	c->mark = r->out_pos;
	return 0;
}

/* ---- watching (trace.h).  Off, it is one branch a reply: e->pub.trace is NULL. */

/* What a detached call's record will show: its message is overwritten when the batch is over. */
static void keep_seen(struct engine *e, struct slot *s)
{
	u32 n = 0;
	for (struct tracer *t = e->tracers; t; t = *trace_next(t))
		n = n < trace_snap(t) ? trace_snap(t) : n;
	n = n < s->msg_len ? n : s->msg_len;
	if (!s->msg || e->seen_bytes + n > TRACE_SEEN_MAX || !(s->seen = malloc(n)))
		return;
	memcpy(s->seen, s->msg, n);
	s->seen_len = n;
	e->seen_bytes += n;
}

static void forget_seen(struct engine *e, struct slot *s)
{
	if (!s->seen)
		return;
	e->seen_bytes -= s->seen_len;
	free(s->seen);
	s->seen = NULL;
}

/* Whom the client of this call asked. */
static void trace_local(struct call *c, struct rpc_trace_head *h)
{
	struct engine *e = ENGINE(c->eng);
	struct conn *conn = find(e, c->conn, c->conn_gen);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	struct rpc_peer p;
	if (!conn || c->proto == RPC_RELAY || getsockname(conn->fd, (struct sockaddr *)&ss, &len))
		return;
	set_peer(&p, &h->local_port, &ss, len);
	h->local_family = (u16)p.family;
	memcpy(h->local_addr, p.addr, 16);
	if (c->proto == RPC_UDP) /* bound to the wildcard, as a rule */
		h->local_family = (u16)rpc_local_addr(c, h->local_addr);
}

/* A call that was refused early has no place in the tables: its address is the connection's or the datagram's. */
static void trace_peer(struct call *c, bool decoded, struct rpc_peer *p)
{
	struct slot *s = c->owner;
	struct conn *conn = find(ENGINE(c->eng), c->conn, c->conn_gen);
	u16 port;
	if (decoded || !conn)
		*p = c->eng->peers[c->peer];
	else if (c->proto == RPC_UDP)
		set_peer(p, &port, &s->from, s->from_len);
	else
		*p = conn->addr;
}

/* rpc_engine.trace: shows a call at its end to those who watch.  One whose message was not kept is counted by nobody: it came
 * before the trace began. */
static void op_trace(struct call *c, int replied)
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	const u8 *msg = c->detached ? s->seen : s->msg;
	bool decoded = c->detached || c->arg != s->msg;
	char path[TRACE_PATH_MAX];
	struct rpc_peer peer;
	struct rpc_trace_head h = { .t_call = c->t0, .conn = c->conn, .conn_gen = c->conn_gen, .proto = rpc_transport(c),
		.port = c->port, .flags = (replied ? TRACE_REPLIED : 0) | (c->detached ? TRACE_DETACHED : 0),
		.call_len = s->msg_len, .call_kept = c->detached ? s->seen_len : s->msg_len,
		.reply_len = replied ? (u32)(c->rep - c->mark - 4) : 0 };
	if (!msg)
		return;
	trace_peer(c, decoded, &peer);
	for (struct tracer *t = e->tracers; t; t = *trace_next(t)) {
		if (!trace_wants(t, &peer, decoded ? &c->eng->creds[c->cred] : NULL))
			continue;
		if (!h.t_reply) { /* the first that wants it */
			h.t_reply = now_ns();
			h.family = (u16)peer.family;
			memcpy(h.addr, peer.addr, 16);
			h.export_id = decoded && e->trace_export ? e->trace_export(c) : 0;
			h.path_len = decoded && e->trace_path ? e->trace_path(c, path, sizeof path) : 0;
			trace_local(c, &h);
		}
		if (trace_wants_export(t, h.export_id))
			trace_put(t, &h, path, msg, replied ? c->mark + 4 : NULL);
	}
}

static void end_trace(struct engine *e, struct tracer **at)
{
	struct tracer *t = *at;
	*at = *trace_next(t);
	trace_close(t);
	if (!e->tracers)
		e->pub.trace = NULL;
}

static void flush_traces(struct engine *e)
{
	for (struct tracer **at = &e->tracers; *at;)
		if (trace_flush(*at))
			at = trace_next(*at);
		else
			end_trace(e, at);
}

void rpc_trace_sweep(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	for (struct tracer **at = &e->tracers; *at;)
		if (trace_watched(*at))
			at = trace_next(*at);
		else
			end_trace(e, at);
}

int rpc_trace_stop(struct rpc_engine *pub, u32 id)
{
	struct engine *e = ENGINE(pub);
	for (struct tracer **at = &e->tracers; *at; at = trace_next(*at))
		if (trace_id(*at) == id) {
			trace_flush(*at);
			end_trace(e, at);
			return 0;
		}
	return -ENOENT;
}

int rpc_trace_start(struct rpc_engine *pub, u32 id, u32 slot, int fd, const struct rpc_trace_filter *f)
{
	struct engine *e = ENGINE(pub);
	struct tracer *t = trace_open(id, slot, fd, f);
	if (!t) {
		close(fd);
		return -ENOMEM;
	}
	rpc_trace_stop(pub, id);
	*trace_next(t) = e->tracers;
	e->tracers = t;
	e->pub.trace = op_trace;
	return 0;
}

void rpc_before_sending(struct rpc_engine *pub, void (*hook)(void)) { ENGINE(pub)->before_sending = hook; }

void rpc_trace_names(struct rpc_engine *pub, u32 (*export_id)(const struct call *), u32 (*path)(const struct call *, char *, u32))
{
	ENGINE(pub)->trace_export = export_id;
	ENGINE(pub)->trace_path = path;
}

/* Pending calls of a connection went down: it may go on, or end. */
static void unblock(struct engine *e, struct conn *c)
{
	arm(e, c);
	if ((c->left && !blocked(e, c)) || c->eof)
		enqueue(e, c);
}

static void free_detached(struct engine *e, struct detached *d)
{
	struct conn *c = find(e, d->call.conn, d->call.conn_gen);
	e->count.detached_now--;
	e->count.detached_bytes -= d->charged;
	e->creds.pins[d->call.cred]--;
	e->peers.pins[d->call.peer]--;
	if (c) {
		c->n_detached--;
		c->detached_bytes -= d->charged;
		unblock(e, c);
	}
	if (d->place && d->place <= e->n_finished && e->finished[d->place - 1] == &d->call)
		e->finished[d->place - 1] = NULL;
	forget_seen(e, &d->slot);
	buf_free(e, d->args);
	buf_free(e, d->reply);
	free(d);
}

static void close_detached(struct engine *e, struct detached *d)
{
	struct call *c = &d->call;
	struct conn *conn = find(e, c->conn, c->conn_gen);
	size_t len = (size_t)(c->rep - c->mark);
	if (conn && (c->proto == RPC_UDP || c->proto == RPC_RELAY || len <= SMALL_REPLY)) {
		struct call t = *c; /* copied into the reply buffer of the batch */
		t.detached = 0;
		if (!op_room(&t, len)) {
			memcpy(t.mark, c->mark, len);
			t.rep = t.mark + len;
			t.owner = &d->slot;
			if (c->proto == RPC_TCP || c->proto == RPC_LOCAL)
				e->pub.out_pos = t.rep;
			else
				e->pub.close(&t);
		}
	} else if (conn) {
		if (e->pub.out_conn == c->conn && e->pub.out_gen == c->conn_gen)
			flush_tcp(e);
		before_sending(e);
		if ((conn = find(e, c->conn, c->conn_gen)))
			send_bytes(e, conn, c->mark, len, &d->reply);
	}
	free_detached(e, d);
}

/* rpc_engine.close: everything but a TCP reply of the current batch. */
static void op_close(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	size_t len = (size_t)(c->rep - c->mark);
	if (c->detached) {
		close_detached(e, (struct detached *)c);
	} else if (c->proto == RPC_LOCAL) {
		e->pub.out_pos = c->rep;
	} else if (c->proto == RPC_RELAY) {
		struct conn *conn = find(e, c->conn, c->conn_gen);
		if (conn)
			send_relay(e, conn, s->serial, c->mark + 4, len - 4);
	} else if (len - 4 > UDP_MAX_REPLY) {
		e->count.udp_dropped++;
	} else {
		e->udp_msgs[e->udp_n].conn = c->conn;
		e->udp_msgs[e->udp_n].gen = c->conn_gen;
		e->udp_msgs[e->udp_n].off = (size_t)(c->mark + 4 - e->udp_out->data);
		e->udp_msgs[e->udp_n].len = len - 4;
		e->udp_msgs[e->udp_n++].slot = *s;
		e->udp_pos += len;
	}
}

static void op_drop(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	e->count.dropped++;
	((struct slot *)c->owner)->gone = 1;
	if (e->pub.trace)
		e->pub.trace(c, 0);
	if (c->detached)
		free_detached(e, (struct detached *)c);
}

static void version_range(struct engine *e, u32 prog, u32 *low, u32 *high)
{
	*low = NONE;
	*high = 0;
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog) {
			u32 v = e->programs[i].vers;
			*low = v < *low ? v : *low;
			*high = v > *high ? v : *high;
		}
}

static void op_deny(struct call *c, u32 accept_stat)
{
	struct engine *e = ENGINE(c->eng);
	e->count.denied++;
	if (accept_stat == GARBAGE_ARGS)
		e->count.garbage++;
	if (reply_open(c, 8)) {
		op_drop(c);
		return;
	}
	c->rep -= 4;
	put_u32(c, accept_stat);
	if (accept_stat == PROG_MISMATCH) {
		u32 low, high;
		version_range(e, c->prog, &low, &high);
		put_u32(c, low);
		put_u32(c, high);
	}
	reply_close(c);
}

static void op_deny_auth(struct call *c, u32 auth_stat)
{
	struct engine *e = ENGINE(c->eng);
	e->count.badauth++;
	if (reply_open(c, 8)) {
		op_drop(c);
		return;
	}
	c->rep = c->mark + 12;
	put_u32(c, 1); /* MSG_DENIED */
	put_u32(c, 1); /* AUTH_ERROR */
	put_u32(c, auth_stat);
	reply_close(c);
}

static void deny_rpcvers(struct call *c)
{
	ENGINE(c->eng)->count.denied++;
	if (reply_open(c, 8))
		return;
	c->rep = c->mark + 12;
	put_u32(c, 1); /* MSG_DENIED */
	put_u32(c, 0); /* RPC_MISMATCH */
	put_u32(c, 2);
	put_u32(c, 2);
	reply_close(c);
}

/* A finished call goes to a thread once more: it keeps its arguments, and its reply buffer grows.  NULL: over the budget. */
static struct call *detach_again(struct engine *e, struct detached *d, size_t room)
{
	size_t more = room > d->room ? room - d->room : 0;
	struct conn *conn = find(e, d->call.conn, d->call.conn_gen);
	if (e->count.detached_bytes + more > e->lim.detached_budget || op_room(&d->call, room))
		return NULL;
	d->room += more;
	d->charged += more;
	e->count.detached_bytes += more;
	if (conn)
		conn->detached_bytes += more;
	if (d->place && d->place <= e->n_finished && e->finished[d->place - 1] == &d->call)
		e->finished[d->place - 1] = NULL;
	d->place = 0;
	return &d->call;
}

static struct call *op_detach(struct call *c, size_t room)
{
	struct engine *e = ENGINE(c->eng);
	if (c->detached)
		return detach_again(e, (struct detached *)c, room);
	struct slot *s = c->owner;
	size_t n_args = (size_t)(c->end - c->arg);
	u64 charge = n_args + room + RPC_HEADER;
	struct conn *conn = find(e, c->conn, c->conn_gen);
	if (room > MAX_REPLY || e->count.detached_now >= e->lim.max_detached
	    || e->count.detached_bytes + charge > e->lim.detached_budget)
		return NULL;
	struct detached *d = malloc(sizeof *d);
	if (!d)
		return NULL;
	d->args = NULL;
	d->room = room;
	d->next = NULL;
	bool take = s->own && c->arg >= s->own->data && c->end <= s->own->data + s->own->cap; /* else they were rewritten elsewhere */
	if (!(d->reply = buf_new(e, room + RPC_HEADER)) || (!take && !(d->args = buf_new(e, n_args ? n_args : 1)))) {
		buf_free(e, d->reply);
		free(d);
		return NULL;
	}
	d->call = *c;
	d->slot = *s;
	if (take) { /* the record stands alone in its buffer: take it instead of copying */
		d->args = s->own;
		s->own = NULL;
	} else {
		memcpy(d->args->data, c->arg, n_args);
		d->call.arg = d->args->data;
		d->call.end = d->args->data + n_args;
	}
	d->slot.own = NULL;
	if (e->tracers)
		keep_seen(e, &d->slot);
	d->place = 0;
	s->gone = 1;
	d->slot.msg = NULL;
	d->call.owner = &d->slot;
	d->call.detached = 1;
	d->charged = charge;
	e->creds.pins[c->cred]++;
	e->peers.pins[c->peer]++;
	e->count.detached++;
	e->count.detached_now++;
	e->count.detached_bytes += charge;
	if (conn) {
		conn->n_detached++;
		conn->detached_bytes += charge;
	}
	return &d->call;
}

/* rpc_engine.complete: any thread. */
static void op_complete(struct call *c)
{
	struct detached *d = (struct detached *)c;
	struct engine *e = ENGINE(c->eng);
	struct detached *head = atomic_load(&e->done);
	do
		d->next = head;
	while (!atomic_compare_exchange_weak(&e->done, &head, d));
	if (!head)
		rpc_wake(&e->pub);
}

void rpc_wake(struct rpc_engine *pub)
{
	int saved = errno;
	u64 one = 1;
	while (write(ENGINE(pub)->wakefd, &one, 8) < 0 && errno == EINTR)
		;
	errno = saved;
}

/* ---- messages */

static i32 find_row(struct engine *e, u32 prog, u32 vers, u32 proc, u32 *stat)
{
	struct program *p = &e->programs[e->last_program];
	if (!e->n_programs || p->prog != prog || p->vers != vers) {
		*stat = PROG_UNAVAIL;
		p = NULL;
		for (u32 i = 0; i < e->n_programs; i++)
			if (e->programs[i].prog == prog) {
				*stat = PROG_MISMATCH;
				if (e->programs[i].vers == vers) {
					p = &e->programs[i];
					e->last_program = i;
					break;
				}
			}
		if (!p)
			return -1;
	}
	*stat = PROC_UNAVAIL;
	return proc < p->nproc ? p->rows[proc] : -1;
}

/* authsys_parms (RFC 5531 appendix A): stamp, machinename<255>, uid, gid, gids<16>.  The place in creds, or NONE. */
static u32 auth_sys(struct engine *e, struct conn *conn, const u8 *p, u32 n)
{
	struct table *t = &e->creds;
	u32 i = conn->cred;
	if (i != NONE && record_serial(t, i) == conn->cred_serial && e->cred_raw_len[i] == n && !memcmp(e->cred_raw[i], p, n)) {
		t->used[i] = e->batch;
		return i;
	}
	if (n < 20)
		return NONE;
	u32 name = get_u32(p + 4);
	if (name > MAX_MACHINE)
		return NONE;
	u32 at = 8 + ((name + 3) & ~3u);
	if (at + 12 > n)
		return NONE;
	struct rpc_cred cr = { .flavor = SYS_FLAVOR, .uid = get_u32(p + at), .gid = get_u32(p + at + 4) };
	u32 k = get_u32(p + at + 8);
	if (k > RPC_GIDS || at + 12 + 4 * k != n)
		return NONE;
	cr.ngids = (u16)k;
	for (u32 g = 0; g < k; g++)
		cr.gids[g] = get_u32(p + at + 12 + 4 * g);
	if ((i = intern(e, t, &cr)) == NONE)
		return NONE;
	memcpy(e->cred_raw[i], p, n);
	e->cred_raw_len[i] = (u16)n;
	conn->cred = i;
	conn->cred_serial = record_serial(t, i);
	return i;
}

static u32 auth_none(struct engine *e)
{
	struct rpc_cred cr = { .flavor = NONE_FLAVOR, .uid = NONE, .gid = NONE };
	return intern(e, &e->creds, &cr);
}

static u32 conn_peer(struct engine *e, struct conn *conn, const struct rpc_peer *addr)
{
	if (addr == &conn->addr && conn->peer != NONE && record_serial(&e->peers, conn->peer) == conn->peer_serial) {
		e->peers.used[conn->peer] = e->batch;
		return conn->peer;
	}
	u32 i = intern(e, &e->peers, addr);
	if (addr == &conn->addr && i != NONE) {
		conn->peer = i;
		conn->peer_serial = record_serial(&e->peers, i);
	}
	return i;
}

/* One RPC message of n bytes at m.  Order of the tests: rpcvers, program, version, procedure, then authentication (clients
 * probe with unknown versions and any credential).  The caller has filled the slot; *own is the record's buffer, if it
 * has one to itself, and is set to NULL when the batch keeps it.
 * Returns 0: handed out or answered; -1: nothing that could be answered. */
static int message(struct engine *e, struct conn *conn, const struct rpc_peer *addr, u16 port, const u8 *m, size_t n,
		   struct buf **own)
{
	struct call *c = &e->calls[e->n_calls];
	struct slot *s = &e->slots[e->n_calls];
	u32 stat;

	e->turn_msgs++;
	if (n < MIN_MESSAGE || get_u32(m + 4) != 0)
		return -1;
	*c = (struct call){ .xid = get_u32(m), .prog = get_u32(m + 12), .vers = get_u32(m + 16), .proc = get_u32(m + 20),
			    .port = port, .proto = conn->proto, .conn = conn->id, .conn_gen = conn->gen,
			    .arg = m, .end = m + n, .eng = &e->pub, .t0 = e->now, .owner = s };
	s->own = NULL;
	s->seen = NULL;
	s->gone = 0;
	s->msg = m;
	s->msg_len = (u32)n;
	e->count.calls++;
	if (get_u32(m + 8) != 2) {
		deny_rpcvers(c);
		return 0;
	}
	i32 row = find_row(e, c->prog, c->vers, c->proc, &stat);
	if (row < 0) {
		op_deny(c, stat);
		return 0;
	}
	/* opaque_auth cred, verf: flavor, body<400> */
	size_t at = MIN_MESSAGE;
	if (n - at < 8) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	u32 flavor = get_u32(m + at), cred_len = get_u32(m + at + 4);
	const u8 *cred = m + at + 8;
	if (cred_len > MAX_AUTH) {
		op_deny_auth(c, AUTH_BADCRED);
		return 0;
	}
	at += 8 + ((cred_len + 3) & ~3u);
	if (at + 8 > n) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	u32 verf_len = get_u32(m + at + 4);
	if (verf_len > MAX_AUTH) {
		op_deny_auth(c, AUTH_BADVERF);
		return 0;
	}
	at += 8 + ((verf_len + 3) & ~3u);
	if (at > n) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	bool asks = flavor == RPC_KERB4 && e->kerb4_row >= 0 && c->proc != 0;
	if (flavor == SYS_FLAVOR) {
		c->cred = auth_sys(e, conn, cred, cred_len);
		if (c->cred == NONE && c->proc == 0)
			c->cred = auth_none(e);
		if (c->cred == NONE) {
			op_deny_auth(c, AUTH_BADCRED);
			return 0;
		}
	} else if (flavor == NONE_FLAVOR || c->proc == 0 || asks) { /* NULL is answered whatever the flavor */
		c->cred = auth_none(e);
	} else {
		op_deny_auth(c, AUTH_REJECTEDCRED);
		return 0;
	}
	c->peer = conn_peer(e, conn, addr);
	if (c->peer == NONE || c->cred == NONE) { /* cannot be: the tables hold more than a batch and all detached calls */
		op_deny(c, SYSTEM_ERR);
		return 0;
	}
	c->row = asks ? (u32)e->kerb4_row : (u32)row;
	c->word[0] = asks ? (u64)row : 0;
	c->arg = m + at;
	u32 tail = e->tails[row];
	if (tail && n - at >= tail) {
		u32 weight = get_u32(m + n - tail);
		e->turn_reply += weight < TURN_REPLY ? weight : TURN_REPLY;
	}
	if (own) {
		s->own = *own;
		*own = NULL;
	}
	e->n_calls++;
	return 0;
}

/* ---- records */

static bool turn_over(const struct engine *e, const struct conn *c)
{
	return e->turn_msgs >= e->turn_quota || e->n_calls == RPC_BATCH || e->turn_reply >= TURN_REPLY || c->dead || c->out_len;
}

/* Room in c->rec for `more` bytes that are there, better for the rest of the fragment. */
static bool rec_room(struct engine *e, struct conn *c, size_t more)
{
	size_t want = (size_t)c->have + c->frag_left, least = (size_t)c->have + more;
	if (c->rec && c->rec->cap >= want)
		return true;
	if (c->rec && c->rec->cap >= least && more)
		return true;
	if (e->count.in_bytes + want > e->lim.in_budget / 2) { /* pay as you send */
		size_t some = 2 * least > 8192 ? 2 * least : 8192;
		want = want < some ? want : some;
	}
	if (e->count.in_bytes + want > e->lim.in_budget)
		evict_partial(e, c, want);
	struct buf *b = in_new(e, want);
	if (!b)
		return false;
	if (c->rec)
		memcpy(b->data, c->rec->data, c->have);
	bury(e, c->rec);
	c->rec = b;
	return true;
}

static int record_done(struct engine *e, struct conn *c)
{
	struct buf *b = c->rec;
	u32 n = c->have;
	c->rec = NULL;
	end_record(e, c);
	if (b)
		e->count.in_bytes -= b->cap; /* the batch's now, or free */
	int r = b ? message(e, c, &c->addr, c->port, b->data, n, &b) : -1;
	if (b) {
		e->count.in_bytes += b->cap;
		bury(e, b);
	}
	return r;
}

/* Goes on with the record under way.  Returns the first byte not used, NULL: close. */
static const u8 *assemble(struct engine *e, struct conn *c, const u8 *p, const u8 *end)
{
	for (;;) {
		if (!c->frag_left) {
			while (c->mark_have < 4 && p < end)
				c->mark[c->mark_have++] = *p++;
			if (c->mark_have < 4)
				return p;
			u32 mark = get_u32(c->mark), len = mark & ~LAST_FRAGMENT;
			c->mark_have = 0;
			c->last = mark >> 31;
			if (len > e->lim.max_record - c->have || ++c->n_frags > MAX_FRAGMENTS
			    || (c->last && c->have + len < MIN_MESSAGE))
				return NULL;
			c->frag_left = len;
		}
		size_t n = (size_t)(end - p);
		n = n < c->frag_left ? n : c->frag_left;
		if (n) {
			if (!rec_room(e, c, n))
				return NULL;
			memcpy(c->rec->data + c->have, p, n);
			p += n;
			c->have += (u32)n;
			c->frag_left -= (u32)n;
		}
		if (c->frag_left)
			return p;
		if (c->last)
			return record_done(e, c) ? NULL : p;
	}
}

/* Uses bytes of the stream until the turn is over.  Returns the first byte not used, NULL: close. */
static const u8 *take(struct engine *e, struct conn *c, const u8 *p, const u8 *end)
{
	while (p < end && !turn_over(e, c)) {
		if (!c->in_record) {
			if (end - p >= 4) {
				u32 mark = get_u32(p), len = mark & ~LAST_FRAGMENT;
				if ((mark & LAST_FRAGMENT) && len <= (size_t)(end - p) - 4) {
					if (len > e->lim.max_record || message(e, c, &c->addr, c->port, p + 4, len, NULL))
						return NULL;
					p += 4 + len;
					continue;
				}
			}
			c->in_record = 1;
			c->t_record = e->now;
			e->count.partial++;
		}
		if (!(p = assemble(e, c, p, end)))
			return NULL;
	}
	return c->dead ? NULL : p;
}

/* Less at a time when much is left already, so that leftovers of thousands of connections stay small. */
static size_t bite_size(const struct engine *e)
{
	if (e->count.in_bytes < e->lim.in_budget / 4)
		return BITE;
	return e->count.in_bytes < e->lim.in_budget / 2 ? BITE / 4 : e->count.in_bytes < e->lim.in_budget ? BITE / 16 : BITE / 64;
}

/* One turn of a connection: first what is left from the last one, then the socket. */
static void turn_conn(struct engine *e, struct conn *c)
{
	size_t got = 0;
	if (blocked(e, c)) {
		arm(e, c);
		return;
	}
	if (c->left) {
		struct buf *b = c->left;
		const u8 *p = take(e, c, b->data + b->off, b->data + b->off + b->len);
		if (c->dead)
			return;
		if (!p)
			goto bad;
		b->len -= (size_t)(p - b->data) - b->off;
		b->off = (size_t)(p - b->data);
		if (!b->len) {
			c->left = NULL;
			bury(e, b);
		} else {
			if (!blocked(e, c))
				enqueue(e, c);
			return;
		}
	}
	if (c->eof) {
		if (e->turn_msgs)
			enqueue(e, c); /* their replies leave before the next turn */
		else if (!c->out_len && !c->n_detached) /* else drain() or unblock() queue it again */
			kill_conn(e, c);
		return;
	}
	while (!turn_over(e, c) && got < BITE && REGION - e->region_pos >= REGION_MIN) {
		struct iovec iov[2];
		size_t k = 0, straight = 0, bite = REGION - e->region_pos, most = bite_size(e);
		bite = bite < most ? bite : most;
		if (c->frag_left) {
			if (!(c->rec && c->rec->cap > c->have) && !rec_room(e, c, 1))
				goto bad;
			straight = c->rec->cap - c->have;
			straight = straight < c->frag_left ? straight : c->frag_left;
			iov[k++] = (struct iovec){ c->rec->data + c->have, straight };
			if (c->frag_left >= LARGE && bite > OVERSHOOT)
				bite = OVERSHOOT;
		}
		if (straight == c->frag_left)
			iov[k++] = (struct iovec){ e->region + e->region_pos, bite };
		else
			bite = 0;
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = k };
		ssize_t n = straight ? recvmsg(c->fd, &mh, MSG_DONTWAIT) : recv(c->fd, iov[0].iov_base, bite, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				kill_conn(e, c);
			return;
		}
		if (n == 0) {
			c->eof = 1;
			arm(e, c);
			enqueue(e, c);
			return;
		}
		bool all = (size_t)n == straight + bite;
		got += (size_t)n;
		touch(e, c);
		if (straight) {
			size_t in = (size_t)n < straight ? (size_t)n : straight;
			c->have += (u32)in;
			c->frag_left -= (u32)in;
			n -= (ssize_t)in;
			if (!c->frag_left && c->last && record_done(e, c))
				goto bad;
		}
		const u8 *p = e->region + e->region_pos, *end = p + n, *q = take(e, c, p, end);
		if (c->dead)
			return;
		if (!q)
			goto bad;
		if (q > p)
			e->region_pos += ((size_t)(end - p) + 7) & ~(size_t)7; /* calls of this batch point there */
		if (q < end) {
			struct buf *b = in_new(e, (size_t)(end - q));
			if (!b)
				goto bad;
			b->len = (size_t)(end - q);
			memcpy(b->data, q, b->len);
			c->left = b;
			if (!blocked(e, c))
				enqueue(e, c);
			return;
		}
		if (!all)
			return;
	}
	return;
bad:
	e->count.badrecord++;
	if (e->pub.out_conn == c->id && e->pub.out_gen == c->gen)
		flush_tcp(e); /* answers to what came before */
	if (!c->dead)
		kill_conn(e, c);
}

/* ---- datagrams */

static void datagram_local(struct msghdr *mh, struct slot *s)
{
	s->local_family = 0;
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level == IPPROTO_IP && cm->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo pi;
			memcpy(&pi, CMSG_DATA(cm), sizeof pi);
			if (s->local_family != AF_INET6) {
				s->local_family = AF_INET;
				memset(s->local, 0, 16);
				memcpy(s->local, &pi.ipi_addr, 4);
				memcpy(s->spec, &pi.ipi_spec_dst, 4);
			}
		} else if (cm->cmsg_level == IPPROTO_IPV6 && cm->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo pi;
			memcpy(&pi, CMSG_DATA(cm), sizeof pi);
			s->local_family = AF_INET6;
			memcpy(s->local, &pi.ipi6_addr, 16);
			s->ifindex = IN6_IS_ADDR_LINKLOCAL(&pi.ipi6_addr) ? pi.ipi6_ifindex : 0;
		}
	}
}

static void turn_udp(struct engine *e, struct conn *c)
{
	struct mmsghdr mm[UDP_SLOTS];
	struct iovec iov[UDP_SLOTS];
	struct sockaddr_in6 names[UDP_SLOTS];
	union { u8 b[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo))]; struct cmsghdr align; } ctl[UDP_SLOTS];
	u32 k = UDP_SLOTS - e->udp_used, room = RPC_BATCH - e->n_calls;
	if (blocked(e, c)) {
		arm(e, c);
		return;
	}
	k = k < room ? k : room;
	if (!k) {
		enqueue(e, c);
		return;
	}
	for (u32 i = 0; i < k; i++) {
		iov[i] = (struct iovec){ e->udp_in + (size_t)(e->udp_used + i) * DATAGRAM, DATAGRAM };
		mm[i].msg_hdr = (struct msghdr){ .msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &iov[i],
			.msg_iovlen = 1, .msg_control = &ctl[i], .msg_controllen = sizeof ctl[i] };
	}
	int n;
	while ((n = recvmmsg(c->fd, mm, k, MSG_DONTWAIT, NULL)) < 0 && errno == EINTR)
		;
	if (n <= 0)
		return; /* EAGAIN, or an ICMP error of a reply sent before: it is gone by having been read */
	for (int i = 0; i < n; i++) {
		struct slot *s = &e->slots[e->n_calls];
		struct rpc_peer peer;
		u16 port;
		e->count.udp_in++;
		set_peer(&peer, &port, &names[i], mm[i].msg_hdr.msg_namelen);
		s->from = names[i];
		s->from_len = mm[i].msg_hdr.msg_namelen;
		s->transport = RPC_UDP;
		datagram_local(&mm[i].msg_hdr, s);
		if ((mm[i].msg_hdr.msg_flags & MSG_TRUNC) || !port
		    || message(e, c, &peer, port, iov[i].iov_base, mm[i].msg_len, NULL))
			e->count.udp_dropped++;
	}
	e->udp_used += (u32)n;
	if ((u32)n == k)
		enqueue(e, c);
}

/* ---- relays and listeners */

static void turn_relay(struct engine *e, struct conn *c)
{
	for (u32 i = 0; i < RELAYS && !turn_over(e, c); i++) {
		size_t room = REGION - e->region_pos;
		if (room < REGION_MIN) {
			enqueue(e, c);
			return;
		}
		u8 *p = e->region + e->region_pos;
		ssize_t n = recv(c->fd, p, room, MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		struct rpc_relay_head h;
		if (n <= 0 || (size_t)n > room || (size_t)n < sizeof h) {
			kill_conn(e, c);
			return;
		}
		memcpy(&h, p, sizeof h);
		struct rpc_peer peer = { .family = h.family, .scope = h.scope };
		memcpy(peer.addr, h.addr, 16);
		struct slot *s = &e->slots[e->n_calls];
		s->serial = h.serial;
		s->transport = h.proto;
		s->local_family = 0;
		e->region_pos += ((size_t)n + 7) & ~(size_t)7;
		if (message(e, c, &peer, h.port, p + sizeof h, (size_t)n - sizeof h, NULL))
			e->count.badrecord++;
	}
}

static void turn_listen(struct engine *e, struct conn *c)
{
	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof ss;
		int fd = accept4(c->fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			if (rpc_attach(&e->pub, fd, RPC_CONN, &ss, len ? len : (socklen_t)sizeof ss.ss_family) < 0)
				close(fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		e->count.accept_errors++;
		if ((errno == EMFILE || errno == ENFILE) && evict(e, NONE))
			continue;
		/* No descriptor, no memory: disarmed until a connection closes, or for a second. */
		struct epoll_event ev = { .events = 0, .data.u64 = (u64)c->gen << 32 | c->id };
		if (!epoll_ctl(e->ep, EPOLL_CTL_MOD, c->fd, &ev)) {
			c->armed = 0;
			e->starved = true;
		}
		return;
	}
}

/* ---- the poll */

static void end_batch(struct engine *e)
{
	flush_tcp(e);
	e->pub.out_conn = NONE;
	if (e->udp_n)
		flush_udp(e);
	if (e->tracers)
		flush_traces(e);
	for (u32 i = 0; i < e->n_calls; i++)
		if (e->slots[i].own) {
			buf_free(e, e->slots[i].own);
			e->slots[i].own = NULL;
		}
	for (struct buf *b = e->graveyard, *next; b; b = next) {
		next = b->next;
		buf_free(e, b);
	}
	e->graveyard = NULL;
	for (struct conn *c = e->morgue, *next; c; c = next) {
		next = c->morgue;
		free(c);
	}
	e->morgue = NULL;
	e->n_calls = e->n_finished = 0;
	e->region_pos = 0;
	e->udp_used = 0;
	e->batch++;
}

static void sweep(struct engine *e)
{
	e->swept = e->now;
	if (e->starved)
		rearm_listeners(e);
	for (u32 i = e->oldest, next; i != NONE; i = next) {
		struct conn *c = e->conns[i];
		next = c->newer;
		if (c->in_record && blocked(e, c)) {
			c->t_record = e->now; /* we are not reading */
		} else if (c->in_record && e->now - c->t_record > (e->lim.record_s + (u64)c->have / RECORD_RATE) * NS) {
			e->count.deadline++;
			kill_conn(e, c);
			continue;
		}
		if (c->out_len && e->now - c->t_stall > (u64)e->lim.stall_s * NS) {
			e->count.stalled++;
			kill_conn(e, c);
		}
	}
}

static void collect_done(struct engine *e)
{
	struct detached *stack = atomic_exchange(&e->done, NULL), *fifo = NULL, *last = stack;
	while (stack) { /* last in first out becomes the order of completion */
		struct detached *next = stack->next;
		stack->next = fifo;
		fifo = stack;
		stack = next;
	}
	if (!fifo)
		return;
	if (e->done_tail)
		e->done_tail->next = fifo;
	else
		e->done_head = fifo;
	e->done_tail = last;
}

static void turn(struct engine *e, struct conn *c)
{
	e->turn_msgs = 0;
	e->turn_reply = 0;
	switch (c->kind) {
	case RPC_CONN: turn_conn(e, c); break;
	case RPC_DGRAM: turn_udp(e, c); break;
	case RPC_RELAYED: turn_relay(e, c); break;
	case RPC_LISTEN: turn_listen(e, c); break;
	}
}

static int wait_ms(struct engine *e, int timeout_ms, u64 now)
{
	int wait = timeout_ms;
	if (e->queue_head != NONE || e->done_head || e->n_events)
		return 0;
	if ((e->count.partial || e->count.pending_conns || e->starved) && (wait < 0 || wait > SWEEP_MS))
		wait = SWEEP_MS;
	if (!e->deadline)
		return wait;
	u64 left = e->deadline > now ? (e->deadline - now + 999999) / 1000000 : 0;
	left = left > MAX_WAIT_MS ? MAX_WAIT_MS : left;
	return wait < 0 || (u64)wait > left ? (int)left : wait;
}

/* Did it pay to look?  A miss that nothing excuses (the client thinks longer, or needs this processor) makes for a pause, after as
 * many sleeps that were short, so that an idle server, and one that shares its processor with its client, sleeps at once. */
static void learn(struct engine *e, bool looked, bool found, bool soon)
{
	if (looked && found) {
		e->hits += e->hits < SPIN_HITS;
		e->pause = SPIN_PAUSE;
	} else if (looked && e->hits > 1) {
		e->hits--;
	} else if (looked) {
		e->hits = 0;
		e->pause_left = e->pause;
		e->pause = e->pause < SPIN_PAUSE_MAX ? e->pause * 2 : SPIN_PAUSE_MAX;
	} else if (soon && (!e->pause_left || !--e->pause_left)) {
		e->hits = 1;
	}
}

/* epoll_wait.  A client that sends one call at a time sends the next some us after its answer: where that was so lately, it is
 * looked for before this thread sleeps. */
static int wait_events(struct engine *e, struct epoll_event *ev, int timeout_ms, u32 served)
{
	u64 begun = now_ns();
	int wait = wait_ms(e, timeout_ms, begun), n = 0;
	bool may_spin = wait && served && served <= SPIN_CALLS, looks = may_spin && e->hits;
	e->now = begun;
	while (looks && !n && e->now - begun < SPIN_NS) {
		n = epoll_wait(e->ep, ev, EPOLL_BATCH, 0);
		e->now = now_ns();
	}
	bool found = n > 0;
	if (!n) {
		n = epoll_wait(e->ep, ev, EPOLL_BATCH, wait);
		int err = errno;
		e->now = now_ns();
		errno = err;
	}
	if (may_spin && n > 0)
		learn(e, looks, found, e->now - begun < SPIN_NS);
	return n;
}

/* Gives calls to their functions in C, in order, up to the first that is not for one or that one left over. */
static bool run_direct(struct engine *e)
{
	for (; e->at < e->n_calls; e->at++) {
		struct call *c = &e->calls[e->at];
		int (*fn)(struct call *) = e->direct[c->row];
		if (!fn || (c->status = fn(c)))
			return true;
	}
	return false;
}

int rpc_next(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	return e->at < e->n_calls && (e->looked || run_direct(e)) ? (e->looked = false, (int)e->at++) : -1;
}

static void heed(struct engine *e, const struct epoll_event *ev)
{
	u32 id = (u32)ev->data.u64, gen = (u32)(ev->data.u64 >> 32);
	if (id == NONE) {
		u64 count;
		e->woken_now = true;
		if (read(e->wakefd, &count, 8) < 0) {
			/* EAGAIN: read before */
		}
		return;
	}
	struct conn *c = find(e, id, gen);
	if (!c)
		return;
	if (c->kind == RPC_EVENT) {
		if (e->n_events < EPOLL_BATCH)
			e->events[e->n_events++] = (struct rpc_event){ id, RPC_EV_READ };
		return;
	}
	if (c->kind == RPC_CONN && (ev->events & (EPOLLHUP | EPOLLERR)) && !(c->armed & EPOLLIN)) {
		kill_conn(e, c); /* nobody is there to take what waits */
		return;
	}
	if (ev->events & EPOLLOUT)
		drain(e, c);
	if (!c->dead && (ev->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		enqueue(e, c);
}

static void take_finished(struct engine *e)
{
	collect_done(e);
	while (e->done_head && e->n_finished < RPC_BATCH) {
		struct detached *d = e->done_head;
		if (!(e->done_head = d->next))
			e->done_tail = NULL;
		e->finished[e->n_finished++] = &d->call;
		d->place = e->n_finished;
	}
}

/* One turn for each connection that was ready, as far as the batch has room. */
static void take_turns(struct engine *e)
{
	u32 turns = e->n_queued;
	u32 fair = turns ? RPC_BATCH / turns : 0;
	e->turn_quota = fair > e->lim.quota ? e->lim.quota : fair < 16 ? 16 : fair;
	while (turns-- && e->queue_head != NONE && e->n_calls < RPC_BATCH && REGION - e->region_pos >= REGION_MIN) {
		struct conn *c = e->conns[e->queue_head];
		e->queue_head = c->next;
		if (e->queue_head == NONE)
			e->queue_tail = NONE;
		c->queued = 0;
		e->n_queued--;
		turn(e, c);
	}
}

/* Ends the batch and receives the next one.  0, or -errno. */
static int poll_once(struct engine *e, int timeout_ms)
{
	struct epoll_event ev[EPOLL_BATCH];
	memmove(e->events, e->events + e->n_seen, (e->n_events - e->n_seen) * sizeof *e->events);
	e->n_events -= e->n_seen;
	e->n_seen = 0;
	u32 served = e->n_calls;
	end_batch(e);
	if (e->creds.serial == NONE || e->peers.serial == NONE)
		return -EOVERFLOW;
	collect_done(e);
	int n = wait_events(e, ev, timeout_ms, served);
	if (n < 0 && errno != EINTR)
		return -errno;
	e->woken_now = n < 0;
	for (int i = 0; i < n; i++)
		heed(e, &ev[i]);
	take_finished(e);
	e->at = 0;
	take_turns(e);
	if ((e->count.partial || e->count.pending_conns || e->starved) && e->now - e->swept > SWEEP_MS * 1000000ull)
		sweep(e);
	e->n_seen = e->n_events;
	return 0;
}

int rpc_poll(struct rpc_engine *pub, int timeout_ms)
{
	struct engine *e = ENGINE(pub);
	for (;;) {
		e->woken_now = false;
		if (e->before_wait)
			e->before_wait();
		int err = poll_once(e, timeout_ms);
		if (err < 0)
			return err;
		e->looked = run_direct(e);
		bool due = e->deadline && e->now >= e->deadline, more = e->n_finished || e->n_events || due;
		if (e->looked || more || e->woken_now || timeout_ms >= 0)
			return (int)(e->n_calls - e->at) | (more ? RPC_MORE : 0);
	}
}

void rpc_deadline(struct rpc_engine *e, u64 ns) { ENGINE(e)->deadline = ns; }

int rpc_flush(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	flush_tcp(e);
	if (e->udp_n)
		flush_udp(e);
	return 0;
}

/* ---- set-up and accessors */

static void default_limits(struct rpc_limits *l)
{
	struct rlimit rl;
	u64 fds = getrlimit(RLIMIT_NOFILE, &rl) ? 1024 : (u64)rl.rlim_cur;
	u64 most = fds > 2 * FD_RESERVE ? fds - FD_RESERVE : FD_RESERVE;
	most = most > CONN_CEILING ? CONN_CEILING : most;
	if (!l->max_conns || l->max_conns > most)
		l->max_conns = (u32)most;
	if (!l->max_record)
		l->max_record = MAX_RECORD;
	if (!l->quota || l->quota > RPC_BATCH)
		l->quota = QUOTA;
	if (!l->record_s)
		l->record_s = RECORD_S;
	if (!l->stall_s)
		l->stall_s = STALL_S;
	if (!l->max_detached || l->max_detached > MAX_DETACHED)
		l->max_detached = MAX_DETACHED;
	if (!l->in_budget)
		l->in_budget = IN_BUDGET;
	if (!l->out_budget)
		l->out_budget = OUT_BUDGET;
	if (!l->detached_budget)
		l->detached_budget = DETACHED_BUDGET;
}

struct rpc_engine *rpc_new(const struct rpc_limits *limits)
{
	struct engine *e = calloc(1, sizeof *e); /* the kernel's zero pages: tables cost memory as they fill */
	if (!e)
		return NULL;
	if (limits)
		e->lim = *limits;
	default_limits(&e->lim);
	e->ep = epoll_create1(EPOLL_CLOEXEC);
	e->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->region = malloc(REGION);
	e->pub.creds = calloc(TABLE, sizeof *e->pub.creds);
	e->pub.peers = calloc(TABLE, sizeof *e->pub.peers);
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = NONE };
	if (e->ep < 0 || e->wakefd < 0 || !e->region || !e->pub.creds || !e->pub.peers
	    || epoll_ctl(e->ep, EPOLL_CTL_ADD, e->wakefd, &ev) || getrandom(e->key, sizeof e->key, 0) != sizeof e->key) {
		int err = errno;
		rpc_free(&e->pub);
		errno = err;
		return NULL;
	}
	e->kerb4_row = -1;
	e->free_head = e->queue_head = e->queue_tail = e->oldest = e->newest = NONE;
	e->batch = 2 * RECENT;
	e->pause = SPIN_PAUSE;
	e->dice = e->key[0];
	e->now = now_ns();
	table_init(&e->creds, e->pub.creds, sizeof *e->pub.creds);
	table_init(&e->peers, e->pub.peers, sizeof *e->pub.peers);
	e->pub.out_conn = NONE;
	e->pub.room = op_room;
	e->pub.close = op_close;
	e->pub.deny = op_deny;
	e->pub.deny_auth = op_deny_auth;
	e->pub.drop = op_drop;
	e->pub.detach = op_detach;
	e->pub.complete = op_complete;
	return &e->pub;
}

/* No thread may hold a detached call any more. */
void rpc_free(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	if (!e)
		return;
	if (e->conn_cap) {
		end_batch(e);
		for (u32 i = 0; i < e->conn_cap; i++)
			if (e->conns[i])
				kill_conn(e, e->conns[i]);
		collect_done(e);
		while (e->done_head) {
			struct detached *d = e->done_head;
			e->done_head = d->next;
			free_detached(e, d);
		}
		end_batch(e);
	}
	buf_free(e, e->out);
	buf_free(e, e->udp_out);
	buf_free(e, e->relay_out);
	for (int k = 0; k < CLASSES; k++)
		for (struct buf *b = e->pool[k], *next; b; b = next) {
			next = b->next;
			free(b);
		}
	for (u32 i = 0; i < e->n_programs; i++)
		free(e->programs[i].rows);
	while (e->tracers)
		end_trace(e, &e->tracers);
	if (e->ep >= 0)
		close(e->ep);
	if (e->wakefd >= 0)
		close(e->wakefd);
	free(e->region);
	free(e->udp_in);
	free(e->pub.creds);
	free(e->pub.peers);
	free(e->conns);
	free(e->gens);
	free(e->free_next);
	free(e);
}

int rpc_program(struct rpc_engine *pub, u32 prog, u32 vers, u32 nproc, u32 first_row)
{
	struct engine *e = ENGINE(pub);
	if (e->n_programs == MAX_PROGRAMS || nproc > MAX_PROC || first_row > MAX_ROWS - nproc)
		return -E2BIG;
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog && e->programs[i].vers == vers)
			return -EEXIST;
	i32 *rows = malloc((nproc ? nproc : 1) * sizeof *rows);
	if (!rows)
		return -ENOMEM;
	for (u32 i = 0; i < nproc; i++)
		rows[i] = (i32)(first_row + i);
	e->programs[e->n_programs++] = (struct program){ prog, vers, nproc, rows };
	return 0;
}

int rpc_hole(struct rpc_engine *pub, u32 prog, u32 vers, u32 proc)
{
	struct engine *e = ENGINE(pub);
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog && e->programs[i].vers == vers && proc < e->programs[i].nproc) {
			e->programs[i].rows[proc] = -1;
			return 0;
		}
	return -ENOENT;
}

int rpc_direct(struct rpc_engine *pub, u32 row, int (*fn)(struct call *))
{
	if (row >= MAX_ROWS)
		return -EINVAL;
	ENGINE(pub)->direct[row] = fn;
	return 0;
}

void rpc_before_wait(struct rpc_engine *e, void (*fn)(void)) { ENGINE(e)->before_wait = fn; }

int rpc_weight(struct rpc_engine *pub, u32 row, u32 tail)
{
	if (row >= MAX_ROWS || tail < 4 || tail > 255)
		return -EINVAL;
	ENGINE(pub)->tails[row] = (u8)tail;
	return 0;
}

struct call *rpc_call_at(struct rpc_engine *e, u32 i) { return i < RPC_BATCH ? &ENGINE(e)->calls[i] : NULL; }
int rpc_n_finished(struct rpc_engine *e) { return (int)ENGINE(e)->n_finished; }
struct call *rpc_finished_at(struct rpc_engine *e, u32 i) { return i < ENGINE(e)->n_finished ? ENGINE(e)->finished[i] : NULL; }
int rpc_n_events(struct rpc_engine *e) { return (int)ENGINE(e)->n_events; }
const struct rpc_event *rpc_events(struct rpc_engine *e) { return ENGINE(e)->events; }
const struct rpc_counters *rpc_count(struct rpc_engine *e) { return &ENGINE(e)->count; }

int rpc_null(struct call *c)
{
	if (reply_open(c, 0))
		op_drop(c);
	else
		reply_close(c);
	return 0;
}

int rpc_reply(struct call *c, const void *results, size_t len)
{
	if (len > MAX_REPLY || reply_open(c, len)) {
		op_drop(c);
		return -ENOMEM;
	}
	memcpy(c->rep, results, len);
	c->rep += len;
	reply_close(c);
	return 0;
}

int rpc_reply_raw(struct call *c, const void *msg, size_t len)
{
	u32 xid = htonl(c->xid);
	if (len < 12 || len > MAX_REPLY || reply_open(c, len)) {
		op_drop(c);
		return -EINVAL;
	}
	memcpy(c->mark + 4, msg, len);
	memcpy(c->mark + 4, &xid, 4);
	c->rep = c->mark + 4 + len;
	reply_close(c);
	return 0;
}

void rpc_deny(struct call *c, u32 accept_stat)
{
	if (c->detached || !((struct slot *)c->owner)->gone)
		op_deny(c, accept_stat);
}

void rpc_deny_auth(struct call *c, u32 auth_stat) { op_deny_auth(c, auth_stat); }
void rpc_drop(struct call *c) { op_drop(c); }
struct call *rpc_detach(struct call *c, size_t room) { return op_detach(c, room); }
void rpc_complete(struct call *d) { op_complete(d); }

void rpc_kerb4(struct rpc_engine *pub, i32 row) { ENGINE(pub)->kerb4_row = row; }

int rpc_become(struct call *c, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	struct engine *e = ENGINE(c->eng);
	struct rpc_cred cr = { .flavor = SYS_FLAVOR, .uid = uid, .gid = gid, .ngids = (u16)n };
	if (n > RPC_GIDS)
		return -EINVAL;
	memcpy(cr.gids, gids, n * sizeof *gids);
	u32 i = intern(e, &e->creds, &cr);
	if (i == NONE)
		return -ENOMEM;
	if (c->detached) {
		e->creds.pins[c->cred]--;
		e->creds.pins[i]++;
	}
	c->cred = i;
	return 0;
}

int rpc_message(struct call *c, const u8 **msg, size_t *len)
{
	struct slot *s = c->owner;
	if (!s->msg)
		return -EINVAL;
	*msg = s->msg;
	*len = s->msg_len;
	return 0;
}

u32 rpc_message_size(struct call *c) { return ((struct slot *)c->owner)->msg_len; }

u32 rpc_transport(struct call *c)
{
	return c->proto == RPC_RELAY ? ((struct slot *)c->owner)->transport : c->proto;
}

void rpc_relay(struct call *c, u32 serial, struct rpc_relay_head *head)
{
	const struct rpc_peer *p = &c->eng->peers[c->peer];
	*head = (struct rpc_relay_head){ .serial = serial, .proto = rpc_transport(c), .family = (u16)p->family,
					 .port = c->port, .scope = p->scope };
	memcpy(head->addr, p->addr, 16);
}

int rpc_local_addr(struct call *c, u8 addr[16])
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	struct rpc_peer p;
	u16 port;
	memset(addr, 0, 16);
	if (c->proto == RPC_UDP && s->local_family) {
		if (s->local_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((struct in6_addr *)s->local)) {
			memcpy(addr, s->local + 12, 4);
			return AF_INET;
		}
		memcpy(addr, s->local, 16);
		return (int)s->local_family;
	}
	struct conn *conn = find(e, c->conn, c->conn_gen);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	if (c->proto == RPC_RELAY || !conn || getsockname(conn->fd, (struct sockaddr *)&ss, &len))
		return 0;
	set_peer(&p, &port, &ss, len);
	memcpy(addr, p.addr, 16);
	return p.family == AF_UNIX ? 0 : (int)p.family;
}

int rpc_is_local(struct call *c)
{
	struct in6_addr a;
	if (c->proto == RPC_LOCAL)
		return 1;
	int family = rpc_local_addr(c, a.s6_addr);
	return (family == AF_INET && a.s6_addr[0] == 127) || (family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a));
}

int64_t rpc_unix_uid(struct call *c)
{
	struct conn *conn = find(ENGINE(c->eng), c->conn, c->conn_gen);
	return conn && conn->peercred ? (int64_t)conn->uid : -1;
}
