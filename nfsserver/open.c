/* open.c: descriptors for reading and writing, opened as the caller and kept with the object. */
#include "parts.h"

/* The owner's override without root: it takes a moment in which he has the right; the file is his and this process is he.  One
 * worker at a time, so that each finds the mode that it has to put back; what a local process sets meanwhile stands.  Not where
 * chmod(2) would take the setgid bit of a group that is not ours. */
static int open_as_owner(int fd, int writing, int flags)
{
	char buf[32];
	const char *path = procpath(fd, buf);
	struct stat st, now;
	shared_lock *lock = users_lock();
	int got = openat(W.procfd, path, flags), e = errno;
	mode_t right = writing ? S_IWUSR : S_IRUSR;
	if (got < 0 && e == EACCES && !fd_stat(fd, &st) && !(st.st_mode & S_ISGID) && !fchmodat(W.procfd, path, (st.st_mode & 07777) | right, 0)) {
		got = openat(W.procfd, path, flags);
		e = errno;
		if (fd_stat(fd, &now) || (now.st_mode == (st.st_mode | right) && fchmodat(W.procfd, path, st.st_mode & 07777, 0))) {
			e = errno; /* it has rights that nobody gave it: at least nothing is done under them */
			if (got >= 0)
				close(got);
			got = -1;
		}
	}
	shared_unlock(lock);
	errno = e;
	return got;
}

/* Was the file made immutable or append-only since the descriptor was opened?  The kernel looks at that when it opens a file, and
 * knfsd opens for each WRITE.  What the attributes were at a ctime holds until the next; our own writes carry it on (vn_write). */
static int sealed(struct obj *b, const struct stat *st)
{
	struct statx sx;
	u64 ctime = ns_of(&st->st_ctim);
	if (b->unsealed == ctime && b->unsealed_s == W.now_s)
		return 0;
	if (statx(b->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) || sx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
		return 1;
	b->unsealed = ctime;
	b->unsealed_s = W.now_s;
	return 0;
}

/* A WRITE of ours took the ctime from one to the other, under the file's lock. */
void obj_written(i32 o, const struct stat *pre, const struct stat *post)
{
	struct obj *b = &W.objs[o];
	u64 from = ns_of(&pre->st_ctim), to = ns_of(&post->st_ctim);
	int same = pre->st_mode == post->st_mode && pre->st_uid == post->st_uid && pre->st_gid == post->st_gid;
	if (b->unsealed == from)
		b->unsealed = to;
	if (!same || b->written_to != from)
		b->written_from = same ? from : to;
	b->written_to = to;
}

/* May the caller open o, an owner of a file being one who may?  0 or nfsstat3. */
static int may_open(struct call *c, i32 o, int writing, int owner, const struct stat *st)
{
	int ok = owner ? 1 : may(c, o, st, writing ? W_OK : R_OK);
	if (!ok && !writing && S_ISREG(st->st_mode))
		ok = may(c, o, st, X_OK);
	if (ok < 1)
		return ok ? status_of(errno) : ERR_ACCES;
	return 0;
}

/* As this process, for a caller who is allowed to by the rules above but not by the kernel's; under his identity again at the end.
 * -1: errno. */
static int open_as_root(const struct call *c, const char *path, int flags)
{
	if (ident_root()) {
		errno = EAGAIN;
		return -1;
	}
	int fd = openat(W.procfd, path, flags), err = errno;
	if (ident_become(c->ident)) {
		if (fd >= 0)
			close(fd);
		fd = -1;
		err = EAGAIN;
	}
	errno = err;
	return fd;
}

/* Opens o as the caller, or for him.  -1: errno, EAGAIN for want of an identity. */
static int open_for(const struct call *c, i32 o, int writing, int owner, int flags)
{
	char buf[32];
	const char *path = procpath(W.objs[o].fd, buf);
	if (ident_become(c->ident)) {
		errno = EAGAIN;
		return -1;
	}
	int fd = openat(W.procfd, path, flags);
	if (fd < 0 && errno == EACCES && W.root)
		return open_as_root(c, path, flags);
	if (fd < 0 && errno == EACCES && owner)
		return open_as_owner(W.objs[o].fd, writing, flags);
	return fd;
}

/* A data descriptor of a regular file or directory for the caller.  Rights first, then the cached one or a new one.
 * The owner may read and write his file whatever its mode (clients check at open; RFC 1813 section 4.4); who may execute may read.
 * *attributes are those from before.  0, nfsstat3. */
int obj_open(struct call *c, i32 o, int writing, int *fd, struct stat *attributes)
{
	struct obj *b = &W.objs[o];
	struct stat *st = attributes;
	int status = obj_stat(o, st);
	if (status)
		return status;
	int owner = st->st_uid == W.idents[c->ident].uid && S_ISREG(st->st_mode);
	if ((status = may_open(c, o, writing, owner, st)))
		return status;
	int *place = writing ? &b->wfd : &b->rfd;
	if (*place >= 0) {
		*fd = *place;
		return writing && sealed(b, st) ? ERR_PERM : 0;
	}
	spare_data();
	int flags = (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (S_ISDIR(st->st_mode) ? O_DIRECTORY : 0);
	int got = open_for(c, o, writing, owner, flags);
	if (got < 0)
		return status_of(errno);
	*fd = *place = got;
	W.row[writing ? S_FDS_WRITE : S_FDS_READ]++;
	return 0;
}
