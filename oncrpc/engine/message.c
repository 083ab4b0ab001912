/* message.c: the header of one RPC message (RFC 5531 section 9): a call is added to the batch, or answered at once. */
#include "parts.h"

enum { AUTH_BADCRED = 1, AUTH_REJECTEDCRED = 2, AUTH_BADVERF = 3 };

/* One RPC message of n bytes at m.  Order of the tests: rpcvers, program, version, procedure, then authentication (clients
 * probe with unknown versions and any credential).  The caller has filled the slot; *own is the record's buffer, if it
 * has one to itself, and is set to NULL when the batch keeps it.
 * Returns 0: handed out or answered; -1: nothing that could be answered. */
int take_message(struct engine *e, struct conn *conn, const struct rpc_peer *addr, u16 port, const u8 *m, size_t n,
		   struct buf **own)
{
	struct call *c = &e->calls[e->n_calls];
	struct slot *s = &e->slots[e->n_calls];
	u32 stat;

	e->turn_msgs++;
	if (n < MIN_MESSAGE || get_u32(m + 4) != 0)
		return -1;
	*c = (struct call){ .xid = get_u32(m), .prog = get_u32(m + 12), .vers = get_u32(m + 16), .proc = get_u32(m + 20),
			    .port = port, .proto = conn->proto, .conn = conn->id, .conn_gen = conn->gen,
			    .arg = m, .end = m + n, .eng = &e->pub, .t0 = e->now, .owner = s };
	s->own = NULL;
	s->seen = NULL;
	s->gone = 0;
	s->msg = m;
	s->msg_len = (u32)n;
	e->count.calls++;
	if (get_u32(m + 8) != 2) {
		deny_rpcvers(c);
		return 0;
	}
	i32 row = find_row(e, c->prog, c->vers, c->proc, &stat);
	if (row < 0) {
		op_deny(c, stat);
		return 0;
	}
	/* opaque_auth cred, verf: flavor, body<400> */
	size_t at = MIN_MESSAGE;
	if (n - at < 8) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	u32 flavor = get_u32(m + at), cred_len = get_u32(m + at + 4);
	const u8 *cred = m + at + 8;
	if (cred_len > MAX_AUTH) {
		op_deny_auth(c, AUTH_BADCRED);
		return 0;
	}
	at += 8 + ((cred_len + 3) & ~3u);
	if (at + 8 > n) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	u32 verf_len = get_u32(m + at + 4);
	if (verf_len > MAX_AUTH) {
		op_deny_auth(c, AUTH_BADVERF);
		return 0;
	}
	at += 8 + ((verf_len + 3) & ~3u);
	if (at > n) {
		op_deny(c, GARBAGE_ARGS);
		return 0;
	}
	bool asks = flavor == RPC_KERB4 && e->kerb4_row >= 0 && c->proc != 0;
	if (flavor == SYS_FLAVOR) {
		c->cred = auth_sys(e, conn, cred, cred_len);
		if (c->cred == NONE && c->proc == 0)
			c->cred = auth_none(e);
		if (c->cred == NONE) {
			op_deny_auth(c, AUTH_BADCRED);
			return 0;
		}
	} else if (flavor == NONE_FLAVOR || c->proc == 0 || asks) { /* NULL is answered whatever the flavor */
		c->cred = auth_none(e);
	} else {
		op_deny_auth(c, AUTH_REJECTEDCRED);
		return 0;
	}
	c->peer = conn_peer(e, conn, addr);
	if (c->peer == NONE || c->cred == NONE) { /* cannot be: the tables hold more than a batch and all detached calls */
		op_deny(c, SYSTEM_ERR);
		return 0;
	}
	c->row = asks ? (u32)e->kerb4_row : (u32)row;
	c->word[0] = asks ? (u64)row : 0;
	c->arg = m + at;
	u32 tail = e->tails[row];
	if (tail && n - at >= tail) {
		u32 weight = get_u32(m + n - tail);
		e->turn_reply += weight < TURN_REPLY ? weight : TURN_REPLY;
	}
	if (own) {
		s->own = *own;
		*own = NULL;
	}
	e->n_calls++;
	return 0;
}
