/* work.c: what a thread does for one job, from the system calls to handing the call back (complete).  Any thread. */
#include "job.h"
#include <sys/resource.h>

/* How often this thread gave the processor up to wait for something. */
u64 own_switches(void)
{
	struct rusage r;
	return getrusage(RUSAGE_THREAD, &r) ? 0 : (u64)r.ru_nvcsw;
}

/* Any thread. */
ssize_t write_all(int fd, const u8 *data, u32 count, u64 offset)
{
	u32 done = 0;
	while (done < count) {
		ssize_t n = pwrite(fd, data + done, count - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return done ? (ssize_t)done : -1;
		done += (u32)n;
	}
	return done;
}

/* The last look at a file with unstable data that leaves the cache. */
atomic_int flushing;

void do_flush(struct job *j)
{
	if (fdatasync(j->fd) && sync_lost(errno))
		verifier_change();
	close(j->fd);
	atomic_fetch_sub(&flushing, 1);
	atomic_fetch_sub((_Atomic u64 *)&W.row[S_UNSYNCED], 1);
	free(j);
}

static void do_read(struct job *j)
{
	struct call *c = j->c;
	if (reply_open(c, READ_HEAD + j->count + 4)) {
		j->err = ENOMEM;
	} else {
		do
			j->n = pread(j->fd, c->res + READ_HEAD, j->count, (off_t)j->offset);
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

#define ENTRIES_ROOM 32768 /* bytes one getdents64 may return */
#define ENTRY_PLUS 128     /* bytes that an entry has in a reply of READDIRPLUS at least */

/* Reads n bytes of entries: asks for the attributes of those that are still wanted. */
static void do_attributes(int fd, const u8 *entries, long n, u32 *wanted)
{
	struct stat st;
	for (long pos = 0; pos < n && *wanted; --*wanted) {
		const struct linux_dirent *e = (const void *)(entries + pos);
		pos += e->len;
		fstatat(fd, e->name, &st, AT_SYMLINK_NOFOLLOW);
	}
}

/* What READDIR will read, read once so that it is in memory.  An error is READDIR's own to find. */
static void do_entries(struct job *j)
{
	int fd = W.root && ident_root() ? -1 : openat(j->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	u32 wanted = j->plus ? j->count / ENTRY_PLUS : 0;
	u8 *room = malloc(ENTRIES_ROOM);
	long left = j->count, n;
	if (fd >= 0 && room && lseek(fd, (off_t)j->offset, SEEK_SET) >= 0)
		for (; left > 0 && (n = syscall(SYS_getdents64, fd, room, ENTRIES_ROOM)) > 0; left -= n)
			do_attributes(fd, room, n, &wanted);
	free(room);
	if (fd >= 0)
		close(fd);
}

/* Does the work of one job, and looks how long it took. */
static void timed(struct job *j, void work_(struct job *))
{
	u64 before = own_switches(), begun = clock_ns();
	work_(j);
	j->took_ns = clock_ns() - begun;
	j->blocked = own_switches() > before;
}

void do_timed_write(struct job *j) { timed(j, do_write); }

static void do_deed(struct job *j) { deed_do(j->c, j->deed); }

/* A change, as the caller.  j->err: it was not done. */
void do_change(struct job *j)
{
	struct deed *w = j->deed;
	j->err = j->generation != generation_due() || adopt(j) ? EAGAIN : 0; /* it may be revoked: the client asks again */
	if (j->err)
		return;
	deed_lock(w);
	timed(j, do_deed);
	if (!w->err && (w->kind == DEED_MKDIR || w->kind == DEED_SYMLINK || w->kind == DEED_MKNOD)) /* while the name is ours */
		w->made = openat(w->a.fd, w->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (w->b.dir >= 0)
		change_end(&w->b); /* first: where the two share a lock it is a's */
	change_end(&w->a);
}

/* fsync, and how long it took. */
static int sync_job(struct job *j, int fd, int full)
{
	u64 begun = clock_ns();
	int err = sync_file(fd, full);
	j->synced_ns += clock_ns() - begun;
	return err;
}

/* What a job has beyond one fsync: a second descriptor, or the whole file system. */
static void do_more(struct job *j)
{
	if (j->fd2 >= 0)
		j->err = sync_job(j, j->fd2, 1);
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
void do_syncs(struct job *list)
{
	for (struct job *j = list; j; j = j->next)
		do_more(j);
	for (struct job *j = list; j; j = j->next) {
		int full = 0;
		if (j->kind < 0)
			continue; /* already answered by an earlier one */
		for (struct job *k = j; k; k = k->next)
			full |= k->fd == j->fd && k->kind == JOB_FSYNC;
		int err = sync_job(j, j->fd, full);
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

void do_quick(struct job *j)
{
	if (j->kind == JOB_FLUSH) {
		do_flush(j);
	} else if (j->kind == JOB_READ) {
		do_read(j);
	} else {
		timed(j, j->kind == JOB_ENTRIES ? do_entries : do_open);
		j->c->eng->complete(j->c);
	}
}
