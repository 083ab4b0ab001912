/* v2.c: NFS version 2 (RFC 1094) on the vnode calls of version 3.
 *
 * A call's arguments are written again as version 3 would send them (vn2_args), the same functions serve them, and the result,
 * which version 3 always makes longer, is rewritten in its place before it is kept or sent (v2_result).  So a change that comes as
 * version 2 has the same locks, rights and durability; only READDIR and STATFS differ enough to have their own functions.
 *
 * What version 2 cannot say: a status it lacks is IO; JUKEBOX is silence (the client asks again); sizes end at 4 GiB - 1; inode
 * numbers are folded to 32 bits.  Every WRITE is stable unless the export is async.  Limits: RFC 1094 section 2.3.1. */
#include "v2.h"
#include <sys/statvfs.h>

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
