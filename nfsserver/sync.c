/* sync.c: fsync(2) and its like, and what a failure means.
 *
 * The kernel reports a failed write-back once for each open file; the pages are clean then, and the next sync of that descriptor
 * succeeds.  So one descriptor is synced by one thread at a time, a failure is remembered, and it is that of every call which began
 * before it and waits for the same; whoever wrote unstably sees it by the write verifier.  Any thread, but where the loop is named. */
#include "parts.h"

#define FAILURES 16 /* that are remembered: more while one call waits are taken for its own */
#define SYNCERS 64  /* more than there are threads */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t over = PTHREAD_COND_INITIALIZER;
static int being_synced[SYNCERS], n_syncing;       /* descriptors, or whole_fs() */
static struct { int what, err; } failures[FAILURES];
static u64 n_failures, call_since;

/* What stands for a file system's root here: all descriptors of it are copies of one. */
static int whole_fs(i32 fs) { return -2 - fs; }

/* Data may have been lost that clients were told we hold: they must write it again. */
void verifier_change(void) { atomic_fetch_add((_Atomic u64 *)&W.state[H_VERIFIER], 0x9e3779b97f4a7c15ull); }

/* What a sync that says `err` lost: nothing when there is nothing that could be.  EROFS is a loss: ext4 and btrfs say so of a file
 * system that they have given up, while a sync of one that was mounted read-only succeeds. */
int sync_lost(int err) { return err == EINVAL ? 0 : err; }

/* The nfsstat3 of a call whose sync failed. */
int sync_status(int err) { return err == ENOSPC || err == EDQUOT ? status_of(err) : ERR_IO; }

/* The loop: a call begins; what fails from here on may be its own. */
void sync_begin(void) { call_since = __atomic_load_n(&n_failures, __ATOMIC_ACQUIRE); }
u64 sync_begun(void) { return call_since; }

/* The lock is held. */
static int is_syncing(int what)
{
	for (int i = 0; i < n_syncing; i++)
		if (being_synced[i] == what)
			return 1;
	return 0;
}

static void enter(int what)
{
	pthread_mutex_lock(&lock);
	while (is_syncing(what) || n_syncing == SYNCERS)
		pthread_cond_wait(&over, &lock);
	being_synced[n_syncing++] = what;
	pthread_mutex_unlock(&lock);
}

static void leave(int what, int err)
{
	int place = 0;
	pthread_mutex_lock(&lock);
	while (being_synced[place] != what)
		place++;
	being_synced[place] = being_synced[--n_syncing];
	if (err) {
		verifier_change();
		failures[n_failures % FAILURES] = (__typeof__(*failures)){ what, err };
		__atomic_store_n(&n_failures, n_failures + 1, __ATOMIC_RELEASE);
	}
	pthread_cond_broadcast(&over);
	pthread_mutex_unlock(&lock);
}

static int sync_with(int sync_call(int), int fd, int what)
{
	enter(what);
	int err = sync_call(fd) ? sync_lost(errno) : 0;
	leave(what, err);
	return err;
}

/* 0 or an errno. */
int sync_file(int fd, int full) { return sync_with(full ? fsync : fdatasync, fd, fd); }
int sync_fs(int fd, i32 fs) { return sync_with(syncfs, fd, whole_fs(fs)); }

static int failed_since(int what, u64 since)
{
	int err = 0;
	pthread_mutex_lock(&lock);
	if (n_failures - since > FAILURES)
		err = EIO;
	for (u64 i = since; !err && i < n_failures; i++)
		err = failures[i % FAILURES].what == what ? failures[i % FAILURES].err : 0;
	pthread_mutex_unlock(&lock);
	return err;
}

/* What a sync of the same failed with since a call began: sync_begun().  0 or an errno. */
int sync_file_failed(int fd, u64 since) { return failed_since(fd, since); }
int sync_fs_failed(i32 fs, u64 since) { return failed_since(whole_fs(fs), since); }

/* In the loop, for the call that it serves.  0 or an errno. */
int sync_file_now(int fd, int full)
{
	int err = sync_file(fd, full);
	return err ? err : sync_file_failed(fd, call_since);
}

int sync_fs_now(int fd, i32 fs)
{
	int err = sync_fs(fd, fs);
	return err ? err : sync_fs_failed(fs, call_since);
}
