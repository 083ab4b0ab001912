/* room.c: room for a reply, in the buffer of the connection whose replies are being collected, of the datagrams, of a relay, or of the
 * detached call itself. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>

enum {
	OUT_FIRST = 256 << 10,
};

void flush_tcp(struct engine *e)
{
	struct rpc_engine *r = &e->pub;
	size_t n = e->out ? (size_t)(r->out_pos - e->out->data) : 0;
	if (n) {
		before_sending(e);
		struct conn *c = conn_find(e, r->out_conn, r->out_gen);
		if (c)
			send_bytes(e, c, e->out->data, n, &e->out);
	}
	r->out_pos = e->out ? e->out->data : NULL;
	r->out_end = e->out ? e->out->data + e->out->cap : NULL;
}

static bool reserve(struct engine *e, struct buf **b, size_t used, size_t need)
{
	if (*b && (*b)->cap - used >= need)
		return true;
	struct buf *n = buf_new(e, used + need);
	if (!n)
		return false;
	if (*b)
		memcpy(n->data, (*b)->data, used);
	buf_free(e, *b);
	*b = n;
	return true;
}

static int room_detached(struct detached *d, size_t need)
{
	if (d->reply->cap < need) {
		struct buf *b = malloc(sizeof *b + need);
		if (!b)
			return -1;
		*b = (struct buf){ .cap = need };
		free(d->reply);
		d->reply = b;
	}
	d->call.mark = d->reply->data;
	return 0;
}

static int room_udp(struct engine *e, struct call *c, size_t need)
{
	if (e->udp_n == UDP_OUT || (e->udp_out && e->udp_out->cap - e->udp_pos < need))
		flush_udp(e);
	if (!reserve(e, &e->udp_out, e->udp_pos, need))
		return -1;
	c->mark = e->udp_out->data + e->udp_pos;
	return 0;
}

static int room_relay(struct engine *e, struct call *c, size_t need)
{
	if (!reserve(e, &e->relay_out, 0, need))
		return -1;
	c->mark = e->relay_out->data;
	return 0;
}

static int room_conn(struct engine *e, struct call *c, size_t need)
{
	struct rpc_engine *r = &e->pub;
	if (r->out_conn != c->conn || r->out_gen != c->conn_gen || (size_t)(r->out_end - r->out_pos) < need)
		flush_tcp(e);
	if ((size_t)(r->out_end - r->out_pos) < need) {
		struct buf *b = buf_new(e, need > OUT_FIRST ? need : OUT_FIRST);
		if (!b)
			return -1;
		buf_free(e, e->out);
		e->out = b;
		r->out_pos = b->data;
		r->out_end = b->data + b->cap;
	}
	r->out_conn = c->conn;
	r->out_gen = c->conn_gen;
	c->mark = r->out_pos;
	return 0;
}

/* rpc_engine.room.  For a detached call: any thread, touches that call only. */
int op_room(struct call *c, size_t room)
{
	struct engine *e = ENGINE(c->eng);
	size_t need = room + RPC_HEADER;
	if (room > MAX_REPLY)
		return -1;
	if (c->detached)
		return room_detached((struct detached *)c, need);
	if (c->proto == RPC_UDP)
		return room_udp(e, c, need);
	return c->proto == RPC_RELAY ? room_relay(e, c, need) : room_conn(e, c, need);
}
