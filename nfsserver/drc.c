/* drc.c: the duplicate request cache, in the shared state file.
 *
 * An entry is found by a keyed 128-bit hash of (client address without port, xid, program, version, procedure, credential, all
 * arguments; of a WRITE the header and the first and last 512 bytes).  "A false hit is more serious than a false miss": two
 * different requests meet in 128 keyed bits, or not at all.  The entry stands before the system call, with its owner (slot and
 * incarnation); a retransmission that comes meanwhile is dropped, one that comes after the answer gets that answer, on whatever
 * connection and worker it arrives.  An entry whose owner died before the answer is taken over: the caller looks at what was
 * recorded before the call (drc_note) and at what is there now.  Its state is set last, for a worker may be killed anywhere.  Every
 * index read from the file is checked. */
#include "parts.h"
#include <sys/file.h>

#define N_SHARDS 256
#define WAYS 8
#define ENTRY 512
#define HEAD (512 << 10)                      /* locks, keys, tags before the entries */
#define N_ENTRIES ((DRC_SIZE - HEAD) / ENTRY)
#define N_SETS (N_ENTRIES / WAYS)
#define DATA (ENTRY - 56)                     /* the largest reply of a change is CREATE3resok: 288 bytes */
#define READY 0x4452433032ull                 /* "DRC02" */
#define KEEP_NS (900 * 1000000000ull)         /* the longest time-out of a Linux client is 600 s; later it is another's xid */

enum { FREE, RUNNING, DONE };

struct entry {
	u64 k0, k1;
	u32 state, slot, incarnation, len;
	u64 when;                              /* CLOCK_MONOTONIC ns */
	u64 note;                              /* what drc_note() said, 0 for nothing */
	u64 spare;
	u8 data[DATA];
};
_Static_assert(sizeof(struct entry) == ENTRY, "entry");

struct drc {
	u64 ready, key[4];
	shared_lock users, shard[N_SHARDS], dir[N_DIRLOCKS];
	u8 hand[N_SETS];                       /* which way of a set is given away next */
	_Alignas(64) u64 tag[N_SETS][WAYS];    /* k0 of each entry: a set is one line of the cache */
};
_Static_assert(sizeof(struct drc) <= HEAD, "head");

static struct drc *D;
static struct entry *entries;

/* Maps the region; the first worker after the file was made makes its keys. */
int drc_init(int fd)
{
	D = (void *)((u8 *)W.state + OFF_DRC);
	entries = (void *)((u8 *)D + HEAD);
	locks_init(&D->users, D->dir);
	if (flock(fd, LOCK_EX))
		return errno;
	if (D->ready != READY) {
		struct timespec t;
		memset(D, 0, sizeof *D);
		clock_gettime(CLOCK_REALTIME, &t);
		u64 seed[3] = { (u64)t.tv_nsec, (u64)t.tv_sec, (u64)getpid() };
		for (u64 i = 0; i < 4; i++, seed[0]++)
			D->key[i] = siphash(W.key, seed, sizeof seed);
		D->ready = READY;
	}
	flock(fd, LOCK_UN);
	return 0;
}

static __attribute__((target("sse4.2"))) u64 crc_hard(const u8 *p, size_t n)
{
	u64 c = ~0u, v;
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&v, p, 8);
		c = __builtin_ia32_crc32di(c, v);
	}
	while (n--)
		c = __builtin_ia32_crc32qi((u32)c, *p++);
	return c;
}

static u64 data_sum(const u8 *p, size_t n) { return __builtin_cpu_supports("sse4.2") ? crc_hard(p, n) : siphash(D->key, p, n); }

/* The 128-bit name of the request. */
static void name_of(const struct call *c, u64 k[2])
{
	const struct rpc_peer *peer = &c->eng->peers[c->peer];
	const struct rpc_cred *cred = &c->eng->creds[c->cred];
	const u8 *arg = (const u8 *)(uintptr_t)c->word[2];
	size_t n = (size_t)(c->end - arg), head = n;
	struct { u32 family, xid, prog, vers, proc, flavor, uid, gid; u64 args, data; u8 addr[16]; u32 n, gids[RPC_GIDS]; } in;
	in.family = peer->family; in.xid = c->xid; in.prog = c->prog; in.vers = c->vers; in.proc = c->proc;
	in.flavor = cred->flavor; in.uid = cred->uid; in.gid = cred->gid; in.n = cred->ngids;
	in.data = 0;
	memcpy(in.addr, peer->addr, 16);
	memcpy(in.gids, cred->gids, cred->ngids * 4u);
	if (n > 1200) { /* a WRITE, or a long SYMLINK */
		head = 120;
		in.data = data_sum(arg + head, 512) ^ data_sum(c->end - 512, 512) << 32 ^ n;
	}
	in.args = siphash(D->key, arg, head);
	siphash128(D->key + 2, &in, offsetof(__typeof__(in), gids) + cred->ngids * 4u, k);
	k[0] |= !k[0]; /* 0 is the tag of a free place */
}

/* The first entry of the request's set. */
static u32 set_of(const u64 k[2], shared_lock **m)
{
	u32 set = (u32)(k[0] % N_SETS);
	*m = &D->shard[set % N_SHARDS];
	return set;
}

/* In the order in which it is written here, for a worker may be killed between any two stores. */
static void set_state(struct entry *e, u32 state)
{
	__atomic_store_n(&e->state, state, __ATOMIC_SEQ_CST);
}

static struct entry *find(u32 set, const u64 k[2])
{
	for (u32 i = 0; i < WAYS; i++) {
		struct entry *e = &entries[set * WAYS + i];
		if (D->tag[set][i] == k[0] && e->k0 == k[0] && e->k1 == k[1] && e->state != FREE)
			return e;
	}
	return NULL;
}

/* The place for a new entry: a free one, else the oldest that does not run. */
static struct entry *place_in(u32 set)
{
	for (u32 i = 0; i < WAYS; i++)
		if (!D->tag[set][i])
			return &entries[set * WAYS + i];
	for (u32 i = 0; i < WAYS; i++) {
		struct entry *e = &entries[set * WAYS + D->hand[set]++ % WAYS];
		if (e->state != RUNNING || !worker_lives(e->slot, e->incarnation))
			return e;
	}
	return NULL;
}

static void set_tag(const struct entry *e, u64 k0)
{
	u32 at = (u32)(e - entries);
	D->tag[at / WAYS][at % WAYS] = k0;
}

static int replay(struct call *c, const u8 *data, u32 len)
{
	if (len > DATA || reply_open(c, len))
		return V_DROP;
	memcpy(c->rep, data, len);
	c->rep += len;
	W.row[S_COUNTERS + C_NONIDEM_HITS]++;
	reply_close(c);
	return V_REPLAYED;
}

/* The entry is this call's from now on. */
static void claim(struct entry *e, struct call *c, const u64 k[2])
{
	set_state(e, FREE);
	e->k0 = k[0];
	e->k1 = k[1];
	e->slot = W.slot;
	e->incarnation = W.incarnation;
	e->len = 0;
	e->when = c->t0;
	e->note = c->word[1];
	set_state(e, RUNNING);
	set_tag(e, k[0]);
	c->drc = (u32)(e - entries) + 1;
	c->drc_gen = (u32)k[1];
}

/* Before a change.  0: do it (c->drc names the entry; c->word[1] is the note of a dead owner, 0 otherwise);
 * V_REPLAYED: answered; V_DROP: still running. */
int drc_begin(struct call *c)
{
	u64 k[2];
	shared_lock *m;
	u8 data[DATA];
	name_of(c, k);
	u32 set = set_of(k, &m);
	c->drc = 0;
	c->word[1] = 0;
	shared_take(m);
	struct entry *e = find(set, k);
	if (e && e->state == DONE && c->t0 - e->when < KEEP_NS) {
		u32 len = e->len > DATA ? 0 : e->len;
		memcpy(data, e->data, len);
		shared_unlock(m);
		return replay(c, data, len);
	}
	if (e && e->state == RUNNING && worker_lives(e->slot, e->incarnation)) {
		shared_unlock(m);
		W.row[S_COUNTERS + C_INPROG_HITS]++;
		return V_DROP;
	}
	if (e && e->state == RUNNING)
		c->word[1] = e->note;
	else if (!e)
		e = place_in(set);
	if (e)
		claim(e, c, k);
	shared_unlock(m);
	W.row[S_COUNTERS + C_MISSES]++;
	return 0;
}

static struct entry *mine(const struct call *c, shared_lock **m)
{
	if (!c->drc || c->drc > N_ENTRIES)
		return NULL;
	struct entry *e = &entries[c->drc - 1];
	*m = &D->shard[(c->drc - 1) / WAYS % N_SHARDS];
	shared_take(*m);
	if (e->state == RUNNING && (u32)e->k1 == c->drc_gen && e->slot == W.slot && e->incarnation == W.incarnation)
		return e;
	shared_unlock(*m);
	return NULL;
}

/* What was there before the change: not 0. */
void drc_note(struct call *c, u64 note)
{
	shared_lock *m;
	struct entry *e = mine(c, &m);
	if (!e)
		return;
	e->note = note;
	shared_unlock(m);
}

/* The reply is complete.  JUKEBOX is not kept: the retransmission has to be executed. */
void drc_store(struct call *c)
{
	shared_lock *m;
	struct entry *e = mine(c, &m);
	size_t n = (size_t)(c->rep - c->res);
	if (!e)
		return;
	if (n > DATA || n < 4 || get_u32(c->res) == ERR_JUKEBOX) {
		e->state = FREE;
		set_tag(e, 0);
	} else {
		memcpy(e->data, c->res, n);
		e->len = (u32)n;
		set_state(e, DONE);
	}
	shared_unlock(m);
	c->drc = 0;
}

/* No reply will come (garbage, no memory). */
void drc_forget(struct call *c)
{
	shared_lock *m;
	struct entry *e = mine(c, &m);
	if (e) {
		e->state = FREE;
		set_tag(e, 0);
		shared_unlock(m);
	}
	c->drc = 0;
}
