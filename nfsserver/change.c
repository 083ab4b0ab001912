/* change.c: what all changes have in common: attributes from before and after (wcc_data), what was there before, in case this worker
 * dies (drc.c), and being durable before the answer. */
#include "parts.h"

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

/* All of the file system of `o` is to be synced: in the pool, by a descriptor of its own, or, when none is left, here and now.  0 or an
 * errno. */
static int sync_whole(struct durable *s, i32 o)
{
	int mntfd = W.fs[W.objs[o].fs].mntfd;
	s->fd = fcntl(mntfd, F_DUPFD_CLOEXEC, 0);
	s->whole = s->fd >= 0;
	return s->whole ? 0 : sync_fs_now(mntfd, W.objs[o].fs);
}

/* What has to be synced before a change of `o` may be called durable: nothing (async), itself, or its whole file system.  That is for
 * what has no descriptor of its own, as symbolic links and devices, or none now.  0 or an errno. */
static int durable_first(const struct call *c, struct durable *s, i32 o)
{
	*s = (struct durable){ .fd = -1, .fd2 = -1 };
	if (is_async(c))
		return 0;
	s->fd = sync_fd(o);
	return s->fd >= 0 ? 0 : sync_whole(s, o);
}

/* A second object changes with the first: it is synced, too, unless that one's whole file system is anyway.  When this one has no
 * descriptor (a symbolic link or a device that gets another name) it is all of the file system for both. */
static int durable_second(struct durable *s, i32 o)
{
	if (s->fd < 0 || s->whole || (s->fd2 = sync_fd(o)) >= 0)
		return 0;
	struct durable all = { .fd2 = -1 };
	int err = sync_whole(&all, o);
	if (all.whole)
		*s = all;
	return err;
}

/* In the loop, where the call cannot wait for the pool.  0 or an errno. */
static int sync_here(const struct durable *s, i32 o)
{
	int err = s->fd2 >= 0 ? sync_file_now(s->fd2, 1) : 0, err2 = s->whole ? sync_fs_now(s->fd, W.objs[o].fs) : sync_file_now(s->fd, 1);
	if (s->whole)
		close(s->fd);
	return err ? err : err2;
}

/* Opens the reply of a change of `o` (and of `o2`, -1: nothing) for `room` bytes of results.  *d is the call to put them into: c, or a
 * detached one, when *s has to be synced before they may leave.  0, nfsstat3, V_DROP. */
int durable_open(struct call *c, i32 o, i32 o2, size_t room, struct durable *s, struct call **d)
{
	int err = durable_first(c, s, o), err2 = o2 >= 0 ? durable_second(s, o2) : 0;
	*d = c;
	s->waits = s->fd >= 0 && !err && !err2 && (*d = c->eng->detach(c, room));
	if (!s->waits) {
		*d = c;
		if (s->fd >= 0 && !err)
			err = sync_here(s, o);
		if (err || err2)
			return sync_status(err ? err : err2);
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
