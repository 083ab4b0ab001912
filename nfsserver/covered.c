/* covered.c: the directory under a mount point, which is what an export shows there that does not cross into other file systems.
 *
 * A path always ends in what is mounted; open_by_handle_at(2) does not.  The inode number of what is covered stands in the directory that
 * the mount point lies in, and its handle is that directory's with this number and a generation of 0, which ext2 to ext4 and btrfs take
 * for any (their *_nfs_get_inode).  Where that does not work (other file systems, no capability) nothing is shown. */
#include "fh.h"

#define ROOM 32768

/* The inode number that `name` has in the list of an open directory.  0: it is not there. */
static u64 number_in(int list, const char *name)
{
	u8 *room = malloc(ROOM);
	u64 found = 0;
	for (long n; room && !found && (n = syscall(SYS_getdents64, list, room, ROOM)) > 0;)
		for (long pos = 0; pos < n && !found;) {
			const struct linux_dirent *e = (const void *)(room + pos);
			pos += e->len;
			found = strcmp(e->name, name) ? 0 : e->ino;
		}
	free(room);
	return found;
}

/* Makes the handle of a directory one of another object of the same file system.  0, or -1: not of this kind. */
static int renumber(struct kernel_handle *k, u64 ino)
{
	u32 small = (u32)ino;
	if (k->h.handle_type == 1 && k->h.handle_bytes == 8 && ino == small) { /* FILEID_INO32_GEN: number, generation */
		memcpy(k->h.f_handle, &small, 4);
		memset(k->h.f_handle + 4, 0, 4);
		return 0;
	}
	if (k->h.handle_type == 0x4d && k->h.handle_bytes == 20) { /* FILEID_BTRFS_WITHOUT_PARENT: number, subvolume, generation */
		memcpy(k->h.f_handle, &ino, 8);
		memset(k->h.f_handle + 16, 0, 4);
		return 0;
	}
	return -1;
}

/* Opens what `name` in directory object `dir` stands for on the directory's own file system, O_PATH; -1: it cannot be told.  As root. */
int open_covered(i32 dir, const char *name, struct stat *st)
{
	const struct obj *d = &W.objs[dir];
	struct kernel_handle k;
	int mntid, own, fd = -1, list = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	u64 ino = list < 0 ? 0 : number_in(list, name);
	if (list >= 0)
		close(list);
	int mnt = ino ? mount_fd(&W.exps[d->exp], d->fs, &own) : -1;
	if (mnt >= 0 && !kernel_handle_of(d->fd, "", &k, &mntid) && !renumber(&k, ino))
		fd = open_kernel_scheme(mnt, (u32)k.h.handle_type, k.h.f_handle, k.h.handle_bytes);
	if (mnt >= 0 && own)
		close(mnt);
	if (fd >= 0 && (fd_stat(fd, st) || st->st_ino != ino || (u64)st->st_dev != W.fs[d->fs].dev || !st->st_nlink)) {
		close(fd);
		return -1;
	}
	return fd;
}
