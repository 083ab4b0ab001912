/* cold.c: what would keep the loop waiting for a disk.
 *
 * Most calls find what they need in memory, and the way to a thread and back (some 10 us) would be most of their price.  So they run in
 * the loop, and the loop looks at how long they took.  A file system whose calls blocked for more than BLOCKED_NS of a second is *slow*
 * for SLOW_FOR after the last that did; while it is, WRITE and changes run in the pool (change.c), READDIR is read there first, and so is
 * an object or a name that the kernel does not have in memory (openat2 RESOLVE_CACHED tells): a thread opens it, then the row runs once
 * more and finds it open.
 *
 * Blocked is not the same as not scheduled: a call of up to SURE_NS may have lost the processor to another process.  The first of
 * these begins a watch, during which the thread's voluntary switches are counted before and after each call (getrusage(2), 0.2 us). */
#include "parts.h"
#include <linux/openat2.h>
#include <sys/resource.h>

#define LONG_NS 2000000ull           /* a call that keeps all others of this worker waiting for so long is looked at */
#define SECOND_NS 1000000000ull
#define BLOCKED_NS 40000000ull       /* of a second, and then not again for SLOW_FOR: less than 1 % of the time, which the others' 99th
					percentile does not show.  Less is no sign of a slow disk: who waited a moment for a lock waits up
					to 15 ms more for a busy processor, and changes at a thread's price cost four times as much */
#define SURE_NS 100000000ull         /* nobody else has the processor for so long */
#define WATCH_FOR 2000000000ull
#define SLOW_FOR 5000000000ull

static u64 switches;                 /* at the beginning of the call under way, of a file system that is watched */
static u64 last_ns;                  /* the end of the call before */

int is_slow(i32 fs, u64 now_ns) { return W.fs[fs].slow_until > now_ns; }

/* All calls of this second have kept the loop waiting for more than BLOCKED_NS, this one of took_ns among them. */
static int too_much(struct filesystem *f, u64 now_ns, u64 took_ns)
{
	if (now_ns - f->second_ns > SECOND_NS) {
		f->second_ns = now_ns;
		f->blocked_ns = 0;
	}
	f->blocked_ns += took_ns;
	return f->blocked_ns > BLOCKED_NS;
}

/* A call on `fs` took so long in the loop; blocked: it waited, 1; -1: not known. */
static void was_long(i32 fs, u64 now_ns, u64 took_ns, int blocked)
{
	struct filesystem *f = &W.fs[fs];
	if (took_ns <= LONG_NS || !blocked)
		return;
	if (blocked < 0 && took_ns <= SURE_NS)
		f->watch_until = now_ns + WATCH_FOR;
	else if (too_much(f, now_ns, took_ns))
		f->slow_until = now_ns + SLOW_FOR;
}

/* A thread waited so long for one call: the loop would have, too.  Threads also wait for each other, hence each for itself. */
void was_long_in_thread(i32 fs, u64 now_ns, u64 took_ns)
{
	if (took_ns > BLOCKED_NS)
		W.fs[fs].slow_until = now_ns + SLOW_FOR;
}

/* A call on `fs` begins in the loop. */
void cold_begin(const struct call *c, i32 fs)
{
	if (W.fs[fs].watch_until > c->t0)
		switches = own_switches();
}

/* It ended.  Calls of a batch share the moment at which they were received, so its own time is that since the one before it. */
void cold_end(const struct call *c, u64 now_ns)
{
	u64 took = now_ns - (c->t0 > last_ns ? c->t0 : last_ns);
	last_ns = now_ns;
	if (took <= LONG_NS || c->detached || c->obj < 0 || !W.objs[c->obj].used)
		return;
	i32 fs = W.objs[c->obj].fs;
	was_long(fs, now_ns, took, W.fs[fs].watch_until > c->t0 ? own_switches() > switches : -1);
}

/* Has the call waited already?  It waits once, for whatever it needs next may be gone again by then. */
static int waited(const struct call *c) { return c->state == WAITED; }

/* Sends the call to a thread that opens something, then to its row again from the beginning. */
static int wait_for(struct call *c, const u8 *arg, struct job *j)
{
	const u8 *behind = c->arg;
	c->arg = arg;
	struct call *d = c->eng->detach(c, WAIT_ROOM);
	if (!d) { /* too much waits already: one more must not make all the others wait */
		c->arg = behind;
		job_free(j);
		return ERR_JUKEBOX;
	}
	drc_forget(c); /* the row begins again, and with it the entry */
	d->drc = 0;
	d->state = WAITED;
	pool_wait(d, j);
	return V_WAITS;
}

/* The object of a kernel handle on `fs` is to be opened by its mount for call c, whose arguments begin with it.  0: here and now;
 * V_WAITS: a thread does it; ERR_JUKEBOX. */
int wait_for_handle(struct call *c, i32 fs, int mntfd, u32 type, const u8 *bytes, u32 n)
{
	if (!c->eng || c->obj >= 0 || waited(c) || !is_slow(fs, c->t0))
		return 0;
	struct job *j = job_open(fs, mntfd, type, bytes, n);
	return j ? wait_for(c, c->arg, j) : 0;
}

/* `name` is to be looked up in `dir` as the caller.  0: it is in memory, or the file system is quick; V_WAITS, and the row goes on with
 * what the thread found; ERR_JUKEBOX. */
int wait_for_name(struct call *c, i32 dir, const char *name)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_CACHED };
	i32 fs = W.objs[dir].fs;
	if (is_dots(name) || waited(c) || !is_slow(fs, c->t0))
		return 0;
	int fd = (int)syscall(SYS_openat2, W.objs[dir].fd, name, &how, sizeof how);
	if (fd >= 0)
		close(fd);
	if (fd >= 0 || errno != EAGAIN)
		return 0;
	struct job *j = job_name(fs, dir, name, &W.idents[c->ident]);
	if (!j)
		return 0;
	return wait_for(c, (const u8 *)(uintptr_t)c->word[2], j);
}

/* READDIR is to go on in directory `dir` at `cookie`, for `count` bytes of names; plus: with attributes.  0: the file system is quick;
 * V_WAITS: a thread reads the same first, so that the kernel has it in memory when the row runs; ERR_JUKEBOX. */
int wait_for_entries(struct call *c, i32 dir, u64 cookie, u32 count, int plus)
{
	if (waited(c) || !is_slow(W.objs[dir].fs, c->t0))
		return 0;
	struct job *j = job_entries(dir, cookie, count, plus);
	return j ? wait_for(c, (const u8 *)(uintptr_t)c->word[2], j) : 0;
}

/* What a thread opened for the row that runs now: a descriptor, -errno, or NOT_OPENED when it opened nothing; and under which export
 * table.  Under another one the caller may have become somebody else, who opens it himself. */
static struct { const struct call *c; int fd; u32 generation; } opened;

/* The row is over; nobody came for it. */
void vn_opened_drop(void)
{
	if (opened.c && opened.fd >= 0)
		close(opened.fd);
	opened.c = NULL;
}

void opened_put(const struct call *c, int fd, u32 generation)
{
	vn_opened_drop();
	opened.c = c;
	opened.fd = fd;
	opened.generation = generation;
}

int opened_take(const struct call *c)
{
	if (opened.c != c)
		return NOT_OPENED;
	if (opened.generation != W.generation) {
		vn_opened_drop();
		return NOT_OPENED;
	}
	opened.c = NULL;
	return opened.fd;
}
