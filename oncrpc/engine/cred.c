/* cred.c: the credential and the peer of a call (RFC 5531 appendix A), found again without decoding where a connection repeats them. */
#include "parts.h"
#include <errno.h>

enum {
	MAX_MACHINE = 255,        /* RFC 5531 appendix A */
};

/* authsys_parms (RFC 5531 appendix A): stamp, machinename<255>, uid, gid, gids<16>.  The place in creds, or NONE. */
u32 auth_sys(struct engine *e, struct conn *conn, const u8 *p, u32 n)
{
	struct table *t = &e->creds;
	u32 i = conn->cred;
	if (i != NONE && record_serial(t, i) == conn->cred_serial && e->cred_raw_len[i] == n && !memcmp(e->cred_raw[i], p, n)) {
		t->used[i] = e->batch;
		return i;
	}
	if (n < 20)
		return NONE;
	u32 name = get_u32(p + 4);
	if (name > MAX_MACHINE)
		return NONE;
	u32 at = 8 + ((name + 3) & ~3u);
	if (at + 12 > n)
		return NONE;
	struct rpc_cred cr = { .flavor = SYS_FLAVOR, .uid = get_u32(p + at), .gid = get_u32(p + at + 4) };
	u32 k = get_u32(p + at + 8);
	if (k > RPC_GIDS || at + 12 + 4 * k != n)
		return NONE;
	cr.ngids = (u16)k;
	for (u32 g = 0; g < k; g++)
		cr.gids[g] = get_u32(p + at + 12 + 4 * g);
	if ((i = intern(e, t, &cr)) == NONE)
		return NONE;
	memcpy(e->cred_raw[i], p, n);
	e->cred_raw_len[i] = (u16)n;
	conn->cred = i;
	conn->cred_serial = record_serial(t, i);
	return i;
}

u32 auth_none(struct engine *e)
{
	struct rpc_cred cr = { .flavor = NONE_FLAVOR, .uid = NONE, .gid = NONE };
	return intern(e, &e->creds, &cr);
}

u32 conn_peer(struct engine *e, struct conn *conn, const struct rpc_peer *addr)
{
	if (addr == &conn->addr && conn->peer != NONE && record_serial(&e->peers, conn->peer) == conn->peer_serial) {
		e->peers.used[conn->peer] = e->batch;
		return conn->peer;
	}
	u32 i = intern(e, &e->peers, addr);
	if (addr == &conn->addr && i != NONE) {
		conn->peer = i;
		conn->peer_serial = record_serial(&e->peers, i);
	}
	return i;
}

int rpc_become(struct call *c, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	struct engine *e = ENGINE(c->eng);
	struct rpc_cred cr = { .flavor = SYS_FLAVOR, .uid = uid, .gid = gid, .ngids = (u16)n };
	if (n > RPC_GIDS)
		return -EINVAL;
	memcpy(cr.gids, gids, n * sizeof *gids);
	u32 i = intern(e, &e->creds, &cr);
	if (i == NONE)
		return -ENOMEM;
	if (c->detached) {
		e->creds.pins[c->cred]--;
		e->creds.pins[i]++;
	}
	c->cred = i;
	return 0;
}

void rpc_kerb4(struct rpc_engine *pub, i32 row) { ENGINE(pub)->kerb4_row = row; }
