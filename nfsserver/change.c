/* change.c: what all changes have in common: where they are done, wcc_data, what a dead worker had noted (drc.c), and being durable before
 * the answer.
 *
 * Theory of operation.  A change (CREATE to LINK, SETATTR) fills a struct deed and calls change_begin().  On a quick file system that does
 * it at once (deed.c).  Where it may wait for a disk (the file system is slow, cold.c, or another call has the lock and does not let go of
 * it), the call is detached and a thread does it, with the attributes from after.  Then the procedure runs once more, as the continuation
 * of the same call (its entry in the duplicate request cache stands): change_begin() gives it what the thread brought.  The loop never
 * waits for such a lock, so whoever has it may wait as long as his disk does. */
#include "parts.h"

#define ROOM 2048 /* for the reply of any change: RENAME3res with two wcc_data, CREATE3resok with a handle */

static const struct call *handed_to; /* the call that runs once more now, */
static struct deed *handed;          /* and what was done for it */

int is_redone(const struct call *c) { return handed_to == c; }

void deed_hand(const struct call *c, struct deed *w)
{
	handed_to = c;
	handed = w;
}

/* The call is over, or waits for something else.  What it left in `handed` goes with the job (done.c). */
void deed_drop(void)
{
	handed_to = NULL;
	handed = NULL;
}

static int is_async(const struct call *c) { return W.exps[W.objs[c->obj].exp].flags & EX_ASYNC; }

static int lock_now(struct deed *w)
{
	return dir_trylock_both(w->a.dev, w->a.ino, w->b.dev, w->b.ino, &w->a.lock, w->b.dir >= 0 ? &w->b.lock : NULL);
}

static void change_of(struct change *ch, i32 dir)
{
	ch->dir = dir;
	if (dir < 0)
		return;
	ch->fd = W.objs[dir].fd;
	ch->dev = W.fs[W.objs[dir].fs].dev;
	ch->ino = W.objs[dir].ino;
}

/* Does w, which changes object `dir` (and `dir2`, -1: nothing else), or gives back what a thread did.  The caller ends w->a (and w->b) by
 * change_end().  0, V_PENDING (a thread does it, then w->op runs once more), ERR_JUKEBOX (too many wait already). */
int change_begin(struct call *c, struct deed *w, i32 dir, i32 dir2)
{
	if (handed_to == c) {
		*w = *handed;
		handed->made = -1; /* the procedure's now */
		return 0;
	}
	if (!is_async(c) && pool_works() && c->eng->full(c, ROOM)) /* it could not wait to be durable, once it is done */
		return ERR_JUKEBOX;
	change_of(&w->a, dir);
	change_of(&w->b, dir2);
	if (!pool_works())
		deed_lock(w);
	else if (is_slow(W.objs[dir].fs, c->t0) || lock_now(w))
		return pool_deed(c, w);
	deed_do(c, w);
	return 0;
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
	cold_end(c, clock_ns()); /* what waits to be durable ends in a thread, and would say nothing of how long it took here */
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

/* ---- What a dead worker had noted of this call (deed.c). */

int was_absent(const struct call *c) { return c->word[1] && !(c->word[1] & NOTE_THERE); }
int was_there(const struct call *c) { return c->word[1] & NOTE_THERE ? 1 : 0; }

/* Start of every change of a directory: type, name, identity. */
int dir_ready(struct call *c, i32 dir)
{
	struct stat st;
	int status = 0;
	if (!is_dir(dir))
		return ERR_NOTDIR;
	if (!is_redone(c) && (status = obj_stat(dir, &st)))
		return status;
	return ident_become(c->ident) ? ERR_JUKEBOX : 0;
}

/* The same with a name in it; `creating`: it is to be new. */
int name_ready(struct call *c, i32 dir, char name[256], int creating)
{
	int status = dir_ready(c, dir);
	return status || is_redone(c) ? status : cluster_name(c, dir, name, creating);
}
