/* deed.c: what a change asks of the kernel: CREATE to LINK, and SETATTR.  Any thread, under the caller's identity.
 *
 * Under the locks of what changes: the attributes from before, what is noted for the case that this worker dies, the system call.  The
 * loop does it, or a thread (change.c). */
#include "parts.h"
#include <stdio.h>

/* ---- The system calls. */

/* 62 bits that only this server can make of (verifier, name of the file): kept in the seconds of atime and mtime, so that they
 * survive a restart and a local touch(1) cannot make another's (attacks.md D13, unfsd's BUGS). */
void exclusive_times(const u8 fsid[8], const struct stat *st, const u8 verf[8], struct timespec t[2])
{
	u64 in[4] = { 0, st->st_ino, 0, 0 };
	memcpy(&in[0], fsid, 8);
	memcpy(&in[2], verf, 8);
	u64 key[2] = { W.key[0] ^ 0x6578636cu, W.key[1] }, mac = siphash(key, in, sizeof in);
	t[0] = (struct timespec){ (time_t)(mac & 0x7fffffff), 0 };
	t[1] = (struct timespec){ (time_t)(mac >> 32 & 0x7fffffff), 0 };
}

static int do_create(struct deed *w)
{
	struct stat st;
	struct timespec t[2];
	w->made = openat(w->a.fd, w->name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, w->mode);
	if (w->made < 0 || !w->exclusive)
		return w->made < 0;
	if (fd_stat(w->made, &st))
		return -1;
	exclusive_times(w->fsid, &st, w->verf, t);
	return futimens(w->made, t);
}

/* linkat(2), which fs.protected_hardlinks (proc_sys_fs(5)) refuses to who neither owns the file nor may write it.  That is a rule for
 * local programs: a kernel server does not have it, and a client cannot know it.  All other rights stay the caller's. */
static int do_link(const struct deed *w)
{
	char buf[32];
	const char *path = procpath(w->file, buf);
	if (!linkat(W.procfd, path, w->a.fd, w->name, AT_SYMLINK_FOLLOW))
		return 0;
	if (errno != EPERM || !W.root || !w->uid)
		return -1;
	if (ident_owner(1)) {
		errno = EPERM;
		return -1;
	}
	int failed = linkat(W.procfd, path, w->a.fd, w->name, AT_SYMLINK_FOLLOW), e = errno;
	if (ident_owner(0))
		abort(); /* never under a right too many */
	errno = e;
	return failed;
}

/* Owner before mode (a change of owner clears setuid), times last (the others change them).  A symbolic link has no mode of its own:
 * as a kernel server does, what a client's lchmod(2) sends is passed over.  0, -1 with errno, or 1: all but the times, which may be a
 * writer's to set (facts.c). */
int sattr_set(int fd, int wfd, const struct sattr *s, int link)
{
	struct timespec t[2] = { s->at, s->mt };
	char buf[32];
	if (s->set_size && ftruncate(wfd, (off_t)s->size))
		return -1;
	if ((s->set_uid || s->set_gid) && fchownat(fd, "", s->set_uid ? s->uid : ~0u, s->set_gid ? s->gid : ~0u, AT_EMPTY_PATH))
		return -1;
	if (s->set_mode && !link && fchmodat(W.procfd, procpath(fd, buf), s->mode, 0))
		return -1;
	if ((!s->atime && !s->mtime) || (s->set_size && s->mtime == 1 && !s->atime)) /* ftruncate(2) has set it */
		return 0;
	return !utimensat(fd, "", t, AT_EMPTY_PATH) ? 0 : errno == EPERM ? 1 : -1;
}

static int system_call(struct deed *w)
{
	switch (w->kind) {
	case DEED_CREATE: return do_create(w);
	case DEED_MKDIR: return mkdirat(w->a.fd, w->name, w->mode);
	case DEED_SYMLINK: return symlinkat(w->name2, w->a.fd, w->name);
	case DEED_MKNOD: return mknodat(w->a.fd, w->name, w->mode, w->dev);
	case DEED_REMOVE: return unlinkat(w->a.fd, w->name, 0);
	case DEED_RMDIR: return unlinkat(w->a.fd, w->name, AT_REMOVEDIR);
	case DEED_RENAME: return renameat(w->a.fd, w->name, w->b.fd, w->name2);
	case DEED_LINK: return do_link(w);
	default: return (w->times_left = sattr_set(w->a.fd, w->wfd, &w->s, w->link)) < 0;
	}
}

/* The handle of what a name stood for: after the change it may be gone, and must not keep its space. */
static void note_victim(struct deed *w)
{
	int mntid;
	const struct change *ch = w->kind == DEED_RENAME ? &w->b : &w->a;
	w->victim.h.handle_bytes = sizeof w->victim.room;
	if (name_to_handle_at(ch->fd, w->kind == DEED_RENAME ? w->name2 : w->name, &w->victim.h, &mntid, 0))
		w->victim.h.handle_bytes = 0;
}

/* ---- What was there before a change, for the case that this worker dies before it answers (drc.c).  Whoever takes the retransmission
 * over compares that with what is there now: absent before and there now, or the other way round, is this call's own doing, as long
 * as nobody else touches the name. */

static void note_name(struct call *c, int dir, const char *name)
{
	struct stat st;
	if (!c->drc || c->word[1]) /* taken over: the first note stands */
		return;
	int there = !fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW);
	drc_note(c, there ? NOTE | NOTE_THERE | ((u64)st.st_ino & NOTE_INO) : NOTE);
}

static int is_guard_wrong(const struct call *c, const struct deed *w)
{
	const struct timespec *t = &w->a.pre.st_ctim;
	return w->guarded && !c->word[1] && (!w->a.has_pre || (u32)t->tv_sec != w->guard_s || (u32)t->tv_nsec != w->guard_ns);
}

/* Under the locks: everything up to the system call and what came of it. */
void deed_do(struct call *c, struct deed *w)
{
	w->made = -1;
	w->err = w->times_left = 0;
	w->a.has_pre = !fd_stat(w->a.fd, &w->a.pre);
	w->b.has_pre = w->b.dir >= 0 && !fd_stat(w->b.fd, &w->b.pre);
	if ((w->not_sync = is_guard_wrong(c, w)))
		return;
	if (w->guarded && c->drc && !c->word[1])
		drc_note(c, NOTE); /* it passed: our own change must not fail it when the call comes again */
	if (w->name)
		note_name(c, w->a.fd, w->name);
	if (w->wants_victim)
		note_victim(w);
	w->err = system_call(w) ? errno : 0;
}

/* ---- Under the locks. */

/* Once, after whatever belongs to the change. */
void change_end(struct change *ch)
{
	if (ch->over)
		return;
	if (fd_stat(ch->fd, &ch->post))
		ch->has_pre = -1;
	shared_unlock(ch->lock);
	ch->over = 1;
}

/* Waits, which the loop must not. */
void deed_lock(struct deed *w)
{
	if (w->b.dir >= 0)
		dir_lock_both(w->a.dev, w->a.ino, w->b.dev, w->b.ino, &w->a.lock, &w->b.lock);
	else
		w->a.lock = dir_lock(w->a.dev, w->a.ino);
}
