/* poll.c: receives batches of calls: ends one, waits, gives each socket that is ready its turn, and has C functions serve what they can. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

void end_batch(struct engine *e)
{
	flush_tcp(e);
	e->pub.out_conn = NONE;
	if (e->udp_n)
		flush_udp(e);
	if (e->tracers)
		flush_traces(e);
	for (u32 i = 0; i < e->n_calls; i++)
		if (e->slots[i].own) {
			buf_free(e, e->slots[i].own);
			e->slots[i].own = NULL;
		}
	for (struct buf *b = e->graveyard, *next; b; b = next) {
		next = b->next;
		buf_free(e, b);
	}
	e->graveyard = NULL;
	for (struct conn *c = e->morgue, *next; c; c = next) {
		next = c->morgue;
		free(c);
	}
	e->morgue = NULL;
	e->n_calls = e->n_finished = 0;
	e->region_pos = 0;
	e->udp_used = 0;
	e->batch++;
}

static void turn(struct engine *e, struct conn *c)
{
	e->turn_reply = 0;
	share_turn(e, c);
	switch (c->kind) {
	case RPC_CONN: turn_conn(e, c); break;
	case RPC_DGRAM: turn_udp(e, c); break;
	case RPC_RELAYED: turn_relay(e, c); break;
	case RPC_LISTEN: turn_listen(e, c); break;
	}
	share_took(e, c);
	if (c->kind != RPC_CONN && e->turn_msgs)
		e->t_shared = e->now;
}

/* How long ago somebody else was heard than the connection that was heard last. */
static u64 alone_ns(const struct engine *e)
{
	u32 second = e->newest == NONE ? NONE : e->conns[e->newest]->older;
	u64 heard = second == NONE ? 0 : e->conns[second]->t_active;
	return e->now - (heard > e->t_shared ? heard : e->t_shared);
}

/* Gives calls to their functions in C, in order, up to the first that is not for one or that one left over. */
static bool run_direct(struct engine *e)
{
	for (; e->at < e->n_calls; e->at++) {
		struct call *c = &e->calls[e->at];
		int (*fn)(struct call *) = e->direct[c->row];
		if (!fn || (c->status = fn(c)))
			return true;
	}
	return false;
}

/* The same with finished calls.  Is one left? */
static bool run_finished(struct engine *e)
{
	bool left = e->n_finished && !e->on_finished;
	for (u32 i = 0; i < e->n_finished && e->on_finished; i++) {
		int status = e->on_finished(e->finished[i]);
		if (!e->finished[i])
			continue;
		e->finished[i]->status = status;
		left = true;
	}
	return left;
}

int rpc_next(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	return e->at < e->n_calls && (e->looked || run_direct(e)) ? (e->looked = false, (int)e->at++) : -1;
}

static void heed(struct engine *e, const struct epoll_event *ev)
{
	u32 id = (u32)ev->data.u64, gen = (u32)(ev->data.u64 >> 32);
	if (id == NONE) {
		e->woken_now |= atomic_exchange(&e->woken, 0);
		return;
	}
	struct conn *c = conn_find(e, id, gen);
	if (!c)
		return;
	if (c->kind == RPC_EVENT) {
		if (e->n_events < EPOLL_BATCH)
			e->events[e->n_events++] = (struct rpc_event){ id, RPC_EV_READ };
		return;
	}
	if (c->kind == RPC_CONN && (ev->events & (EPOLLHUP | EPOLLERR)) && !(c->armed & EPOLLIN)) {
		kill_conn(e, c); /* nobody is there to take what waits */
		return;
	}
	if (ev->events & EPOLLOUT)
		drain(e, c);
	if (!c->dead && (ev->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		conn_enqueue(e, c);
}

/* One turn for each connection that was ready, as far as the batch has room. */
static void take_turns(struct engine *e)
{
	u32 turns = e->n_queued;
	share_begin(e);
	for (; turns && e->queue_head != NONE && e->n_calls < RPC_BATCH && REGION - e->region_pos >= REGION_MIN; turns--) {
		struct conn *c = e->conns[e->queue_head];
		e->queue_head = c->next;
		if (e->queue_head == NONE)
			e->queue_tail = NONE;
		c->queued = 0;
		e->n_queued--;
		turn(e, c);
	}
	share_end(e, turns);
}

/* Ends the batch and receives the next one.  0, or -errno. */
static int poll_once(struct engine *e, int timeout_ms)
{
	struct epoll_event ev[EPOLL_BATCH];
	memmove(e->events, e->events + e->n_seen, (e->n_events - e->n_seen) * sizeof *e->events);
	e->n_events -= e->n_seen;
	e->n_seen = 0;
	u32 served = e->n_calls;
	end_batch(e);
	if (e->creds.serial == NONE || e->peers.serial == NONE)
		return -EOVERFLOW;
	collect_done(e);
	int n = wait_events(e, ev, timeout_ms, served);
	if (n < 0 && errno != EINTR)
		return -errno;
	e->woken_now = n < 0;
	for (int i = 0; i < n; i++)
		heed(e, &ev[i]);
	take_finished(e);
	e->at = 0;
	take_turns(e);
	if ((e->count.partial || e->count.pending_conns || e->starved) && e->now - e->swept > SWEEP_MS * 1000000ull)
		sweep(e);
	e->n_seen = e->n_events;
	return 0;
}

int rpc_poll(struct rpc_engine *pub, int timeout_ms)
{
	struct engine *e = ENGINE(pub);
	for (;;) {
		e->woken_now = false;
		if (e->before_wait)
			e->before_wait(pub, e->n_calls, alone_ns(e));
		int err = poll_once(e, timeout_ms);
		if (err < 0)
			return err;
		bool left = run_finished(e);
		e->looked = run_direct(e);
		bool due = e->deadline && e->now >= e->deadline, more = left || e->n_events || due;
		if (e->looked || more || e->woken_now || timeout_ms >= 0)
			return (int)(e->n_calls - e->at) | (more ? RPC_MORE : 0);
	}
}

void rpc_deadline(struct rpc_engine *e, u64 ns) { ENGINE(e)->deadline = ns; }

int rpc_flush(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	flush_tcp(e);
	if (e->udp_n)
		flush_udp(e);
	return 0;
}

void rpc_on_finished(struct rpc_engine *e, int (*fn)(struct call *)) { ENGINE(e)->on_finished = fn; }

void rpc_before_wait(struct rpc_engine *e, void (*fn)(struct rpc_engine *, u32, u64)) { ENGINE(e)->before_wait = fn; }

struct call *rpc_call_at(struct rpc_engine *e, u32 i) { return i < RPC_BATCH ? &ENGINE(e)->calls[i] : NULL; }

int rpc_n_finished(struct rpc_engine *e) { return (int)ENGINE(e)->n_finished; }

struct call *rpc_finished_at(struct rpc_engine *e, u32 i) { return i < ENGINE(e)->n_finished ? ENGINE(e)->finished[i] : NULL; }

int rpc_n_events(struct rpc_engine *e) { return (int)ENGINE(e)->n_events; }

const struct rpc_event *rpc_events(struct rpc_engine *e) { return ENGINE(e)->events; }

const struct rpc_counters *rpc_count(struct rpc_engine *e) { return &ENGINE(e)->count; }
