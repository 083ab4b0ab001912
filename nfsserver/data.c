/* data.c: READ, WRITE, COMMIT.  RFC 1813 section 3.3. */
#include "parts.h"
#include <linux/magic.h>
#include <stdio.h>
#include <sys/uio.h>
#include <sys/vfs.h>

/* The READ3resok around `n` bytes of `count` that stand at c->res + READ_HEAD.  Nothing where something was asked for is the end,
 * whatever the size was before: no bytes and no end would be an error to a client. */
void finish_read(struct call *c, u64 offset, u32 n, u32 count, const struct stat *st)
{
	put_u32(c, OK);
	put_post_op(c, c->obj, st);
	put_u32(c, n);
	put_u32(c, offset >= (u64)st->st_size || offset + n >= (u64)st->st_size || (count && !n));
	put_u32(c, n);
	c->rep += n;
	put_pad(c, n);
	c->state = 1;
	c->word[3] = n;
}

/* filesystem.nowait: preadv2 RWF_NOWAIT works; it does not, and cachestat(2) tells; nothing tells; all data is always in memory */
enum { NOWAIT_UNKNOWN, NOWAIT_READ, NOWAIT_ASK, NOWAIT_NEVER, NOWAIT_MEMORY };

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* Linux 6.5 */
#endif

static u8 nowait_of(int fd)
{
	struct statfs sf;
	return !fstatfs(fd, &sf) && (sf.f_type == TMPFS_MAGIC || sf.f_type == RAMFS_MAGIC) ? NOWAIT_MEMORY : NOWAIT_ASK;
}

/* Are all pages of the range in the cache? */
static int is_cached(struct filesystem *f, int fd, u64 offset, u64 end)
{
	struct { u64 offset, len; } range = { offset, end - offset };
	struct { u64 cached, dirty, writeback, evicted, recently_evicted; } stat;
	u64 page = (u64)sysconf(_SC_PAGESIZE);
	if (f->nowait == NOWAIT_ASK && syscall(SYS_cachestat, fd, &range, &stat, 0))
		f->nowait = NOWAIT_NEVER;
	return f->nowait == NOWAIT_ASK && stat.cached == (end + page - 1) / page - offset / page;
}

/* 1: the bytes are there; 0: not without waiting for the disk; -1: errno. */
static int read_cached(i32 fs, int fd, void *to, u32 count, u64 offset, u64 size, ssize_t *n)
{
	struct filesystem *f = &W.fs[fs];
	if (f->nowait <= NOWAIT_READ) {
		struct iovec v = { to, count };
		*n = preadv2(fd, &v, 1, (off_t)offset, RWF_NOWAIT);
		if (*n == (ssize_t)count || *n == 0 || (*n > 0 && offset + (u64)*n >= size))
			return 1;
		if (*n > 0 || errno == EAGAIN)
			return 0;
		if (errno != EOPNOTSUPP)
			return -1;
		f->nowait = nowait_of(fd);
	}
	if (f->nowait != NOWAIT_MEMORY && !is_cached(f, fd, offset, offset + count < size ? offset + count : size))
		return 0;
	*n = pread(fd, to, count, (off_t)offset);
	return *n < 0 ? -1 : 1;
}

/* The attributes are those from before the read: data that is newer than its attributes makes a client look again, data that is older
 * would be kept as good. */
int vn_read(struct call *c)
{
	struct obj *b = &W.objs[c->obj];
	struct stat st;
	if (garbage(c, c->arg, 12))
		return V_GARBAGE;
	u64 offset = get_u64(c->arg);
	u32 count = get_u32(c->arg + 8);
	int fd, status;
	if (count > transfer_max(c))
		count = transfer_max(c);
	if (!is_reg(c->obj))
		return is_dir(c->obj) ? ERR_ISDIR : ERR_INVAL;
	if ((status = obj_open(c, c->obj, 0, &fd, &st)))
		return status;
	if (offset >= (u64)st.st_size || !st.st_size)
		count = 0; /* and atime stays, which may hold an exclusive CREATE's verifier */
	if (reply_open(c, READ_HEAD + count + 4))
		return V_DROP;
	ssize_t n = 0;
	int got = count ? read_cached(b->fs, fd, c->res + READ_HEAD, count, offset, (u64)st.st_size, &n) : 1;
	if (got < 0)
		return status_of(errno);
	if (!got && (status = pool_read(c, fd, offset, count, &st)))
		return status;
	if (!got && (n = pread(fd, c->res + READ_HEAD, count, (off_t)offset)) < 0)
		return status_of(errno);
	finish_read(c, offset, (u32)n, count, &st);
	return vn_close(c, OK);
}

static void mark_dirty(struct obj *b, u64 n)
{
	if (!b->dirty)
		atomic_fetch_add((_Atomic u64 *)&W.row[S_UNSYNCED], 1);
	b->dirty = 1;
	b->unstable++;
	b->unsynced += n;
}

static int get_write(const struct call *c, struct write *w)
{
	const u8 *p = c->arg;
	if (garbage(c, p, 20))
		return V_GARBAGE;
	*w = (struct write){ .offset = get_u64(p), .count = get_u32(p + 8), .stable = get_u32(p + 12), .data = p + 20 };
	u32 len = get_u32(p + 16);
	if (w->stable > 2 || len != w->count || garbage(c, p + 20, ((size_t)len + 3) & ~3ul))
		return V_GARBAGE; /* never more than what was sent, nor less: CVE-2017-7895 */
	return w->count > transfer_max(c) + 4096 ? ERR_INVAL : 0;
}

/* WRITE3res after pwrite returned n, with what it was told in err. */
static int put_write(struct call *c, const struct change *ch, const struct write *w, ssize_t n, int err)
{
	W.row[S_COUNTERS + C_VOP_WRITES]++;
	if (reply_open(c, 4 + WCC + 16))
		return V_DROP;
	put_u32(c, n < 0 ? (u32)status_of(err) : OK);
	put_change(c, ch);
	if (n < 0)
		return 0;
	if (!w->stable)
		mark_dirty(&W.objs[c->obj], (u64)n);
	put_u32(c, (u32)n);
	put_u32(c, w->stable);
	memcpy(c->rep, &w->verf, 8);
	c->rep += 8;
	c->state = 2;
	c->word[3] = (u64)n;
	return 0;
}

/* The end of a WRITE that a thread did; what was to be stable is. */
int finish_write(struct call *c, const struct change *ch, const struct write *w, ssize_t n, int err)
{
	int status = put_write(c, ch, w, n, err);
	return status ? status : vn_close(c, n < 0 ? (u32)status_of(err) : OK);
}

/* filesystem.writers */
enum { WRITERS_UNKNOWN, WRITERS_ALIKE, WRITERS_DIFFER };

/* The number behind `name` in a line of mountinfo(5), 0 without it. */
static u32 option_of(const char *line, const char *name)
{
	const char *at = strstr(line, name);
	return at ? (u32)strtoul(at + strlen(name), NULL, 10) : 0;
}

/* For whom the mount's options keep blocks.  0, or -1: it cannot be told. */
static int keeper_of(int mntid, struct keeper *k)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t room = 0;
	int found = -1;
	while (found < 0 && file && getline(&line, &room, file) > 0)
		if (atoi(line) == mntid) {
			*k = (struct keeper){ option_of(line, ",resuid="), option_of(line, ",resgid=") };
			found = 0;
		}
	free(line);
	if (file)
		fclose(file);
	return found;
}

/* pwrite(2) needs no rights.  What it asks about the one who calls it is whether blocks are kept for him, whether he is root or in the
 * group of a file with setuid and setgid bits, and in a FUSE or network file system who knows what: then he must be the caller. */
static int any_may_write(i32 o, const struct stat *st)
{
	struct filesystem *f = &W.fs[W.objs[o].fs];
	struct statfs sf;
	if (st->st_mode & (S_ISUID | S_ISGID))
		return 0;
	if (f->writers == WRITERS_UNKNOWN) {
		int known = !fstatfs(f->mntfd, &sf) && (sf.f_type == EXT4_SUPER_MAGIC || sf.f_type == XFS_SUPER_MAGIC
							|| sf.f_type == BTRFS_SUPER_MAGIC || sf.f_type == TMPFS_MAGIC);
		f->writers = known && !keeper_of(f->mntid, &f->keeper) ? WRITERS_ALIKE : WRITERS_DIFFER;
	}
	return f->writers == WRITERS_ALIKE;
}

/* Puts this thread into an identity that writes as the caller of c does: his own, or the one in force where that is the same. */
static int become_writer(const struct call *c, const struct stat *st)
{
	const struct ident *id = &W.idents[c->ident];
	const struct filesystem *f = &W.fs[W.objs[c->obj].fs];
	if (any_may_write(c->obj, st) && ident_is_like(&f->keeper, id->uid, id->gid, id->n, id->gids))
		return 0;
	return ident_become(c->ident);
}

/* In a thread, where it may wait as long as the disk takes. */
static int write_later(struct call *c, struct write *w)
{
	struct stat st;
	int fd, status = obj_open(c, c->obj, 1, &fd, &st);
	if (status)
		return status;
	struct call *d = c->eng->detach(c, 4 + WCC + 16);
	if (!d)
		return ERR_JUKEBOX; /* too much waits already */
	w->data = d->arg + 20;
	w->alike = any_may_write(c->obj, &st);
	w->keeper = W.fs[W.objs[c->obj].fs].keeper;
	return pool_write(d, fd, w);
}

static int write_here(struct call *c, const struct write *w, struct change *ch)
{
	int fd, status = obj_open(c, c->obj, 1, &fd, &ch->pre);
	if (!status && become_writer(c, &ch->pre))
		status = ERR_JUKEBOX;
	if (status) {
		shared_unlock(ch->lock);
		return status;
	}
	ssize_t n = write_all(fd, w->data, w->count, w->offset);
	int err = errno;
	change_end(ch);
	if (ch->has_pre == 1)
		obj_written(c->obj, &ch->pre, &ch->post);
	struct call *d = n < 0 || !w->stable ? c : c->eng->detach(c, 4 + WCC + 16);
	if (!d) {
		if ((err = sync_file_now(fd, w->stable == 2)))
			return sync_status(err);
		d = c;
	}
	if ((status = put_write(d, ch, w, n, err)))
		return status;
	return n >= 0 && w->stable && d->detached ? pool_sync(d, fd, w->stable == 1) : vn_close(d, n < 0 ? (u32)status_of(err) : OK);
}

int vn_write(struct call *c)
{
	struct write w;
	i32 o = c->obj;
	int status = get_write(c, &w);
	if (status)
		return status;
	if (!is_reg(o))
		return is_dir(o) ? ERR_ISDIR : ERR_INVAL;
	if (w.offset > (u64)INT64_MAX - w.count)
		return ERR_FBIG;
	if (w.stable && pool_works() && c->eng->full(c, 4 + WCC + 16)) /* it could not wait to be stable, once it is done */
		return ERR_JUKEBOX;
	w.verf = W.state[H_VERIFIER]; /* from before: what is lost from here on changes it */
	struct change ch = { .dir = o, .fd = W.objs[o].fd, .has_pre = 1 };
	if (is_slow(W.objs[o].fs, c->t0) || !(ch.lock = dir_trylock(W.fs[W.objs[o].fs].dev, W.objs[o].ino)))
		return write_later(c, &w);
	return write_here(c, &w, &ch);
}

int vn_commit(struct call *c)
{
	struct stat st;
	if (garbage(c, c->arg, 12))
		return V_GARBAGE;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (!is_reg(c->obj))
		return is_dir(c->obj) ? ERR_ISDIR : ERR_INVAL;
	int fd = sync_fd(c->obj);
	if (fd < 0)
		return ERR_IO;
	struct call *d = c->eng->detach(c, 4 + WCC + 8);
	if (!d)
		return ERR_JUKEBOX;
	d->word[3] = W.objs[c->obj].unstable;
	d->state = 3; /* the reply is made when the data is safe: its verifier must not be older than that */
	return pool_sync(d, fd, 0);
}

/* The COMMIT3res after its fsync succeeded. */
int finish_commit(struct call *c)
{
	struct stat st;
	struct obj *b = &W.objs[c->obj];
	if (b->dirty && b->unstable == c->word[3]) { /* else another is written since: its own COMMIT's */
		b->dirty = 0;
		b->unsynced = 0;
		atomic_fetch_sub((_Atomic u64 *)&W.row[S_UNSYNCED], 1);
	}
	if (reply_open(c, 4 + WCC + 8))
		return V_DROP;
	put_u32(c, OK);
	put_wcc(c, c->obj, NULL, fd_stat(b->fd, &st) ? NULL : &st);
	memcpy(c->rep, &W.state[H_VERIFIER], 8);
	c->rep += 8;
	return vn_close(c, OK);
}
