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

static int set_size(struct call *c, i32 o, u64 size)
{
	int fd, status;
	if (!is_reg(o))
		return is_dir(o) ? ERR_ISDIR : ERR_INVAL;
	struct stat st;
	if ((status = obj_open(c, o, 1, &fd, &st)))
		return status;
	if (size > INT64_MAX)
		return ERR_FBIG;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	return ftruncate(fd, (off_t)size) ? status_of(errno) : 0;
}

static int set_mode(i32 o, u32 mode)
{
	char buf[32];
	return fchmodat(W.procfd, procpath(W.objs[o].fd, buf), mode, 0) ? errno : 0;
}

/* The server's time, for one of the two or both, is a matter of writing, as with a kernel server: open(O_TRUNC) of a client sets mtime
 * alone.  utimensat(2) sees it so for both only and wants the owner for one; then the right is looked at here, and root sets it. */
static int set_times(struct call *c, i32 o, const struct sattr *s)
{
	struct timespec t[2] = { s->at, s->mt };
	struct stat st;
	if (s->set_size && s->mtime == 1 && !s->atime)
		return 0; /* ftruncate(2) has set it */
	if (!utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH))
		return 0;
	int err = errno;
	if (err != EPERM || s->atime == 2 || s->mtime == 2 || fd_stat(W.objs[o].fd, &st) || may(c, o, &st, W_OK) != 1)
		return err;
	if (!W.root || ident_root())
		return err;
	err = utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? errno : 0;
	return ident_become(c->ident) ? EPERM : err;
}

/* Owner before mode (a change of owner clears setuid), times last (the others change them).  A symbolic link has no mode of its own:
 * as a kernel server does, what a client's lchmod(2) sends is passed over.  0 or nfsstat3. */
int apply_sattr(struct call *c, i32 o, const struct sattr *s)
{
	int status, err = 0;
	if (s->set_size && (status = set_size(c, o, s->size)))
		return status;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	if (s->set_uid || s->set_gid)
		err = fchownat(W.objs[o].fd, "", s->set_uid ? s->uid : ~0u, s->set_gid ? s->gid : ~0u, AT_EMPTY_PATH) ? errno : 0;
	if (!err && s->set_mode && !is_link(o))
		err = set_mode(o, s->mode);
	if (!err && (s->atime || s->mtime))
		err = set_times(c, o, s);
	return err ? status_of(err) : 0;
}

int vn_setattr(struct call *c)
{
	struct sattr s = { 0 };
	struct change ch;
	struct durable sync;
	struct call *d;
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
	if ((status = durable_open(c, c->obj, -1, 4 + WCC, &sync, &d)))
		return status;
	put_u32(d, OK);
	put_change(d, &ch);
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
