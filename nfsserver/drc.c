/* drc.c: the duplicate request cache and the directory locks, both in the shared state file.
 *
 * An entry is found by a keyed 128-bit hash of (client address without port, xid, program, version, procedure, credential, all
 * arguments; of a WRITE the header and the first and last 512 bytes).  "A false hit is more serious than a false miss": two
 * different requests meet in 128 keyed bits, or not at all.  The entry stands before the system call, with its owner (slot and
 * incarnation); a retransmission that comes meanwhile is dropped, one that comes after the answer gets that answer, on whatever
 * connection and worker it arrives.  An entry whose owner died before the answer is taken over: the caller looks at what was
 * recorded before the call (drc_note) and at what is there now.
 *
 * Locks are robust process-shared mutexes, never held while Python runs; a worker that dies holding one leaves at worst one
 * half-written entry, which is thrown away by the next who takes the lock.  Every index read from the file is checked. */
#include "vnode.h"
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>

#define N_DIRLOCKS 1024
#define N_SHARDS 64
#define WAYS 8
#define HEAD (128 << 10)                      /* locks and key before the entries */
#define ENTRY 512
#define N_ENTRIES ((DRC_SIZE - HEAD) / ENTRY)
#define N_SETS (N_ENTRIES / WAYS)
#define DATA (ENTRY - 56)                     /* the largest reply of a change is CREATE3resok: 288 bytes */
#define READY 0x4452433031ull                 /* "DRC01" */

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
	pthread_mutex_t users, shard[N_SHARDS], dir[N_DIRLOCKS];
};
_Static_assert(sizeof(struct drc) <= HEAD, "head");

static struct drc *D;
static struct entry *entries;

/* Maps the region; the first worker after the file was made puts the locks into it. */
int drc_init(int fd)
{
	D = (void *)((u8 *)W.state + OFF_DRC);
	entries = (void *)((u8 *)D + HEAD);
	if (flock(fd, LOCK_EX))
		return errno;
	if (D->ready != READY) {
		pthread_mutexattr_t a;
		pthread_mutexattr_init(&a);
		pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
		pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
		pthread_mutex_init(&D->users, &a);
		for (int i = 0; i < N_SHARDS; i++)
			pthread_mutex_init(&D->shard[i], &a);
		for (int i = 0; i < N_DIRLOCKS; i++)
			pthread_mutex_init(&D->dir[i], &a);
		pthread_mutexattr_destroy(&a);
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		u64 seed[3] = { (u64)t.tv_nsec, (u64)t.tv_sec, (u64)getpid() };
		for (u64 i = 0; i < 4; i++, seed[0]++)
			D->key[i] = siphash(W.key, seed, sizeof seed);
		D->ready = READY;
	}
	flock(fd, LOCK_UN);
	return 0;
}

static int take(pthread_mutex_t *m)
{
	int e = pthread_mutex_lock(m);
	if (e == EOWNERDEAD)
		e = pthread_mutex_consistent(m);
	return e;
}

pthread_mutex_t *dir_lock(u64 dev, u64 ino)
{
	pthread_mutex_t *m = &D->dir[(dev * 0x9e3779b97f4a7c15ull ^ ino * 0xc2b2ae3d27d4eb4full) >> 40 & (N_DIRLOCKS - 1)];
	return take(m) ? NULL : m;
}

/* The lock of the table of active users, taken; NULL: it cannot be had. */
pthread_mutex_t *users_lock(void) { return take(&D->users) ? NULL : &D->users; }

void dir_lock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, pthread_mutex_t **a, pthread_mutex_t **b)
{
	pthread_mutex_t *x = &D->dir[(dev_a * 0x9e3779b97f4a7c15ull ^ ino_a * 0xc2b2ae3d27d4eb4full) >> 40 & (N_DIRLOCKS - 1)];
	pthread_mutex_t *y = &D->dir[(dev_b * 0x9e3779b97f4a7c15ull ^ ino_b * 0xc2b2ae3d27d4eb4full) >> 40 & (N_DIRLOCKS - 1)];
	*a = *b = NULL;
	if (take(x < y ? x : y))
		return;
	if (x != y && take(x < y ? y : x)) {
		pthread_mutex_unlock(x < y ? x : y);
		return;
	}
	*a = x;
	*b = y;
}

void dir_unlock(pthread_mutex_t *m)
{
	if (m)
		pthread_mutex_unlock(m);
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
	struct { u32 family, xid, prog, vers, proc, flavor, uid, gid, n; u8 addr[16]; u32 gids[RPC_GIDS]; u64 args, data; } in;
	memset(&in, 0, sizeof in);
	in.family = peer->family; in.xid = c->xid; in.prog = c->prog; in.vers = c->vers; in.proc = c->proc;
	in.flavor = cred->flavor; in.uid = cred->uid; in.gid = cred->gid; in.n = cred->ngids;
	memcpy(in.addr, peer->addr, 16);
	memcpy(in.gids, cred->gids, cred->ngids * 4u);
	if (n > 1200) { /* a WRITE, or a long SYMLINK */
		head = 120;
		in.data = data_sum(arg + head, 512) ^ data_sum(c->end - 512, 512) << 32 ^ n;
	}
	in.args = siphash(D->key, arg, head);
	size_t size = sizeof in;
	k[0] = siphash(D->key, &in, size);
	k[1] = siphash(D->key + 2, &in, size);
}

static struct entry *set_of(const u64 k[2], pthread_mutex_t **m)
{
	u64 set = k[0] % N_SETS;
	*m = &D->shard[set % N_SHARDS];
	return entries + set * WAYS;
}

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

static int owner_lives(const struct entry *e)
{
	if (e->slot >= N_SLOTS)
		return 0;
	const u64 *row = W.state + OFF_SLOTS / 8 + (u64)e->slot * SLOT_WORDS;
	if ((u32)row[S_INCARNATION] != e->incarnation)
		return 0;
	return e->slot == W.slot || process_lives((pid_t)row[S_PID]);
}

/* The place for a new entry: a free one, else the oldest that is not running. */
static struct entry *place_in(struct entry *set)
{
	struct entry *best = NULL;
	for (int i = 0; i < WAYS; i++) {
		if (set[i].state == FREE)
			return &set[i];
		if ((set[i].state != RUNNING || !owner_lives(&set[i])) && (!best || set[i].when < best->when))
			best = &set[i];
	}
	return best;
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
	pthread_mutex_t *m;
	u8 data[DATA];
	name_of(c, k);
	struct entry *set = set_of(k, &m), *e = NULL;
	c->drc = 0;
	c->word[1] = 0;
	if (take(m))
		return 0;
	for (int i = 0; i < WAYS; i++)
		if (set[i].state != FREE && set[i].k0 == k[0] && set[i].k1 == k[1])
			e = &set[i];
	if (e && e->state == DONE) {
		u32 len = e->len > DATA ? 0 : e->len;
		memcpy(data, e->data, len);
		pthread_mutex_unlock(m);
		return replay(c, data, len);
	}
	if (e && owner_lives(e)) {
		pthread_mutex_unlock(m);
		W.row[S_COUNTERS + C_INPROG_HITS]++;
		return V_DROP;
	}
	if (e)
		c->word[1] = e->note;
	else
		e = place_in(set);
	if (e) {
		*e = (struct entry){ .k0 = k[0], .k1 = k[1], .state = RUNNING, .slot = W.slot, .incarnation = W.incarnation, .when = c->t0,
				     .note = c->word[1] };
		c->drc = (u32)(e - entries) + 1;
		c->drc_gen = (u32)k[1];
	}
	pthread_mutex_unlock(m);
	W.row[S_COUNTERS + C_MISSES]++;
	return 0;
}

static struct entry *mine(const struct call *c, pthread_mutex_t **m)
{
	if (!c->drc || c->drc > N_ENTRIES)
		return NULL;
	struct entry *e = &entries[c->drc - 1];
	*m = &D->shard[(c->drc - 1) / WAYS % N_SHARDS];
	if (take(*m))
		return NULL;
	if (e->state == RUNNING && (u32)e->k1 == c->drc_gen && e->slot == W.slot && e->incarnation == W.incarnation)
		return e;
	pthread_mutex_unlock(*m);
	return NULL;
}

/* What was there before the change: not 0. */
void drc_note(struct call *c, u64 note)
{
	pthread_mutex_t *m;
	struct entry *e = mine(c, &m);
	if (!e)
		return;
	e->note = note;
	pthread_mutex_unlock(m);
}

/* The reply is complete.  JUKEBOX is not kept: the retransmission has to be executed. */
void drc_store(struct call *c)
{
	pthread_mutex_t *m;
	struct entry *e = mine(c, &m);
	size_t n = (size_t)(c->rep - c->res);
	if (!e)
		return;
	if (n > DATA || n < 4 || get_u32(c->res) == ERR_JUKEBOX) {
		e->state = FREE;
	} else {
		memcpy(e->data, c->res, n);
		e->len = (u32)n;
		e->state = DONE;
	}
	pthread_mutex_unlock(m);
	c->drc = 0;
}

/* No reply will come (garbage, no memory). */
void drc_forget(struct call *c)
{
	pthread_mutex_t *m;
	struct entry *e = mine(c, &m);
	if (e) {
		e->state = FREE;
		pthread_mutex_unlock(m);
	}
	c->drc = 0;
}
