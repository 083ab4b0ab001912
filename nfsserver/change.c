/* change.c: what all changes have in common: attributes from before and after (wcc_data), what was there before, in case this worker
 * dies (drc.c), and being durable before the answer. */
#include "vnode.h"

void change_begin(struct change *ch, i32 dir)
{
	ch->dir = dir;
	ch->lock = dir_lock(W.fs[W.objs[dir].fs].dev, W.objs[dir].ino);
	ch->has_pre = ch->lock && !fd_stat(W.objs[dir].fd, &ch->pre);
}

void change_end(struct change *ch)
{
	if (fd_stat(W.objs[ch->dir].fd, &ch->post))
		ch->has_pre = -1;
	shared_unlock(ch->lock);
}

void put_change(struct call *c, const struct change *ch)
{
	put_wcc(c, ch->dir, ch->has_pre == 1 ? &ch->pre : NULL, ch->has_pre < 0 ? NULL : &ch->post);
}

/* The fail arm after a change was tried: with the attributes from before. */
int change_fail(struct call *c, struct change *ch, u32 status)
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

/* The descriptor for a second object that changes with the first, -1 where that one's whole file system is synced anyway, which is also
 * what is left when the second has none: a symbolic link or a device that gets another name. */
static int second_fd(struct durable *s, i32 o)
{
	int fd = s->whole ? -1 : sync_fd(o), all;
	if (fd >= 0 || s->whole || (all = fcntl(W.fs[W.objs[o].fs].mntfd, F_DUPFD_CLOEXEC, 0)) < 0)
		return fd;
	s->fd = all;
	s->whole = 1;
	return -1;
}

/* Opens the reply of a change of `o` (and of `o2`, -1: nothing) for `room` bytes of results.  *d is the call to put them into: c, or a
 * detached one, when *s has to be synced before they may leave.  0, nfsstat3, V_DROP. */
int durable_open(struct call *c, i32 o, i32 o2, size_t room, struct durable *s, struct call **d)
{
	s->fd = durable_fd(c, o, &s->whole);
	s->fd2 = s->fd >= 0 && o2 >= 0 ? second_fd(s, o2) : -1;
	s->waits = s->fd >= 0 && (*d = c->eng->detach(c, room));
	if (!s->waits) {
		*d = c;
		if (s->fd >= 0 && sync_here(s->fd, s->fd2, s->whole))
			return ERR_IO;
	}
	return reply_open(*d, room) ? V_DROP : 0;
}

int durable_close(struct call *d, const struct durable *s)
{
	return s->waits ? pool_sync_more(d, s->fd, s->fd2, s->whole) : vn_close(d, OK);
}

/* ---- What was there before a change, for the case that this worker dies before it answers (drc.c).  Whoever takes the retransmission
 * over compares that with what is there now: absent before and there now, or the other way round, is this call's own doing, as long
 * as nobody else touches the name. */

void note_name(struct call *c, i32 dir, const char *name)
{
	struct stat st;
	if (!c->drc || c->word[1]) /* taken over: the first note stands */
		return;
	int there = !fstatat(W.objs[dir].fd, name, &st, AT_SYMLINK_NOFOLLOW);
	drc_note(c, there ? NOTE | NOTE_THERE | ((u64)st.st_ino & NOTE_INO) : NOTE);
}

int was_absent(const struct call *c) { return c->word[1] && !(c->word[1] & NOTE_THERE); }
int was_there(const struct call *c) { return c->word[1] & NOTE_THERE ? 1 : 0; }

/* Start of every change of a directory: type, name, identity. */
int dir_ready(struct call *c, i32 dir)
{
	struct stat st;
	if (!is_dir(dir))
		return ERR_NOTDIR;
	int status = obj_stat(dir, &st);
	if (status)
		return status;
	return ident_become(c->ident) ? ERR_JUKEBOX : 0;
}

/* The same with a name in it, which is looked at in the pool when that may take long; `creating`: it is to be new, and what is not
 * there is in memory of no kernel, so that all would go that way. */
int name_ready(struct call *c, i32 dir, char name[256], int creating)
{
	int status = dir_ready(c, dir);
	if (status || (status = cluster_name(c, dir, name, creating)))
		return status;
	return creating ? 0 : wait_for_name(c, dir, name, 0);
}
