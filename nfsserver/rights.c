/* rights.c: what a credential may do with an object: asked of the kernel as the caller, kept while the ctime stands. */
#include "parts.h"
#include <sys/xattr.h>

#define ACL_SEEN 1024           /* bytes of an ACL that are compared: 127 entries, of which ext4 has room for some 30 in an inode */

/* What stands for the access ACL of a file that is open for writing: 1 for none, 0 when it cannot be told. */
static u32 acl_now(const struct obj *b)
{
	u8 acl[ACL_SEEN];
	ssize_t n = b->wfd < 0 ? -1 : fgetxattr(b->wfd, "system.posix_acl_access", acl, sizeof acl);
	if (n < 0)
		return b->wfd >= 0 && (errno == ENODATA || errno == EOPNOTSUPP);
	return (u32)siphash(W.key, acl, (size_t)n) | 2;
}

/* Does what was found out about rights still hold?  While the ctime stands; and for a second also when only our own WRITEs moved it and
 * mode, owner and ACL are the same, or a file that many users write would be asked about at each WRITE. */
static int still_true(const struct verdict *v, const struct obj *b, const struct stat *st)
{
	u64 ctime = ns_of(&st->st_ctim);
	if (v->mode != (u16)st->st_mode || v->uid != st->st_uid || v->gid != st->st_gid)
		return 0;
	if (v->ctime_ns == ctime && v->settled)
		return 1;
	return b->written_to == ctime && v->ctime_ns >= b->written_from && v->ctime_ns <= ctime && v->asked_s == W.now_s
	       && v->acl && v->acl == acl_now(b);
}

/* Asks the kernel as the identity in force about one bit, which is known from then on.  0, or -1: it cannot tell now (errno). */
static int ask(struct verdict *v, const struct obj *b, int bit)
{
	int refused = (int)syscall(SYS_faccessat2, b->fd, "", bit, AT_EACCESS | AT_EMPTY_PATH) ? errno : 0;
	if (refused && refused != EACCES && refused != EPERM && refused != EROFS)
		return -1;
	v->known |= (u8)(bit | (refused == EROFS ? V_ROFS : 0)); /* EROFS: the operation itself shall say so */
	if (!refused || refused == EROFS)
		v->may |= (u8)bit;
	else
		v->may &= (u8)~bit;
	return 0;
}

/* 1 when `want` (R_OK, W_OK, X_OK bits) is allowed to the caller of c, 0 when not, -1 with errno when it cannot be told. */
int may(struct call *c, i32 o, const struct stat *st, int want)
{
	const struct ident *id = &W.idents[c->ident];
	struct obj *b = &W.objs[o];
	struct verdict *v = &W.verdicts[(b->serial * 0x9e3779b1u ^ id->serial * 0x85ebca6bu) >> 3 & (N_VERDICT - 1)];
	u64 ctime = ns_of(&st->st_ctim);
	if (v->obj_serial != b->serial || v->ident_serial != id->serial || !still_true(v, b, st))
		*v = (struct verdict){ .obj_serial = b->serial, .ident_serial = id->serial, .ctime_ns = ctime, .asked_s = W.now_s,
				       .uid = st->st_uid, .gid = st->st_gid, .mode = (u16)st->st_mode };
	int missing = want & ~v->known;
	if (missing) {
		if (ident_become(c->ident)) {
			errno = EAGAIN;
			return -1;
		}
		v->settled = (u8)settled(st); /* before it is asked: a change in the same tick of the clock afterwards would not show */
		if (!v->known) /* from before the first question */
			v->acl = b->written_to == ctime ? acl_now(b) : 0;
		for (int bit = 1; bit <= 4; bit <<= 1)
			if (missing & bit && ask(v, b, bit))
				return -1;
	}
	return (v->may & want) == want;
}

/* May this thread look names up in `dir` for c's caller without changing its identity? */
static int search_known(u32 obj_serial, u32 ident_serial, u64 ctime)
{
	const struct verdict *v = &W.verdicts[(obj_serial * 0x9e3779b1u ^ ident_serial * 0x85ebca6bu) >> 3 & (N_VERDICT - 1)];
	return v->obj_serial == obj_serial && v->ident_serial == ident_serial && v->ctime_ns == ctime && v->settled && v->may & X_OK;
}

/* Puts this thread into an identity that sees directory `dir` as the caller does: the caller's own, or the one in force when both
 * may search it (what a lookup finds does not depend on who asks). */
int become_searcher(struct call *c, i32 dir, const struct stat *dst)
{
	if (!W.root || my_serial == W.idents[c->ident].serial)
		return 0;
	/* Asked for each caller once, which makes him the one in force; from then on others can go after him. */
	if (may(c, dir, dst, X_OK) == 1 && search_known(W.objs[dir].serial, my_serial, ns_of(&dst->st_ctim)))
		return 0;
	return ident_become(c->ident);
}
