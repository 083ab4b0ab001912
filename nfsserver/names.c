/* names.c: LOOKUP, READLINK, and what changes names of objects that are there: REMOVE, RMDIR, RENAME, LINK.  RFC 1813 section 3.3.
 * (Directories' contents: dir.c.) */
#include "parts.h"
#include <stdio.h>

/* LOOKUP3resok */
static int reply_found(struct call *c, i32 o, const struct stat *st, i32 dir, const struct stat *dst)
{
	if (reply_open(c, 4 + FH3 + 2 * POST))
		return V_DROP;
	put_u32(c, OK);
	put_fh(c, o);
	put_post_op(c, o, st);
	put_post_op(c, dir, dst);
	return vn_close(c, OK);
}

int vn_lookup(struct call *c)
{
	char name[256];
	struct stat dst, st;
	const u8 *p = c->arg;
	i32 dir = c->obj, o;
	int status;
	if (is_public(c))
		return (status = public_lookup(c, &o, &st, &dir, &dst)) ? status : reply_found(c, o, &st, dir, &dst);
	status = get_name(c, &p, name);
	if (status)
		return status;
	if (!is_dir(dir))
		return ERR_NOTDIR;
	if ((status = obj_stat(dir, &dst)))
		return status;
	if (is_dots(name) && may(c, dir, &dst, X_OK) != 1)
		return ERR_ACCES; /* they are found without a look into the directory */
	if (become_searcher(c, dir, &dst))
		return ERR_JUKEBOX;
	if ((status = cluster_name(c, dir, name, 0)) || (status = wait_for_name(c, dir, name, 1))
	    || (status = obj_from_name(c, dir, name, &o, &st)))
		return status;
	return reply_found(c, o, &st, dir, &dst);
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
	struct durable sync;
	struct call *d;
	i32 other = has_file ? c->obj : ch2 && ch2->dir != ch->dir ? ch2->dir : -1; /* LINK: the file's link count */
	int status = durable_open(c, ch->dir, other, 4 + POST + 2 * WCC, &sync, &d);
	if (status)
		return status;
	put_u32(d, OK);
	if (has_file)
		put_post_op(d, d->obj, file);
	put_change(d, ch);
	if (ch2)
		put_change(d, ch2);
	return durable_close(d, &sync);
}

static int remove_name(struct call *c, int flag)
{
	char name[256];
	struct change ch;
	struct stat st;
	const u8 *p = c->arg;
	i32 dir = c->obj;
	int status = get_name(c, &p, name);
	if (status || (status = name_ready(c, dir, name, 0)))
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
	if ((status = dir_ready(c, c->obj2)) || (status = name_ready(c, c->obj, from, 0)) || (status = name_ready(c, c->obj2, to, 1)))
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

/* linkat(2), which fs.protected_hardlinks (proc_sys_fs(5)) refuses to who neither owns the file nor may write it.  That is a rule for
 * local programs: a kernel server does not have it, and a client cannot know it.  All other rights stay the caller's. */
static int link_to(const struct call *c, i32 file, i32 dir, const char *name)
{
	char buf[32];
	const char *path = procpath(W.objs[file].fd, buf);
	if (!linkat(W.procfd, path, W.objs[dir].fd, name, AT_SYMLINK_FOLLOW))
		return 0;
	if (errno != EPERM || !W.root || !W.idents[c->ident].uid)
		return -1;
	if (ident_owner(1)) {
		errno = EPERM;
		return -1;
	}
	int failed = linkat(W.procfd, path, W.objs[dir].fd, name, AT_SYMLINK_FOLLOW), e = errno;
	if (ident_owner(0))
		abort(); /* never under a right too many */
	errno = e;
	return failed;
}

int vn_link(struct call *c)
{
	char name[256];
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
	if ((status = obj_stat(c->obj, &st)) || (status = name_ready(c, c->obj2, name, 1)))
		return status;
	if (is_dir(c->obj))
		return ERR_ISDIR;
	if (is_dots(name))
		return ERR_EXIST;
	change_begin(&ch, c->obj2);
	note_name(c, c->obj2, name);
	status = link_to(c, c->obj, c->obj2, name) && !(errno == EEXIST && was_absent(c)) ? status_of(errno) : 0;
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
