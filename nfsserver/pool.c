/* pool.c: C threads for what may wait for a disk, so that the loop never does.
 *
 * Jobs: a READ that the page cache cannot answer; fsync for COMMIT, stable WRITEs and metadata; on a slow file system (cold.c) WRITE,
 * and opening what a handle or a name stands for.  A job belongs to a detached call; the thread fills it and hands it to the RPC
 * bridge's completion queue, from which the loop ends it with vn_done().  Group commit: what a batch of calls wants to have synced goes
 * to the threads at its end, one of them takes all that waits for one file system, and does one fsync for each descriptor among it.  At
 * most a quarter of the threads sync one file system, and half of them any, so that a disk that is slow keeps only its own callers
 * waiting; for the same reason one file system never has all threads.  One thread at a time writes a file, and at most a third of
 * all write, so that reads go on.  Threads use descriptors that are pinned (obj.pins), the shared locks, and of W what never
 * changes. */
#include "vnode.h"
#include <signal.h>

enum { JOB_READ, JOB_FSYNC, JOB_FDATASYNC, JOB_FLUSH, JOB_SYNCFS, JOB_WRITE, JOB_OPEN, JOB_NAME };

#define MAX_WRITERS 8    /* threads that write at a time, at the most */
#define MAX_SYNCERS 8    /* ... that sync */
#define OTHERS 2         /* threads that are left when one file system has as many as it may */

struct job {
	struct job *next;
	struct call *c;
	int kind, fd, fd2, err; /* fd2: to be synced as well, or -1; JOB_SYNCFS owns its fd, */
	int whole;              /* whose number may be another's once it is done */
	u64 offset, since; /* since: failed syncs when its call began */
	u32 count, generation; /* of the export table that allowed it */
	ssize_t n;
	struct stat st; /* of a READ: from before */
	/* JOB_WRITE, which becomes a sync when it is stable */
	int wrote, write_err;
	struct write w;
	struct change ch;
	u64 dev, ino;
	/* JOB_OPEN: a kernel handle in name; JOB_NAME: NUL-terminated, opened as the caller and kept, or only looked at */
	int keep;
	u32 type;
	char name[256];
	/* how long it took, and whether it waited */
	i32 fs;
	u64 took_ns;
	int blocked;
	u32 ident, uid, gid, n_gids; /* whose (JOB_WRITE, JOB_NAME) */
	u32 gids[];
};

struct queue { struct job *head, **tail; };
static struct queue reads, syncs, writes;
static struct queue gathered;    /* the loop's: syncs of this batch */
static int written[MAX_WRITERS]; /* descriptors that a thread is writing to */
static i32 synced[MAX_SYNCERS];  /* file systems that a thread is syncing */
static int busy[N_FS];           /* threads that each file system has now */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static int n_threads, syncing, writing;
static u64 n_pending;

static void put(struct queue *q, struct job *j)
{
	j->next = NULL;
	*q->tail = j;
	q->tail = &j->next;
}

/* Takes the job out to which *place points. */
static struct job *take_at(struct queue *q, struct job **place)
{
	struct job *j = *place;
	if (j && !(*place = j->next))
		q->tail = place;
	return j;
}

/* May its file system have one more thread? */
static int has_thread(const struct job *j) { return busy[j->fs] + OTHERS < n_threads || n_threads <= OTHERS; }

static struct job *take_read(void)
{
	struct job **place = &reads.head;
	while (*place && !has_thread(*place))
		place = &(*place)->next;
	return take_at(&reads, place);
}

/* The first of a file that nobody else writes to. */
static struct job *take_write(void)
{
	struct job **place = &writes.head;
	if (writing >= (n_threads + 2) / 3 || writing >= MAX_WRITERS)
		return NULL;
	for (; *place; place = &(*place)->next) {
		int taken = !has_thread(*place);
		for (int i = 0; i < writing; i++)
			taken |= written[i] == (*place)->fd;
		if (!taken)
			break;
	}
	return take_at(&writes, place);
}

/* All syncs of one file system, of the first that may have one more thread.  NULL: none may. */
static struct job *take_syncs(void)
{
	struct job **place = &syncs.head, *list = NULL, **end = &list;
	if (syncing >= (n_threads + 1) / 2 || syncing >= MAX_SYNCERS)
		return NULL;
	for (; *place; place = &(*place)->next) {
		int n = 0;
		for (int i = 0; i < syncing; i++)
			n += synced[i] == (*place)->fs;
		if (n < (n_threads + 3) / 4 && has_thread(*place))
			break;
	}
	for (i32 fs = *place ? (*place)->fs : -1; *place;) {
		if ((*place)->fs != fs) {
			place = &(*place)->next;
			continue;
		}
		*end = take_at(&syncs, place);
		end = &(*end)->next;
	}
	*end = NULL;
	return list;
}

/* The last look at a file with unstable data that leaves the cache. */
static void do_flush(struct job *j)
{
	if (fdatasync(j->fd) && sync_lost(errno))
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

/* As the caller, where that matters: a file system may keep blocks for some, and setuid bits go. */
static int adopt(const struct job *j) { return ident_adopt(j->ident, j->uid, j->gid, j->n_gids, j->gids); }

static int become_writer(const struct job *j)
{
	return j->w.alike && ident_is_like(&j->w.keeper, j->uid, j->gid, j->n_gids, j->gids) ? 0 : adopt(j);
}

static void do_write(struct job *j)
{
	struct change *ch = &j->ch;
	ch->lock = dir_lock(j->dev, j->ino);
	ch->has_pre = !fd_stat(j->fd, &ch->pre);
	j->write_err = j->generation != generation_due() || become_writer(j) ? EAGAIN : 0; /* it may be revoked: the client asks again */
	j->n = j->write_err ? -1 : write_all(j->fd, j->w.data, j->w.count, j->w.offset);
	if (j->n < 0 && !j->write_err)
		j->write_err = errno;
	if (fd_stat(j->fd, &ch->post))
		ch->has_pre = -1;
	shared_unlock(ch->lock);
	j->wrote = 1;
}

/* The job has j->n, the descriptor, or j->err. */
static void do_open(struct job *j)
{
	j->n = -1;
	if (j->kind == JOB_OPEN)
		j->n = W.root && ident_root() ? -1 : open_kernel_scheme(j->fd, j->type, (const u8 *)j->name, j->count);
	else if (!adopt(j))
		j->n = openat(j->fd, j->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	j->err = j->n < 0 ? errno : 0;
	struct stat st;
	if (j->n >= 0 && fd_stat((int)j->n, &st)) { /* a network file system asks here */
		j->err = errno;
		close((int)j->n);
		j->n = -1;
	}
}

/* Does the work of one job, and looks how long it took. */
static void timed(struct job *j, void work_(struct job *))
{
	u64 before = own_switches(), begun = clock_ns();
	work_(j);
	j->took_ns = clock_ns() - begun;
	j->blocked = own_switches() > before;
}

/* What a job has beyond one fsync: a second descriptor, or the whole file system. */
static void do_more(struct job *j)
{
	if (j->fd2 >= 0)
		j->err = sync_file(j->fd2, 1);
	if (j->kind != JOB_SYNCFS)
		return;
	int err = sync_fs(j->fd, j->fs);
	j->err = j->err ? j->err : err;
	close(j->fd);
	j->kind = -1;
}

/* Another call's sync may have been told of what this one's lost. */
static void look_for_failures(struct job *j)
{
	if (!j->err)
		j->err = j->whole ? sync_fs_failed(j->fs, j->since) : sync_file_failed(j->fd, j->since);
	if (!j->err && j->fd2 >= 0)
		j->err = sync_file_failed(j->fd2, j->since);
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
		int err = sync_file(j->fd, full);
		for (struct job *k = list; k; k = k->next)
			if (k->fd == j->fd && k->kind >= 0 && k != j)
				k->err = k->err ? k->err : err, k->kind = -1;
		j->err = j->err ? j->err : err;
	}
	for (struct job *j = list, *next; j; j = next) {
		next = j->next;
		look_for_failures(j);
		j->c->eng->complete(j->c);
	}
}

static void do_quick(struct job *j)
{
	if (j->kind == JOB_FLUSH) {
		do_flush(j);
	} else if (j->kind == JOB_READ) {
		do_read(j);
	} else {
		timed(j, do_open);
		j->c->eng->complete(j->c);
	}
}

/* The lock is held, and held again at the end.  What was to be stable goes on to the syncs. */
static void write_one(struct job *j)
{
	int place = writing++;
	written[place] = j->fd;
	pthread_mutex_unlock(&lock);
	timed(j, do_write);
	pthread_mutex_lock(&lock);
	for (place = 0; written[place] != j->fd; place++)
		;
	written[place] = written[--writing];
	if (j->n >= 0 && j->w.stable) {
		j->kind = j->w.stable == 1 ? JOB_FDATASYNC : JOB_FSYNC;
		put(&syncs, j);
		pthread_cond_signal(&work);
	} else {
		j->c->eng->complete(j->c);
	}
}

/* The lock is held, and held again at the end.  list: of one file system, whose calls are another's once they are complete. */
static void sync_all(struct job *list)
{
	int place = syncing++;
	i32 fs = synced[place] = list->fs;
	pthread_mutex_unlock(&lock);
	do_syncs(list);
	pthread_mutex_lock(&lock);
	for (place = 0; synced[place] != fs; place++)
		;
	synced[place] = synced[--syncing];
}

static void quick_one(struct job *j)
{
	pthread_mutex_unlock(&lock);
	do_quick(j);
	pthread_mutex_lock(&lock);
}

/* A thread does this for its file system.  What it passed over may be another's now: there is no signal for that else. */
static void serve(struct job *j, void do_one(struct job *))
{
	i32 fs = j->fs;
	busy[fs]++;
	if (reads.head || writes.head || syncs.head)
		pthread_cond_signal(&work);
	do_one(j);
	busy[fs]--;
}

static void *thread(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	for (;;) {
		struct job *j;
		if ((j = take_read()))
			serve(j, quick_one);
		else if ((j = take_write()))
			serve(j, write_one);
		else if ((j = take_syncs()))
			serve(j, sync_all);
		else
			pthread_cond_wait(&work, &lock);
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
	writes.tail = &writes.head;
	gathered.tail = &gathered.head;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10); /* they make system calls */
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

static void hand_over(struct queue *q, struct job *j)
{
	pthread_mutex_lock(&lock);
	put(q, j);
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
}

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
	if (j->kind == JOB_FSYNC || j->kind == JOB_FDATASYNC || j->kind == JOB_SYNCFS)
		put(&gathered, j);
	else
		hand_over(j->kind == JOB_WRITE ? &writes : &reads, j);
	return V_PENDING;
}

/* The batch is over. */
void pool_kick(void)
{
	if (!gathered.head)
		return;
	pthread_mutex_lock(&lock);
	*syncs.tail = gathered.head;
	syncs.tail = gathered.tail;
	pthread_cond_signal(&work);
	pthread_mutex_unlock(&lock);
	gathered = (struct queue){ NULL, &gathered.head };
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
	*j = (struct job){ .kind = kind, .fd = fd, .fd2 = fd2, .offset = offset, .count = count, .generation = W.generation,
			     .fs = W.objs[c->obj].fs, .since = sync_begun(), .whole = kind == JOB_SYNCFS };
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
	j->keep = 1;
	j->type = type;
	j->count = n;
	memcpy(j->name, bytes, n);
	return j;
}

/* Looking `name` up in directory object `dir`; keep: the row goes on with what was opened. */
struct job *job_name(i32 fs, i32 dir, const char *name, const struct ident *id, int keep)
{
	struct job *j = job_as(JOB_NAME, fs, W.objs[dir].fd, id);
	if (j) {
		j->keep = keep;
		memcpy(j->name, name, strlen(name) + 1);
	}
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

/* Takes the descriptor of a file with unstable data on `fs`: fdatasync, then close. */
void pool_flush(int fd, i32 fs)
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
	*j = (struct job){ .kind = JOB_FLUSH, .fd = fd, .fs = fs };
	hand_over(&reads, j);
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

/* Something was opened for the call: its row runs again. */
static int opened_for(struct call *c, const struct job *j)
{
	int fd = (int)j->n;
	if (!j->keep && fd >= 0)
		close(fd);
	if (j->keep)
		opened_put(c, fd >= 0 ? fd : -j->err, j->generation);
	if (j->kind == JOB_OPEN)
		close(j->fd);
	return V_AGAIN;
}

static int finish(struct call *c, const struct job *j)
{
	if (j->took_ns)
		was_long(j->fs, clock_ns(), j->took_ns, j->blocked);
	if (j->kind == JOB_OPEN || j->kind == JOB_NAME)
		return opened_for(c, j);
	if (j->kind == JOB_READ) {
		if (j->err)
			return j->err == ENOMEM ? ERR_JUKEBOX : status_of(j->err);
		if (j->generation != generation_due()) /* it may be revoked: the client asks again, and passes the gate again */
			return ERR_JUKEBOX;
		finish_read(c, j->offset, (u32)j->n, j->count, &j->st);
		return vn_close(c, OK);
	}
	if (j->err)
		return sync_status(j->err);
	if (j->wrote && j->ch.has_pre == 1)
		obj_written(c->obj, &j->ch.pre, &j->ch.post);
	if (j->wrote)
		return finish_write(c, &j->ch, &j->w, j->n, j->write_err);
	return c->state == 3 ? finish_commit(c) : vn_close(c, OK);
}

/* Ends a finished call.  0, the nfsstat3 that vn_fail() shall answer, V_DROP, or V_AGAIN: its row shall run. */
int vn_done(struct call *c)
{
	struct job *j = (void *)(uintptr_t)c->word[0];
	n_pending--;
	if (c->obj >= 0)
		W.objs[c->obj].pins--;
	if (c->obj2 >= 0)
		W.objs[c->obj2].pins--;
	int status = finish(c, j);
	free(j);
	return status;
}
