/* fs.c: the file systems that exports and objects lie on: which they are, and by which scheme their handles are made. */
#include "fh.h"
#include <sys/statfs.h>

i32 fs_of_dev(u64 dev)
{
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].dev == dev && W.fs[i].mntfd >= 0 && !W.fs[i].removable)
			return (i32)i;
	return -1;
}

/* Does a kernel handle come back as the same object here?  Only trying tells (capability, user namespace, overlay, FUSE). */
static int round_trip(int mntfd)
{
	struct kernel_handle k;
	struct stat a, b;
	int mntid, fd;
	if (kernel_handle_of(mntfd, "", &k, &mntid) || fd_stat(mntfd, &a))
		return 0;
	fd = open_by_handle_at(mntfd, &k.h, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int same = !fd_stat(fd, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
	close(fd);
	return same;
}

/* Which mount it is, and by which scheme its handles are made. */
void fs_probe(struct filesystem *f, int path_scheme)
{
	struct kernel_handle k;
	f->mntid = -1;
	kernel_handle_of(f->mntfd, "", &k, &f->mntid);
	f->path_scheme = path_scheme || !round_trip(f->mntfd);
}

/* A file system from a directory on it.  `fd` is kept.  fsid: 8 bytes or NULL (see fsid.c).  Returns its place or -errno. */
i32 fs_add(int fd, const u8 *fsid, int path_scheme)
{
	struct stat st;
	struct statfs sf;
	if (fd_stat(fd, &st) || fstatfs(fd, &sf))
		return -errno;
	i32 i = fs_of_dev(st.st_dev);
	if (i >= 0 && !fsid && W.fs[i].path_scheme >= path_scheme) {
		close(fd);
		return i;
	}
	if (i < 0) {
		for (i = 0; i < (i32)W.n_fs && (W.fs[i].mntfd >= 0 || W.fs[i].removable); i++)
			;
		if (i == N_FS)
			return -ENFILE;
		W.n_fs += i == (i32)W.n_fs;
		W.fs[i] = (struct filesystem){ .dev = st.st_dev, .mntfd = fd };
	} else if (W.fs[i].mntfd != fd) {
		close(fd);
		fd = W.fs[i].mntfd;
	}
	struct filesystem *f = &W.fs[i];
	u64 id = fs_identity(fd, st.st_dev, &sf), fixed[2] = { 0x6e66737376632d31ull, (u64)sf.f_type }, hashed = siphash(fixed, &id, 8);
	memcpy(f->fsid, fsid ? (const void *)fsid : (const void *)&hashed, 8);
	memcpy(f->handle_id, f->fsid, 8);
	fs_probe(f, path_scheme);
	return i;
}

/* The mount on which an export has its objects of `fs`: a bind mount may be read-only where the other is not. */
int mount_of(const struct export *e, i32 fs) { return fs == e->fs && e->mntid >= 0 ? e->mntid : W.fs[fs].mntid; }

/* A descriptor on that mount for open_by_handle_at(2), or -1; *own: it is to be closed. */
int mount_fd(const struct export *e, i32 fs, int *own)
{
	char buf[32];
	*own = fs == e->fs && e->mntid >= 0;
	return *own ? openat(W.procfd, procpath(e->rootfd, buf), O_RDONLY | O_NONBLOCK | O_CLOEXEC) : W.fs[fs].mntfd;
}

i32 fs_of_fsid(const u8 *fsid)
{
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].mntfd >= 0 && !memcmp(W.fs[i].handle_id, fsid, 8))
			return (i32)i;
	return -1;
}

/* Lets go of file systems that neither an export nor an object lies on, so that they can be unmounted.  How many there were. */
u32 vn_release_fs(void)
{
	u8 needed[N_FS] = { 0 };
	u32 released = 0;
	for (u32 i = 0; i < W.n_exps; i++)
		needed[W.exps[i].fs] = 1;
	for (u32 i = 0; i < W.objs_used; i++)
		if (W.objs[i].used)
			needed[W.objs[i].fs] = 1;
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].mntfd >= 0 && !W.fs[i].removable && !needed[i]) {
			close(W.fs[i].mntfd);
			W.fs[i].mntfd = -1;
			released++;
		}
	return released;
}

int fs_is_readonly(i32 o)
{
	struct statfs sf;
	return !fstatfs(W.objs[o].fd, &sf) && sf.f_flags & 1; /* ST_RDONLY */
}
