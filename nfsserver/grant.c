/* grant.c: the table of grants: what Python decided for (peer, credential, export), until a new export table throws it away. */
#include "parts.h"
#include <sys/mman.h>

int grant_is(const struct grant *g, const struct call *c, u32 expid)
{
	return g->peer == c->eng->peers[c->peer].serial && g->cred == c->eng->creds[c->cred].serial && g->expid == expid;
}

/* The two places where the grant of the caller for this export may be. */
struct grant *grant_pair(const struct call *c, u32 expid)
{
	u32 peer = c->eng->peers[c->peer].serial, cred = c->eng->creds[c->cred].serial;
	return &W.grants[(peer * 0x9e3779b1u ^ cred * 0x85ebca6bu ^ expid * 0xc2b2ae35u) >> 5 & (N_GRANT - 2)];
}

/* What grants were decided from is not true any more.  The pages go back: they are zero when they are touched again. */
void vn_forget_grants(void)
{
	if (madvise(W.grants, N_GRANT * sizeof *W.grants, MADV_DONTNEED))
		memset(W.grants, 0, N_GRANT * sizeof *W.grants);
}
