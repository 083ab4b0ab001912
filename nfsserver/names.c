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
	if ((status = cluster_name(c, dir, name, 0)) || (status = wait_for_name(c, dir, name))
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

/* Lets go of the cached object that the name of a change stood for, if that was its last name.  dir: where it was. */
static void drop_victim(const struct deed *w, i32 dir)
{
	struct stat st;
	i32 gone = w->wants_victim && w->victim.h.handle_bytes ? obj_of_kernel_handle(dir, &w->victim.h) : -1;
	if (gone >= 0 && gone != w->a.dir && gone != w->b.dir)
		obj_stat(gone, &st);
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

static int remove_name(struct call *c, struct deed *w)
{
	char name[256];
	const u8 *p = c->arg;
	i32 dir = c->obj;
	int status = get_name(c, &p, name);
	if (status || (status = name_ready(c, dir, name, 0)))
		return status;
	if (is_dots(name))
		return w->kind == DEED_RMDIR ? (name[1] ? ERR_EXIST : ERR_INVAL) : ERR_ISDIR;
	w->name = name;
	w->wants_victim = !by_path(W.objs[dir].exp, W.objs[dir].fs);
	if ((status = change_begin(c, w, dir, -1)))
		return status;
	status = w->err && !(w->err == ENOENT && was_there(c)) ? status_of(w->err) : 0;
	change_end(&w->a);
	if (!status)
		drop_victim(w, dir);
	return status ? change_fail(c, &w->a, (u32)status) : reply_changed(c, &w->a, NULL, NULL, 0);
}

int vn_remove(struct call *c) { return remove_name(c, &(struct deed){ .kind = DEED_REMOVE, .op = vn_remove }); }
int vn_rmdir(struct call *c) { return remove_name(c, &(struct deed){ .kind = DEED_RMDIR, .op = vn_rmdir }); }

/* The second handle of RENAME and LINK: same gate, same export (the caller's rights were granted for that). */
static int second_handle(struct call *c, const u8 **pp)
{
	if (is_redone(c)) { /* it is known, and pinned */
		*pp += 4 + ((get_u32(*pp) + 3) & ~3u);
		return 0;
	}
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

/* The fail arm of RENAME. */
static int rename_failed(struct call *c, const struct deed *w, u32 status)
{
	if (reply_open(c, 4 + 2 * WCC))
		return V_DROP;
	put_u32(c, status);
	put_change(c, &w->a);
	put_change(c, &w->b);
	return vn_close(c, status);
}

/* Did an earlier try of this call do it, whose worker died? */
static int was_renamed(const struct call *c, const struct deed *w)
{
	struct stat st;
	return w->err == ENOENT && was_there(c) && !fstatat(w->b.fd, w->name2, &st, AT_SYMLINK_NOFOLLOW)
	       && ((u64)st.st_ino & NOTE_INO) == (c->word[1] & NOTE_INO);
}

int vn_rename(struct call *c)
{
	char from[256], to[256];
	struct deed w = { .kind = DEED_RENAME, .op = vn_rename, .name = from, .name2 = to };
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
	w.wants_victim = !by_path(W.objs[c->obj2].exp, W.objs[c->obj2].fs);
	if ((status = change_begin(c, &w, c->obj, c->obj2)))
		return status;
	status = !w.err || was_renamed(c, &w) ? 0 : status_of(w.err);
	change_end(&w.b); /* first: where the two share a lock it is a's */
	change_end(&w.a);
	drop_victim(&w, c->obj2);
	return status ? rename_failed(c, &w, (u32)status) : reply_changed(c, &w.a, &w.b, NULL, 0);
}

int vn_link(struct call *c)
{
	char name[256];
	struct deed w = { .kind = DEED_LINK, .op = vn_link, .name = name };
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
	w.file = W.objs[c->obj].fd;
	w.uid = W.idents[c->ident].uid;
	if ((status = change_begin(c, &w, c->obj2, -1)))
		return status;
	status = w.err && !(w.err == EEXIST && was_absent(c)) ? status_of(w.err) : 0;
	change_end(&w.a);
	int has = !fd_stat(W.objs[c->obj].fd, &st);
	if (!status)
		return reply_changed(c, &w.a, NULL, has ? &st : NULL, 1);
	if (reply_open(c, 4 + POST + WCC))
		return V_DROP;
	put_u32(c, (u32)status);
	put_post_op(c, c->obj, has ? &st : NULL);
	put_change(c, &w.a);
	return vn_close(c, (u32)status);
}
