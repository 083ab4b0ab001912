/* path.c: handles by the path scheme, and where an object lies below its export's root.
 *
 * The path scheme serves where kernel handles do not work (no capability, user namespace, overlay): each chain byte is a hash of
 * one component's inode on the way from the export's root, as unfsd does it; `proof` is a hash of the kernel handle, or of the
 * birth time where there is none, so that a reused inode number is STALE.
 */
#include "fh.h"
#include <dirent.h>

u8 chain_byte(u64 ino)
{
	u64 fixed[2] = { 0x636861696e, 0 };
	return (u8)siphash(fixed, &ino, 8);
}

/* What tells an inode from a later one of the same number: its kernel handle, or its birth time. */
static u32 proof_of(int fd, const struct stat *st)
{
	struct kernel_handle k;
	struct statx sx;
	int mntid;
	u64 fixed[2] = { 0x70726f6f66, st->st_dev };
	if (!kernel_handle_of(fd, "", &k, &mntid))
		return (u32)siphash(fixed, k.h.f_handle, k.h.handle_bytes);
	u64 birth[2] = { 0, 0 };
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) && sx.stx_mask & STATX_BTIME) {
		birth[0] = (u64)sx.stx_btime.tv_sec;
		birth[1] = sx.stx_btime.tv_nsec;
	}
	return (u32)siphash(fixed, birth, sizeof birth);
}

u8 mint_path(const struct export *e, const u8 *chain, u32 depth, int fd, const struct stat *st, u8 *fh)
{
	u32 proof = proof_of(fd, st);
	size_t n = handle_head(fh, 1, FH_PATH | (e->salt ? FH_PASSWORD : 0), depth, 12 + depth, e->id);
	u64 ino = st->st_ino;
	memcpy(fh + n, &proof, 4);
	memcpy(fh + n + 4, &ino, 8);
	memcpy(fh + n + 12, chain, depth);
	n += 12 + depth;
	handle_seal(fh, n, e->salt);
	return (u8)(n + FH_MAC);
}

#define GONE " (deleted)" /* what proc(5) adds to a name that was removed; a name may end so, too */

/* subtree_check: is the object still below the export's root?  Its handle is one of the path scheme, so its descriptor came from a
 * walk and proc(5) knows its path, which a kernel handle's need not.  When this says that it is not, another walk has to tell. */
int has_strayed(const struct export *e, int fd)
{
	char buf[32], root[4097], path[4097];
	ssize_t n = readlinkat(W.procfd, procpath(e->rootfd, buf), root, sizeof root);
	ssize_t m = readlinkat(W.procfd, procpath(fd, buf), path, sizeof path);
	if (n <= 0 || m <= 0 || n == sizeof root || m == sizeof path)
		return 1;
	if (n == 1) /* "/" */
		return 0;
	if (m > (ssize_t)sizeof GONE && !memcmp(path + m - (sizeof GONE - 1), GONE, sizeof GONE - 1))
		return 1;
	return m < n || memcmp(root, path, (size_t)n) || (m > n && path[n] != '/');
}

int is_export_root(i32 exp, const struct stat *st)
{
	return st->st_dev == W.exps[exp].root_dev && st->st_ino == W.exps[exp].root_ino;
}

#define MAX_CLIMB 4096 /* levels: PATH_MAX of one-letter names is half of it */

/* Climbs from directory `fd` to the export's root.  The number of steps, or -1: it is not inside.  The bytes of the first MAX_DEPTH
 * steps go to `up`, the lowest first. */
int climb_to_root(i32 exp, int fd, u8 up[MAX_DEPTH])
{
	struct stat st, above;
	int at = fcntl(fd, F_DUPFD_CLOEXEC, 0), depth = -1, more = at >= 0 && !fd_stat(at, &st);
	for (int i = 0; more && i < MAX_CLIMB; i++, st = above) {
		if (is_export_root(exp, &st)) {
			depth = i;
			break;
		}
		if (i < (int)MAX_DEPTH)
			up[i] = chain_byte(st.st_ino);
		int next = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			break;
		close(at);
		at = next;
		more = !fd_stat(at, &above) && (above.st_dev != st.st_dev || above.st_ino != st.st_ino);
	}
	if (at >= 0)
		close(at);
	return depth;
}

#define HOP 1024 /* steps of one path: 3 bytes each, and PATH_MAX is 4096 */

/* Is what lies `steps` above directory `fd` the export's root?  1,000 steps of one path take 20 us where a climb takes 1 ms. */
int is_root_above(i32 exp, int fd, u32 steps)
{
	static char ups[3 * HOP + 1];
	struct stat st;
	int at = fd;
	if (!ups[0])
		for (u32 i = 0; i < HOP; i++)
			memcpy(ups + 3 * i, "../", 3);
	for (u32 n; at >= 0 && steps; steps -= n) {
		n = steps < HOP ? steps : HOP;
		int next = openat(at, ups + 3 * (HOP - n), O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (at != fd)
			close(at);
		at = next;
	}
	int found = at >= 0 && !fd_stat(at, &st) && is_export_root(exp, &st);
	if (at >= 0 && at != fd)
		close(at);
	return found;
}

/* The chain of directory object `dir`: what its handle says, or, where that is the kernel's, found by climbing.  -1: too deep. */
int chain_of(i32 dir, u8 chain[MAX_DEPTH])
{
	const struct obj *d = &W.objs[dir];
	u8 up[MAX_DEPTH];
	int depth = d->fh[1] & FH_PATH ? d->fh[2] : climb_to_root(d->exp, d->fd, up);
	if (depth < 0 || depth > (int)MAX_DEPTH)
		return -1;
	for (int i = 0; i < depth; i++)
		chain[i] = d->fh[1] & FH_PATH ? d->fh[20 + i] : up[depth - 1 - i];
	return depth;
}

/* Walks the chain of the path scheme below `at` (taken).  Returns an O_PATH descriptor or -1. */
static int walk(const struct export *e, int at, const u8 *chain, u32 depth, u64 ino, u32 proof)
{
	struct stat st;
	if (!depth) {
		if (!fd_stat(at, &st) && st.st_ino == ino && proof_of(at, &st) == proof)
			return at;
		close(at);
		return -1;
	}
	char buf[32];
	int list = openat(W.procfd, procpath(at, buf), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC), found = -1;
	u8 *room = list < 0 ? NULL : malloc(32768);
	for (long n; found < 0 && room && (n = syscall(SYS_getdents64, list, room, 32768)) > 0;)
		for (long pos = 0; found < 0 && pos < n;) {
			struct linux_dirent *d = (void *)(room + pos);
			pos += d->len;
			if (d->name[0] == '.' && (!d->name[1] || (d->name[1] == '.' && !d->name[2])))
				continue;
			int maybe_mount = d->type == DT_DIR && e->flags & EX_CROSSMNT;
			if (chain_byte(d->ino) != chain[0] && !maybe_mount)
				continue;
			if (depth > 1 && d->type != DT_DIR && d->type != DT_UNKNOWN)
				continue;
			int next = openat(at, d->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			if (next < 0)
				continue;
			if (fd_stat(next, &st) || chain_byte(st.st_ino) != chain[0]
			    || (st.st_dev != e->root_dev && !(e->flags & EX_CROSSMNT)))
				close(next);
			else
				found = walk(e, next, chain + 1, depth - 1, ino, proof);
		}
	free(room);
	if (list >= 0)
		close(list);
	close(at);
	return found;
}

/* -b of unfsd: every directory of the file system below the export's root, for an object that moved. */
static int search_all(const struct export *e, int at, u64 ino, u32 proof, int depth)
{
	char buf[32];
	struct stat st;
	int list = openat(W.procfd, procpath(at, buf), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC), found = -1;
	u8 *room = list < 0 || depth > 128 ? NULL : malloc(32768); /* 128 levels: descriptors stay open on the way down */
	for (long n; found < 0 && room && (n = syscall(SYS_getdents64, list, room, 32768)) > 0;)
		for (long pos = 0; found < 0 && pos < n;) {
			struct linux_dirent *d = (void *)(room + pos);
			pos += d->len;
			if ((d->name[0] == '.' && (!d->name[1] || (d->name[1] == '.' && !d->name[2])))
			    || (d->ino != ino && d->type != DT_DIR && d->type != DT_UNKNOWN))
				continue;
			int next = openat(at, d->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			if (next < 0)
				continue;
			int known = !fd_stat(next, &st);
			if (known && st.st_ino == ino && proof_of(next, &st) == proof)
				found = next;
			else if (known && S_ISDIR(st.st_mode) && st.st_dev == e->root_dev)
				found = search_all(e, next, ino, proof, depth + 1);
			if (found != next)
				close(next);
		}
	free(room);
	if (list >= 0)
		close(list);
	return found;
}

int open_path_scheme(const struct export *e, const u8 *fh)
{
	u32 proof;
	u64 ino;
	memcpy(&proof, fh + 8, 4);
	memcpy(&ino, fh + 12, 8);
	int fd = walk(e, fcntl(e->rootfd, F_DUPFD_CLOEXEC, 0), fh + 20, fh[2], ino, proof);
	if (fd < 0 && e->flags & EX_BRUTEFORCE)
		fd = search_all(e, e->rootfd, ino, proof, 0);
	return fd;
}
