/* conn.c: the table of connections and other sockets, the queue of those that wait for a turn, the order of their last activity, what
 * epoll is asked about them, and their end. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	CONN_DETACHED = 256,      /* ... of one connection; its reading pauses */
	CONN_DETACHED_BYTES = 16 << 20,
};

struct conn *conn_find(struct engine *e, u32 id, u32 gen)
{
	return id < e->conn_cap && e->gens[id] == gen ? e->conns[id] : NULL;
}

void conn_enqueue(struct engine *e, struct conn *c)
{
	if (c->queued || c->dead)
		return;
	c->queued = 1;
	c->next = NONE;
	if (e->queue_tail == NONE)
		e->queue_head = c->id;
	else
		e->conns[e->queue_tail]->next = c->id;
	e->queue_tail = c->id;
	e->n_queued++;
}

static void unqueue(struct engine *e, struct conn *c)
{
	if (!c->queued)
		return;
	u32 before = NONE;
	for (u32 i = e->queue_head; i != c->id; i = e->conns[i]->next)
		before = i;
	if (before == NONE)
		e->queue_head = c->next;
	else
		e->conns[before]->next = c->next;
	if (e->queue_tail == c->id)
		e->queue_tail = before;
	c->queued = 0;
	e->n_queued--;
}

static void age_unlink(struct engine *e, struct conn *c)
{
	if (c->older == NONE)
		e->oldest = c->newer;
	else
		e->conns[c->older]->newer = c->newer;
	if (c->newer == NONE)
		e->newest = c->older;
	else
		e->conns[c->newer]->older = c->older;
}

void age_link(struct engine *e, struct conn *c)
{
	c->newer = NONE;
	c->older = e->newest;
	if (e->newest == NONE)
		e->oldest = c->id;
	else
		e->conns[e->newest]->newer = c->id;
	e->newest = c->id;
}

void conn_touch(struct engine *e, struct conn *c)
{
	c->t_active = e->now;
	if (e->newest == c->id)
		return;
	age_unlink(e, c);
	age_link(e, c);
}

/* May more calls be taken from it now? */
bool conn_blocked(const struct engine *e, const struct conn *c)
{
	if (e->stopped && (c->kind == RPC_CONN || c->kind == RPC_DGRAM))
		return true;
	return c->out_len || (c->kind == RPC_CONN && e->waiting[c->bucket].full)
	       || (c->kind != RPC_DGRAM /* many clients */
		   && (c->n_detached >= CONN_DETACHED || c->detached_bytes >= CONN_DETACHED_BYTES));
}

void conn_arm(struct engine *e, struct conn *c)
{
	u8 want = (c->eof || conn_blocked(e, c) ? 0 : EPOLLIN) | (c->out_len ? EPOLLOUT : 0);
	if (c->dead || want == c->armed)
		return;
	struct epoll_event ev = { .events = want, .data.u64 = (u64)c->gen << 32 | c->id };
	if (!epoll_ctl(e->ep, EPOLL_CTL_MOD, c->fd, &ev))
		c->armed = want;
}

void end_record(struct engine *e, struct conn *c)
{
	if (c->in_record)
		e->count.partial--;
	c->in_record = c->last = c->mark_have = 0;
	c->have = c->frag_left = c->n_frags = 0;
}

void rearm_listeners(struct engine *e)
{
	e->starved = false;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer)
		if (e->conns[i]->kind == RPC_LISTEN)
			conn_arm(e, e->conns[i]);
}

void kill_conn(struct engine *e, struct conn *c)
{
	if (c->dead)
		return;
	unqueue(e, c);
	age_unlink(e, c);
	c->dead = 1;
	epoll_ctl(e->ep, EPOLL_CTL_DEL, c->fd, NULL);
	if (c->kind != RPC_EVENT)
		close(c->fd);
	if (c->kind == RPC_CONN) {
		e->count.conns--;
		e->count.closed++;
		e->by_address[c->bucket]--;
	}
	if (c->kind == RPC_RELAYED && e->n_events < EPOLL_BATCH)
		e->events[e->n_events++] = (struct rpc_event){ c->id, RPC_EV_CLOSED };
	end_record(e, c);
	bury(e, c->left);
	bury(e, c->rec);
	c->left = c->rec = NULL;
	if (c->out_len) {
		e->count.pending_conns--;
		e->count.out_bytes -= c->out_len;
	}
	for (struct buf *b = c->out, *next; b; b = next) {
		next = b->next;
		buf_free(e, b);
	}
	c->out = c->out_tail = NULL;
	c->out_len = 0;
	e->gens[c->id]++;
	e->conns[c->id] = NULL;
	e->free_next[c->id] = e->free_head;
	e->free_head = c->id;
	c->morgue = e->morgue; /* someone up the stack may still look at it */
	e->morgue = c;
	if (e->starved)
		rearm_listeners(e);
}

int grow_conns(struct engine *e)
{
	u32 cap = e->conn_cap ? e->conn_cap * 2 : 64;
	struct conn **conns = realloc(e->conns, cap * sizeof *conns);
	if (!conns)
		return -1;
	e->conns = conns;
	u32 *gens = realloc(e->gens, cap * sizeof *gens);
	if (!gens)
		return -1;
	e->gens = gens;
	u32 *next = realloc(e->free_next, cap * sizeof *next);
	if (!next)
		return -1;
	e->free_next = next;
	for (u32 i = cap; i-- > e->conn_cap;) {
		conns[i] = NULL;
		gens[i] = 1;
		next[i] = e->free_head;
		e->free_head = i;
	}
	e->conn_cap = cap;
	return 0;
}
