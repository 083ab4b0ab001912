/* pool.c: C threads for what may wait for a disk, so that the loop never does.
 *
 * Jobs: a READ that the page cache cannot answer; fsync for COMMIT, stable WRITEs and metadata; on a slow file system (cold.c) WRITE,
 * changes, what READDIR will read, and opening what a handle or a name stands for.  A job belongs to a detached call; the thread fills it and hands it to the RPC
 * bridge's completion queue, from which the loop ends it with vn_done().  Group commit: what a batch of calls wants to have synced goes
 * to the threads at its end, one of them takes all that waits for one file system, and does one fsync for each descriptor among it.  At
 * most a quarter of the threads sync one file system, and half of them any, so that a disk that is slow keeps only its own callers
 * waiting; for the same reason one file system never has all threads.  One thread at a time writes a file, and at most a third of
 * all write, so that reads go on.  Threads use descriptors that are pinned (obj.pins), the shared locks, and of W what never
 * changes. */
#include "job.h"
#include <signal.h>

#define MAX_WRITERS 8    /* threads that write at a time, at the most */
#define MAX_SYNCERS 8    /* ... that sync */
#define OTHERS 2         /* threads that are left when one file system has as many as it may */

struct queue { struct job *head, **tail; };
static struct queue reads, syncs, writes;
static struct queue gathered;    /* the loop's: syncs of this batch */
static int written[MAX_WRITERS]; /* descriptors that a thread is writing to */
static i32 synced[MAX_SYNCERS];  /* file systems that a thread is syncing */
static int busy[N_FS];           /* threads that each file system has now */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static int n_threads, syncing, writing;

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

/* The lock is held, and held again at the end.  What was to be stable goes on to the syncs. */
static void write_one(struct job *j)
{
	int place = writing++;
	written[place] = j->fd;
	pthread_mutex_unlock(&lock);
	if (j->kind == JOB_DEED)
		do_change(j);
	else
		do_timed_write(j);
	pthread_mutex_lock(&lock);
	for (place = 0; written[place] != j->fd; place++)
		;
	written[place] = written[--writing];
	if (j->kind == JOB_WRITE && j->n >= 0 && j->w.stable) {
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
	pthread_mutex_lock(&lock); /* each looks how many there are */
	for (int i = 0; i < threads && !err; i++) {
		pthread_t id;
		err = pthread_create(&id, &attr, thread, NULL);
		n_threads += !err;
	}
	pthread_mutex_unlock(&lock);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return n_threads ? 0 : err;
}

static void hand_over(struct queue *q, struct job *j)
{
	pthread_mutex_lock(&lock);
	put(q, j);
	pthread_mutex_unlock(&lock);
	pthread_cond_signal(&work); /* not before: the thread that wakes takes the lock */
}

/* The loop gives a job to the threads: a sync at the end of the batch, everything else at once. */
void pool_put(struct job *j)
{
	if (j->kind == JOB_FSYNC || j->kind == JOB_FDATASYNC || j->kind == JOB_SYNCFS)
		put(&gathered, j);
	else
		hand_over(j->kind == JOB_WRITE || j->kind == JOB_DEED ? &writes : &reads, j);
}

int pool_threads(void) { return n_threads; }

/* What the batch has wanted synced so far. */
const struct job *pool_gathered(void) { return gathered.head; }

/* The same, the caller's from now on. */
struct job *pool_take(void)
{
	struct job *list = gathered.head;
	gathered = (struct queue){ NULL, &gathered.head };
	return list;
}

/* The batch is over. */
void pool_kick(void)
{
	if (!gathered.head)
		return;
	pthread_mutex_lock(&lock);
	*syncs.tail = gathered.head;
	syncs.tail = gathered.tail;
	pthread_mutex_unlock(&lock);
	pthread_cond_signal(&work);
	gathered = (struct queue){ NULL, &gathered.head };
}
