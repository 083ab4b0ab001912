/* facts.c: GETATTR, SETATTR, ACCESS, FSSTAT, FSINFO, PATHCONF: what is known of one object and its file system.  RFC 1813 section 3.3. */
#include "parts.h"
#include <sys/statvfs.h>

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

/* Opens what the attributes need: a descriptor for a size.  0 or nfsstat3. */
static int sattr_open(struct call *c, i32 o, const struct sattr *s, int *wfd)
{
	struct stat st;
	int status;
	*wfd = -1;
	if (s->set_size && !is_reg(o))
		return is_dir(o) ? ERR_ISDIR : ERR_INVAL;
	if (s->set_size && (status = obj_open(c, o, 1, wfd, &st)))
		return status;
	if (s->set_size && s->size > INT64_MAX)
		return ERR_FBIG;
	return ident_become(c->ident) ? ERR_JUKEBOX : 0;
}

/* The server's time, for one of the two or both, is a matter of writing, as with a kernel server: open(O_TRUNC) of a client sets mtime
 * alone.  utimensat(2) sees it so for both only and wants the owner for one; then the right is looked at here, and root sets it. */
static int set_times(struct call *c, i32 o, const struct sattr *s)
{
	struct timespec t[2] = { s->at, s->mt };
	struct stat st;
	if (s->atime == 2 || s->mtime == 2 || fd_stat(W.objs[o].fd, &st) || may(c, o, &st, W_OK) != 1)
		return ERR_PERM;
	if (!W.root || ident_root())
		return ERR_PERM;
	int err = utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? errno : 0;
	return ident_become(c->ident) ? ERR_PERM : err ? status_of(err) : 0;
}

/* 0 or nfsstat3 */
int apply_sattr(struct call *c, i32 o, const struct sattr *s)
{
	int wfd, status = sattr_open(c, o, s, &wfd);
	if (status)
		return status;
	int left = sattr_set(W.objs[o].fd, wfd, s, is_link(o));
	return left > 0 ? set_times(c, o, s) : left ? status_of(errno) : 0;
}

/* The guard at *pp: sattrguard3.  0 or V_GARBAGE. */
static int get_guard(struct call *c, const u8 **pp, struct deed *w)
{
	if (garbage(c, *pp, 4) || get_u32(*pp) > 1)
		return V_GARBAGE;
	w->guarded = (u8)get_u32(*pp);
	if (!w->guarded)
		return 0;
	if (garbage(c, *pp + 4, 8))
		return V_GARBAGE;
	w->guard_s = get_u32(*pp + 4);
	w->guard_ns = get_u32(*pp + 8);
	return 0;
}

/* What came of it, with the times that are left to be set.  0 or nfsstat3. */
static int setattr_status(struct call *c, struct deed *w)
{
	if (w->not_sync || w->err)
		return w->not_sync ? ERR_NOT_SYNC : status_of(w->err);
	int status = w->times_left ? set_times(c, c->obj, &w->s) : 0;
	if (w->times_left && w->a.over) /* another may have changed it since the thread let go of the lock */
		w->a.has_pre = fd_stat(w->a.fd, &w->a.post) ? -1 : 0;
	return status;
}

int vn_setattr(struct call *c)
{
	struct deed w = { .kind = DEED_SETATTR, .op = vn_setattr };
	struct durable sync;
	struct call *d;
	struct stat st;
	const u8 *p = c->arg;
	int status = get_sattr(c, &p, &w.s);
	if (status == V_GARBAGE || get_guard(c, &p, &w))
		return V_GARBAGE;
	if (!is_redone(c) && (status || (status = obj_stat(c->obj, &st)) || (status = sattr_open(c, c->obj, &w.s, &w.wfd))))
		return status;
	w.link = (u8)is_link(c->obj);
	if ((status = change_begin(c, &w, c->obj, -1)))
		return status;
	status = setattr_status(c, &w);
	change_end(&w.a);
	if (status)
		return change_fail(c, &w.a, (u32)status);
	if ((status = durable_open(c, c->obj, -1, 4 + WCC, &sync, &d)))
		return status;
	put_u32(d, OK);
	put_change(d, &w.a);
	return durable_close(d, &sync);
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
	int as_x = want & 0x01 && is_reg(o) && W.exps[W.objs[o].exp].flags & EX_READABLE_EXEC;
	int r = want & 0x01 ? may(c, o, &st, R_OK) : 0, x = want & on_x || (!r && as_x) ? may(c, o, &st, X_OK) : 0;
	int w = want & on_w && !(c->rights & R_READONLY) ? may(c, o, &st, is_dir(o) ? W_OK | X_OK : W_OK) : 0; /* names need both */
	if (r < 0 || w < 0 || x < 0)
		return status_of(errno);
	got = (r || (x && as_x) ? want & 0x01 : 0) | (w ? want & on_w : 0) | (x ? want & on_x : 0);
	if (got & on_w && fs_is_readonly(o))
		got &= ~on_w;
	if (reply_open(c, 8 + POST))
		return V_DROP;
	put_u32(c, OK);
	put_post_op(c, o, &st);
	put_u32(c, got);
	return vn_close(c, OK);
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

/* The largest size of a file where o is, as the file system itself has it: a file without a name is asked, for nothing else tells a
 * program.  A client refuses at write(2) what lies beyond; without the limit the server refuses it when the data are sent, and
 * another write(2) or close(2) gets the error.  INT64_MAX where no such file can be made (read-only, full, no O_TMPFILE). */
static u64 largest_file(i32 o)
{
	struct filesystem *f = &W.fs[W.objs[o].fs];
	u64 most = 0;
	if (f->maxfile)
		return f->maxfile;
	int fd = W.root && ident_root() ? -1 : openat(is_dir(o) ? W.objs[o].fd : f->mntfd, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return INT64_MAX;
	for (u64 bit = 1ull << 62; bit; bit >>= 1)
		if (lseek(fd, (off_t)(most | bit), SEEK_SET) >= 0)
			most |= bit;
	close(fd);
	if (!f->removable)
		f->maxfile = most;
	return most;
}

int vn_fsinfo(struct call *c)
{
	struct stat st;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	u64 largest = largest_file(c->obj);
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
	put_u32(c, most > DTPREF ? DTPREF : most); /* dtpref */
	put_u64(c, largest);   /* maxfilesize */
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
