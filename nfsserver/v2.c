/* v2.c: NFS version 2 (RFC 1094) on the vnode calls of version 3.
 *
 * A call's arguments are written again as version 3 would send them (vn2_args), the same functions serve them, and the result,
 * which version 3 always makes longer, is rewritten in its place before it is kept or sent (v2_result).  So a change that comes as
 * version 2 has the same locks, rights and durability; only READDIR and STATFS differ enough to have their own functions.
 *
 * What version 2 cannot say: a status it lacks is IO; JUKEBOX is silence (the client asks again); sizes end at 4 GiB - 1; inode
 * numbers are folded to 32 bits.  Every WRITE is stable unless the export is async.  Limits: RFC 1094 section 2.3.1. */
#include "vnode.h"
#include <sys/statvfs.h>

#define MAXDATA 8192u
#define MAXPATH 1024u
#define MAXNAME 1024u /* decoded; over 255 the answer is NAMETOOLONG */
#define FHSIZE 32u
#define ASKED 16 /* call.rights, from this bit on: bytes that a WRITE brought */

enum { GETATTR = 1, SETATTR = 2, LOOKUP = 4, READLINK = 5, READ = 6, WRITE = 8, CREATE = 9, REMOVE = 10, RENAME = 11, LINK = 12,
       SYMLINK = 13, MKDIR = 14, RMDIR = 15, READDIR = 16, STATFS = 17, N_PROCS2 = 18 };

/* ---- Arguments: version 2 from `in`, version 3 to `out`. */

struct turn { const u8 *in, *end; u8 *out; };

#define MAX_ACL (4 + 2 * (8 + 12 * 1024u)) /* SETACL with all its entries */

static u8 scratch[MAX_ACL + MAXDATA]; /* one call at a time: whoever waits has copied it */

static int lacks(const struct turn *t, size_t n) { return (size_t)(t->end - t->in) < n; }

static void out_u32(struct turn *t, u32 v)
{
	v = htonl(v);
	memcpy(t->out, &v, 4);
	t->out += 4;
}

static u32 in_u32(struct turn *t)
{
	u32 v = get_u32(t->in);
	t->in += 4;
	return v;
}

/* fhandle: 32 bytes without a length.  All zero is the public handle, which version 3 writes with length 0 (RFC 2054, 2055). */
static int turn_fh(struct turn *t)
{
	static const u8 public[FHSIZE];
	if (lacks(t, FHSIZE))
		return V_GARBAGE;
	u32 n = memcmp(t->in, public, FHSIZE) ? FHSIZE : 0;
	out_u32(t, n);
	memcpy(t->out, t->in, n);
	t->out += n;
	t->in += FHSIZE;
	return 0;
}

/* string or opaque of at most `most` bytes */
static int turn_opaque(struct turn *t, u32 most)
{
	if (lacks(t, 4))
		return V_GARBAGE;
	u32 n = get_u32(t->in);
	if (n > most || lacks(t, 4 + ((n + 3) & ~3u)))
		return V_GARBAGE;
	memcpy(t->out, t->in, 4 + ((n + 3) & ~3u));
	t->in += 4 + ((n + 3) & ~3u);
	t->out += 4 + ((n + 3) & ~3u);
	return 0;
}

static int turn_diropargs(struct turn *t)
{
	int status = turn_fh(t);
	return status ? status : turn_opaque(t, MAXNAME);
}

/* struct sattr { unsigned mode, uid, gid, size; timeval atime, mtime; };  -1: not to be set. */
struct sattr2 { u32 mode, uid, gid, size, time[4]; };

static int in_sattr(struct turn *t, struct sattr2 *s)
{
	if (lacks(t, 32))
		return V_GARBAGE;
	s->mode = in_u32(t);
	s->uid = in_u32(t);
	s->gid = in_u32(t);
	s->size = in_u32(t);
	for (int i = 0; i < 4; i++)
		s->time[i] = in_u32(t);
	return 0;
}

static void out_if(struct turn *t, u32 v)
{
	out_u32(t, v != ~0u);
	if (v != ~0u)
		out_u32(t, v);
}

/* Microseconds 1000000: the server's time, a convention of Sun's; in mtime it stands for both. */
static void out_time(struct turn *t, u32 s, u32 us, int now)
{
	out_u32(t, now ? 1 : s == ~0u ? 0 : 2);
	if (now || s == ~0u)
		return;
	out_u32(t, s);
	out_u32(t, us == ~0u ? 0 : us > 999999 ? ~0u : us * 1000);
}

static void out_sattr(struct turn *t, const struct sattr2 *s, int with_size)
{
	int both = s->time[3] == 1000000;
	out_u32(t, s->mode != ~0u && s->mode != 0xffff);
	if (s->mode != ~0u && s->mode != 0xffff)
		out_u32(t, s->mode & 07777);
	out_if(t, s->uid);
	out_if(t, s->gid);
	out_u32(t, with_size && s->size != ~0u);
	if (with_size && s->size != ~0u) {
		out_u32(t, 0);
		out_u32(t, s->size);
	}
	out_time(t, s->time[0], s->time[1], both || s->time[1] == 1000000);
	out_time(t, s->time[2], s->time[3], both);
}

static int turn_setattr(struct turn *t)
{
	struct sattr2 s;
	int status = turn_fh(t);
	if (status || in_sattr(t, &s))
		return V_GARBAGE;
	out_sattr(t, &s, 1);
	out_u32(t, 0); /* no guard */
	return 0;
}

static int turn_read(struct turn *t)
{
	if (turn_fh(t) || lacks(t, 12))
		return V_GARBAGE;
	out_u32(t, 0);
	out_u32(t, in_u32(t));
	u32 count = in_u32(t);
	out_u32(t, count > MAXDATA ? MAXDATA : count);
	return 0; /* totalcount: unused, RFC 1094 section 2.2.7 */
}

/* beginoffset and totalcount are unused (section 2.2.9).  Version 3: offset, count, stable, data. */
static int turn_write(struct turn *t)
{
	if (turn_fh(t) || lacks(t, 16))
		return V_GARBAGE;
	u32 offset = get_u32(t->in + 4), count = get_u32(t->in + 12);
	t->in += 12;
	out_u32(t, 0);
	out_u32(t, offset);
	out_u32(t, count);
	out_u32(t, 2);
	return turn_opaque(t, MAXDATA);
}

/* CREATE makes what the type bits of the mode say; `size` is then the device number.  A character device without one is a FIFO
 * (the convention of 4.4BSD and Linux).  The first word tells vn2_create() which of version 3's procedures it is. */
static int turn_create(struct turn *t)
{
	struct sattr2 s;
	if (turn_fh(t))
		return V_GARBAGE;
	u8 *kind = t->out;
	out_u32(t, 0);
	if (turn_opaque(t, MAXNAME) || in_sattr(t, &s))
		return V_GARBAGE;
	u32 type = s.mode == ~0u ? 0 : s.mode & S_IFMT;
	int fifo = type == S_IFIFO || (type == S_IFCHR && s.size == ~0u);
	if (fifo || type == S_IFCHR || type == S_IFBLK || type == S_IFSOCK) {
		kind[3] = 1;
		out_u32(t, fifo ? 7 : type == S_IFCHR ? 4 : type == S_IFBLK ? 3 : 6);
		out_sattr(t, &s, 0);
		if (!fifo && type != S_IFSOCK) {
			out_u32(t, (s.size & 0xfff00) >> 8);
			out_u32(t, (s.size & 0xff) | (s.size >> 12 & 0xfff00));
		}
		return 0;
	}
	out_u32(t, 0); /* UNCHECKED */
	out_sattr(t, &s, 1);
	return 0;
}

/* Here the attributes stand last, in version 3 the text does. */
static int turn_symlink(struct turn *t)
{
	struct sattr2 s;
	if (turn_diropargs(t) || lacks(t, 4))
		return V_GARBAGE;
	struct turn text = *t;
	u32 n = get_u32(t->in);
	if (n > MAXDATA || lacks(t, 4 + ((n + 3) & ~3u)))
		return V_GARBAGE;
	t->in += 4 + ((n + 3) & ~3u);
	if (in_sattr(t, &s))
		return V_GARBAGE;
	if (n > MAXPATH)
		return ERR_NAMETOOLONG;
	out_sattr(t, &s, 0);
	text.out = t->out;
	turn_opaque(&text, MAXPATH);
	t->out = text.out;
	return 0;
}

static int turn_mkdir(struct turn *t)
{
	struct sattr2 s;
	if (turn_diropargs(t) || in_sattr(t, &s))
		return V_GARBAGE;
	out_sattr(t, &s, 0);
	return 0;
}

static int turn_two(struct turn *t, u32 proc)
{
	int status = proc == RENAME ? turn_diropargs(t) : turn_fh(t);
	return status ? status : turn_diropargs(t);
}

static int turn_readdir(struct turn *t)
{
	if (turn_fh(t) || lacks(t, 8))
		return V_GARBAGE;
	out_u32(t, in_u32(t));
	out_u32(t, in_u32(t));
	return 0;
}

static int turn(struct turn *t, u32 proc)
{
	switch (proc) {
	case SETATTR: return turn_setattr(t);
	case READ: return turn_read(t);
	case WRITE: return turn_write(t);
	case CREATE: return turn_create(t);
	case LOOKUP: case REMOVE: case RMDIR: return turn_diropargs(t);
	case RENAME: case LINK: return turn_two(t, proc);
	case SYMLINK: return turn_symlink(t);
	case MKDIR: return turn_mkdir(t);
	case READDIR: return turn_readdir(t);
	default: return turn_fh(t);
	}
}

/* NFS_ACL version 2: a fhandle, the rest is the same. */
static int turn_acl(struct turn *t)
{
	if (turn_fh(t) || t->end - t->in > (long)MAX_ACL)
		return V_GARBAGE;
	memcpy(t->out, t->in, (size_t)(t->end - t->in));
	t->out += t->end - t->in;
	return 0;
}

/* Once for each call, before the gate.  0, an nfsstat, V_GARBAGE. */
int vn2_args(struct call *c)
{
	struct turn t = { c->arg, c->end, scratch };
	int status = c->prog == ACL_PROGRAM ? turn_acl(&t) : turn(&t, c->proc);
	if (status)
		return status;
	c->arg = scratch;
	c->end = t.out;
	return 0;
}

/* ---- Procedures of their own. */

int vn2_create(struct call *c)
{
	if (garbage(c, c->arg, 4))
		return V_GARBAGE;
	u32 special = get_u32(c->arg);
	c->arg += 4;
	return special ? vn_mknod(c) : vn_create(c);
}

int vn2_write(struct call *c)
{
	if (garbage(c, c->arg, 16))
		return V_GARBAGE;
	if (W.exps[W.objs[c->obj].exp].flags & EX_ASYNC)
		memset((u8 *)(uintptr_t)c->arg + 12, 0, 4); /* UNSTABLE */
	c->rights |= get_u32(c->arg + 8) << ASKED; /* for the result, however late it comes */
	return vn_write(c);
}

/* struct statfs { unsigned tsize, bsize, blocks, bfree, bavail; }; the block size grows until the numbers fit. */
int vn2_statfs(struct call *c)
{
	struct statvfs v;
	if (fstatvfs(W.objs[c->obj].fd, &v))
		return status_of(errno);
	u64 bsize = v.f_frsize ? v.f_frsize : 512, unit = bsize;
	while (v.f_blocks * bsize / unit > INT32_MAX)
		unit *= 2;
	if (reply_open(c, 24))
		return V_DROP;
	put_u32(c, OK);
	put_u32(c, MAXDATA);
	put_u32(c, (u32)unit);
	put_u32(c, (u32)(v.f_blocks * bsize / unit));
	put_u32(c, (u32)(v.f_bfree * bsize / unit));
	put_u32(c, (u32)(v.f_bavail * bsize / unit));
	return vn_close(c, OK);
}

/* ---- Results. */

u32 fold32(u64 v) { return (u32)(v ^ v >> 32); }

/* RFC 1094 section 2.3.1; BADHANDLE is STALE, what it lacks is IO. */
static u32 stat_of(u32 status)
{
	static const u8 known[] = { 1, 2, 5, 6, 13, 17, 19, 20, 21, 27, 28, 30, 63, 66, 69, 70 };
	if (status == ERR_BADHANDLE)
		return ERR_STALE;
	for (u32 i = 0; i < sizeof known; i++)
		if (known[i] == status)
			return status;
	return ERR_IO;
}

/* fattr3 at p -> fattr at c->rep, which may overlap it.
 * struct fattr { ftype type; unsigned mode, nlink, uid, gid, size, blocksize, rdev, blocks, fsid, fileid; timeval a, m, c; }; */
static void put_fattr2(struct call *c, const u8 *p)
{
	static const u32 type[8] = { 0, 1, 2, 3, 4, 5, 0, 4 }, bits[8] = { 0, S_IFREG, S_IFDIR, S_IFBLK, S_IFCHR, S_IFLNK, S_IFSOCK, S_IFCHR };
	u8 from[ATTR];
	memcpy(from, p, ATTR);
	u32 t = get_u32(from) & 7, major = get_u32(from + 36), minor = get_u32(from + 40);
	u64 size = get_u64(from + 20);
	put_u32(c, type[t]);
	put_u32(c, bits[t] | (get_u32(from + 4) & 07777));
	put_u32(c, get_u32(from + 8));
	put_u32(c, get_u32(from + 12));
	put_u32(c, get_u32(from + 16));
	put_u32(c, size > ~0u ? ~0u : (u32)size);
	put_u32(c, 4096);
	put_u32(c, t == 7 ? ~0u : (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12);
	put_u32(c, (u32)(get_u64(from + 28) / 512));
	put_u32(c, fold32(get_u64(from + 44)));
	put_u32(c, fold32(get_u64(from + 52)));
	for (int i = 60; i < 84; i += 8) {
		put_u32(c, get_u32(from + i));
		put_u32(c, get_u32(from + i + 4) / 1000);
	}
}

/* post_op_attr at *pp -> fattr.  -1: it is absent. */
static int put_post2(struct call *c, const u8 **pp)
{
	if (!get_u32(*pp))
		return -1;
	put_fattr2(c, *pp + 4);
	*pp += POST;
	return 0;
}

static int put_wcc2(struct call *c, const u8 *p)
{
	p += get_u32(p) ? 28 : 4;
	return put_post2(c, &p);
}

/* nfs_fh3, post_op_attr -> fhandle, fattr */
static int put_dirop2(struct call *c, const u8 *p)
{
	u32 n = get_u32(p);
	u8 fh[32];
	if (fh2_of_fh3(p + 4, n, fh))
		return -1;
	p += 4 + ((n + 3) & ~3u);
	u8 attr[POST];
	memcpy(attr, p, POST);
	memcpy(c->rep, fh, 32);
	c->rep += 32;
	const u8 *q = attr;
	return put_post2(c, &q);
}

/* post_op_attr, count, eof, data -> fattr, data (READ); post_op_attr, text -> text (READLINK) */
static int put_data2(struct call *c, const u8 *p, int is_read)
{
	const u8 *data = p + (get_u32(p) ? POST : 4) + (is_read ? 8 : 0);
	u32 n = get_u32(data);
	if (is_read && put_post2(c, &p))
		return -1;
	if (n > (is_read ? MAXDATA : MAXPATH))
		return -1;
	memmove(c->rep, data, 4 + ((n + 3) & ~3u));
	c->rep += 4 + ((n + 3) & ~3u);
	return 0;
}

/* NFS_ACL: post_op_attr is fattr, the rest stays.  Its GETATTR is that of NFS. */
static int put_acl2(struct call *c, const u8 *p, const u8 *end)
{
	if (c->proc == 3) {
		put_fattr2(c, p);
		return 0;
	}
	if (put_post2(c, &p))
		return -1;
	memmove(c->rep, p, (size_t)(end - p));
	c->rep += end - p;
	return 0;
}

static int put_result2(struct call *c, const u8 *end)
{
	const u8 *p = c->res + 4;
	if (c->prog == ACL_PROGRAM)
		return put_acl2(c, p, end);
	switch (c->proc) {
	case GETATTR: put_fattr2(c, p); return 0;
	case SETATTR: return put_wcc2(c, p);
	case WRITE: return put_wcc2(c, p);
	case LOOKUP: return put_dirop2(c, p);
	case CREATE: case MKDIR: return get_u32(p) ? put_dirop2(c, p + 4) : -1;
	case READ: case READLINK: return put_data2(c, p, c->proc == READ);
	default: return 0; /* SYMLINK, REMOVE, ...: the status alone */
	}
}

/* The complete result of version 3 at c->res becomes one of version 2.  Returns the status it then has, or -1: no reply at all. */
int v2_result(struct call *c, u32 status)
{
	if (status == ERR_JUKEBOX)
		return -1;
	if (!status && c->prog == NFS_PROGRAM && (c->proc == READDIR || c->proc == STATFS))
		return 0;
	if (!status && c->prog == NFS_PROGRAM && c->proc == WRITE && c->word[3] != c->rights >> ASKED)
		status = ERR_NOSPC; /* part of it was written, which there is no way to say */
	const u8 *end = c->rep;
	c->rep = c->res;
	status = status ? stat_of(status) : OK;
	put_u32(c, status);
	if (!status && put_result2(c, end)) {
		c->rep = c->res;
		put_u32(c, status = ERR_IO);
	}
	return (int)status;
}
