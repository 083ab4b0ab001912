/* fh.c: from a handle, or a name in a directory, to an object. */
#include "fh.h"

enum { STRAYED = -1 }; /* of an object with subtree_check: its handle is opened anew, by which it may be found elsewhere */
enum { COVERED = -2 }; /* a mount point, and the export does not cross */

/* Steps to the export's root of what lies in directory `dir`; 0: not known, or more than fit. */
static u16 up_from(i32 dir)
{
	if (dir < 0)
		return 0;
	return obj_is_root(dir) ? 1 : W.objs[dir].up && W.objs[dir].up < UINT16_MAX ? W.objs[dir].up + 1 : 0;
}

/* An object for an O_PATH descriptor, which is taken.  `parent` gives the chain of the path scheme; -1 for an export's root. */
int obj_from_fd(i32 exp, i32 fs, i32 parent, int fd, const struct stat *st, i32 *out)
{
	const struct export *e = &W.exps[exp];
	u8 fh[FH_MAX], len, chain[MAX_DEPTH];
	if (W.fs[fs].removable && st->st_dev == e->root_dev && st->st_ino == e->root_ino) {
		len = mint_removable(e, fh);
	} else if (by_path(exp, fs)) {
		int depth = parent >= 0 ? chain_of(parent, chain) : 0;
		if (depth < 0 || depth + (parent >= 0) > (int)MAX_DEPTH) {
			close(fd);
			return ERR_NAMETOOLONG;
		}
		if (parent >= 0)
			chain[depth++] = chain_byte(st->st_ino);
		len = mint_path(e, chain, (u32)depth, fd, st, fh);
	} else {
		struct kernel_handle k;
		int mntid, err = kernel_handle_of(fd, "", &k, &mntid);
		if (err) {
			close(fd);
			return err == EOVERFLOW ? ERR_NOTSUPP : status_of(err);
		}
		len = mint_kernel(e, &W.fs[fs], &k, fh);
	}
	i32 o = obj_find(fh, len);
	if (o >= 0) {
		close(fd);
		obj_touch(o);
		*out = o;
		return 0;
	}
	u16 up = up_from(parent);
	if ((o = obj_new(fh, len)) < 0) {
		close(fd);
		return ERR_JUKEBOX;
	}
	obj_fill(o, exp, fs, fd, st);
	W.objs[o].up = up;
	*out = o;
	return 0;
}

/* The object of an export's root. */
int vn_root(i32 exp, i32 *out)
{
	struct stat st;
	int status = removable_attach(&W.exps[exp]);
	if (status)
		return status;
	int fd = fcntl(W.exps[exp].rootfd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return status_of(errno);
	if (fd_stat(fd, &st)) {
		close(fd);
		return ERR_STALE;
	}
	return obj_from_fd(exp, W.exps[exp].fs, -1, fd, &st, out);
}

/* The root of the export that has -public. */
static int public_root(i32 *out)
{
	for (u32 i = 0; i < W.n_exps; i++)
		if (W.exps[i].flags & EX_PUBLIC)
			return vn_root((i32)i, out);
	return ERR_BADHANDLE;
}

int obj_is_root(i32 o)
{
	struct stat st;
	return W.objs[o].ino == W.exps[W.objs[o].exp].root_ino && !fd_stat(W.objs[o].fd, &st) && is_export_root(W.objs[o].exp, &st);
}

/* Is `fd`, the parent of `dir`, inside the export?  Only ".." asks, after a directory may have been moved out of the export.  The way up
 * is ours, not the caller's, who need not be able to search all directories above.  Where the root was when `dir` was found it mostly is
 * still; only if not, each step is looked at. */
static int inside(struct call *c, i32 dir, int fd)
{
	u8 chain[MAX_DEPTH];
	struct obj *d = &W.objs[dir];
	if (W.root && ident_root())
		return 0;
	int found = d->up && is_root_above(d->exp, fd, d->up - 1u);
	if (!found) {
		int steps = climb_to_root(d->exp, fd, chain);
		found = steps >= 0;
		d->up = found ? (u16)(steps + 1) : 0;
	}
	return ident_become(c->ident) ? 0 : found;
}

/* Looks for a cached object, which takes two system calls and no descriptor.  0, nfsstat3, -1: it is not cached. */
static int find_cached(i32 dir, const char *name, i32 *out, struct stat *st)
{
	const struct obj *d = &W.objs[dir];
	struct kernel_handle k;
	u8 fh[FH_MAX];
	int mntid, err = kernel_handle_of(d->fd, name, &k, &mntid);
	if (err && err != EOVERFLOW && err != EOPNOTSUPP)
		return status_of(err);
	if (err || mntid != mount_of(&W.exps[d->exp], d->fs))
		return -1;
	u8 len = mint_kernel(&W.exps[d->exp], &W.fs[d->fs], &k, fh);
	i32 o = obj_find(fh, len);
	if (o < 0 || W.objs[o].exp_gen != W.generation || obj_stat(o, st))
		return -1;
	obj_touch(o);
	*out = o;
	return 0;
}

/* *fs: a file system that is new here, of the object that is open as `fd`.  0, nfsstat3. */
static int meet_fs(struct call *c, i32 dir, int fd, i32 *fs)
{
	char buf[32];
	int failed = W.root && ident_root();
	int mnt = failed ? -1 : openat(W.procfd, procpath(fd, buf), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	*fs = mnt < 0 ? -1 : fs_add(mnt, NULL, W.fs[W.objs[dir].fs].path_scheme);
	if (*fs < 0) {
		if (mnt >= 0)
			close(mnt);
		return ERR_ACCES;
	}
	return ident_become(c->ident) ? ERR_JUKEBOX : 0;
}

/* Attributes and file system of what was found in `dir` and is open as `fd`.  0, nfsstat3, COVERED. */
static int place_found(struct call *c, i32 dir, int fd, int dotdot, i32 *fs, struct stat *st)
{
	i32 exp = W.objs[dir].exp;
	if (fd_stat(fd, st))
		return status_of(errno);
	if (dotdot && !inside(c, dir, fd))
		return ERR_STALE;
	*fs = W.objs[dir].fs;
	if (st->st_dev == W.fs[*fs].dev)
		return 0;
	*fs = fs_of_dev(st->st_dev);
	if (!(W.exps[exp].flags & EX_CROSSMNT) && !(dotdot && *fs >= 0))
		return dotdot ? ERR_ACCES : COVERED; /* a file system is mounted here, and the export does not cross (crossmnt) */
	return *fs >= 0 ? 0 : meet_fs(c, dir, fd, fs);
}

/* The parent of `dir` by the path scheme: its chain is that of `dir` without the last byte.  fd is taken.  0, nfsstat3. */
static int parent_by_path(i32 dir, i32 fs, int fd, const struct stat *st, i32 *out)
{
	i32 exp = W.objs[dir].exp;
	u8 fh[FH_MAX], chain[MAX_DEPTH];
	int depth = chain_of(dir, chain);
	if (depth < 0) {
		close(fd);
		return ERR_STALE;
	}
	u8 len = mint_path(&W.exps[exp], chain, depth ? (u32)depth - 1 : 0, fd, st, fh);
	i32 o = obj_find(fh, len);
	if (o < 0 && (o = obj_new(fh, len)) >= 0)
		obj_fill(o, exp, fs, fd, st);
	else
		close(fd);
	*out = o;
	return o < 0 ? ERR_JUKEBOX : 0;
}

/* A mount point where the export does not cross (crossmnt): the directory itself, as from a kernel server.  ERR_ACCES where there is no way
 * to it. */
static int what_is_covered(struct call *c, i32 dir, const char *name, i32 *out, struct stat *st)
{
	i32 exp = W.objs[dir].exp, fs = W.objs[dir].fs;
	if (by_path(exp, fs) || (W.root && ident_root()))
		return ERR_ACCES;
	int fd = open_covered(dir, name, st);
	if (ident_become(c->ident)) {
		if (fd >= 0)
			close(fd);
		return ERR_JUKEBOX;
	}
	return fd < 0 ? ERR_ACCES : obj_from_fd(exp, fs, dir, fd, st, out);
}

/* Looks `name` up in directory `dir` as the identity in force.  *st has the object's attributes.  0 or nfsstat3. */
int obj_from_name(struct call *c, i32 dir, const char *name, i32 *out, struct stat *st)
{
	i32 exp = W.objs[dir].exp, fs = W.objs[dir].fs;
	int dotdot = name[0] == '.' && name[1] == '.' && !name[2], fd = opened_take(c), status;
	if ((name[0] == '.' && !name[1]) || (dotdot && obj_is_root(dir))) {
		*out = dir;
		return obj_stat(dir, st);
	}
	if (!by_path(exp, fs) && !dotdot && fd == NOT_OPENED && (status = find_cached(dir, name, out, st)) >= 0)
		return status;
	if (fd == NOT_OPENED)
		fd = openat(W.objs[dir].fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	else if (fd < 0)
		errno = -fd;
	if (fd < 0)
		return status_of(errno);
	if ((status = place_found(c, dir, fd, dotdot, &fs, st))) {
		close(fd);
		if (status == COVERED)
			return what_is_covered(c, dir, name, out, st);
		return status;
	}
	if (dotdot && by_path(exp, fs))
		return parent_by_path(dir, fs, fd, st, out);
	status = obj_from_fd(exp, fs, dir, fd, st, out);
	if (!status && dotdot)
		W.objs[*out].up = W.objs[dir].up - 1; /* inside() has set it */
	return status;
}

/* The cached object of a kernel handle found in directory `dir`; -1: none is. */
i32 obj_of_kernel_handle(i32 dir, const struct file_handle *h)
{
	struct kernel_handle k;
	u8 fh[FH_MAX];
	if (h->handle_bytes > MAX_HANDLE)
		return -1;
	memcpy(&k.h, h, sizeof *h + h->handle_bytes);
	return obj_find(fh, mint_kernel(&W.exps[W.objs[dir].exp], &W.fs[W.objs[dir].fs], &k, fh));
}

/* Handle and attributes of `name` without a descriptor: the length of the handle, or 0 where it takes obj_from_name() (the path
 * scheme, another mount, an error).  The two look-ups are not atomic: the caller has a way to know that no name changed. */
u8 name_to_fh(i32 dir, const char *name, u8 *fh, i32 *o, struct stat *st)
{
	struct obj *d = &W.objs[dir];
	struct kernel_handle k;
	int mntid;
	if (by_path(d->exp, d->fs) || kernel_handle_of(d->fd, name, &k, &mntid) || mntid != mount_of(&W.exps[d->exp], d->fs))
		return 0;
	u8 len = mint_kernel(&W.exps[d->exp], &W.fs[d->fs], &k, fh);
	*o = obj_find(fh, len);
	if (*o >= 0 && W.objs[*o].exp_gen == W.generation && !fd_stat(W.objs[*o].fd, st) && st->st_nlink)
		return len;
	*o = -1;
	return fstatat(d->fd, name, st, AT_SYMLINK_NOFOLLOW) || (u64)st->st_dev != W.fs[d->fs].dev ? 0 : len;
}

/* *fd is an O_PATH descriptor for a handle of the kernel scheme on `fs`, or -1 with errno.  0, V_WAITS. */
static int open_kernel_handle(struct call *c, const struct export *e, i32 fs, const u8 *fh, int *fd)
{
	int own, mntfd = mount_fd(e, fs, &own);
	*fd = -1;
	if (mntfd < 0)
		return 0;
	int status = wait_for_handle(c, fs, mntfd, fh[2], fh + 16, fh[3]);
	if (!status && (*fd = opened_take(c)) == NOT_OPENED)
		*fd = open_kernel_scheme(mntfd, fh[2], fh + 16, fh[3]);
	else if (!status && *fd < 0)
		errno = -*fd;
	int err = errno;
	if (own)
		close(mntfd);
	errno = err;
	return status;
}

/* *fd is an O_PATH descriptor of what a good handle names, or -1 with errno; *fs its file system.  0, ERR_STALE, V_*. */
static int open_by_scheme(struct call *c, const struct export *e, const u8 *fh, i32 *fs, int *fd)
{
	*fs = e->fs;
	if (fh[1] & (FH_ROOT | FH_PATH)) {
		*fd = fh[1] & FH_ROOT ? fcntl(e->rootfd, F_DUPFD_CLOEXEC, 0) : open_path_scheme(e, fh);
		return 0;
	}
	if (memcmp(W.fs[e->fs].handle_id, fh + 8, 8)) /* two copies of one file system share a UUID: the export's own first */
		*fs = fs_of_fsid(fh + 8);
	if (*fs < 0)
		return e->flags & EX_CROSSMNT ? V_FS : ERR_STALE;
	if (*fs != e->fs && !(e->flags & EX_CROSSMNT))
		return ERR_STALE;
	return open_kernel_handle(c, e, *fs, fh, fd);
}

static int open_handle(struct call *c, const u8 *fh, u32 len, i32 *out)
{
	i32 exp, fs;
	struct stat st;
	int fd, status = handle_verify(fh, len, &exp);
	if (status)
		return status;
	struct export *e = &W.exps[exp];
	if (W.root && ident_root())
		return ERR_JUKEBOX;
	if ((status = removable_attach(e)))
		return status;
	if (W.fs[e->fs].absent && !(fh[1] & FH_ROOT))
		return ERR_STALE;
	if (e->flags & EX_SUBTREE && !(fh[1] & (FH_PATH | FH_ROOT)))
		return ERR_STALE; /* from before the option: it does not tell where the object lies */
	if ((status = open_by_scheme(c, e, fh, &fs, &fd)))
		return status;
	if (fd < 0)
		return fh[1] & FH_PATH || errno == ESTALE || errno == EINVAL || errno == ENOENT ? ERR_STALE : status_of(errno);
	if (fd_stat(fd, &st) || !st.st_nlink) {
		close(fd);
		return ERR_STALE;
	}
	if (fh[1] & FH_PATH && W.fs[e->fs].dev != st.st_dev && (fs = fs_of_dev(st.st_dev)) < 0)
		fs = e->fs;
	i32 o = obj_new(fh, len);
	if (o < 0) {
		close(fd);
		return ERR_JUKEBOX;
	}
	obj_fill(o, exp, fs, fd, &st);
	*out = o;
	return 0;
}

/* The object `o` of the handle is cached: is it still what its export has?  The export is looked up again after each reload.
 * 0, nfsstat3, STRAYED: it is no more. */
static int use_cached(i32 o, const u8 *fh, u32 len)
{
	struct obj *b = &W.objs[o];
	W.row[S_FH_HITS]++;
	if (b->exp_gen != W.generation) {
		i32 e = exp_find(b->expid);
		if (e < 0 || handle_verify(fh, len, &e) || (W.exps[e].fs != b->fs && !(W.exps[e].flags & EX_CROSSMNT))) {
			obj_drop(o);
			return ERR_STALE;
		}
		b->exp = e;
		b->exp_gen = W.generation;
	}
	int status = removable_attach(&W.exps[b->exp]);
	if (status)
		return status;
	if (W.exps[b->exp].flags & EX_SUBTREE && has_strayed(&W.exps[b->exp], b->fd)) {
		obj_drop(o);
		return STRAYED;
	}
	obj_touch(o);
	return 0;
}

/* nfs_fh3 at *pp -> object.  0, nfsstat3, or V_*. */
int gate_fh(struct call *c, const u8 **pp, i32 *out)
{
	const u8 *p = *pp;
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 len = get_u32(p);
	if (len > FH_MAX || garbage(c, p + 4, (len + 3) & ~3u))
		return V_GARBAGE;
	p += 4;
	*pp = p + ((len + 3) & ~3u);
	if (!len)
		return public_root(out);
	if (len < 8 + FH_MAC)
		return ERR_BADHANDLE;
	u8 fh[FH_MAX];
	if (p[0] == 2 && len == 32) {
		int bad = fh3_of_fh2(p, fh, &len);
		if (bad)
			return bad;
		p = fh;
	}
	i32 o = obj_find(p, len);
	int status = o >= 0 ? use_cached(o, p, len) : STRAYED;
	if (status != STRAYED) {
		*out = o;
		return status;
	}
	W.row[S_FH_MISSES]++;
	status = open_handle(c, p, len, out);
	if (status == ERR_STALE)
		W.row[S_FH_STALE]++;
	return status;
}
