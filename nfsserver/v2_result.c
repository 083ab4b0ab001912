/* v2_result.c: results of version 3 written again as version 2 (RFC 1094); see v2.c. */
#include "v2.h"

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
