/* job.h: a job for a thread, and what the files of the pool share, from the ground up. */
#ifndef NFSSERVER_JOB_H
#define NFSSERVER_JOB_H
#include "parts.h"

enum { JOB_READ, JOB_FSYNC, JOB_FDATASYNC, JOB_FLUSH, JOB_SYNCFS, JOB_WRITE, JOB_OPEN, JOB_NAME, JOB_DEED, JOB_ENTRIES };

struct job {
	struct job *next;
	struct call *c;
	int kind, fd, fd2, err; /* fd2: to be synced as well, or -1; JOB_SYNCFS owns its fd, */
	int whole;              /* whose number may be another's once it is done */
	u64 offset, since; /* since: failed syncs when its call began */
	int is_sync;
	u64 bytes, synced_ns; /* a sync: data that is known to wait for it, at the least; how long it took, 0: another did it */
	u32 count, generation; /* of the export table that allowed it */
	ssize_t n;
	struct stat st; /* of a READ: from before */
	/* JOB_WRITE, which becomes a sync when it is stable */
	int wrote, write_err;
	struct write w;
	struct change ch;
	u64 dev, ino;
	int plus;          /* JOB_ENTRIES */
	struct deed *deed; /* JOB_DEED: its own, with its names */
	/* JOB_OPEN: a kernel handle in name; JOB_NAME: NUL-terminated, opened as the caller */
	u32 type;
	char name[256];
	/* how long it took, and whether it waited */
	i32 fs;
	u64 took_ns;
	int blocked;
	u32 ident, uid, gid, n_gids; /* whose (JOB_WRITE, JOB_NAME, JOB_DEED) */
	u32 gids[];
};

/* work.c */
extern atomic_int flushing; /* files that wait for it */
void do_flush(struct job *j);
void do_timed_write(struct job *j);
void do_change(struct job *j);
void do_syncs(struct job *list);
void do_quick(struct job *j);

/* pool.c */
int pool_threads(void);
void pool_put(struct job *j);
const struct job *pool_gathered(void);
struct job *pool_take(void);

/* jobs.c */
u64 vn_pending(void);
u64 syncs_pending(void);
void job_returned(const struct job *j);

/* here.c */
void was_synced(const struct job *j, u64 now_ns);
#endif
