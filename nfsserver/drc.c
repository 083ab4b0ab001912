/* drc.c: the duplicate request cache and the directory locks, both in the shared state file.
 *
 * An entry is found by a keyed 128-bit hash of (client address without port, xid, program, version, procedure, credential, all
 * arguments; of a WRITE the header and the first and last 512 bytes).  "A false hit is more serious than a false miss": two
 * different requests meet in 128 keyed bits, or not at all.  The entry stands before the system call, with its owner (slot and
 * incarnation); a retransmission that comes meanwhile is dropped, one that comes after the answer gets that answer, on whatever
 * connection and worker it arrives.  An entry whose owner died before the answer is taken over: the caller looks at what was
 * recorded before the call (drc_note) and at what is there now.
 *
 * Locks are words in the shared file with their owner's slot and incarnation, held for a few memory accesses (shards) or a few system
 * calls (directories), never while Python runs.  Who waits long for one looks whether its owner still lives, and takes it from a
 * dead one; that leaves at worst one half-written entry, whose state is set last.  (A robust process-shared pthread mutex does the
 * same for four times the price, which was a tenth of a 4 KiB WRITE.)  Every index read from the file is checked. */
#include "vnode.h"
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>

#define N_DIRLOCKS 4096
#define N_SHARDS 256
#define WAYS 8
#define ENTRY 512
#define HEAD (512 << 10)                      /* locks, keys, tags before the entries */
#define N_ENTRIES ((DRC_SIZE - HEAD) / ENTRY)
#define N_SETS (N_ENTRIES / WAYS)
#define DATA (ENTRY - 56)                     /* the largest reply of a change is CREATE3resok: 288 bytes */
#define READY 0x4452433032ull                 /* "DRC02" */
#define KEEP_NS (900 * 1000000000ull)         /* the longest time-out of a Linux client is 600 s; later it is another's xid */
#define SPINS 200                             /* tries before a waiter gives up its turn on the processor */
#define YIELDS 50                             /* turns given up before it sleeps between tries: the owner may wait for a disk */
#define NAP_NS 100000
#define TRIES 10                              /* turns given up before the loop leaves a WRITE to the pool: some us each */
#define LOOKS 30                              /* looks before each: as long as another's small WRITE takes; more is waste when it waits */
#define DOUBTS 100                            /* turns before it looks whether the owner lives: some ms */

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

typedef _Atomic u64 lock_t;                    /* 0, or incarnation << 8 | slot + 1 */

struct drc {
	u64 ready, key[4];
	lock_t users, shard[N_SHARDS], dir[N_DIRLOCKS];
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

/* ---- Locks */

/* A process that was killed answers no more, also before the master has reaped it (state Z of proc(5)). */
static int process_lives(pid_t pid)
{
	char path[64], text[512], *end;
	if (kill(pid, 0) && errno == ESRCH)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 1;
	text[n] = 0;
	end = strrchr(text, ')');
	return !end || (end[2] != 'Z' && end[2] != 'X');
}

/* Does the worker of `slot` in this incarnation still run? */
static int lives(u32 slot, u32 incarnation)
{
	if (slot >= N_SLOTS)
		return 0;
	const u64 *row = W.state + OFF_SLOTS / 8 + (u64)slot * SLOT_WORDS;
	if ((u32)row[S_INCARNATION] != incarnation)
		return 0;
	return slot == W.slot || process_lives((pid_t)row[S_PID]);
}

static void take_slowly(lock_t *m, u64 me)
{
	u64 owner = 0;
	for (u32 i = 1; ; i++) {
		owner = 0;
		if (atomic_compare_exchange_weak_explicit(m, &owner, me, memory_order_acquire, memory_order_relaxed))
			return;
		if (i % SPINS)
			continue;
		if (i < SPINS * YIELDS)
			sched_yield();
		else
			nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
		if (i % (SPINS * DOUBTS) == 0 && owner && !lives((u32)(owner & 0xff) - 1, (u32)(owner >> 8))
		    && atomic_compare_exchange_strong(m, &owner, me))
			return;
	}
}

static void take(lock_t *m)
{
	u64 free_ = 0, me = (u64)W.incarnation << 8 | (W.slot + 1);
	if (!atomic_compare_exchange_strong_explicit(m, &free_, me, memory_order_acquire, memory_order_relaxed))
		take_slowly(m, me);
}

void shared_unlock(shared_lock *m)
{
	if (m)
		atomic_store_explicit((lock_t *)m, 0, memory_order_release);
}

static lock_t *dir_place(u64 dev, u64 ino)
{
	return &D->dir[(dev * 0x9e3779b97f4a7c15ull ^ ino * 0xc2b2ae3d27d4eb4full) >> 40 & (N_DIRLOCKS - 1)];
}

/* NULL: another has it, and keeps it longer than a few system calls take. */
shared_lock *dir_trylock(u64 dev, u64 ino)
{
	lock_t *m = dir_place(dev, ino);
	u64 owner, me = (u64)W.incarnation << 8 | (W.slot + 1);
	for (u32 i = 0; i < LOOKS * TRIES; i++) {
		owner = 0;
		if (!atomic_load_explicit(m, memory_order_relaxed) && atomic_compare_exchange_weak_explicit(m, &owner, me, memory_order_acquire, memory_order_relaxed))
			return (shared_lock *)m;
		if (i % LOOKS == LOOKS - 1)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
	return NULL;
}

shared_lock *dir_lock(u64 dev, u64 ino)
{
	lock_t *m = dir_place(dev, ino);
	take(m);
	return (shared_lock *)m;
}

/* The lock of the table of active users, taken. */
shared_lock *users_lock(void)
{
	take(&D->users);
	return (shared_lock *)&D->users;
}

/* Two at once, in the order of their addresses; *b is NULL when they are one. */
void dir_lock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, shared_lock **a, shared_lock **b)
{
	lock_t *x = dir_place(dev_a, ino_a), *y = dir_place(dev_b, ino_b);
	take(x < y ? x : y);
	if (x != y)
		take(x < y ? y : x);
	*a = (shared_lock *)x;
	*b = x == y ? NULL : (shared_lock *)y;
}

/* ---- The cache. */

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
static u32 set_of(const u64 k[2], lock_t **m)
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
		if (e->state != RUNNING || !lives(e->slot, e->incarnation))
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

/* Before a change.  0: do it (c->drc names the entry; c->word[1] is the note of a dead owner, 0 otherwise);
 * V_REPLAYED: answered; V_DROP: still running. */
int drc_begin(struct call *c)
{
	u64 k[2];
	lock_t *m;
	u8 data[DATA];
	name_of(c, k);
	u32 set = set_of(k, &m);
	c->drc = 0;
	c->word[1] = 0;
	take(m);
	struct entry *e = find(set, k);
	if (e && e->state == DONE && c->t0 - e->when < KEEP_NS) {
		u32 len = e->len > DATA ? 0 : e->len;
		memcpy(data, e->data, len);
		shared_unlock((shared_lock *)m);
		return replay(c, data, len);
	}
	if (e && e->state == RUNNING && lives(e->slot, e->incarnation)) {
		shared_unlock((shared_lock *)m);
		W.row[S_COUNTERS + C_INPROG_HITS]++;
		return V_DROP;
	}
	if (e && e->state == RUNNING)
		c->word[1] = e->note;
	else if (!e)
		e = place_in(set);
	if (e) {
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
	shared_unlock((shared_lock *)m);
	W.row[S_COUNTERS + C_MISSES]++;
	return 0;
}

static struct entry *mine(const struct call *c, lock_t **m)
{
	if (!c->drc || c->drc > N_ENTRIES)
		return NULL;
	struct entry *e = &entries[c->drc - 1];
	*m = &D->shard[(c->drc - 1) / WAYS % N_SHARDS];
	take(*m);
	if (e->state == RUNNING && (u32)e->k1 == c->drc_gen && e->slot == W.slot && e->incarnation == W.incarnation)
		return e;
	shared_unlock((shared_lock *)*m);
	return NULL;
}

/* What was there before the change: not 0. */
void drc_note(struct call *c, u64 note)
{
	lock_t *m;
	struct entry *e = mine(c, &m);
	if (!e)
		return;
	e->note = note;
	shared_unlock((shared_lock *)m);
}

/* The reply is complete.  JUKEBOX is not kept: the retransmission has to be executed. */
void drc_store(struct call *c)
{
	lock_t *m;
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
	shared_unlock((shared_lock *)m);
	c->drc = 0;
}

/* No reply will come (garbage, no memory). */
void drc_forget(struct call *c)
{
	lock_t *m;
	struct entry *e = mine(c, &m);
	if (e) {
		e->state = FREE;
		set_tag(e, 0);
		shared_unlock((shared_lock *)m);
	}
	c->drc = 0;
}
