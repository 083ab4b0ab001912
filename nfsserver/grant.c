/* grant.c: the table of grants: what Python decided for (peer, credential, export), until a new export table throws it away. */
#include "parts.h"
#include <sys/mman.h>

static int grant_is(const struct grant *g, const struct call *c, u32 expid)
{
	return g->peer == c->eng->peers[c->peer].serial && g->cred == c->eng->creds[c->cred].serial && g->expid == expid;
}

/* The GRANT_WAYS places where the grant of the caller for this export may be. */
static struct grant *grant_set(const struct call *c, u32 expid)
{
	u32 peer = c->eng->peers[c->peer].serial, cred = c->eng->creds[c->cred].serial;
	return &W.grants[(peer * 0x9e3779b1u ^ cred * 0x85ebca6bu ^ expid * 0xc2b2ae35u) >> 5 & (N_GRANT - GRANT_WAYS)];
}

/* The grant of the caller for this export; NULL: none is known. */
struct grant *grant_find(const struct call *c, u32 expid)
{
	struct grant *g = grant_set(c, expid);
	for (u32 i = 0; i < GRANT_WAYS; i++)
		if (grant_is(&g[i], c, expid))
			return &g[i];
	return NULL;
}

/* Where it goes: its own place, else a free one, else another one's. */
struct grant *grant_place(const struct call *c, u32 expid)
{
	static u32 turn;
	struct grant *g = grant_find(c, expid), *set = grant_set(c, expid);
	for (u32 i = 0; !g && i < GRANT_WAYS; i++)
		if (!set[i].peer)
			g = &set[i];
	return g ? g : &set[turn++ % GRANT_WAYS];
}

/* What grants were decided from is not true any more.  The pages go back: they are zero when they are touched again. */
void vn_forget_grants(void)
{
	if (madvise(W.grants, N_GRANT * sizeof *W.grants, MADV_DONTNEED))
		memset(W.grants, 0, N_GRANT * sizeof *W.grants);
}
