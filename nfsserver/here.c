/* here.c: syncs that the loop does itself.
 *
 * A client that waits for each answer (untar under `sync`, databases) has one sync at a time under way, and where the disk is quick the
 * way to a thread and back costs as much as the sync: four switches, 10 to 30 us each in a virtual machine.  While nobody else is there
 * the loop does it, then; what arrives meanwhile makes the next batch, and is synced together.
 *
 * Nobody else: no other connection, datagram or relayed call was heard for ALONE_NS, and all that waits anywhere in this worker are
 * syncs; what this batch wants synced is little (HERE_FILES, HERE_BYTES).  Somebody may come meanwhile, so it is done only in a streak: the
 * last STREAK syncs of this file system, none more than GAP_NS after the one before, took less than QUICK_NS each.  The first one of a
 * client that begins, or that made a pause, goes to a thread.  One that took LONG_NS ends it for APART_FOR. */
#include "job.h"

#define ALONE_NS 100000000ull
#define QUICK_NS 1000000ull        /* more, and the way to a thread is little beside it */
#define STREAK 64
#define GAP_NS 100000000ull           /* a disk may have become another one in that time: gone to sleep, unplugged */
#define LONG_NS 10000000ull
#define APART_FOR 5000000000ull    /* one wait of 50 ms in that time is 1 %, which the others' 99th percentile does not show */
#define HERE_FILES 2               /* a directory and what was made in it; more of them are worth a thread */
#define HERE_BYTES (64u << 10)     /* unstable or stable data to be written */

/* A sync ended, here or in a thread.  Those that had much to write say nothing of how quick the disk is. */
void was_synced(const struct job *j, u64 now_ns)
{
	struct filesystem *f = &W.fs[j->fs];
	if (!j->synced_ns || j->bytes > HERE_BYTES)
		return;
	int goes_on = j->synced_ns <= QUICK_NS && now_ns - f->synced_ns <= GAP_NS;
	f->synced_ns = now_ns;
	f->streak = goes_on ? f->streak + (f->streak < STREAK) : 0;
	if (j->synced_ns > LONG_NS)
		f->apart_until = now_ns + APART_FOR;
}

static int is_quick(i32 fs, u64 now_ns)
{
	const struct filesystem *f = &W.fs[fs];
	return f->streak == STREAK && now_ns - f->synced_ns <= GAP_NS && f->apart_until <= now_ns && !is_slow(fs, now_ns);
}

/* Is a sync of all jobs of the list small?  *n: how many they are. */
static int is_small(const struct job *list, u64 *n)
{
	u64 bytes = 0, files = 0;
	int last = -1;
	for (const struct job *j = list; j; j = j->next, ++*n) {
		if (j->whole || j->fs != list->fs)
			return 0;
		files += (j->fd != last) + (j->fd2 >= 0);
		bytes += j->bytes;
		last = j->fd;
	}
	return files <= HERE_FILES && bytes <= HERE_BYTES;
}

/* After a batch of n_calls: does its syncs, if that is best done here.  alone_ns: since when nobody else was heard.  0: they are the
 * threads'. */
int syncs_here(struct rpc_engine *e, u32 n_calls, u64 alone_ns)
{
	const struct job *list = pool_gathered();
	u64 n = 0;
	if (!list || alone_ns < ALONE_NS || !is_quick(list->fs, clock_ns()) || !is_small(list, &n) || n != n_calls || vn_pending() != syncs_pending())
		return 0;
	e->flush(e); /* answers to those who need not wait */
	do_syncs(pool_take());
	return 1;
}
