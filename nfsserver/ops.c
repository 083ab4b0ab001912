/* ops.c: one function a vnode operation (directories' contents: dir.c).  Each decodes what is left of its arguments, does the system calls as the caller, and
 * writes the result.  c->obj is the object that the gate found; rights (read-only, ...) were checked before.  RFC 1813 section 3.3. */
#include "vnode.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#define RTMAX (1u << 20)        /* rtmax, wtmax over TCP */

static u32 transfer_max(const struct call *c) { return c->proto == RPC_UDP ? UDPMAX : RTMAX; }


/* ---- Changes to a directory: pre-operation attributes are taken under a lock that all workers share. */

struct change { i32 dir; shared_lock *lock; struct stat pre, post; int has_pre; };

static void change_begin(struct change *ch, i32 dir)
{
	ch->dir = dir;
	ch->lock = dir_lock(W.fs[W.objs[dir].fs].dev, W.objs[dir].ino);
	ch->has_pre = ch->lock && !fd_stat(W.objs[dir].fd, &ch->pre);
}

static void change_end(struct change *ch)
{
	if (fd_stat(W.objs[ch->dir].fd, &ch->post))
		ch->has_pre = -1;
	shared_unlock(ch->lock);
}

static void put_change(struct call *c, const struct change *ch)
{
	put_wcc(c, ch->dir, ch->has_pre == 1 ? &ch->pre : NULL, ch->has_pre < 0 ? NULL : &ch->post);
}

/* The fail arm after a change was tried: with the attributes from before. */
static int change_fail(struct call *c, struct change *ch, u32 status)
{
	if (reply_open(c, 4 + WCC))
		return V_DROP;
	put_u32(c, status);
	put_change(c, ch);
	return vn_close(c, status);
}

static int is_async(const struct call *c) { return W.exps[W.objs[c->obj].exp].flags & EX_ASYNC; }

/* A descriptor of `o` that fsync() takes, opened as this process if need be; -1: there is none (symlinks, devices). */
int sync_fd(i32 o)
{
	struct obj *b = &W.objs[o];
	char buf[32];
	if (b->wfd >= 0)
		return b->wfd;
	if (b->rfd < 0 && (is_dir(o) || is_reg(o))) {
		if (W.root && ident_root())
			return -1;
		spare_data();
		b->rfd = openat(W.procfd, procpath(b->fd, buf), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (b->rfd >= 0)
			W.row[S_FDS_READ]++;
	}
	return b->rfd;
}

/* What has to be synced before a change of `o` may be called durable: -1 is nothing (async), *whole its file system.  That is for
 * what has no descriptor of its own, as symbolic links and devices, or none now. */
static int durable_fd(const struct call *c, i32 o, int *whole)
{
	int fd = *whole = 0;
	if (is_async(c))
		return -1;
	if ((fd = sync_fd(o)) >= 0)
		return fd;
	int mntfd = W.fs[W.objs[o].fs].mntfd;
	if ((fd = fcntl(mntfd, F_DUPFD_CLOEXEC, 0)) >= 0)
		*whole = 1;
	else if (syncfs(mntfd)) /* no descriptor left: here and now */
		verifier_change();
	return fd;
}

/* In the loop, where the call cannot wait for the pool.  0 or an errno. */
static int sync_here(int fd, int fd2, int whole)
{
	int err = fd2 >= 0 && fsync(fd2) ? errno : 0;
	if ((whole ? syncfs(fd) : fsync(fd)) && !err)
		err = errno;
	if (whole)
		close(fd);
	return err;
}

/* ---- What was there before a change, for the case that this worker dies before it answers (drc.c).  Whoever takes the retransmission
 * over compares that with what is there now: absent before and there now, or the other way round, is this call's own doing, as long
 * as nobody else touches the name. */

#define NOTE (1ull << 63)
#define NOTE_THERE (1ull << 62)
#define NOTE_INO (NOTE_THERE - 1)

static void note_name(struct call *c, i32 dir, const char *name)
{
	struct stat st;
	if (!c->drc || c->word[1]) /* taken over: the first note stands */
		return;
	int there = !fstatat(W.objs[dir].fd, name, &st, AT_SYMLINK_NOFOLLOW);
	drc_note(c, there ? NOTE | NOTE_THERE | ((u64)st.st_ino & NOTE_INO) : NOTE);
}

static int was_absent(const struct call *c) { return c->word[1] && !(c->word[1] & NOTE_THERE); }
static int was_there(const struct call *c) { return c->word[1] & NOTE_THERE ? 1 : 0; }

/* ---- Attributes */

int vn_getattr(struct call *c)
{
	struct stat st;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (reply_open(c, 4 + ATTR))
		return V_DROP;
	put_u32(c, OK);
	put_fattr(c, c->obj, &st);
	return vn_close(c, OK);
}

static int set_size(struct call *c, i32 o, u64 size)
{
	int fd, status;
	if (!is_reg(o))
		return is_dir(o) ? ERR_ISDIR : ERR_INVAL;
	struct stat st;
	if ((status = obj_open(c, o, 1, &fd, &st)))
		return status;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	return ftruncate(fd, (off_t)size) ? status_of(errno) : 0;
}

static int set_mode(i32 o, u32 mode)
{
	char buf[32];
	return fchmodat(W.procfd, procpath(W.objs[o].fd, buf), mode, 0) ? errno : 0;
}

static int set_times(i32 o, const struct sattr *s)
{
	struct timespec t[2] = { s->at, s->mt };
	return utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? errno : 0;
}

/* Owner before mode (a change of owner clears setuid), times last (the others change them).  0 or nfsstat3. */
static int apply_sattr(struct call *c, i32 o, const struct sattr *s)
{
	int status, err = 0;
	if (s->set_size && (status = set_size(c, o, s->size)))
		return status;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	if (s->set_uid || s->set_gid)
		err = fchownat(W.objs[o].fd, "", s->set_uid ? s->uid : ~0u, s->set_gid ? s->gid : ~0u, AT_EMPTY_PATH) ? errno : 0;
	if (!err && s->set_mode)
		err = set_mode(o, s->mode);
	if (!err && (s->atime || s->mtime))
		err = set_times(o, s);
	return err ? status_of(err) : 0;
}

int vn_setattr(struct call *c)
{
	struct sattr s = { 0 };
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	int status = get_sattr(c, &p, &s);
	if (status == V_GARBAGE || garbage(c, p, 4) || get_u32(p) > 1)
		return V_GARBAGE;
	u32 guard = get_u32(p);
	if (guard && garbage(c, p + 4, 8))
		return V_GARBAGE;
	if (status || (status = obj_stat(c->obj, &st)))
		return status;
	change_begin(&ch, c->obj);
	if (guard && !c->word[1] && (!ch.has_pre || (u32)ch.pre.st_ctim.tv_sec != get_u32(p + 4) || (u32)ch.pre.st_ctim.tv_nsec != get_u32(p + 8)))
		status = ERR_NOT_SYNC;
	if (!status && guard && c->drc && !c->word[1])
		drc_note(c, NOTE); /* it passed: our own change must not fail it when the call comes again */
	if (!status)
		status = apply_sattr(c, c->obj, &s);
	change_end(&ch);
	if (status)
		return change_fail(c, &ch, (u32)status);
	int whole, fd = durable_fd(c, c->obj, &whole);
	struct call *d = fd < 0 ? c : c->eng->detach(c, 4 + WCC);
	if (!d) {
		if (sync_here(fd, -1, whole))
			return ERR_IO;
		fd = -1;
		d = c;
	}
	if (reply_open(d, 4 + WCC))
		return V_DROP;
	put_u32(d, OK);
	put_change(d, &ch);
	return d == c ? vn_close(c, OK) : pool_sync_more(d, fd, -1, whole);
}

int vn_access(struct call *c)
{
	struct stat st;
	u32 want, got = 0;
	i32 o = c->obj;
	if (garbage(c, c->arg, 4))
		return V_GARBAGE;
	want = get_u32(c->arg);
	int status = obj_stat(o, &st);
	if (status)
		return status;
	u32 on_w = is_dir(o) ? 0x1c : 0x0c, on_x = is_dir(o) ? 0x02 : 0x20;
	if (want & 0x01 && may(c, o, &st, R_OK) == 1)
		got |= 0x01;
	if (want & on_w && !(c->rights & R_READONLY) && may(c, o, &st, is_dir(o) ? W_OK | X_OK : W_OK) == 1) /* names need both */
		got |= want & on_w;
	if (want & on_x && may(c, o, &st, X_OK) == 1)
		got |= want & on_x;
	if (got & on_w && fs_is_readonly(o))
		got &= ~on_w;
	if (want & 0x01 && !(got & 0x01) && is_reg(o) && W.exps[W.objs[o].exp].flags & EX_READABLE_EXEC && may(c, o, &st, X_OK) == 1)
		got |= 0x01;
	if (reply_open(c, 8 + POST))
		return V_DROP;
	put_u32(c, OK);
	put_post_op(c, o, &st);
	put_u32(c, got);
	return vn_close(c, OK);
}

/* ---- Names */

int vn_lookup(struct call *c)
{
	char name[256];
	struct stat dst, st;
	const u8 *p = c->arg;
	i32 dir = c->obj, o;
	if (is_public(c))
		return public_lookup(c);
	int status = get_name(c, &p, name);
	if (status)
		return status;
	if (!is_dir(dir))
		return ERR_NOTDIR;
	if ((status = obj_stat(dir, &dst)))
		return status;
	if (become_searcher(c, dir, &dst))
		return ERR_JUKEBOX;
	if ((status = cluster_name(c, dir, name, 0)) || (status = obj_from_name(c, dir, name, &o, &st)))
		return status;
	if (reply_open(c, 4 + FH3 + 2 * POST))
		return V_DROP;
	put_u32(c, OK);
	put_fh(c, o);
	put_post_op(c, o, &st);
	put_post_op(c, dir, &dst);
	return vn_close(c, OK);
}

int vn_readlink(struct call *c)
{
	struct stat st;
	char target[4096];
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (!S_ISLNK(st.st_mode))
		return ERR_INVAL;
	ssize_t n = readlinkat(W.objs[c->obj].fd, "", target, sizeof target);
	if (n < 0)
		return status_of(errno);
	if (reply_open(c, 8 + POST + sizeof target))
		return V_DROP;
	put_u32(c, OK);
	put_post_op(c, c->obj, &st);
	put_opaque(c, target, (size_t)n);
	return vn_close(c, OK);
}

/* ---- Data */

#define READ_HEAD (4 + POST + 12)

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

/* 1: the bytes are there; 0: not without waiting for the disk; -1: errno. */
static int read_cached(i32 fs, int fd, void *to, u32 count, u64 offset, u64 size, ssize_t *n)
{
	if (W.fs[fs].nowait < 2) {
		struct iovec v = { to, count };
		*n = preadv2(fd, &v, 1, (off_t)offset, RWF_NOWAIT);
		if (*n == (ssize_t)count || *n == 0 || (*n > 0 && offset + (u64)*n >= size))
			return 1;
		if (*n > 0 || errno == EAGAIN)
			return 0;
		if (errno != EOPNOTSUPP)
			return -1;
		W.fs[fs].nowait = 2;
	}
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
	if (!got)
		return pool_read(c, fd, offset, count, &st);
	finish_read(c, offset, (u32)n, count, &st);
	return vn_close(c, OK);
}

static void mark_dirty(struct obj *b)
{
	if (!b->dirty)
		atomic_fetch_add((_Atomic u64 *)&W.row[S_UNSYNCED], 1);
	b->dirty = DIRTY; /* also while a COMMIT runs, which began without this */
}

static ssize_t write_all(int fd, const u8 *data, u32 count, u64 offset)
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

static void put_write(struct call *c, const struct change *ch, u32 n, u32 committed, u64 verf)
{
	put_u32(c, OK);
	put_change(c, ch);
	put_u32(c, n);
	put_u32(c, committed);
	memcpy(c->rep, &verf, 8);
	c->rep += 8;
	c->state = 2;
	c->word[3] = n;
}

int vn_write(struct call *c)
{
	struct change ch;
	i32 o = c->obj;
	const u8 *p = c->arg;
	if (garbage(c, p, 20))
		return V_GARBAGE;
	u64 offset = get_u64(p);
	u32 count = get_u32(p + 8), stable = get_u32(p + 12), len = get_u32(p + 16);
	if (stable > 2 || len != count || garbage(c, p + 20, ((size_t)len + 3) & ~3ul))
		return V_GARBAGE; /* never more than what was sent, nor less: CVE-2017-7895 */
	if (count > transfer_max(c) + 4096)
		return ERR_INVAL;
	if (!is_reg(o))
		return is_dir(o) ? ERR_ISDIR : ERR_INVAL;
	if (offset > (u64)INT64_MAX - count)
		return ERR_FBIG;
	ch = (struct change){ .dir = o, .lock = dir_lock(W.fs[W.objs[o].fs].dev, W.objs[o].ino), .has_pre = 1 };
	int fd, status = obj_open(c, o, 1, &fd, &ch.pre);
	if (!status && ident_become(c->ident))
		status = ERR_JUKEBOX;
	if (status) {
		shared_unlock(ch.lock);
		return status;
	}
	u64 verf = W.state[H_VERIFIER]; /* from before: what is lost from here on changes it */
	ssize_t n = write_all(fd, p + 20, count, offset);
	int err = errno;
	change_end(&ch);
	W.row[S_COUNTERS + C_VOP_WRITES]++;
	if (n < 0)
		return change_fail(c, &ch, (u32)status_of(err));
	if (!stable) {
		mark_dirty(&W.objs[o]);
		if (reply_open(c, 4 + WCC + 16))
			return V_DROP;
		put_write(c, &ch, (u32)n, 0, verf);
		return vn_close(c, OK);
	}
	struct call *d = c->eng->detach(c, 4 + WCC + 16);
	if (!d) {
		if (stable == 1 ? fdatasync(fd) : fsync(fd)) {
			verifier_change();
			return ERR_IO;
		}
		d = c;
	}
	if (reply_open(d, 4 + WCC + 16))
		return V_DROP;
	put_write(d, &ch, (u32)n, stable, verf);
	return d == c ? vn_close(c, OK) : pool_sync(d, fd, stable == 1);
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
	struct call *d = c->detached ? c : c->eng->detach(c, 4 + WCC + 8); /* detached: it has waited for its caller's groups */
	if (!d)
		return ERR_JUKEBOX;
	if (W.objs[c->obj].dirty)
		W.objs[c->obj].dirty = COMMITTING;
	d->state = 3; /* the reply is made when the data is safe: its verifier must not be older than that */
	return pool_sync(d, fd, 0);
}

/* The COMMIT3res after its fsync succeeded. */
int finish_commit(struct call *c)
{
	struct stat st;
	struct obj *b = &W.objs[c->obj];
	if (b->dirty == COMMITTING) {
		b->dirty = 0;
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

/* ---- Making objects.  All of CREATE3res, MKDIR3res, SYMLINK3res, MKNOD3res have the same shape:
 * status, post_op_fh3, post_op_attr, wcc_data of the directory. */

static int reply_made(struct call *c, struct change *ch, i32 o, int extra_sync)
{
	struct stat st;
	int whole, fd = durable_fd(c, ch->dir, &whole), has = o >= 0 && !fd_stat(W.objs[o].fd, &st);
	int file = fd >= 0 && extra_sync && o >= 0 ? sync_fd(o) : -1;
	struct call *d = fd < 0 ? c : c->eng->detach(c, 4 + 4 + FH3 + POST + WCC);
	if (!d) {
		if (sync_here(fd, file, whole))
			return ERR_IO;
		d = c;
	}
	if (reply_open(d, 4 + 4 + FH3 + POST + WCC))
		return V_DROP;
	put_u32(d, OK);
	put_u32(d, has);
	if (has)
		put_fh(d, o);
	put_post_op(d, o, has ? &st : NULL);
	put_change(d, ch);
	if (d == c)
		return vn_close(c, OK);
	d->obj2 = o; /* stays while its descriptor is used */
	return pool_sync_more(d, fd, file, whole);
}

/* Start of every change of a directory: type, name, identity. */
static int dir_ready(struct call *c, i32 dir)
{
	struct stat st;
	if (!is_dir(dir))
		return ERR_NOTDIR;
	int status = obj_stat(dir, &st);
	if (status)
		return status;
	return ident_become(c->ident) ? ERR_JUKEBOX : 0;
}


/* The mode of a new object: what its directory's default ACL left of the permissions stands (chmod(2) would open them again), the
 * setuid, setgid and sticky bits may be missing; setgid also comes from the directory. */
static void special_bits(i32 o, struct sattr *s)
{
	struct stat st;
	if (!s->set_mode || !(s->mode & 07000) || fd_stat(W.objs[o].fd, &st)) {
		s->set_mode = 0;
		return;
	}
	u32 special = (s->mode & 07000) | (S_ISDIR(st.st_mode) ? st.st_mode & 02000 : 0);
	s->set_mode = special != (st.st_mode & 07000);
	s->mode = (st.st_mode & 0777) | special;
}

/* Attributes of a new object.  As a kernel server does: who may not give a file away keeps it. */
static int dress(struct call *c, i32 o, struct sattr *s, int *changed)
{
	*changed = s->set_uid || s->set_gid || s->atime || s->mtime || (s->set_size && s->size);
	if (s->set_uid || s->set_gid) {
		struct sattr own = { .set_uid = s->set_uid, .uid = s->uid, .set_gid = s->set_gid, .gid = s->gid };
		int status = apply_sattr(c, o, &own);
		if (status && status != ERR_PERM)
			return status;
		s->set_uid = s->set_gid = 0;
	}
	special_bits(o, s); /* last: the change of owner has cleared some */
	return apply_sattr(c, o, s);
}

/* The object that was made under `name`, through its own descriptor `fd` (>= 0: taken) or by its name. */
static int made_object(struct call *c, i32 dir, const char *name, int fd, i32 *o)
{
	struct stat st;
	char buf[32];
	if (fd < 0)
		return obj_from_name(c, dir, name, o, &st);
	int path = openat(W.procfd, procpath(fd, buf), O_PATH | O_CLOEXEC);
	if (path < 0 || fd_stat(path, &st)) {
		int e = errno;
		if (path >= 0)
			close(path);
		close(fd);
		return status_of(e);
	}
	int status = obj_from_fd(W.objs[dir].exp, W.objs[dir].fs, dir, path, &st, o);
	if (status || W.objs[*o].wfd >= 0 || W.row[S_FDS_READ] + W.row[S_FDS_WRITE] >= W.max_data) {
		close(fd);
		return status;
	}
	W.objs[*o].wfd = fd;
	W.row[S_FDS_WRITE]++;
	return 0;
}

/* 62 bits that only this server can make of (verifier, name of the file): kept in the seconds of atime and mtime, so that they
 * survive a restart and a local touch(1) cannot make another's (attacks.md D13, unfsd's BUGS). */
static void exclusive_times(i32 dir, const struct stat *st, const u8 verf[8], struct timespec t[2])
{
	u64 in[4] = { 0, st->st_ino, 0, 0 };
	memcpy(&in[0], W.fs[W.objs[dir].fs].fsid, 8);
	memcpy(&in[2], verf, 8);
	u64 key[2] = { W.key[0] ^ 0x6578636cu, W.key[1] }, mac = siphash(key, in, sizeof in);
	t[0] = (struct timespec){ (time_t)(mac & 0x7fffffff), 0 };
	t[1] = (struct timespec){ (time_t)(mac >> 32 & 0x7fffffff), 0 };
}

static int same_exclusive(i32 dir, const struct stat *st, const u8 verf[8])
{
	struct timespec t[2];
	exclusive_times(dir, st, verf, t);
	return S_ISREG(st->st_mode) && !st->st_size && st->st_atim.tv_sec == t[0].tv_sec && st->st_mtim.tv_sec == t[1].tv_sec
	       && !st->st_mtim.tv_nsec && !st->st_atim.tv_nsec;
}

static int create_existing(struct call *c, struct change *ch, const char *name, u32 how, const struct sattr *s, const u8 *verf)
{
	struct stat st;
	i32 o;
	int status = how == 1 ? ERR_EXIST : obj_from_name(c, ch->dir, name, &o, &st);
	if (!status && !S_ISREG(st.st_mode))
		status = ERR_EXIST;
	if (!status && how == 2 && !same_exclusive(ch->dir, &st, verf))
		status = ERR_EXIST;
	if (!status && how == 0 && s->set_size) {
		struct sattr size = { .set_size = 1, .size = s->size };
		status = apply_sattr(c, o, &size);
	}
	change_end(ch);
	return status ? change_fail(c, ch, (u32)status) : reply_made(c, ch, o, how == 0 && s->set_size);
}

int vn_create(struct call *c)
{
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	const u8 *p = c->arg, *verf = NULL;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0;
	if (bad == V_GARBAGE || garbage(c, p, 4) || get_u32(p) > 2)
		return V_GARBAGE;
	u32 how = get_u32(p);
	p += 4;
	int status = 0;
	if (how == 2) {
		if (garbage(c, p, 8))
			return V_GARBAGE;
		verf = p;
		s.mode = 0600;
	} else if ((status = get_sattr(c, &p, &s)) == V_GARBAGE) {
		return V_GARBAGE;
	}
	if (bad || status || (status = dir_ready(c, dir)) || (status = cluster_name(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	int fd = openat(W.objs[dir].fd, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
			s.set_mode || how == 2 ? s.mode & 0777 : 0666);
	struct stat st;
	int again = fd < 0 && errno == EEXIST && was_absent(c);
	if (fd < 0 && errno == EEXIST && !again)
		return create_existing(c, &ch, name, how, &s, verf);
	if (again)
		status = (status = obj_from_name(c, dir, name, &o, &st)) ? status : S_ISREG(st.st_mode) ? 0 : ERR_EXIST;
	else
		status = fd < 0 ? status_of(errno) : made_object(c, dir, name, fd, &o);
	if (!status && how == 2) {
		struct timespec t[2];
		if (fd_stat(W.objs[o].fd, &st))
			status = status_of(errno);
		else {
			exclusive_times(dir, &st, verf, t);
			status = utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? status_of(errno) : 0;
		}
		changed = 1;
	} else if (!status) {
		status = dress(c, o, &s, &changed);
	}
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}

/* After the system call that makes an object of a name: its object, or why not. */
static int made_status(struct call *c, int failed, i32 dir, const char *name, i32 *o, struct stat *st)
{
	if (failed && !(errno == EEXIST && was_absent(c)))
		return status_of(errno);
	return obj_from_name(c, dir, name, o, st);
}

int vn_mkdir(struct call *c)
{
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0, status;
	if (bad == V_GARBAGE || (status = get_sattr(c, &p, &s)) == V_GARBAGE)
		return V_GARBAGE;
	if (bad || status || (status = dir_ready(c, dir)) || (status = cluster_name(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_size = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, mkdirat(W.objs[dir].fd, name, s.set_mode ? s.mode & 01777 : 0777), dir, name, &o, &st);
	if (!status)
		status = dress(c, o, &s, &changed);
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}

int vn_symlink(struct call *c)
{
	char name[256], target[4097];
	struct sattr s = { 0 };
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed, status;
	if (bad == V_GARBAGE || (status = get_sattr(c, &p, &s)) == V_GARBAGE || garbage(c, p, 4))
		return V_GARBAGE;
	u32 n = get_u32(p);
	if (garbage(c, p + 4, ((size_t)n + 3) & ~3ul))
		return V_GARBAGE;
	if (bad || status)
		return bad ? bad : status;
	if (n > 4095)
		return ERR_NAMETOOLONG;
	if (!n || memchr(p + 4, 0, n))
		return ERR_INVAL;
	memcpy(target, p + 4, n);
	target[n] = 0;
	if ((status = dir_ready(c, dir)) || (status = cluster_name(c, dir, name, 1)))
		return status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_mode = s.set_size = 0; /* a symbolic link has neither */
	s.mode = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, symlinkat(target, W.objs[dir].fd, name), dir, name, &o, &st);
	if (!status) {
		status = dress(c, o, &(struct sattr){ .set_uid = s.set_uid, .uid = s.uid, .set_gid = s.set_gid, .gid = s.gid }, &changed);
		if (status == ERR_NOTSUPP)
			status = 0; /* the mode that dress() sets again */
		if (!status && (s.atime || s.mtime))
			status = apply_sattr(c, o, &(struct sattr){ .atime = s.atime, .mtime = s.mtime, .at = s.at, .mt = s.mt });
	}
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, 0);
}

int vn_mknod(struct call *c)
{
	static const mode_t kinds[8] = { [3] = S_IFBLK, [4] = S_IFCHR, [6] = S_IFSOCK, [7] = S_IFIFO };
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed, status = 0;
	if (bad == V_GARBAGE || garbage(c, p, 4))
		return V_GARBAGE;
	u32 type = get_u32(p);
	dev_t dev = 0;
	p += 4;
	if (type < 1 || type > 7)
		return V_GARBAGE;
	if (kinds[type]) {
		if ((status = get_sattr(c, &p, &s)) == V_GARBAGE)
			return V_GARBAGE;
		if (type == 3 || type == 4) {
			if (garbage(c, p, 8))
				return V_GARBAGE;
			dev = makedev(get_u32(p), get_u32(p + 4));
		}
	} else {
		status = ERR_BADTYPE;
	}
	if (bad || status || (status = dir_ready(c, dir)) || (status = cluster_name(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_size = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, mknodat(W.objs[dir].fd, name, kinds[type] | (s.set_mode ? s.mode & 07777 : 0666), dev), dir, name, &o, &st);
	if (!status)
		status = dress(c, o, &s, &changed);
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, 0);
}

/* ---- Removing, renaming, linking */

/* The cached object that `name` names now, or -1: after the change it may be gone, and must not keep its space. */
static i32 victim_of(i32 dir, const char *name)
{
	struct { struct file_handle h; u8 room[128]; } k;
	int mntid;
	k.h.handle_bytes = sizeof k.room;
	if (by_path(W.objs[dir].exp, W.objs[dir].fs) || name_to_handle_at(W.objs[dir].fd, name, &k.h, &mntid, 0) || k.h.handle_bytes > 40)
		return -1;
	return obj_of_kernel_handle(dir, &k.h);
}

static int reply_changed(struct call *c, struct change *ch, struct change *ch2, const struct stat *file, int has_file)
{
	size_t room = 4 + POST + 2 * WCC;
	int whole, fd = durable_fd(c, ch->dir, &whole), fd2 = fd >= 0 && ch2 && ch2->dir != ch->dir ? sync_fd(ch2->dir) : -1;
	struct call *d = fd < 0 ? c : c->eng->detach(c, room);
	if (!d) {
		if (sync_here(fd, fd2, whole))
			return ERR_IO;
		d = c;
	}
	if (reply_open(d, room))
		return V_DROP;
	put_u32(d, OK);
	if (has_file)
		put_post_op(d, d->obj, file);
	put_change(d, ch);
	if (ch2)
		put_change(d, ch2);
	return d == c ? vn_close(c, OK) : pool_sync_more(d, fd, fd2, whole);
}

static int remove_name(struct call *c, int flag)
{
	char name[256];
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	i32 dir = c->obj;
	int status = get_name(c, &p, name);
	if (status || (status = dir_ready(c, dir)) || (status = cluster_name(c, dir, name, 0)))
		return status;
	if (is_dots(name))
		return flag ? (name[1] ? ERR_EXIST : ERR_INVAL) : ERR_ISDIR;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	i32 gone = victim_of(dir, name);
	status = unlinkat(W.objs[dir].fd, name, flag) && !(errno == ENOENT && was_there(c)) ? status_of(errno) : 0;
	change_end(&ch);
	if (gone >= 0 && !status && gone != dir)
		obj_stat(gone, &st); /* lets go of it when that was its last name */
	return status ? change_fail(c, &ch, (u32)status) : reply_changed(c, &ch, NULL, NULL, 0);
}

int vn_remove(struct call *c) { return remove_name(c, 0); }
int vn_rmdir(struct call *c) { return remove_name(c, AT_REMOVEDIR); }

/* The second handle of RENAME and LINK: same gate, same export (the caller's rights were granted for that). */
static int second_handle(struct call *c, const u8 **pp)
{
	int status = gate_fh(c, pp, &c->obj2);
	if (status == V_FS) { /* the row starts again from its first handle */
		drc_forget(c);
		c->arg = (const u8 *)(uintptr_t)c->word[2];
	}
	if (status) {
		c->obj2 = -1;
		return status;
	}
	if (W.objs[c->obj].exp_gen != W.generation || !W.objs[c->obj].used)
		return ERR_STALE;
	return W.objs[c->obj2].exp != W.objs[c->obj].exp ? ERR_XDEV : 0;
}

/* Two directories change at once: their locks are taken in the order of their addresses. */
static void change_both(struct change *a, i32 dir_a, struct change *b, i32 dir_b)
{
	struct obj *x = &W.objs[dir_a], *y = &W.objs[dir_b];
	a->dir = dir_a;
	b->dir = dir_b;
	dir_lock_both(W.fs[x->fs].dev, x->ino, W.fs[y->fs].dev, y->ino, &a->lock, &b->lock);
	a->has_pre = a->lock && !fd_stat(x->fd, &a->pre);
	b->has_pre = a->lock && !fd_stat(y->fd, &b->pre);
}

int vn_rename(struct call *c)
{
	char from[256], to[256];
	struct change a, b;
	struct stat st;
	const u8 *p = c->arg;
	int bad = get_name(c, &p, from), bad2, status;
	if (bad == V_GARBAGE)
		return bad;
	W.objs[c->obj].pins++; /* the second handle may push others out of the cache */
	status = second_handle(c, &p);
	W.objs[c->obj].pins--;
	if (status == V_GARBAGE || (bad2 = get_name(c, &p, to)) == V_GARBAGE)
		return V_GARBAGE;
	if (status || bad || bad2)
		return status ? status : bad ? bad : bad2;
	if (is_dots(from) || is_dots(to))
		return ERR_INVAL;
	if ((status = dir_ready(c, c->obj)) || (status = dir_ready(c, c->obj2)) || (status = cluster_name(c, c->obj, from, 0))
	    || (status = cluster_name(c, c->obj2, to, 1)))
		return status;
	change_both(&a, c->obj, &b, c->obj2);
	note_name(c, c->obj, from);
	i32 gone = victim_of(c->obj2, to);
	status = renameat(W.objs[c->obj].fd, from, W.objs[c->obj2].fd, to) ? status_of(errno) : 0;
	if (status == ERR_NOENT && was_there(c) && !fstatat(W.objs[c->obj2].fd, to, &st, AT_SYMLINK_NOFOLLOW)
	    && ((u64)st.st_ino & NOTE_INO) == (c->word[1] & NOTE_INO))
		status = 0;
	change_end(&b); /* first: where the two share a lock it is a's */
	change_end(&a);
	if (gone >= 0 && gone != c->obj && gone != c->obj2)
		obj_stat(gone, &st);
	if (status) {
		if (reply_open(c, 4 + 2 * WCC))
			return V_DROP;
		put_u32(c, (u32)status);
		put_change(c, &a);
		put_change(c, &b);
		return vn_close(c, (u32)status);
	}
	return reply_changed(c, &a, &b, NULL, 0);
}

int vn_link(struct call *c)
{
	char name[256], buf[32];
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	int bad, status;
	W.objs[c->obj].pins++;
	status = second_handle(c, &p);
	W.objs[c->obj].pins--;
	if (status == V_GARBAGE || (bad = get_name(c, &p, name)) == V_GARBAGE)
		return V_GARBAGE;
	if (status || bad)
		return status ? status : bad;
	if ((status = obj_stat(c->obj, &st)) || (status = dir_ready(c, c->obj2)) || (status = cluster_name(c, c->obj2, name, 1)))
		return status;
	if (is_dir(c->obj))
		return ERR_ISDIR;
	if (is_dots(name))
		return ERR_EXIST;
	change_begin(&ch, c->obj2);
	note_name(c, c->obj2, name);
	status = linkat(W.procfd, procpath(W.objs[c->obj].fd, buf), W.objs[c->obj2].fd, name, AT_SYMLINK_FOLLOW)
		 && !(errno == EEXIST && was_absent(c)) ? status_of(errno) : 0;
	change_end(&ch);
	int has = !fd_stat(W.objs[c->obj].fd, &st);
	if (!status)
		return reply_changed(c, &ch, NULL, has ? &st : NULL, 1);
	if (reply_open(c, 4 + POST + WCC))
		return V_DROP;
	put_u32(c, (u32)status);
	put_post_op(c, c->obj, has ? &st : NULL);
	put_change(c, &ch);
	return vn_close(c, (u32)status);
}

/* ---- File system facts */

int vn_fsstat(struct call *c)
{
	struct statvfs v;
	struct stat st;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (fstatvfs(W.objs[c->obj].fd, &v))
		return status_of(errno);
	if (reply_open(c, 4 + POST + 52))
		return V_DROP;
	u64 size = v.f_frsize;
	put_u32(c, OK);
	put_post_op(c, c->obj, &st);
	put_u64(c, v.f_blocks * size);
	put_u64(c, v.f_bfree * size);
	put_u64(c, v.f_bavail * size);
	put_u64(c, v.f_files);
	put_u64(c, v.f_ffree);
	put_u64(c, v.f_favail);
	put_u32(c, 0); /* invarsec: may change at any time */
	return vn_close(c, OK);
}

int vn_fsinfo(struct call *c)
{
	struct stat st;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (reply_open(c, 4 + POST + 48))
		return V_DROP;
	u32 most = transfer_max(c);
	put_u32(c, OK);
	put_post_op(c, c->obj, &st);
	put_u32(c, most);      /* rtmax */
	put_u32(c, most);      /* rtpref */
	put_u32(c, 4096);      /* rtmult */
	put_u32(c, most);      /* wtmax */
	put_u32(c, most);      /* wtpref */
	put_u32(c, 4096);      /* wtmult */
	put_u32(c, most > 65536 ? 65536 : most); /* dtpref */
	put_u64(c, INT64_MAX); /* maxfilesize */
	put_u32(c, 0);         /* time_delta */
	put_u32(c, 1);
	put_u32(c, 0x1b);      /* FSF3_LINK, SYMLINK, HOMOGENEOUS, CANSETTIME */
	return vn_close(c, OK);
}

int vn_pathconf(struct call *c)
{
	struct stat st;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (reply_open(c, 4 + POST + 24))
		return V_DROP;
	long links = fpathconf(W.fs[W.objs[c->obj].fs].mntfd, _PC_LINK_MAX);
	put_u32(c, OK);
	put_post_op(c, c->obj, &st);
	put_u32(c, links < 1 ? 1 : (u32)links);
	put_u32(c, 255);       /* name_max */
	put_u32(c, 1);         /* no_trunc */
	put_u32(c, 1);         /* chown_restricted */
	put_u32(c, 0);         /* case_insensitive */
	put_u32(c, 1);         /* case_preserving */
	return vn_close(c, OK);
}
