/* reply.c: the ends of a call: reply, denial (RFC 5531 section 9), silence. */
#include "parts.h"
#include <errno.h>

enum {
	UDP_MAX_REPLY = 65507,
};

/* rpc_engine.close: everything but a TCP reply of the current batch. */
void op_close(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	size_t len = (size_t)(c->rep - c->mark);
	if (c->detached) {
		close_detached(e, (struct detached *)c);
	} else if (c->proto == RPC_LOCAL) {
		e->pub.out_pos = c->rep;
	} else if (c->proto == RPC_RELAY) {
		struct conn *conn = conn_find(e, c->conn, c->conn_gen);
		if (conn)
			send_relay(e, conn, s->serial, c->mark + 4, len - 4);
	} else if (len - 4 > UDP_MAX_REPLY) {
		e->count.udp_dropped++;
	} else {
		e->udp_msgs[e->udp_n].conn = c->conn;
		e->udp_msgs[e->udp_n].gen = c->conn_gen;
		e->udp_msgs[e->udp_n].off = (size_t)(c->mark + 4 - e->udp_out->data);
		e->udp_msgs[e->udp_n].len = len - 4;
		e->udp_msgs[e->udp_n++].slot = *s;
		e->udp_pos += len;
	}
}

void op_drop(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	e->count.dropped++;
	((struct slot *)c->owner)->gone = 1;
	if (e->pub.trace)
		e->pub.trace(c, 0);
	if (c->detached)
		free_detached(e, (struct detached *)c);
}

void op_deny(struct call *c, u32 accept_stat)
{
	struct engine *e = ENGINE(c->eng);
	e->count.denied++;
	if (accept_stat == GARBAGE_ARGS)
		e->count.garbage++;
	if (reply_open(c, 8)) {
		op_drop(c);
		return;
	}
	c->rep -= 4;
	put_u32(c, accept_stat);
	if (accept_stat == PROG_MISMATCH) {
		u32 low, high;
		version_range(e, c->prog, &low, &high);
		put_u32(c, low);
		put_u32(c, high);
	}
	reply_close(c);
}

void op_deny_auth(struct call *c, u32 auth_stat)
{
	struct engine *e = ENGINE(c->eng);
	e->count.badauth++;
	if (reply_open(c, 8)) {
		op_drop(c);
		return;
	}
	c->rep = c->mark + 12;
	put_u32(c, 1); /* MSG_DENIED */
	put_u32(c, 1); /* AUTH_ERROR */
	put_u32(c, auth_stat);
	reply_close(c);
}

void deny_rpcvers(struct call *c)
{
	ENGINE(c->eng)->count.denied++;
	if (reply_open(c, 8))
		return;
	c->rep = c->mark + 12;
	put_u32(c, 1); /* MSG_DENIED */
	put_u32(c, 0); /* RPC_MISMATCH */
	put_u32(c, 2);
	put_u32(c, 2);
	reply_close(c);
}

int rpc_null(struct call *c)
{
	if (reply_open(c, 0))
		op_drop(c);
	else
		reply_close(c);
	return 0;
}

int rpc_reply(struct call *c, const void *results, size_t len)
{
	if (len > MAX_REPLY || reply_open(c, len)) {
		op_drop(c);
		return -ENOMEM;
	}
	memcpy(c->rep, results, len);
	c->rep += len;
	reply_close(c);
	return 0;
}

int rpc_reply_raw(struct call *c, const void *msg, size_t len)
{
	u32 xid = htonl(c->xid);
	if (len < 12 || len > MAX_REPLY || reply_open(c, len)) {
		op_drop(c);
		return -EINVAL;
	}
	memcpy(c->mark + 4, msg, len);
	memcpy(c->mark + 4, &xid, 4);
	c->rep = c->mark + 4 + len;
	reply_close(c);
	return 0;
}

void rpc_deny(struct call *c, u32 accept_stat)
{
	if (c->detached || !((struct slot *)c->owner)->gone)
		op_deny(c, accept_stat);
}

void rpc_deny_auth(struct call *c, u32 auth_stat) { op_deny_auth(c, auth_stat); }

void rpc_drop(struct call *c) { op_drop(c); }

struct call *rpc_detach(struct call *c, size_t room) { return op_detach(c, room); }

void rpc_complete(struct call *d) { op_complete(d); }
