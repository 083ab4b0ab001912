/* jobs.c: jobs as the loop makes them: what a detached call needs a thread for, and what stays pinned meanwhile. */
#include "job.h"

#define DEED_ROOM 1024 /* of a change's reply until it is made; it grows if need be */

static u64 n_pending, n_syncs; /* n_syncs: those that have nothing else to wait for */

/* A thread has call c until vn_done(). */
static int submit_job(struct call *c, struct job *j)
{
	j->c = c;
	if (c->obj >= 0)
		W.objs[c->obj].pins++;
	if (c->obj2 >= 0)
		W.objs[c->obj2].pins++;
	c->word[0] = (u64)(uintptr_t)j;
	n_pending++;
	n_syncs += (u64)j->is_sync;
	pool_put(j);
	return V_PENDING;
}

/* What an object's sync has to write: unstable WRITEs of this worker, and a stable one that asks for it.  Others are not known. */
static u64 bytes_to_sync(const struct call *c) { return W.objs[c->obj].unsynced + (c->state == 2 ? c->word[3] : 0); }

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
	*j = (struct job){ .kind = kind, .fd = fd, .fd2 = fd2, .offset = offset, .count = count, .generation = W.generation,
			     .fs = W.objs[c->obj].fs, .since = sync_begun(), .whole = kind == JOB_SYNCFS, .bytes = bytes_to_sync(c), .is_sync = kind != JOB_READ };
	if (st)
		j->st = *st;
	return submit_job(c, j);
}

/* A job that a thread does as `id`, whose group list may go in the meantime. */
static struct job *job_as(int kind, i32 fs, int fd, const struct ident *id)
{
	struct job *j = calloc(1, sizeof *j + id->n * sizeof *id->gids);
	if (!j)
		return NULL;
	j->kind = kind;
	j->fs = fs;
	j->fd = fd;
	j->generation = W.generation;
	j->since = sync_begun();
	j->fd2 = -1;
	j->ident = id->serial;
	j->uid = id->uid;
	j->gid = id->gid;
	j->n_gids = id->n;
	if (id->n)
		memcpy(j->gids, id->gids, id->n * sizeof *id->gids);
	return j;
}

/* Opening what a kernel handle on the file system of mntfd stands for: that may be unmounted meanwhile, hence a descriptor of its own. */
struct job *job_open(i32 fs, int mntfd, u32 type, const u8 *bytes, u32 n)
{
	int fd = fcntl(mntfd, F_DUPFD_CLOEXEC, 0);
	struct job *j = fd < 0 ? NULL : job_as(JOB_OPEN, fs, fd, &W.idents[0]);
	if (!j) {
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	j->type = type;
	j->count = n;
	memcpy(j->name, bytes, n);
	return j;
}

/* Looking `name` up in directory object `dir`. */
struct job *job_name(i32 fs, i32 dir, const char *name, const struct ident *id)
{
	struct job *j = job_as(JOB_NAME, fs, W.objs[dir].fd, id);
	if (j)
		memcpy(j->name, name, strlen(name) + 1);
	return j;
}

/* Reading directory object `dir` from `cookie` on, count bytes; plus: and the attributes of its entries. */
struct job *job_entries(i32 dir, u64 cookie, u32 count, int plus)
{
	struct job *j = job_as(JOB_ENTRIES, W.objs[dir].fs, W.objs[dir].fd, &W.idents[0]);
	if (!j)
		return NULL;
	j->offset = cookie;
	j->count = count;
	j->plus = plus;
	return j;
}

void job_free(struct job *j)
{
	if (j->kind == JOB_OPEN)
		close(j->fd);
	free(j);
}

void pool_wait(struct call *d, struct job *j) { submit_job(d, j); }

/* d: a detached WRITE, whose arguments w->data lies in. */
int pool_write(struct call *d, int fd, const struct write *w)
{
	const struct obj *b = &W.objs[d->obj];
	struct job *j = job_as(JOB_WRITE, b->fs, fd, &W.idents[d->ident]);
	if (!j) {
		drc_forget(d);
		d->eng->drop(d);
		return V_PENDING;
	}
	j->w = *w;
	j->ch.dir = d->obj;
	j->dev = W.fs[b->fs].dev;
	j->ino = b->ino;
	return submit_job(d, j);
}

int pool_works(void) { return pool_threads() > 0; }

/* A copy of w with names that stay. */
static struct deed *deed_copy(const struct deed *w)
{
	size_t n = w->name ? strlen(w->name) + 1 : 0, n2 = w->name2 ? strlen(w->name2) + 1 : 0;
	struct deed *d = malloc(sizeof *d + n + n2);
	if (!d)
		return NULL;
	*d = *w;
	d->made = -1; /* until a thread has made something */
	if (n)
		d->name = memcpy(d + 1, w->name, n);
	if (n2)
		d->name2 = memcpy((char *)(d + 1) + n, w->name2, n2);
	return d;
}

/* A thread does w, then its procedure runs once more.  V_PENDING, or ERR_JUKEBOX: too much waits already. */
int pool_deed(struct call *c, const struct deed *w)
{
	struct call *d = c->eng->detach(c, DEED_ROOM);
	if (!d)
		return ERR_JUKEBOX;
	struct job *j = job_as(JOB_DEED, W.objs[w->a.dir].fs, w->a.fd, &W.idents[d->ident]);
	if (!j || !(j->deed = deed_copy(w))) {
		free(j);
		drc_forget(d);
		d->eng->drop(d);
		return V_PENDING;
	}
	return submit_job(d, j);
}

/* Takes the descriptor of a file with unstable data on `fs`: fdatasync, then close. */
void pool_flush(int fd, i32 fs)
{
	struct job *j = malloc(sizeof *j);
	u64 waiting = (u64)atomic_fetch_add(&flushing, 1);
	if (!j || !pool_threads() || waiting >= W.max_files / 16) { /* their descriptors are nobody's else: no more than a few */
		struct job here = { .kind = JOB_FLUSH, .fd = fd };
		free(j);
		if (!(j = malloc(sizeof *j))) { /* no memory at all: the report is lost, so say that data may be */
			verifier_change();
			close(fd);
			atomic_fetch_sub(&flushing, 1);
			return;
		}
		*j = here;
		do_flush(j);
		return;
	}
	*j = (struct job){ .kind = JOB_FLUSH, .fd = fd, .fs = fs };
	pool_put(j);
}

/* V_PENDING, ERR_JUKEBOX: too much waits already, or 0: there are no threads. */
int pool_read(struct call *c, int fd, u64 offset, u32 count, const struct stat *st)
{
	if (!pool_works())
		return 0;
	struct call *d = c->eng->detach(c, READ_HEAD + count + 4);
	return d ? submit(d, JOB_READ, fd, -1, offset, count, st) : ERR_JUKEBOX;
}

/* d: a detached call whose reply is complete (or is a COMMIT, state 3).  datasync 1: fdatasync is enough. */
int pool_sync(struct call *d, int fd, int datasync) { return submit(d, datasync == 1 ? JOB_FDATASYNC : JOB_FSYNC, fd, -1, 0, 0, NULL); }

/* The same with a second descriptor (-1: none); whole: all of fd's file system, and fd is taken. */
int pool_sync_more(struct call *d, int fd, int fd2, int whole) { return submit(d, whole ? JOB_SYNCFS : JOB_FSYNC, fd, fd2, 0, 0, NULL); }

/* A call is the loop's again. */
void job_returned(const struct job *j)
{
	n_pending--;
	n_syncs -= (u64)j->is_sync;
}

u64 syncs_pending(void) { return n_syncs; }

u64 vn_pending(void) { return n_pending; }
