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

/* A data descriptor of a regular file or directory for the caller.  Rights first, then the cached one or a new one.
 * The owner may read and write his file whatever its mode (clients check at open; RFC 1813 section 4.4); who may execute may read.
 * *attributes are those from before.  0, nfsstat3. */
int obj_open(struct call *c, i32 o, int writing, int *fd, struct stat *attributes)
{
	struct obj *b = &W.objs[o];
	struct stat st;
	char buf[32];
	int status = obj_stat(o, &st);
	if (status)
		return status;
	*attributes = st;
	u32 uid = W.idents[c->ident].uid;
	int owner = st.st_uid == uid && S_ISREG(st.st_mode);
	int ok = owner ? 1 : may(c, o, &st, writing ? W_OK : R_OK);
	if (!ok && !writing && S_ISREG(st.st_mode))
		ok = may(c, o, &st, X_OK);
	if (ok < 1)
		return ok ? status_of(errno) : ERR_ACCES;
	int *place = writing ? &b->wfd : &b->rfd;
	if (*place >= 0) {
		*fd = *place;
		return writing && sealed(b, &st) ? ERR_PERM : 0;
	}
	spare_data();
	int flags = (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0);
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	int got = openat(W.procfd, procpath(b->fd, buf), flags);
	if (got < 0 && errno == EACCES && W.root) { /* the owner's override, or an executable: allowed above */
		if (ident_root())
			return ERR_JUKEBOX;
		got = openat(W.procfd, procpath(b->fd, buf), flags);
		int e = errno;
		if (ident_become(c->ident)) {
			if (got >= 0)
				close(got);
			return ERR_JUKEBOX;
		}
		errno = e;
	} else if (got < 0 && errno == EACCES && owner) {
		got = open_as_owner(b->fd, writing, flags);
	}
	if (got < 0) {
		if (errno == EMFILE || errno == ENFILE)
			return ERR_JUKEBOX;
		return status_of(errno);
	}
	*fd = *place = got;
	W.row[writing ? S_FDS_WRITE : S_FDS_READ]++;
	return 0;
}
