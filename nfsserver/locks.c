/* locks.c: locks between the workers: words in the shared state file.
 *
 * Each has its owner's slot and incarnation, and is held for a few memory accesses (shards of the DRC) or a few system calls
 * (directories), never while Python runs.  Who waits long for one looks whether its owner still lives, and takes it from a dead one;
 * that leaves at worst one half-written entry, whose state is set last.  (A robust process-shared pthread mutex does the same for four
 * times the price, which was a tenth of a 4 KiB WRITE.) */
#include "parts.h"
#include <sched.h>
#include <signal.h>
#include <stdio.h>

#define SPINS 200                             /* tries before a waiter gives up its turn on the processor */
#define YIELDS 50                             /* turns given up before it sleeps between tries: the owner may wait for a disk */
#define NAP_NS 100000
#define TRIES 10                              /* turns given up before the loop leaves a WRITE to the pool: some us each */
#define PATIENT 50                             /* ... a change, which others of its directory let through more often */
#define LOOKS 30                              /* looks before each: as long as another's small WRITE takes; more is waste when it waits */
#define DOUBTS 100                            /* turns before it looks whether the owner lives: some ms */

static shared_lock *users, *dirs; /* N_DIRLOCKS of these */

/* Where they lie. */
void locks_init(shared_lock *users_, shared_lock *dirs_)
{
	users = users_;
	dirs = dirs_;
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

/* Does the worker of `slot` in this incarnation still run? */
int worker_lives(u32 slot, u32 incarnation)
{
	if (slot >= N_SLOTS)
		return 0;
	const u64 *row = W.state + OFF_SLOTS / 8 + (u64)slot * SLOT_WORDS;
	if ((u32)row[S_INCARNATION] != incarnation)
		return 0;
	return slot == W.slot || process_lives((pid_t)row[S_PID]);
}

static void take_slowly(shared_lock *m, u64 me)
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
		if (i % (SPINS * DOUBTS) == 0 && owner && !worker_lives((u32)(owner & 0xff) - 1, (u32)(owner >> 8))
		    && atomic_compare_exchange_strong(m, &owner, me))
			return;
	}
}

void shared_take(shared_lock *m)
{
	u64 free_ = 0, me = (u64)W.incarnation << 8 | (W.slot + 1);
	if (!atomic_compare_exchange_strong_explicit(m, &free_, me, memory_order_acquire, memory_order_relaxed))
		take_slowly(m, me);
}

void shared_unlock(shared_lock *m)
{
	if (m)
		atomic_store_explicit(m, 0, memory_order_release);
}

static shared_lock *dir_place(u64 dev, u64 ino)
{
	return &dirs[(dev * 0x9e3779b97f4a7c15ull ^ ino * 0xc2b2ae3d27d4eb4full) >> 40 & (N_DIRLOCKS - 1)];
}

static int try(shared_lock *m, u32 turns)
{
	u64 owner, me = (u64)W.incarnation << 8 | (W.slot + 1);
	for (u32 i = 0; i < LOOKS * turns; i++) {
		owner = 0;
		if (!atomic_load_explicit(m, memory_order_relaxed)
		    && atomic_compare_exchange_weak_explicit(m, &owner, me, memory_order_acquire, memory_order_relaxed))
			return 0;
		if (i % LOOKS == LOOKS - 1)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
	return -1;
}

/* NULL: another has it, and keeps it longer than a few system calls take. */
shared_lock *dir_trylock(u64 dev, u64 ino)
{
	shared_lock *m = dir_place(dev, ino);
	return try(m, TRIES) ? NULL : m;
}

/* Two at once for a change, or one (b NULL).  0, or -1: nothing is taken. */
int dir_trylock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, shared_lock **a, shared_lock **b)
{
	shared_lock *x = dir_place(dev_a, ino_a), *y = b ? dir_place(dev_b, ino_b) : x;
	if (try(x, PATIENT))
		return -1;
	if (x != y && try(y, PATIENT)) {
		shared_unlock(x);
		return -1;
	}
	*a = x;
	if (b)
		*b = x == y ? NULL : y;
	return 0;
}

shared_lock *dir_lock(u64 dev, u64 ino)
{
	shared_lock *m = dir_place(dev, ino);
	shared_take(m);
	return m;
}

/* The lock of the table of active users, taken. */
shared_lock *users_lock(void)
{
	shared_take(users);
	return users;
}

/* Two at once, in the order of their addresses; *b is NULL when they are one. */
void dir_lock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, shared_lock **a, shared_lock **b)
{
	shared_lock *x = dir_place(dev_a, ino_a), *y = dir_place(dev_b, ino_b);
	shared_take(x < y ? x : y);
	if (x != y)
		shared_take(x < y ? y : x);
	*a = x;
	*b = x == y ? NULL : y;
}
