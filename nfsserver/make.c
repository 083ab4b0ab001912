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

static int same_exclusive(i32 dir, const struct stat *st, const u8 verf[8])
{
	struct timespec t[2];
	exclusive_times(W.fs[W.objs[dir].fs].fsid, st, verf, t);
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

/* What CREATE, MKDIR, SYMLINK and MKNOD begin and end with. */
struct making { char name[256]; int bad; struct deed w; i32 dir, o; };

/* diropargs3.  What comes behind it, or NULL: it does not decode.  A bad name is told after the rest has been decoded. */
static const u8 *get_where(struct call *c, struct making *m, int kind, int op(struct call *))
{
	const u8 *p = c->arg;
	m->w = (struct deed){ .kind = kind, .op = op, .name = m->name };
	m->dir = c->obj;
	m->o = -1;
	m->bad = get_name(c, &p, m->name);
	return m->bad == V_GARBAGE ? NULL : p;
}

/* status: of the other arguments.  0: the name may be made. */
static int name_free(struct call *c, struct making *m, int status)
{
	if (m->bad || status || (status = name_ready(c, m->dir, m->name, 1)))
		return m->bad ? m->bad : status;
	return is_dots(m->name) ? ERR_EXIST : 0;
}

static int end_making(struct call *c, struct making *m, int status, int extra_sync)
{
	change_end(&m->w.a);
	return status ? change_fail(c, &m->w.a, (u32)status) : reply_made(c, &m->w.a, m->o, extra_sync);
}

/* open(2) could not make the file: why, or 0: a worker that died over this call has made it. */
static int made_before(struct call *c, struct making *m)
{
	struct stat st;
	if (m->w.made >= 0)
		close(m->w.made);
	if (m->w.err != EEXIST)
		return status_of(m->w.err);
	int status = obj_from_name(c, m->dir, m->w.name, &m->o, &st);
	return status || S_ISREG(st.st_mode) ? status : ERR_EXIST;
}

/* That worker had perhaps not come to it. */
static int keep_verifier(i32 dir, i32 o, const u8 *verf)
{
	struct timespec t[2];
	struct stat st;
	if (fd_stat(W.objs[o].fd, &st))
		return status_of(errno);
	exclusive_times(W.fs[W.objs[dir].fs].fsid, &st, verf, t);
	return utimensat(W.objs[o].fd, "", t, AT_EMPTY_PATH) ? status_of(errno) : 0;
}

int vn_create(struct call *c)
{
	struct making m;
	struct deed *w = &m.w;
	const u8 *p = get_where(c, &m, DEED_CREATE, vn_create);
	int status = 0, changed = 1;
	if (!p || garbage(c, p, 4) || get_u32(p) > 2)
		return V_GARBAGE;
	u32 how = get_u32(p);
	p += 4;
	w->exclusive = how == 2;
	if (w->exclusive ? garbage(c, p, 8) : (status = get_sattr(c, &p, &w->s)) == V_GARBAGE)
		return V_GARBAGE;
	if ((status = name_free(c, &m, status)))
		return status;
	if (w->s.set_size && w->s.size > INT64_MAX)
		return ERR_FBIG; /* before there is a file */
	if (w->exclusive)
		memcpy(w->verf, p, 8);
	memcpy(w->fsid, W.fs[W.objs[m.dir].fs].fsid, 8);
	w->mode = w->s.mode & 0777;
	if ((status = change_begin(c, w, m.dir, -1)))
		return status;
	if (w->err == EEXIST && !was_absent(c))
		return create_existing(c, &w->a, w->name, how, &w->s, w->verf);
	status = w->err ? made_before(c, &m) : made_object(m.dir, w->name, w->made, &m.o);
	if (!status && !w->exclusive)
		status = dress(c, m.o, &w->s, &changed);
	else if (!status && w->err)
		status = keep_verifier(m.dir, m.o, w->verf);
	return end_making(c, &m, status, changed);
}

/* The object of the name that was made: by what a thread opened, or by its name. */
static int object_made(struct call *c, struct making *m, struct stat *st)
{
	if (m->w.made < 0)
		return obj_from_name(c, m->dir, m->w.name, &m->o, st);
	if (!fd_stat(m->w.made, st))
		return obj_from_fd(W.objs[m->dir].exp, W.objs[m->dir].fs, m->dir, m->w.made, st, &m->o);
	close(m->w.made);
	return status_of(EIO);
}

/* After the system call that makes an object of a name: its object, or why not.  Made it is, also when there is no descriptor to name it
 * by just now (o -1): the answer has no handle then, and the client looks it up.  What another has put there since is not dressed. */
static int made_status(struct call *c, struct making *m, mode_t type)
{
	struct stat st;
	if (m->w.err && !(m->w.err == EEXIST && was_absent(c)))
		return status_of(m->w.err);
	int status = object_made(c, m, &st);
	if (status == ERR_JUKEBOX && !m->w.err) {
		m->o = -1;
		return 0;
	}
	return status ? status : (st.st_mode & S_IFMT) == type ? 0 : m->w.err ? ERR_EXIST : ERR_STALE;
}

int vn_mkdir(struct call *c)
{
	struct making m;
	const u8 *p = get_where(c, &m, DEED_MKDIR, vn_mkdir);
	int changed = 0, status;
	if (!p || (status = get_sattr(c, &p, &m.w.s)) == V_GARBAGE)
		return V_GARBAGE;
	if ((status = name_free(c, &m, status)))
		return status;
	m.w.s.set_size = 0;
	m.w.mode = m.w.s.mode & 01777;
	if ((status = change_begin(c, &m.w, m.dir, -1)))
		return status;
	status = made_status(c, &m, S_IFDIR);
	if (!status)
		status = dress(c, m.o, &m.w.s, &changed);
	return end_making(c, &m, status, changed);
}

/* nfspath3 at p.  0, nfsstat3, V_GARBAGE. */
static int get_target(struct call *c, const u8 *p, char target[4096])
{
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 n = get_u32(p);
	if (garbage(c, p + 4, ((size_t)n + 3) & ~3ul))
		return V_GARBAGE;
	if (n > 4095)
		return ERR_NAMETOOLONG;
	if (!n || memchr(p + 4, 0, n))
		return ERR_INVAL;
	memcpy(target, p + 4, n);
	target[n] = 0;
	return 0;
}

/* Attributes of a new symbolic link, which has neither size nor mode. */
static int dress_link(struct call *c, i32 o, const struct sattr *s, int *changed)
{
	struct sattr own = { .set_uid = s->set_uid, .uid = s->uid, .set_gid = s->set_gid, .gid = s->gid };
	struct sattr times = { .atime = s->atime, .mtime = s->mtime, .at = s->at, .mt = s->mt };
	int status = dress(c, o, &own, changed);
	if (status == ERR_NOTSUPP)
		status = 0; /* the mode that dress() sets again */
	*changed |= s->atime || s->mtime;
	if (status || !(s->atime || s->mtime))
		return status;
	return o < 0 ? ERR_JUKEBOX : apply_sattr(c, o, &times);
}

int vn_symlink(struct call *c)
{
	struct making m;
	char target[4096];
	const u8 *p = get_where(c, &m, DEED_SYMLINK, vn_symlink);
	int changed = 0, status, bad;
	if (!p || (status = get_sattr(c, &p, &m.w.s)) == V_GARBAGE || (bad = get_target(c, p, target)) == V_GARBAGE)
		return V_GARBAGE;
	if ((status = name_free(c, &m, status ? status : bad)))
		return status;
	m.w.name2 = target;
	if ((status = change_begin(c, &m.w, m.dir, -1)))
		return status;
	status = made_status(c, &m, S_IFLNK);
	if (!status)
		status = dress_link(c, m.o, &m.w.s, &changed);
	return end_making(c, &m, status, changed);
}

/* devicedata3 or sattr3 of an object of `type` at p.  0, nfsstat3, V_GARBAGE. */
static int get_node(struct call *c, const u8 *p, u32 type, struct sattr *s, dev_t *dev)
{
	int status = get_sattr(c, &p, s);
	if (status == V_GARBAGE || (type != 3 && type != 4))
		return status;
	if (garbage(c, p, 8))
		return V_GARBAGE;
	*dev = makedev(get_u32(p), get_u32(p + 4));
	return status;
}

int vn_mknod(struct call *c)
{
	static const mode_t kinds[8] = { [3] = S_IFBLK, [4] = S_IFCHR, [6] = S_IFSOCK, [7] = S_IFIFO };
	struct making m;
	const u8 *p = get_where(c, &m, DEED_MKNOD, vn_mknod);
	if (!p || garbage(c, p, 4))
		return V_GARBAGE;
	u32 type = get_u32(p);
	if (type < 1 || type > 7)
		return V_GARBAGE;
	int changed = 0, status = kinds[type] ? get_node(c, p + 4, type, &m.w.s, &m.w.dev) : ERR_BADTYPE;
	if (status == V_GARBAGE)
		return V_GARBAGE;
	if ((status = name_free(c, &m, status)))
		return status;
	m.w.s.set_size = 0;
	m.w.mode = kinds[type] | (m.w.s.mode & 07777);
	if ((status = change_begin(c, &m.w, m.dir, -1)))
		return status;
	status = made_status(c, &m, kinds[type]);
	if (!status)
		status = dress(c, m.o, &m.w.s, &changed);
	return end_making(c, &m, status, changed);
}
