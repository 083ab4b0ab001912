/* removable.c: exports on a removable medium (exports(5), `removable`): it may be taken out at any time, and be absent.
 *
 * No descriptor of such a file system is kept between two batches of calls, so umount(8) finds it idle: the first call that names
 * it opens its root (removable_attach), and before the loop waits everything is closed again (vn_release_removable); what a pool
 * thread still uses goes with the next batch.  A handle of the root says only "root of this export" (FH_ROOT) and is good for
 * whatever is there, also for nothing: then an empty directory is shown, which is read-only.  Nothing is there also when all that
 * is left of the path is an empty mount point, which nobody may fill while the medium is out.  Every other handle names its medium
 * and is STALE while another or none is in.  The fsid that clients see is the export's, a hash of its path. */
#include "parts.h"
#include <dirent.h>
#include <sys/statfs.h>

/* Always there, always empty, everybody may list it: what stands for an absent medium. */
#define EMPTY "/proc/tty/ldisc"

static u32 attached, lingering;

/* The place in W.fs of a removable export: the same for one path, over all tables.  -1: there are too many. */
i32 removable_fs(const char *path)
{
	u64 key[2] = { 0x72656d6f7661626cull, 1 }, id = siphash(key, path, strlen(path));
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].removable && !memcmp(W.fs[i].fsid, &id, 8))
			return (i32)i;
	if (W.n_fs == N_FS)
		return -1;
	struct filesystem *f = &W.fs[W.n_fs];
	*f = (struct filesystem){ .mntfd = -1, .mntid = -1, .removable = 1 };
	memcpy(f->fsid, &id, 8);
	return (i32)W.n_fs++;
}

static void detach(struct export *e)
{
	struct filesystem *f = &W.fs[e->fs];
	close(f->mntfd);
	close(e->rootfd);
	f->mntfd = e->rootfd = -1;
	f->dev = 0;
	attached--;
}

/* An empty directory on which nothing is mounted. */
static int only_mount_point(int fd)
{
	struct statx sx;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) || sx.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return 0;
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	if (!d) {
		if (copy >= 0)
			close(copy);
		return 0;
	}
	while (n < 3 && readdir(d)) /* "." and ".." */
		n++;
	closedir(d);
	return n < 3;
}

/* Opens the export's root for this batch.  0 or an nfsstat3. */
int removable_attach(struct export *e)
{
	struct filesystem *f = &W.fs[e->fs];
	struct stat st;
	struct statfs sf;
	char buf[32];
	if (!(e->flags & EX_REMOVABLE) || e->rootfd >= 0)
		return 0;
	if (W.root && ident_root())
		return ERR_JUKEBOX;
	int fd = open(e->path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
	f->absent = fd < 0 || only_mount_point(fd);
	if (fd >= 0 && f->absent)
		close(fd);
	if (f->absent)
		fd = open(EMPTY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fd_stat(fd, &st) || fstatfs(fd, &sf) || (e->rootfd = openat(W.procfd, procpath(fd, buf), O_PATH | O_CLOEXEC)) < 0) {
		int err = errno;
		if (fd >= 0)
			close(fd);
		return err == EMFILE || err == ENFILE ? ERR_JUKEBOX : ERR_STALE;
	}
	f->mntfd = fd;
	f->dev = e->root_dev = st.st_dev;
	e->root_ino = st.st_ino;
	attached++;
	fs_probe(f, e->flags & EX_PATHFH);
	u64 medium[3] = { (u64)sf.f_type, fs_identity(fd, st.st_dev, &sf), 0 }, key[2] = { 0x6d656469756dull, 0 };
	memcpy(&medium[2], f->fsid, 8);
	u64 id = siphash(key, medium, sizeof medium);
	memcpy(f->handle_id, &id, 8);
	return 0;
}

/* Before the loop waits, and before a new export table.  What a pool thread uses has its own descriptor and goes later. */
void vn_release_removable(void)
{
	if (!attached && !lingering)
		return;
	lingering = 0;
	for (u32 i = 0; i < W.objs_used; i++)
		if (W.objs[i].used && W.fs[W.objs[i].fs].removable) {
			obj_drop((i32)i);
			lingering |= W.objs[i].used;
		}
	for (u32 i = 0; i < W.n_exps && attached; i++)
		if (W.exps[i].flags & EX_REMOVABLE && W.exps[i].rootfd >= 0)
			detach(&W.exps[i]);
}
