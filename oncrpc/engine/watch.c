/* watch.c: shows calls at their end to whoever watches (trace.h).  Off, it is one branch a reply: e->pub.trace is NULL. */
#include "parts.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a detached call's record will show: its message is overwritten when the batch is over. */
void keep_seen(struct engine *e, struct slot *s)
{
	u32 n = 0;
	for (struct tracer *t = e->tracers; t; t = *trace_next(t))
		n = n < trace_snap(t) ? trace_snap(t) : n;
	n = n < s->msg_len ? n : s->msg_len;
	if (!s->msg || e->seen_bytes + n > TRACE_SEEN_MAX || !(s->seen = malloc(n)))
		return;
	memcpy(s->seen, s->msg, n);
	s->seen_len = n;
	e->seen_bytes += n;
}

void forget_seen(struct engine *e, struct slot *s)
{
	if (!s->seen)
		return;
	e->seen_bytes -= s->seen_len;
	free(s->seen);
	s->seen = NULL;
}

/* Whom the client of this call asked. */
static void trace_local(struct call *c, struct rpc_trace_head *h)
{
	struct engine *e = ENGINE(c->eng);
	struct conn *conn = conn_find(e, c->conn, c->conn_gen);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	struct rpc_peer p;
	if (!conn || c->proto == RPC_RELAY || getsockname(conn->fd, (struct sockaddr *)&ss, &len))
		return;
	set_peer(&p, &h->local_port, &ss, len);
	h->local_family = (u16)p.family;
	memcpy(h->local_addr, p.addr, 16);
	if (c->proto == RPC_UDP) /* bound to the wildcard, as a rule */
		h->local_family = (u16)rpc_local_addr(c, h->local_addr);
}

/* A call that was refused early has no place in the tables: its address is the connection's or the datagram's. */
static void trace_peer(struct call *c, bool decoded, struct rpc_peer *p)
{
	struct slot *s = c->owner;
	struct conn *conn = conn_find(ENGINE(c->eng), c->conn, c->conn_gen);
	u16 port;
	if (decoded || !conn)
		*p = c->eng->peers[c->peer];
	else if (c->proto == RPC_UDP)
		set_peer(p, &port, &s->from, s->from_len);
	else
		*p = conn->addr;
}

/* rpc_engine.trace: shows a call at its end to those who watch.  One whose message was not kept is counted by nobody: it came
 * before the trace began. */
static void op_trace(struct call *c, int replied)
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	const u8 *msg = c->detached ? s->seen : s->msg;
	bool decoded = c->detached || c->arg != s->msg;
	char path[TRACE_PATH_MAX];
	struct rpc_peer peer;
	struct rpc_trace_head h = { .t_call = c->t0, .conn = c->conn, .conn_gen = c->conn_gen, .proto = rpc_transport(c),
		.port = c->port, .flags = (replied ? TRACE_REPLIED : 0) | (c->detached ? TRACE_DETACHED : 0),
		.call_len = s->msg_len, .call_kept = c->detached ? s->seen_len : s->msg_len,
		.reply_len = replied ? (u32)(c->rep - c->mark - 4) : 0 };
	if (!msg)
		return;
	trace_peer(c, decoded, &peer);
	for (struct tracer *t = e->tracers; t; t = *trace_next(t)) {
		if (!trace_wants(t, &peer, decoded ? &c->eng->creds[c->cred] : NULL))
			continue;
		if (!h.t_reply) { /* the first that wants it */
			h.t_reply = now_ns();
			h.family = (u16)peer.family;
			memcpy(h.addr, peer.addr, 16);
			h.export_id = decoded && e->trace_export ? e->trace_export(c) : 0;
			h.path_len = decoded && e->trace_path ? e->trace_path(c, path, sizeof path) : 0;
			trace_local(c, &h);
		}
		if (trace_wants_export(t, h.export_id))
			trace_put(t, &h, path, msg, replied ? c->mark + 4 : NULL);
	}
}

void end_trace(struct engine *e, struct tracer **at)
{
	struct tracer *t = *at;
	*at = *trace_next(t);
	trace_close(t);
	if (!e->tracers)
		e->pub.trace = NULL;
}

void flush_traces(struct engine *e)
{
	for (struct tracer **at = &e->tracers; *at;)
		if (trace_flush(*at))
			at = trace_next(*at);
		else
			end_trace(e, at);
}

void rpc_trace_sweep(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	for (struct tracer **at = &e->tracers; *at;)
		if (trace_watched(*at))
			at = trace_next(*at);
		else
			end_trace(e, at);
}

int rpc_trace_stop(struct rpc_engine *pub, u32 id)
{
	struct engine *e = ENGINE(pub);
	for (struct tracer **at = &e->tracers; *at; at = trace_next(*at))
		if (trace_id(*at) == id) {
			trace_flush(*at);
			end_trace(e, at);
			return 0;
		}
	return -ENOENT;
}

int rpc_trace_start(struct rpc_engine *pub, u32 id, u32 slot, int fd, const struct rpc_trace_filter *f)
{
	struct engine *e = ENGINE(pub);
	struct tracer *t = trace_open(id, slot, fd, f);
	if (!t) {
		close(fd);
		return -ENOMEM;
	}
	rpc_trace_stop(pub, id);
	*trace_next(t) = e->tracers;
	e->tracers = t;
	e->pub.trace = op_trace;
	return 0;
}

void rpc_trace_names(struct rpc_engine *pub, u32 (*export_id)(const struct call *), u32 (*path)(const struct call *, char *, u32))
{
	ENGINE(pub)->trace_export = export_id;
	ENGINE(pub)->trace_path = path;
}
