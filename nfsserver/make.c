/* make.c: CREATE, MKDIR, SYMLINK, MKNOD.  RFC 1813 section 3.3. */
#include "parts.h"
#include <sys/sysmacros.h>

/* ---- Making objects.  All of CREATE3res, MKDIR3res, SYMLINK3res, MKNOD3res have the same shape:
 * status, post_op_fh3, post_op_attr, wcc_data of the directory.  Who sends no mode gets 0, as from a kernel server: no right
 * that nobody asked for. */

static int reply_made(struct call *c, struct change *ch, i32 o, int extra_sync)
{
	struct stat st;
	struct durable sync;
	struct call *d;
	int has = o >= 0 && !fd_stat(W.objs[o].fd, &st), status;
	if ((status = durable_open(c, ch->dir, extra_sync ? o : -1, 4 + 4 + FH3 + POST + WCC, &sync, &d)))
		return status;
	put_u32(d, OK);
	put_u32(d, has);
	if (has)
		put_fh(d, o);
	put_post_op(d, o, has ? &st : NULL);
	put_change(d, ch);
	if (sync.waits)
		d->obj2 = o; /* stays while its descriptor is used */
	return durable_close(d, &sync);
}

/* The mode of a new object: what its directory's default ACL left of the permissions stands (chmod(2) would open them again), the
 * setuid, setgid and sticky bits may be missing; setgid also comes from the directory. */
static void special_bits(i32 o, struct sattr *s)
{
	struct stat st;
	if (!s->set_mode || !(s->mode & 07000) || fd_stat(W.objs[o].fd, &st)) {
		s->set_mode = 0;
		return;
	}
	u32 special = (s->mode & 07000) | (S_ISDIR(st.st_mode) ? st.st_mode & 02000 : 0);
	s->set_mode = special != (st.st_mode & 07000);
	s->mode = (st.st_mode & 0777) | special;
}

/* Attributes of a new object.  As a kernel server does: who may not give a file away keeps it. */
static int dress(struct call *c, i32 o, struct sattr *s, int *changed)
{
	*changed = s->set_uid || s->set_gid || s->atime || s->mtime || (s->set_size && s->size);
	if (o < 0)
		return *changed ? ERR_JUKEBOX : 0;
	if (s->set_uid || s->set_gid) {
		struct sattr own = { .set_uid = s->set_uid, .uid = s->uid, .set_gid = s->set_gid, .gid = s->gid };
		int status = apply_sattr(c, o, &own);
		if (status && status != ERR_PERM)
			return status;
		s->set_uid = s->set_gid = 0;
	}
	special_bits(o, s); /* last: the change of owner has cleared some */
	*changed |= s->set_mode;
	return apply_sattr(c, o, s);
}

/* An O_PATH descriptor of the file that fd, just made as `name`, is open on, and its attributes; or -errno.  By its name, as long as
 * that is still its own: proc(5) costs twice as much. */
static int path_of(i32 dir, const char *name, int fd, struct stat *st)
{
	struct stat own;
	char buf[32];
	int path = openat(W.objs[dir].fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd_stat(fd, &own)) {
		int err = errno;
		if (path >= 0)
			close(path);
		return -err;
	}
	if (path >= 0 && !fd_stat(path, st) && st->st_dev == own.st_dev && st->st_ino == own.st_ino)
		return path;
	if (path >= 0)
		close(path);
	*st = own;
	path = openat(W.procfd, procpath(fd, buf), O_PATH | O_CLOEXEC);
	return path < 0 ? -errno : path;
}

/* The object of the file that was made as `name`, through its own descriptor `fd`, which is taken: for writing, or, when there is no
 * other, as what the object is known by. */
static int made_object(i32 dir, const char *name, int fd, i32 *o)
{
	struct stat st;
	int path = path_of(dir, name, fd, &st);
	if (path < 0 && fd_stat(fd, &st)) {
		int err = errno;
		close(fd);
		return status_of(err);
	}
	int status = obj_from_fd(W.objs[dir].exp, W.objs[dir].fs, dir, path < 0 ? fd : path, &st, o);
	if (path < 0)
		return status;
	if (status || W.objs[*o].wfd >= 0 || W.row[S_FDS_READ] + W.row[S_FDS_WRITE] >= W.max_data) {
		close(fd);
		return status;
	}
	W.objs[*o].wfd = fd;
	W.row[S_FDS_WRITE]++;
	return 0;
}

/* 62 bits that only this server can make of (verifier, name of the file): kept in the seconds of atime and mtime, so that they
 * survive a restart and a local touch(1) cannot make another's (attacks.md D13, unfsd's BUGS). */
static void exclusive_times(i32 dir, const struct stat *st, const u8 verf[8], struct timespec t[2])
{
	u64 in[4] = { 0, st->st_ino, 0, 0 };
	memcpy(&in[0], W.fs[W.objs[dir].fs].fsid, 8);
	memcpy(&in[2], verf, 8);
	u64 key[2] = { W.key[0] ^ 0x6578636cu, W.key[1] }, mac = siphash(key, in, sizeof in);
	t[0] = (struct timespec){ (time_t)(mac & 0x7fffffff), 0 };
	t[1] = (struct timespec){ (time_t)(mac >> 32 & 0x7fffffff), 0 };
}

static int same_exclusive(i32 dir, const struct stat *st, const u8 verf[8])
{
	struct timespec t[2];
	exclusive_times(dir, st, verf, t);
	return S_ISREG(st->st_mode) && !st->st_size && st->st_atim.tv_sec == t[0].tv_sec && st->st_mtim.tv_sec == t[1].tv_sec
	       && !st->st_mtim.tv_nsec && !st->st_atim.tv_nsec;
}

/* CREATE of a name that is there.  UNCHECKED gives what it finds, of whatever type, as a kernel server does: a client that takes the name
 * for absent asks with CREATE alone, and open(2) then works on a FIFO, and says EISDIR or ELOOP rather than EEXIST. */
static int create_existing(struct call *c, struct change *ch, const char *name, u32 how, const struct sattr *s, const u8 *verf)
{
	struct stat st;
	i32 o;
	int status = how == 1 ? ERR_EXIST : obj_from_name(c, ch->dir, name, &o, &st);
	if (!status && how == 2 && !same_exclusive(ch->dir, &st, verf))
		status = ERR_EXIST;
	int cut = !status && how == 0 && s->set_size && S_ISREG(st.st_mode);
	if (cut) {
		struct sattr size = { .set_size = 1, .size = s->size };
		status = apply_sattr(c, o, &size);
	}
	change_end(ch);
	return status ? change_fail(c, ch, (u32)status) : reply_made(c, ch, o, cut);
}

int vn_create(struct call *c)
{
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	const u8 *p = c->arg, *verf = NULL;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0;
	if (bad == V_GARBAGE || garbage(c, p, 4) || get_u32(p) > 2)
		return V_GARBAGE;
	u32 how = get_u32(p);
	p += 4;
	int status = 0;
	if (how == 2) {
		if (garbage(c, p, 8))
			return V_GARBAGE;
		verf = p;
	} else if ((status = get_sattr(c, &p, &s)) == V_GARBAGE) {
		return V_GARBAGE;
	}
	if (bad || status || (status = name_ready(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	if (s.set_size && s.size > INT64_MAX)
		return ERR_FBIG; /* before there is a file */
	change_begin(&ch, dir);
	note_name(c, dir, name);
	int fd = openat(W.objs[dir].fd, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
			s.mode & 0777);
	struct stat st;
	int again = fd < 0 && errno == EEXIST && was_absent(c);
	if (fd < 0 && errno == EEXIST && !again)
		return create_existing(c, &ch, name, how, &s, verf);
	if (again)
		status = (status = obj_from_name(c, dir, name, &o, &st)) ? status : S_ISREG(st.st_mode) ? 0 : ERR_EXIST;
	else
		status = fd < 0 ? status_of(errno) : made_object(dir, name, fd, &o);
	if (!status && how == 2) {
		struct timespec t[2];
		if (fd_stat(W.objs[o].fd, &st))
			status = status_of(errno);
		else {
			exclusive_times(dir, &st, verf, t);
			status = utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? status_of(errno) : 0;
		}
		changed = 1;
	} else if (!status) {
		status = dress(c, o, &s, &changed);
	}
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}

/* After the system call that makes an object of a name: its object, or why not.  Made it is, also when there is no descriptor to name it
 * by just now (*o -1): the answer has no handle then, and the client looks it up.  What another has put there since is not dressed. */
static int made_status(struct call *c, int failed, i32 dir, const char *name, mode_t type, i32 *o)
{
	struct stat st;
	if (failed && !(errno == EEXIST && was_absent(c)))
		return status_of(errno);
	int status = obj_from_name(c, dir, name, o, &st);
	if (status == ERR_JUKEBOX && !failed) {
		*o = -1;
		return 0;
	}
	return status ? status : (st.st_mode & S_IFMT) == type ? 0 : failed ? ERR_EXIST : ERR_STALE;
}

int vn_mkdir(struct call *c)
{
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0, status;
	if (bad == V_GARBAGE || (status = get_sattr(c, &p, &s)) == V_GARBAGE)
		return V_GARBAGE;
	if (bad || status || (status = name_ready(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_size = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, mkdirat(W.objs[dir].fd, name, s.mode & 01777), dir, name, S_IFDIR, &o);
	if (!status)
		status = dress(c, o, &s, &changed);
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}

int vn_symlink(struct call *c)
{
	char name[256], target[4097];
	struct sattr s = { 0 };
	struct change ch;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0, status;
	if (bad == V_GARBAGE || (status = get_sattr(c, &p, &s)) == V_GARBAGE || garbage(c, p, 4))
		return V_GARBAGE;
	u32 n = get_u32(p);
	if (garbage(c, p + 4, ((size_t)n + 3) & ~3ul))
		return V_GARBAGE;
	if (bad || status)
		return bad ? bad : status;
	if (n > 4095)
		return ERR_NAMETOOLONG;
	if (!n || memchr(p + 4, 0, n))
		return ERR_INVAL;
	memcpy(target, p + 4, n);
	target[n] = 0;
	if ((status = name_ready(c, dir, name, 1)))
		return status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_mode = s.set_size = 0; /* a symbolic link has neither */
	s.mode = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, symlinkat(target, W.objs[dir].fd, name), dir, name, S_IFLNK, &o);
	if (!status) {
		status = dress(c, o, &(struct sattr){ .set_uid = s.set_uid, .uid = s.uid, .set_gid = s.set_gid, .gid = s.gid }, &changed);
		if (status == ERR_NOTSUPP)
			status = 0; /* the mode that dress() sets again */
		changed |= s.atime || s.mtime;
		if (!status && (s.atime || s.mtime))
			status = o < 0 ? ERR_JUKEBOX : apply_sattr(c, o, &(struct sattr){ .atime = s.atime, .mtime = s.mtime, .at = s.at, .mt = s.mt });
	}
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}

int vn_mknod(struct call *c)
{
	static const mode_t kinds[8] = { [3] = S_IFBLK, [4] = S_IFCHR, [6] = S_IFSOCK, [7] = S_IFIFO };
	char name[256];
	struct sattr s = { 0 };
	struct change ch;
	const u8 *p = c->arg;
	i32 dir = c->obj, o = -1;
	int bad = get_name(c, &p, name), changed = 0, status = 0;
	if (bad == V_GARBAGE || garbage(c, p, 4))
		return V_GARBAGE;
	u32 type = get_u32(p);
	dev_t dev = 0;
	p += 4;
	if (type < 1 || type > 7)
		return V_GARBAGE;
	if (kinds[type]) {
		if ((status = get_sattr(c, &p, &s)) == V_GARBAGE)
			return V_GARBAGE;
		if (type == 3 || type == 4) {
			if (garbage(c, p, 8))
				return V_GARBAGE;
			dev = makedev(get_u32(p), get_u32(p + 4));
		}
	} else {
		status = ERR_BADTYPE;
	}
	if (bad || status || (status = name_ready(c, dir, name, 1)))
		return bad ? bad : status;
	if (is_dots(name))
		return ERR_EXIST;
	s.set_size = 0;
	change_begin(&ch, dir);
	note_name(c, dir, name);
	status = made_status(c, mknodat(W.objs[dir].fd, name, kinds[type] | (s.mode & 07777), dev), dir, name, kinds[type], &o);
	if (!status)
		status = dress(c, o, &s, &changed);
	change_end(&ch);
	return status ? change_fail(c, &ch, (u32)status) : reply_made(c, &ch, o, changed);
}
