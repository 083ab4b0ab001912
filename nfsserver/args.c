/* args.c: decoding of the arguments that procedures share.  XDR: RFC 1813 section 2.5. */
#include "parts.h"

/* Are fewer than `need` bytes of arguments left at p? */
int garbage(const struct call *c, const u8 *p, size_t need) { return p > c->end || (size_t)(c->end - p) < need; }

/* filename3 at *pp into name[256].  0, nfsstat3, V_GARBAGE.  Names are bytes: 1 to 255, no NUL, no '/'. */
int get_name(struct call *c, const u8 **pp, char *name)
{
	const u8 *p = *pp;
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 n = get_u32(p);
	if (n > 1 << 20 || garbage(c, p + 4, ((size_t)n + 3) & ~3u))
		return V_GARBAGE;
	p += 4;
	*pp = p + ((n + 3) & ~3u);
	if (!n)
		return ERR_ACCES;
	if (n > 255)
		return ERR_NAMETOOLONG;
	if (memchr(p, 0, n) || memchr(p, '/', n))
		return ERR_ACCES;
	memcpy(name, p, n);
	name[n] = 0;
	return 0;
}

/* bool of a union: 0 or 1, anything else does not decode. */
static int get_bool(struct call *c, const u8 **pp, u8 *out)
{
	if (garbage(c, *pp, 4))
		return -1;
	u32 v = get_u32(*pp);
	*pp += 4;
	*out = (u8)v;
	return v > 1 ? -1 : 0;
}

static int get_u32_if(struct call *c, const u8 **pp, u8 *set, u32 *out)
{
	if (get_bool(c, pp, set))
		return -1;
	if (!*set)
		return 0;
	if (garbage(c, *pp, 4))
		return -1;
	*out = get_u32(*pp);
	*pp += 4;
	return 0;
}

/* set_atime, set_mtime: DONT_CHANGE 0, SET_TO_SERVER_TIME 1, SET_TO_CLIENT_TIME 2 + nfstime3 */
static int get_time(struct call *c, const u8 **pp, u8 *how, struct timespec *t)
{
	if (garbage(c, *pp, 4))
		return -1;
	u32 v = get_u32(*pp);
	*pp += 4;
	if (v > 2)
		return -1;
	*how = (u8)v;
	*t = (struct timespec){ 0, v == 1 ? UTIME_NOW : UTIME_OMIT };
	if (v != 2)
		return 0;
	if (garbage(c, *pp, 8))
		return -1;
	*t = (struct timespec){ get_u32(*pp), get_u32(*pp + 4) };
	*pp += 8;
	return 0;
}

/* sattr3 at *pp.  0, ERR_INVAL (nanoseconds out of range), V_GARBAGE.  The size is any: objects without one are made all the same. */
int get_sattr(struct call *c, const u8 **pp, struct sattr *s)
{
	if (get_u32_if(c, pp, &s->set_mode, &s->mode) || get_u32_if(c, pp, &s->set_uid, &s->uid) || get_u32_if(c, pp, &s->set_gid, &s->gid)
	    || get_bool(c, pp, &s->set_size))
		return V_GARBAGE;
	if (s->set_size) {
		if (garbage(c, *pp, 8))
			return V_GARBAGE;
		s->size = get_u64(*pp);
		*pp += 8;
	}
	if (get_time(c, pp, &s->atime, &s->at) || get_time(c, pp, &s->mtime, &s->mt))
		return V_GARBAGE;
	if ((s->atime == 2 && s->at.tv_nsec > 999999999) || (s->mtime == 2 && s->mt.tv_nsec > 999999999))
		return ERR_INVAL;
	if ((s->set_uid && s->uid == ~0u) || (s->set_gid && s->gid == ~0u))
		return ERR_INVAL; /* chown(2) would leave it and say that it is done */
	s->mode &= 07777;
	return 0;
}
