/* detach.c: calls that are answered later: what they hold, what they may hold together, and how any thread hands them back. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* An address may have a quarter of all calls that wait, and of what they hold, however many connections it makes or drops. */
enum { ADDRESS_DETACHED = 512, ADDRESS_SHARE = 4 };

/* Pending calls of a connection went down: it may go on, or end. */
static void unblock(struct engine *e, struct conn *c)
{
	conn_arm(e, c);
	if ((c->left && !conn_blocked(e, c)) || c->eof)
		conn_enqueue(e, c);
}

/* The bucket of a call's address: the same hash as that of a connection from there. */
static u32 bucket_of(const struct engine *e, const struct call *c) { return e->peers.hash[c->peer] % ADDRESSES; }

static void address_waits(struct engine *e, u32 bucket, u32 n, u64 bytes)
{
	struct waiting *w = &e->waiting[bucket];
	w->n += n;
	w->bytes += bytes;
	w->full |= w->n >= ADDRESS_DETACHED || w->bytes >= e->lim.detached_budget / ADDRESS_SHARE;
}

/* Its connections go on when a quarter of what they may have is free again. */
static void address_goes_on(struct engine *e, u32 bucket, u64 bytes)
{
	struct waiting *w = &e->waiting[bucket];
	w->n--;
	w->bytes -= bytes;
	if (!w->full || w->n > ADDRESS_DETACHED / 4 * 3 || w->bytes > e->lim.detached_budget / ADDRESS_SHARE / 4 * 3)
		return;
	w->full = false;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer)
		if (e->conns[i]->kind == RPC_CONN && e->conns[i]->bucket == bucket)
			unblock(e, e->conns[i]);
}

void free_detached(struct engine *e, struct detached *d)
{
	struct conn *c = conn_find(e, d->call.conn, d->call.conn_gen);
	address_goes_on(e, d->bucket, d->charged);
	e->count.detached_now--;
	e->count.detached_bytes -= d->charged;
	e->creds.pins[d->call.cred]--;
	e->peers.pins[d->call.peer]--;
	if (c) {
		c->n_detached--;
		c->detached_bytes -= d->charged;
		unblock(e, c);
	}
	if (d->place && d->place <= e->n_finished && e->finished[d->place - 1] == &d->call)
		e->finished[d->place - 1] = NULL;
	forget_seen(e, &d->slot);
	buf_free(e, d->args);
	buf_free(e, d->reply);
	free(d);
}

void close_detached(struct engine *e, struct detached *d)
{
	struct call *c = &d->call;
	struct conn *conn = conn_find(e, c->conn, c->conn_gen);
	size_t len = (size_t)(c->rep - c->mark);
	if (conn && (c->proto == RPC_UDP || c->proto == RPC_RELAY || len <= SMALL_REPLY)) {
		struct call t = *c; /* copied into the reply buffer of the batch */
		t.detached = 0;
		if (!op_room(&t, len)) {
			memcpy(t.mark, c->mark, len);
			t.rep = t.mark + len;
			t.owner = &d->slot;
			if (c->proto == RPC_TCP || c->proto == RPC_LOCAL)
				e->pub.out_pos = t.rep;
			else
				e->pub.close(&t);
		}
	} else if (conn) {
		if (e->pub.out_conn == c->conn && e->pub.out_gen == c->conn_gen)
			flush_tcp(e);
		before_sending(e);
		if ((conn = conn_find(e, c->conn, c->conn_gen)))
			send_bytes(e, conn, c->mark, len, &d->reply);
	}
	free_detached(e, d);
}

/* A finished call goes to a thread once more: it keeps its arguments, and its reply buffer grows.  NULL: over the budget. */
static struct call *detach_again(struct engine *e, struct detached *d, size_t room)
{
	size_t more = room > d->room ? room - d->room : 0;
	struct conn *conn = conn_find(e, d->call.conn, d->call.conn_gen);
	if ((more > SMALL_REPLY && e->count.detached_bytes + more > e->lim.detached_budget) || op_room(&d->call, room))
		return NULL; /* a little more is always there: what waits must end */
	d->room += more;
	d->charged += more;
	e->count.detached_bytes += more;
	address_waits(e, d->bucket, 0, more);
	if (conn)
		conn->detached_bytes += more;
	if (d->place && d->place <= e->n_finished && e->finished[d->place - 1] == &d->call)
		e->finished[d->place - 1] = NULL;
	d->place = 0;
	return &d->call;
}

/* Room for the reply, and the arguments: taken with the record's buffer, where they stand in it alone, else copied.  NULL: no memory. */
static struct detached *copy_call(struct engine *e, const struct call *c, size_t room)
{
	struct slot *s = c->owner;
	size_t n_args = (size_t)(c->end - c->arg);
	bool take = s->own && c->arg >= s->own->data && c->end <= s->own->data + s->own->cap; /* else they were rewritten elsewhere */
	struct detached *d = malloc(sizeof *d);
	if (!d)
		return NULL;
	d->args = NULL;
	if (!(d->reply = buf_new(e, room + RPC_HEADER)) || (!take && !(d->args = buf_new(e, n_args ? n_args : 1)))) {
		buf_free(e, d->reply);
		free(d);
		return NULL;
	}
	d->call = *c;
	d->slot = *s;
	if (take) {
		d->args = s->own;
		s->own = NULL;
	} else {
		memcpy(d->args->data, c->arg, n_args);
		d->call.arg = d->args->data;
		d->call.end = d->args->data + n_args;
	}
	d->slot.own = NULL;
	return d;
}

/* The call counts among those that wait. */
static void charge_call(struct engine *e, struct detached *d, struct conn *conn)
{
	e->creds.pins[d->call.cred]++;
	e->peers.pins[d->call.peer]++;
	e->count.detached++;
	e->count.detached_now++;
	e->count.detached_bytes += d->charged;
	address_waits(e, d->bucket, 1, d->charged);
	if (conn) {
		conn->n_detached++;
		conn->detached_bytes += d->charged;
	}
}

/* rpc_engine.full */
int op_full(const struct call *c, size_t room)
{
	const struct engine *e = ENGINE(c->eng);
	u64 charge = (u64)(c->end - c->arg) + room + RPC_HEADER;
	return !c->detached && (e->count.detached_now >= e->lim.max_detached || e->count.detached_bytes + charge > e->lim.detached_budget);
}

struct call *op_detach(struct call *c, size_t room)
{
	struct engine *e = ENGINE(c->eng);
	if (c->detached)
		return detach_again(e, (struct detached *)c, room);
	u64 charge = (size_t)(c->end - c->arg) + room + RPC_HEADER;
	if (room > MAX_REPLY || e->count.detached_now >= e->lim.max_detached
	    || e->count.detached_bytes + charge > e->lim.detached_budget)
		return NULL;
	struct detached *d = copy_call(e, c, room);
	if (!d)
		return NULL;
	if (e->tracers)
		keep_seen(e, &d->slot);
	d->slot.msg = NULL;
	((struct slot *)c->owner)->gone = 1;
	d->call.owner = &d->slot;
	d->call.detached = 1;
	d->room = room;
	d->place = 0;
	d->next = NULL;
	d->charged = charge;
	d->bucket = bucket_of(e, c);
	charge_call(e, d, conn_find(e, c->conn, c->conn_gen));
	return &d->call;
}

/* Ends the wait of the loop.  Any thread, signal handlers too. */
static void ring(struct engine *e)
{
	int saved = errno;
	u64 one = 1;
	while (write(e->wakefd, &one, 8) < 0 && errno == EINTR)
		;
	errno = saved;
}

/* rpc_engine.complete: any thread. */
void op_complete(struct call *c)
{
	struct detached *d = (struct detached *)c;
	struct engine *e = ENGINE(c->eng);
	struct detached *head = atomic_load(&e->done);
	do
		d->next = head;
	while (!atomic_compare_exchange_weak(&e->done, &head, d));
	if (!head)
		ring(e);
}

void collect_done(struct engine *e)
{
	struct detached *stack = atomic_exchange(&e->done, NULL), *fifo = NULL, *last = stack;
	while (stack) { /* last in first out becomes the order of completion */
		struct detached *next = stack->next;
		stack->next = fifo;
		fifo = stack;
		stack = next;
	}
	if (!fifo)
		return;
	if (e->done_tail)
		e->done_tail->next = fifo;
	else
		e->done_head = fifo;
	e->done_tail = last;
}

void take_finished(struct engine *e)
{
	collect_done(e);
	while (e->done_head && e->n_finished < RPC_BATCH) {
		struct detached *d = e->done_head;
		if (!(e->done_head = d->next))
			e->done_tail = NULL;
		e->finished[e->n_finished++] = &d->call;
		d->place = e->n_finished;
	}
}

void rpc_wake(struct rpc_engine *pub)
{
	atomic_store(&ENGINE(pub)->woken, 1);
	ring(ENGINE(pub));
}
