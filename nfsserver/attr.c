/* attr.c: attributes and handles in replies.  XDR: RFC 1813 section 2.6. */
#include "parts.h"
#include <sys/sysmacros.h>

static void put_time(struct call *c, const struct timespec *t)
{
	u64 s = t->tv_sec < 0 ? 0 : t->tv_sec > 0xffffffff ? 0xffffffff : (u64)t->tv_sec; /* nfstime3 is unsigned 32 bits */
	put_u32(c, (u32)s);
	put_u32(c, (u32)t->tv_nsec);
}

/* ftype3 of S_IFMT >> 12: FIFO 7, CHR 4, DIR 2, BLK 3, REG 1, LNK 5, SOCK 6 */
static const u8 ftype[16] = { [1] = 7, [2] = 4, [4] = 2, [6] = 3, [8] = 1, [10] = 5, [12] = 6 };

void put_fattr(struct call *c, i32 o, const struct stat *st)
{
	const struct obj *b = &W.objs[o];
	u32 flags = W.exps[b->exp].flags, mode = st->st_mode & 07777, uid = st->st_uid, gid = st->st_gid;
	u64 fileid = st->st_ino;
	if (flags & (EX_READABLE_EXEC | EX_SINGLEUSER | EX_FILEID32) || c->rights & R_CLIENTS32) {
		if (flags & EX_READABLE_EXEC && S_ISREG(st->st_mode)) /* unfsd -r */
			mode |= (mode & 0111) << 2;
		if (flags & EX_SINGLEUSER) { /* unfsd -s: the server's own files are the caller's, all others root's */
			const struct rpc_cred *cr = &c->eng->creds[c->cred];
			uid = uid == geteuid() ? cr->uid : 0;
			gid = gid == getegid() ? cr->gid : 0;
		}
		if (flags & EX_FILEID32)
			fileid = (u32)(fileid ^ fileid >> 32);
	}
	put_u32(c, ftype[(st->st_mode & S_IFMT) >> 12]);
	put_u32(c, mode);
	put_u32(c, (u32)st->st_nlink);
	put_u32(c, uid);
	put_u32(c, gid);
	put_u64(c, (u64)st->st_size);
	put_u64(c, (u64)st->st_blocks * 512);
	put_u32(c, major(st->st_rdev));
	put_u32(c, minor(st->st_rdev));
	memcpy(c->rep, W.fs[b->fs].fsid, 8);
	c->rep += 8;
	put_u64(c, fileid);
	put_time(c, &st->st_atim);
	put_time(c, &st->st_mtim);
	put_time(c, &st->st_ctim);
}

/* post_op_attr; st NULL: absent */
void put_post_op(struct call *c, i32 o, const struct stat *st)
{
	put_u32(c, st != NULL);
	if (st)
		put_fattr(c, o, st);
}

/* wcc_data; pre NULL: not taken under the lock, hence absent */
void put_wcc(struct call *c, i32 o, const struct stat *pre, const struct stat *post)
{
	put_u32(c, pre != NULL);
	if (pre) {
		put_u64(c, (u64)pre->st_size);
		put_time(c, &pre->st_mtim);
		put_time(c, &pre->st_ctim);
	}
	put_post_op(c, o, post);
}

void put_fh(struct call *c, i32 o) { put_opaque(c, W.objs[o].fh, W.objs[o].fhlen); }
