/* export.c: the table of exports.  A new one is put together beside the old one and takes its place at commit. */
#include "fh.h"

static struct export *next_exps;

static u32 next_n;

static void exp_free(struct export *e, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		if (e[i].rootfd >= 0 && !e[i].borrowed)
			close(e[i].rootfd);
		free(e[i].path);
		free(e[i].index);
	}
	free(e);
}

int exp_begin(u32 n)
{
	exp_free(next_exps, next_n);
	next_n = 0;
	next_exps = calloc(n + 1ul, sizeof *next_exps); /* one more: for objects whose export is gone */
	return next_exps ? 0 : ENOMEM;
}

/* The -index file of the export that was put last.  0 or an errno. */
int exp_index(const char *name)
{
	struct export *e = next_n ? &next_exps[next_n - 1] : NULL;
	if (!e)
		return EINVAL;
	e->index = strdup(name);
	return e->index ? 0 : ENOMEM;
}

/* Nothing is opened, nor need anything be there. */
static int put_removable(u32 id, u32 flags, const char *path, u64 salt, u32 row)
{
	i32 fs = removable_fs(path);
	char *copy = strdup(path);
	if (fs < 0 || !copy) {
		free(copy);
		return fs < 0 ? ENFILE : ENOMEM;
	}
	next_exps[next_n++] = (struct export){ .id = id, .flags = flags, .fs = fs, .rootfd = -1, .mntid = -1, .salt = salt, .row = row,
					       .path = copy, .is_dir = 1 };
	return 0;
}

/* Where descriptors have run out objects make room: an export that is left out is gone for its clients. */
static int open_root(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC), err = errno;
	for (int i = 0; fd < 0 && (err == EMFILE || err == ENFILE) && i < MIN_OBJS && obj_drop_oldest(); i++) {
		fd = open(path, flags | O_CLOEXEC);
		err = errno;
	}
	errno = err;
	return fd;
}

static int mount_at(int fd)
{
	struct kernel_handle k;
	int mntid = -1;
	kernel_handle_of(fd, "", &k, &mntid);
	return mntid;
}

/* A root that stands keeps its descriptor: two tables of 10,000 exports would not fit into 20,000 files. */
static void keep_root(struct export *e)
{
	i32 place = exp_find(e->id);
	const struct export *old = place < 0 ? NULL : &W.exps[place];
	if (!old || old->flags & EX_REMOVABLE || old->rootfd < 0)
		return;
	e->borrowed = old->root_dev == e->root_dev && old->root_ino == e->root_ino && mount_of(old, old->fs) == mount_of(e, e->fs);
	e->moved = !e->borrowed;
	if (e->borrowed) {
		close(e->rootfd);
		e->rootfd = old->rootfd;
	}
}

/* Opens an export's path twice: *fd as what it is (O_PATH), *dirfd so that handles can be opened by it.  0 or an errno. */
static int open_export(const char *path, u32 flags, int *fd, int *dirfd, struct stat *st)
{
	if ((*fd = open_root(path, O_PATH)) < 0)
		return errno;
	int err = fd_stat(*fd, st) ? errno : 0;
	if (!err) {
		while (W.n_objs - W.n_lent > objs_allowed(next_n) && obj_drop_oldest())
			;
		int is_dir = S_ISDIR(st->st_mode);
		if (!is_dir && !(S_ISREG(st->st_mode) && flags & EX_REGULAR))
			err = EINVAL; /* nfssvc(2): not a directory */
		else if ((*dirfd = open_root(path, (is_dir ? O_DIRECTORY : 0) | O_RDONLY | O_NONBLOCK)) < 0)
			err = errno;
	}
	if (err)
		close(*fd);
	return err;
}

/* Must be called in ascending order of ids.  Returns 0 or an errno (the export is left out). */
int exp_put(u32 id, u32 flags, const char *path, const u8 *fsid, u64 salt, u32 row)
{
	struct stat st;
	if (W.root)
		ident_root();
	if (flags & EX_REMOVABLE)
		return put_removable(id, flags, path, salt, row);
	int fd, dirfd, err = open_export(path, flags, &fd, &dirfd, &st);
	if (err)
		return err;
	i32 fs = fs_add(dirfd, fsid, !!(flags & EX_PATHFH));
	if (fs < 0) {
		close(fd);
		close(dirfd);
		return -fs;
	}
	char *copy = strdup(path);
	if (!copy) {
		close(fd);
		return ENOMEM;
	}
	struct export *e = &next_exps[next_n++];
	*e = (struct export){ .id = id, .flags = flags, .fs = fs, .rootfd = fd, .mntid = mount_at(fd), .root_dev = st.st_dev,
			      .root_ino = st.st_ino, .salt = salt, .row = row, .path = copy, .is_dir = S_ISDIR(st.st_mode) };
	if (e->mntid == W.fs[fs].mntid)
		e->mntid = -1;
	keep_root(e);
	return 0;
}

/* Objects that use a descriptor which goes with the old table have it for themselves: calls in the pool may be under way with it. */
static void keep_lent(void)
{
	for (u32 i = 0; i < W.objs_used; i++) {
		struct export *e = &W.exps[W.objs[i].exp];
		if (W.objs[i].used && W.objs[i].lent && e->rootfd >= 0) {
			obj_keep_fd((i32)i, e->rootfd);
			e->rootfd = -1;
		}
	}
}

/* Places in the table are another's now.  An object whose export went, or is on another mount, goes, too; a call in the pool may still
 * answer with its attributes, for which there is an empty export behind the last one.  Rights under the new export are the gate's to
 * look at. */
static void obj_move(i32 o)
{
	struct obj *b = &W.objs[o];
	b->exp = exp_find(b->expid);
	if (b->exp >= 0 && !W.exps[b->exp].moved) {
		W.exps[b->exp].lent |= b->lent;
		return;
	}
	if (b->exp < 0)
		b->exp = (i32)W.n_exps;
	obj_retire(o);
}

void exp_commit(u32 generation)
{
	vn_release_removable();
	for (u32 i = 0; i < next_n; i++)
		if (next_exps[i].borrowed) {
			W.exps[exp_find(next_exps[i].id)].rootfd = -1;
			next_exps[i].borrowed = 0;
		}
	keep_lent();
	exp_free(W.exps, W.n_exps);
	W.exps = next_exps;
	W.n_exps = next_n;
	next_exps = NULL;
	next_n = 0;
	W.generation = generation;
	W.row[S_GENERATION] = generation;
	vn_forget_grants();
	for (u32 i = 0; i < W.objs_used; i++)
		if (W.objs[i].used)
			obj_move((i32)i);
}

/* The export's row in the shared table of statistics, the same in all workers.  N_EXPORTS - 1 stands for those that found no place. */
u32 exp_row(u32 expid)
{
	_Atomic u64 *table = (_Atomic u64 *)(W.state + OFF_EXPORTS / 8);
	for (u32 i = 0; i < N_EXPORTS - 1; i++) {
		u32 row = (u32)((expid + (u64)i) % (N_EXPORTS - 1));
		u64 seen = 0;
		if (atomic_compare_exchange_strong(&table[(u64)row * EXPORT_WORDS], &seen, expid) || seen == expid)
			return row;
	}
	return N_EXPORTS - 1;
}
