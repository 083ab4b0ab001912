/* acl.c: NFS_ACL (program 100227), Solaris' side protocol: POSIX access and default ACLs of an object.
 *
 * There is no RFC; what Solaris and Linux clients send and expect is:
 *
 *   GETACL  { nfs_fh3 fh; unsigned mask; }
 *        -> { nfsstat3; post_op_attr; unsigned mask; acl access; acl default; }      error: { nfsstat3; post_op_attr; }
 *   SETACL  { nfs_fh3 fh; unsigned mask; acl access; acl default; } -> { nfsstat3; post_op_attr; }
 *   acl     { unsigned count; ace entries<1024>; }      ace { unsigned type, id, perm; }
 *
 * The kernel keeps them in the extended attributes system.posix_acl_access and _default, which it checks and applies itself; both
 * calls run as the caller.  What is not asked for by the mask has no entries, and is left alone by SETACL.  In version 2 the
 * attributes are a fattr (v2.c). */
#include "parts.h"
#include <stdio.h>
#include <endian.h>
#include <sys/xattr.h>

#define MAX_ENTRIES 1024u
#define XATTR_VERSION 2u

enum { MASK_ACL = 1, MASK_COUNT = 2, MASK_DEFAULT = 4, MASK_DEFAULT_COUNT = 8 };
enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 0x10, OTHER = 0x20, IS_DEFAULT = 0x1000 };

struct ace { u32 tag, perm, id; };
struct acl { u32 n; struct ace e[MAX_ENTRIES + 1]; };

/* linux/posix_acl_xattr.h: little-endian, unlike XDR */
struct xattr_ace { u16 tag, perm; u32 id; };
struct xattr_acl { u32 version; struct xattr_ace e[MAX_ENTRIES]; };

static const char *const names[2] = { "system.posix_acl_access", "system.posix_acl_default" };

/* getxattr(2) and setxattr(2) do not take an O_PATH descriptor, but what it shows in /proc. */
static const char *object_path(i32 o, char path[48])
{
	snprintf(path, 48, "/proc/self/fd/%d", W.objs[o].fd);
	return path;
}

/* ---- From the file system */

static void append(struct acl *a, u32 tag, u32 perm, u32 id) { a->e[a->n++] = (struct ace){ tag, perm & 7, id }; }

/* What the mode alone says; Solaris' clients want four entries. */
static void acl_of_mode(struct acl *a, const struct stat *st)
{
	a->n = 0;
	append(a, USER_OBJ, st->st_mode >> 6, st->st_uid);
	append(a, GROUP_OBJ, st->st_mode >> 3, st->st_gid);
	append(a, MASK, st->st_mode >> 3, 0);
	append(a, OTHER, st->st_mode, 0);
}

static u32 shown_id(u32 tag, u32 id, const struct stat *st)
{
	return tag == USER_OBJ ? st->st_uid : tag == GROUP_OBJ ? st->st_gid : tag == USER || tag == GROUP ? id : 0;
}

/* The attribute's entries, which the kernel has in order; a mask is added where three entries need none. */
static void acl_of_xattr(struct acl *a, const struct xattr_acl *x, u32 n, const struct stat *st)
{
	a->n = 0;
	for (u32 i = 0; i < n; i++) {
		u32 tag = le16toh(x->e[i].tag);
		if (tag == OTHER && n == 3)
			append(a, MASK, a->e[1].perm, 0);
		append(a, tag, le16toh(x->e[i].perm), shown_id(tag, le32toh(x->e[i].id), st));
	}
}

/* Most objects have no ACL, which is remembered: setting one changes the ctime.  st: the attributes now. */
static int is_bare(i32 o, int is_default, const struct stat *st)
{
	const struct obj *b = &W.objs[o];
	return b->bare_kinds >> is_default & 1 && b->bare == ns_of(&st->st_ctim);
}

static void note_bare(i32 o, int is_default, const struct stat *st)
{
	struct obj *b = &W.objs[o];
	u64 ctime = ns_of(&st->st_ctim);
	b->bare_kinds = (u8)((b->bare == ctime ? b->bare_kinds : 0) | 1 << is_default);
	b->bare = ctime;
}

/* The length of the attribute; 0: there is none, or an -errno. */
static ssize_t ask_acl(struct call *c, int is_default, const struct stat *st, struct xattr_acl *x)
{
	i32 o = c->obj;
	char path[48];
	if (S_ISLNK(st->st_mode) || is_bare(o, is_default, st))
		return 0;
	if (ident_become(c->ident))
		return -EAGAIN;
	int lasts = settled(st), fd = W.objs[o].wfd >= 0 ? W.objs[o].wfd : W.objs[o].rfd; /* settled first: what comes later shows */
	ssize_t n = fd >= 0 ? fgetxattr(fd, names[is_default], x, sizeof *x)
			    : getxattr(object_path(o, path), names[is_default], x, sizeof *x);
	if (n >= 0)
		return n ? n : -EIO;
	if (errno != ENODATA && errno != EOPNOTSUPP)
		return -errno;
	if (lasts)
		note_bare(o, is_default, st);
	return 0;
}

/* 0 or an errno; an object without an access ACL has the one of its mode, one without a default ACL has none. */
static int read_acl(struct call *c, int is_default, const struct stat *st, struct acl *a)
{
	struct xattr_acl x;
	a->n = 0;
	if (is_default && !is_dir(c->obj))
		return 0;
	ssize_t n = ask_acl(c, is_default, st, &x);
	if (n < 0)
		return (int)-n;
	if (!n && !is_default)
		acl_of_mode(a, st);
	if (!n)
		return 0;
	if (n < 4 || (n - 4) % 8 || le32toh(x.version) != XATTR_VERSION)
		return EIO;
	acl_of_xattr(a, &x, (u32)(n - 4) / 8, st);
	return 0;
}

static void put_acl(struct call *c, const struct acl *a, int entries, u32 flag)
{
	put_u32(c, a->n);
	put_u32(c, entries ? a->n : 0);
	for (u32 i = 0; entries && i < a->n; i++) {
		put_u32(c, a->e[i].tag | flag);
		put_u32(c, a->e[i].id);
		put_u32(c, a->e[i].perm);
	}
}

int vn_getacl(struct call *c)
{
	static struct acl access, dflt; /* 12 KiB each; one call at a time */
	struct stat st;
	if (garbage(c, c->arg, 4))
		return V_GARBAGE;
	u32 mask = get_u32(c->arg);
	int err, status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (W.exps[W.objs[c->obj].exp].flags & EX_NOACL)
		return ERR_NOTSUPP;
	if (mask & ~15u)
		return ERR_INVAL;
	access.n = dflt.n = 0;
	if (mask & (MASK_ACL | MASK_COUNT) && (err = read_acl(c, 0, &st, &access)))
		return status_of(err);
	if (mask & (MASK_DEFAULT | MASK_DEFAULT_COUNT) && (err = read_acl(c, 1, &st, &dflt)))
		return status_of(err);
	if (reply_open(c, 4 + POST + 4 + 16 + 12 * (access.n + dflt.n)))
		return V_DROP;
	put_u32(c, OK);
	put_post_op(c, c->obj, &st);
	put_u32(c, mask);
	put_acl(c, &access, mask & MASK_ACL, 0);
	put_acl(c, &dflt, mask & MASK_DEFAULT, IS_DEFAULT);
	return vn_close(c, OK);
}

/* ---- To the file system */

/* acl at *pp.  0, V_GARBAGE, ERR_INVAL (count and entries differ). */
static int get_acl(struct call *c, const u8 **pp, struct acl *a)
{
	if (garbage(c, *pp, 8))
		return V_GARBAGE;
	u32 count = get_u32(*pp);
	a->n = get_u32(*pp + 4);
	if (a->n > MAX_ENTRIES || garbage(c, *pp + 8, 12 * (size_t)a->n))
		return V_GARBAGE;
	*pp += 8;
	for (u32 i = 0; i < a->n; i++, *pp += 12)
		a->e[i] = (struct ace){ get_u32(*pp) & ~IS_DEFAULT, get_u32(*pp + 8), get_u32(*pp + 4) };
	return count == a->n ? 0 : ERR_INVAL;
}

static int by_tag_and_id(const void *x, const void *y)
{
	const struct ace *a = x, *b = y;
	return a->tag != b->tag ? (a->tag < b->tag ? -1 : 1) : a->id != b->id ? (a->id < b->id ? -1 : 1) : 0;
}

/* One entry: a known kind, permissions of three bits, an id that is one.  Solaris sets more bits in the mask. */
static int sane(struct ace *e)
{
	if (e->tag == MASK)
		e->perm &= 7;
	if (e->tag != USER && e->tag != GROUP)
		e->id = ~0u;
	else if (e->id == ~0u)
		return 0;
	return e->perm <= 7 && (e->tag == USER_OBJ || e->tag == USER || e->tag == GROUP_OBJ || e->tag == GROUP || e->tag == MASK || e->tag == OTHER);
}

/* Sorts and checks as acl_valid(3) does.  A mask that Solaris' four entries have to have and that says nothing goes.  ERR_INVAL. */
static int order(struct acl *a)
{
	u32 kinds[OTHER + 1] = { 0 };
	for (u32 i = 0; i < a->n; i++) {
		if (!sane(&a->e[i]))
			return ERR_INVAL;
		kinds[a->e[i].tag]++;
	}
	qsort(a->e, a->n, sizeof *a->e, by_tag_and_id);
	for (u32 i = 1; i < a->n; i++)
		if (!by_tag_and_id(&a->e[i - 1], &a->e[i]))
			return ERR_INVAL;
	if (!a->n)
		return 0;
	if (!kinds[USER_OBJ] || !kinds[GROUP_OBJ] || !kinds[OTHER] || (!kinds[MASK] && (kinds[USER] || kinds[GROUP])))
		return ERR_INVAL;
	if (a->n == 4 && kinds[MASK] && a->e[2].tag == MASK && a->e[2].perm == a->e[1].perm) {
		a->e[2] = a->e[3];
		a->n = 3;
	}
	return 0;
}

/* As the caller.  0 or an errno. */
static int write_acl(i32 o, int is_default, const struct acl *a)
{
	struct xattr_acl x = { .version = htole32(XATTR_VERSION) };
	char path[48];
	if (is_default && !is_dir(o) && !a->n)
		return 0;
	if (!a->n)
		return removexattr(object_path(o, path), names[is_default]) && errno != ENODATA ? errno : 0;
	for (u32 i = 0; i < a->n; i++)
		x.e[i] = (struct xattr_ace){ htole16((u16)a->e[i].tag), htole16((u16)a->e[i].perm), htole32(a->e[i].id) };
	return setxattr(object_path(o, path), names[is_default], &x, 4 + 8 * a->n, 0) ? errno : 0;
}

static int write_both(struct call *c, u32 mask, const struct acl *access, const struct acl *dflt)
{
	const struct obj *b = &W.objs[c->obj];
	if (b->type == S_IFLNK >> 12)
		return ERR_NOTSUPP;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	shared_lock *lock; /* wcc of others: the ctime moves */
	if (dir_trylock_both(W.fs[b->fs].dev, b->ino, 0, 0, &lock, NULL))
		return ERR_JUKEBOX;
	int err = mask & MASK_ACL ? write_acl(c->obj, 0, access) : 0;
	if (!err && mask & MASK_DEFAULT)
		err = write_acl(c->obj, 1, dflt);
	shared_unlock(lock);
	return err ? status_of(err) : 0;
}

static int reply_set(struct call *c)
{
	struct stat st;
	struct durable sync;
	struct call *d;
	int has = !fd_stat(W.objs[c->obj].fd, &st), status = durable_open(c, c->obj, -1, 4 + POST, &sync, &d);
	if (status)
		return status;
	put_u32(d, OK);
	put_post_op(d, d->obj, has ? &st : NULL);
	return durable_close(d, &sync);
}

int vn_setacl(struct call *c)
{
	static struct acl access, dflt;
	struct stat st;
	const u8 *p = c->arg;
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 mask = get_u32(p);
	p += 4;
	int bad = get_acl(c, &p, &access), bad2 = bad == V_GARBAGE ? bad : get_acl(c, &p, &dflt);
	if (bad2 == V_GARBAGE)
		return V_GARBAGE;
	int status = obj_stat(c->obj, &st);
	if (status)
		return status;
	if (W.exps[W.objs[c->obj].exp].flags & EX_NOACL)
		return ERR_NOTSUPP;
	if (mask & ~15u || (mask & MASK_ACL && (bad || order(&access))) || (mask & MASK_DEFAULT && (bad2 || order(&dflt))))
		return ERR_INVAL;
	if (pool_works() && c->eng->full(c, 4 + POST)) /* it could not wait to be durable, once it is done */
		return ERR_JUKEBOX;
	if ((status = write_both(c, mask, &access, &dflt)))
		return status;
	return reply_set(c);
}
