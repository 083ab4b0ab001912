/* pool.c: C threads for what may wait for a disk, so that the loop never does.
 *
 * Jobs: a READ that the page cache cannot answer, and fsync for COMMIT, stable WRITEs and metadata.  A job belongs to a detached
 * call; the thread fills it and hands it to the RPC bridge's completion queue, from which the loop ends it with vn_done().  Group
 * commit: a thread takes all waiting syncs at once and does one fsync for each descriptor among them; at most half of the threads
 * sync at a time, so that reads go on while a disk flushes.  Threads use descriptors that are pinned (obj.pins) and never look at W. */
#include "vnode.h"
#include <signal.h>

enum { JOB_READ, JOB_FSYNC, JOB_FDATASYNC, JOB_FLUSH, JOB_SYNCFS };

struct job {
	struct job *next;
	struct call *c;
	int kind, fd, fd2, err; /* fd2: to be synced as well, or -1; JOB_SYNCFS owns its fd */
	u64 offset;
	u32 count, generation; /* of the export table that allowed it */
	ssize_t n;
	struct stat st; /* of a READ: from before */
};

static struct { struct job *head, **tail; } reads, syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static int n_threads, syncing;
static u64 n_pending;

static struct job *take_read(void)
{
	struct job *j = reads.head;
	if (j && !(reads.head = j->next))
		reads.tail = &reads.head;
	return j;
}

/* Data may have been lost that clients were told we hold: they must write it again. */
void verifier_change(void) { atomic_fetch_add((_Atomic u64 *)&W.state[H_VERIFIER], 0x9e3779b97f4a7c15ull); }

/* The last look at a file with unstable data that leaves the cache. */
static void do_flush(struct job *j)
{
	if (fdatasync(j->fd) && errno != EINVAL && errno != EROFS)
		verifier_change();
	close(j->fd);
	atomic_fetch_sub((_Atomic u64 *)&W.row[S_UNSYNCED], 1);
	free(j);
}

static void do_read(struct job *j)
{
	struct call *c = j->c;
	if (reply_open(c, 4 + 88 + 12 + j->count + 4)) {
		j->err = ENOMEM;
	} else {
		do
			j->n = pread(j->fd, c->res + 4 + 88 + 12, j->count, (off_t)j->offset);
		while (j->n < 0 && errno == EINTR);
		j->err = j->n < 0 ? errno : 0;
	}
	c->eng->complete(c);
}

/* There is nothing behind it that could be lost. */
static int no_loss(int err) { return err == EINVAL || err == EROFS ? 0 : err; }

/* What a job has beyond one fsync: a second descriptor, or the whole file system. */
static void do_more(struct job *j)
{
	if (j->fd2 >= 0 && fsync(j->fd2))
		j->err = no_loss(errno);
	if (j->kind != JOB_SYNCFS)
		return;
	if (syncfs(j->fd) && !j->err)
		j->err = no_loss(errno);
	close(j->fd);
	j->kind = -1;
}

/* One fsync for each descriptor in the list; a plain fsync serves those who asked for fdatasync, too. */
static void do_syncs(struct job *list)
{
	for (struct job *j = list; j; j = j->next)
		do_more(j);
	for (struct job *j = list; j; j = j->next) {
		int full = 0;
		if (j->kind < 0)
			continue; /* already answered by an earlier one */
		for (struct job *k = j; k; k = k->next)
			full |= k->fd == j->fd && k->kind == JOB_FSYNC;
		int err = (full ? fsync(j->fd) : fdatasync(j->fd)) ? errno : 0;
		err = no_loss(err);
		for (struct job *k = list; k; k = k->next)
			if (k->fd == j->fd && k->kind >= 0 && k != j)
				k->err = k->err ? k->err : err, k->kind = -1;
		j->err = j->err ? j->err : err;
	}
	for (struct job *j = list, *next; j; j = next) {
		next = j->next;
		j->c->eng->complete(j->c);
	}
}

static void *thread(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	for (;;) {
		struct job *j;
		if ((j = take_read())) {
			pthread_mutex_unlock(&lock);
			if (j->kind == JOB_FLUSH)
				do_flush(j);
			else
				do_read(j);
			pthread_mutex_lock(&lock);
		} else if (syncs.head && syncing < (n_threads + 1) / 2) {
			j = syncs.head;
			syncs.head = NULL;
			syncs.tail = &syncs.head;
			syncing++;
			pthread_mutex_unlock(&lock);
			do_syncs(j);
			pthread_mutex_lock(&lock);
			syncing--;
		} else {
			pthread_cond_wait(&work, &lock);
		}
	}
	return NULL;
}

/* Starts the threads with all signals blocked: those are the loop's.  0 or an errno. */
int pool_start(int threads)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err = 0;
	reads.tail = &reads.head;
	syncs.tail = &syncs.head;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10); /* they call pread and fsync */
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	for (int i = 0; i < threads && !err; i++) {
		pthread_t id;
		err = pthread_create(&id, &attr, thread, NULL);
		n_threads += !err;
	}
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return n_threads ? 0 : err;
}

static int submit(struct call *c, int kind, int fd, int fd2, u64 offset, u32 count, const struct stat *st)
{
	struct job *j = malloc(sizeof *j);
	if (!j) {
		if (kind == JOB_SYNCFS)
			close(fd);
		drc_forget(c);
		c->eng->drop(c);
		return V_PENDING;
	}
	*j = (struct job){ .c = c, .kind = kind, .fd = fd, .fd2 = fd2, .offset = offset, .count = count,
			   .generation = W.generation };
	if (st)
		j->st = *st;
	W.objs[c->obj].pins++;
	if (c->obj2 >= 0)
		W.objs[c->obj2].pins++;
	c->word[0] = (u64)(uintptr_t)j;
	n_pending++;
	pthread_mutex_lock(&lock);
	struct job ***tail = kind == JOB_READ ? &reads.tail : &syncs.tail;
	**tail = j;
	*tail = &j->next;
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
	return V_PENDING;
}

/* Takes the descriptor of a file with unstable data: fdatasync, then close. */
void pool_flush(int fd)
{
	struct job *j = malloc(sizeof *j);
	if (!j || !n_threads) {
		struct job here = { .kind = JOB_FLUSH, .fd = fd };
		free(j);
		if (!(j = malloc(sizeof *j))) { /* no memory at all: the report is lost, so say that data may be */
			verifier_change();
			close(fd);
			return;
		}
		*j = here;
		do_flush(j);
		return;
	}
	*j = (struct job){ .kind = JOB_FLUSH, .fd = fd };
	pthread_mutex_lock(&lock);
	*reads.tail = j;
	reads.tail = &j->next;
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
}

int pool_read(struct call *c, int fd, u64 offset, u32 count, const struct stat *st)
{
	struct call *d = n_threads ? c->eng->detach(c, 4 + 88 + 12 + count + 4) : NULL;
	if (d)
		return submit(d, JOB_READ, fd, -1, offset, count, st);
	ssize_t n = pread(fd, c->res + 4 + 88 + 12, count, (off_t)offset);
	if (n < 0)
		return status_of(errno);
	finish_read(c, offset, (u32)n, count, st);
	return vn_close(c, OK);
}

/* d: a detached call whose reply is complete (or is a COMMIT, state 3).  datasync 1: fdatasync is enough. */
int pool_sync(struct call *d, int fd, int datasync) { return submit(d, datasync == 1 ? JOB_FDATASYNC : JOB_FSYNC, fd, -1, 0, 0, NULL); }

/* The same with a second descriptor (-1: none); whole: all of fd's file system, and fd is taken. */
int pool_sync_more(struct call *d, int fd, int fd2, int whole) { return submit(d, whole ? JOB_SYNCFS : JOB_FSYNC, fd, fd2, 0, 0, NULL); }

u64 vn_pending(void) { return n_pending; }

/* Ends a finished call.  0, or the nfsstat3 that vn_fail() shall answer. */
int vn_done(struct call *c)
{
	struct job *j = (void *)(uintptr_t)c->word[0], job = *j;
	free(j);
	n_pending--;
	W.objs[c->obj].pins--;
	if (c->obj2 >= 0)
		W.objs[c->obj2].pins--;
	if (job.kind == JOB_READ) {
		if (job.err)
			return job.err == ENOMEM ? ERR_JUKEBOX : status_of(job.err);
		if (job.generation != generation_due()) /* it may be revoked: the client asks again, and passes the gate again */
			return ERR_JUKEBOX;
		finish_read(c, job.offset, (u32)job.n, job.count, &job.st);
		return vn_close(c, OK);
	}
	if (job.err) { /* the kernel has forgotten the pages: whoever wrote unstably must write again */
		verifier_change();
		return job.err == ENOSPC || job.err == EDQUOT ? status_of(job.err) : ERR_IO;
	}
	return c->state == 3 ? finish_commit(c) : vn_close(c, OK);
}
