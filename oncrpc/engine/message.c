/* message.c: the header of one RPC message (RFC 5531 section 9): a call is added to the batch, or answered at once. */
#include "parts.h"

enum { AUTH_BADCRED = 1, AUTH_REJECTEDCRED = 2, AUTH_BADVERF = 3 };

struct auth { u32 flavor, len; const u8 *body; };

/* opaque_auth at *at: flavor, body<400>.  false: the call was denied, with auth_stat `bad` when the body is too long. */
static inline bool get_auth(struct call *c, const u8 *m, size_t *at, u32 bad, struct auth *a)
{
	if (*at + 8 > (size_t)(c->end - m)) {
		op_deny(c, GARBAGE_ARGS);
		return false;
	}
	*a = (struct auth){ get_u32(m + *at), get_u32(m + *at + 4), m + *at + 8 };
	if (a->len > MAX_AUTH) {
		op_deny_auth(c, bad);
		return false;
	}
	*at += 8 + ((a->len + 3) & ~3u);
	return true;
}

/* Goes over credential and verifier at *at.  false: the call was denied. */
static inline bool get_auths(struct call *c, const u8 *m, size_t *at, struct auth *cred)
{
	struct auth verf;
	if (!get_auth(c, m, at, AUTH_BADCRED, cred) || !get_auth(c, m, at, AUTH_BADVERF, &verf))
		return false;
	if (*at > (size_t)(c->end - m)) {
		op_deny(c, GARBAGE_ARGS);
		return false;
	}
	return true;
}

/* Who calls.  asks: whose credential it is, its row finds out.  false: the call was denied. */
static inline bool set_caller(struct call *c, struct conn *conn, const struct rpc_peer *addr, const struct auth *a, bool asks)
{
	struct engine *e = ENGINE(c->eng);
	if (a->flavor == SYS_FLAVOR) {
		c->cred = auth_sys(e, conn, a->body, a->len);
		if (c->cred == NONE && c->proc == 0)
			c->cred = auth_none(e);
		if (c->cred == NONE) {
			op_deny_auth(c, AUTH_BADCRED);
			return false;
		}
	} else if (a->flavor == NONE_FLAVOR || c->proc == 0 || asks) { /* NULL is answered whatever the flavor */
		c->cred = auth_none(e);
	} else {
		op_deny_auth(c, AUTH_REJECTEDCRED);
		return false;
	}
	c->peer = conn_peer(e, conn, addr);
	if (c->peer == NONE || c->cred == NONE) { /* cannot be: the tables hold more than a batch and all detached calls */
		op_deny(c, SYSTEM_ERR);
		return false;
	}
	return true;
}

/* What the reply may weigh, by rpc_weight(). */
static void weigh(struct engine *e, const struct call *c, i32 row)
{
	u32 tail = e->tails[row];
	if (!tail || (size_t)(c->end - c->arg) < tail)
		return;
	u32 weight = get_u32(c->end - tail);
	e->turn_reply += weight < TURN_REPLY ? weight : TURN_REPLY;
}

/* The call whose header is of RPC version 2: it is denied, or added to the batch.  Order of the tests: program, version, procedure, then
 * authentication (clients probe with unknown versions and any credential). */
static void take_call(struct call *c, struct conn *conn, const struct rpc_peer *addr, const u8 *m, struct buf **own)
{
	struct engine *e = ENGINE(c->eng);
	struct auth cred;
	u32 stat;
	i32 row = find_row(e, c->prog, c->vers, c->proc, &stat);
	if (row < 0) {
		op_deny(c, stat);
		return;
	}
	size_t at = MIN_MESSAGE;
	if (!get_auths(c, m, &at, &cred))
		return;
	bool asks = cred.flavor == RPC_KERB4 && e->kerb4_row >= 0 && c->proc != 0;
	if (!set_caller(c, conn, addr, &cred, asks))
		return;
	c->row = asks ? (u32)e->kerb4_row : (u32)row;
	c->word[0] = asks ? (u64)row : 0;
	c->arg = m + at;
	weigh(e, c, row);
	if (own) {
		((struct slot *)c->owner)->own = *own;
		*own = NULL;
	}
	e->n_calls++;
}

/* One RPC message of n bytes at m.  The caller has filled the slot; *own is the record's buffer, if it has one to itself, and is set to
 * NULL when the batch keeps it.
 * Returns 0: handed out or answered; -1: nothing that could be answered. */
int take_message(struct engine *e, struct conn *conn, const struct rpc_peer *addr, u16 port, const u8 *m, size_t n, struct buf **own)
{
	struct call *c = &e->calls[e->n_calls];
	struct slot *s = &e->slots[e->n_calls];

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
	if (get_u32(m + 8) != 2)
		deny_rpcvers(c);
	else
		take_call(c, conn, addr, m, own);
	return 0;
}
