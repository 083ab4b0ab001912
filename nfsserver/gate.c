/* gate.c: the one gate from a call to an object, a caller's rights and his identity.
 *
 * Every request passes vn_gate(): handle, export, host, squash.  MOUNT is no gate.  What Python decided for (peer, credential,
 * export) is a grant (grant.c). */
#include "parts.h"

enum { R_DENIED = 0x80 };

/* Has the call names in its arguments that tags may change? */
static int takes_names(const struct call *c)
{
	return c->prog == NFS_PROGRAM && (c->proc == (c->vers == 2 ? 4 : 3) || (c->proc >= (c->vers == 2 ? 9 : 8) && c->proc <= 15));
}

/* What few exports have. */
static int set_apart(const struct call *c, const struct export *e)
{
	if (e->flags & EX_OFFLINE)
		return c->vers == 2 && c->prog == NFS_PROGRAM ? ERR_STALE : ERR_JUKEBOX;
	return takes_names(c) && !host_known(c) ? V_HOST : 0;
}

/* Applies the grant for the export of object `o` to the call.  0, nfsstat3, V_GRANT. */
static int apply_grant(struct call *c, i32 o)
{
	const struct export *e = &W.exps[W.objs[o].exp];
	struct grant *g = grant_find(c, e->id);
	int status;
	c->obj = o;
	if (!g)
		return V_GRANT;
	c->obj = -1;
	if (g->rights & R_DENIED)
		return ERR_ACCES;
	if (!(g->rights & R_INSECURE_OK) && c->port >= 1024 && c->proto != RPC_LOCAL)
		return ERR_PERM;
	if (e->flags & (EX_OFFLINE | EX_CLUSTER) && (status = set_apart(c, e)))
		return status;
	c->ident = g->ident;
	c->rights = g->rights | (W.fs[e->fs].absent ? R_READONLY : 0);
	c->exp = e->row + 1;
	if (g->user && W.state[OFF_USERS / 8 + (u64)(g->user - 1) * USER_WORDS + U_STATE] != g->user_serial)
		g->user = user_row(c, e->id, &g->user_serial); /* another took the row */
	c->err = (i32)g->user;
	c->obj = o;
	return 0;
}

/* nfs_fh3 at the head of the arguments -> c->obj, c->rights, c->ident; c->arg moves behind it.  0, nfsstat3 or V_*. */
int vn_gate(struct call *c)
{
	const u8 *p = c->arg;
	i32 o;
	c->obj = c->obj2 = -1;
	if (W.generation < generation_due())
		return V_STALLED;
	int status = gate_fh(c, &p, &o);
	if (!status && !(status = apply_grant(c, o))) {
		c->word[2] = (u64)(uintptr_t)c->arg;
		c->arg = p;
		cold_begin(c, W.objs[o].fs);
		sync_begin();
	}
	return status;
}

/* Id of the export that the gate asks a grant for. */
u32 vn_expid(const struct call *c) { return W.exps[W.objs[c->obj].exp].id; }

/* Python's verdict for (peer, credential, export).  ident: place from ident_get; rights: R_* bits. */
void vn_grant(const struct call *c, u32 expid, u32 ident, u32 rights)
{
	struct grant *g = grant_place(c, expid);
	*g = (struct grant){ .peer = c->eng->peers[c->peer].serial, .cred = c->eng->creds[c->cred].serial, .expid = expid, .ident = ident,
			     .rights = rights };
	if (!(rights & R_DENIED))
		g->user = user_row(c, expid, &g->user_serial);
}
