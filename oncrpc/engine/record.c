/* record.c: one turn of a connection: receives, finds records (RFC 5531 section 11) and takes their messages. */
#include "parts.h"
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
	BITE = 256 << 10,         /* one recv(): larger ones leave the processor's cache and halve large writes (measured) */
	LARGE = 32 << 10,         /* records from here on are received into their own buffer without overshooting */
	OVERSHOOT = 4 << 10,      /* what is received beyond the end of a LARGE record: the next header, cheap to move */
	MAX_FRAGMENTS = 2048,     /* of a record; Sun's library sends 4000-byte fragments, so 263 are ordinary */
};
#define LAST_FRAGMENT 0x80000000u

bool turn_over(const struct engine *e, const struct conn *c)
{
	return e->turn_msgs >= e->turn_quota || e->n_calls == RPC_BATCH || e->turn_reply >= TURN_REPLY || c->dead || c->out_len;
}

/* Room in c->rec for `more` bytes that are there, better for the rest of the fragment. */
static bool rec_room(struct engine *e, struct conn *c, size_t more)
{
	size_t want = (size_t)c->have + c->frag_left, least = (size_t)c->have + more;
	if (c->rec && c->rec->cap >= want)
		return true;
	if (c->rec && c->rec->cap >= least && more)
		return true;
	if (e->count.in_bytes + want > e->lim.in_budget / 2) { /* pay as you send */
		size_t some = 2 * least > 8192 ? 2 * least : 8192;
		want = want < some ? want : some;
	}
	if (e->count.in_bytes + want > e->lim.in_budget)
		evict_partial(e, c, want);
	struct buf *b = in_new(e, want);
	if (!b)
		return false;
	if (c->rec)
		memcpy(b->data, c->rec->data, c->have);
	bury(e, c->rec);
	c->rec = b;
	return true;
}

static int record_done(struct engine *e, struct conn *c)
{
	struct buf *b = c->rec;
	u32 n = c->have;
	c->rec = NULL;
	end_record(e, c);
	if (b)
		e->count.in_bytes -= b->cap; /* the batch's now, or free */
	int r = b ? take_message(e, c, &c->addr, c->port, b->data, n, &b) : -1;
	if (b) {
		e->count.in_bytes += b->cap;
		bury(e, b);
	}
	return r;
}

/* Goes on with the record under way.  Returns the first byte not used, NULL: close. */
static const u8 *assemble(struct engine *e, struct conn *c, const u8 *p, const u8 *end)
{
	for (;;) {
		if (!c->frag_left) {
			while (c->mark_have < 4 && p < end)
				c->mark[c->mark_have++] = *p++;
			if (c->mark_have < 4)
				return p;
			u32 mark = get_u32(c->mark), len = mark & ~LAST_FRAGMENT;
			c->mark_have = 0;
			c->last = mark >> 31;
			if (len > e->lim.max_record - c->have || ++c->n_frags > MAX_FRAGMENTS
			    || (c->last && c->have + len < MIN_MESSAGE))
				return NULL;
			c->frag_left = len;
		}
		size_t n = (size_t)(end - p);
		n = n < c->frag_left ? n : c->frag_left;
		if (n) {
			if (!rec_room(e, c, n))
				return NULL;
			memcpy(c->rec->data + c->have, p, n);
			p += n;
			c->have += (u32)n;
			c->frag_left -= (u32)n;
		}
		if (c->frag_left)
			return p;
		if (c->last)
			return record_done(e, c) ? NULL : p;
	}
}

/* Uses bytes of the stream until the turn is over.  Returns the first byte not used, NULL: close. */
static const u8 *take(struct engine *e, struct conn *c, const u8 *p, const u8 *end)
{
	while (p < end && !turn_over(e, c)) {
		if (!c->in_record) {
			if (end - p >= 4) {
				u32 mark = get_u32(p), len = mark & ~LAST_FRAGMENT;
				if ((mark & LAST_FRAGMENT) && len <= (size_t)(end - p) - 4) {
					if (len > e->lim.max_record || take_message(e, c, &c->addr, c->port, p + 4, len, NULL))
						return NULL;
					p += 4 + len;
					continue;
				}
			}
			c->in_record = 1;
			c->t_record = e->now;
			e->count.partial++;
		}
		if (!(p = assemble(e, c, p, end)))
			return NULL;
	}
	return c->dead ? NULL : p;
}

/* Less at a time when much is left already, so that leftovers of thousands of connections stay small. */
static size_t bite_size(const struct engine *e)
{
	if (e->count.in_bytes < e->lim.in_budget / 4)
		return BITE;
	return e->count.in_bytes < e->lim.in_budget / 2 ? BITE / 4 : e->count.in_bytes < e->lim.in_budget ? BITE / 16 : BITE / 64;
}

enum { GO_ON, OVER, BAD }; /* a turn: may take more, is over, ends with the connection */

/* Uses what is left from the last turn. */
static int take_left(struct engine *e, struct conn *c)
{
	struct buf *b = c->left;
	const u8 *p = take(e, c, b->data + b->off, b->data + b->off + b->len);
	if (c->dead)
		return OVER;
	if (!p)
		return BAD;
	b->len -= (size_t)(p - b->data) - b->off;
	b->off = (size_t)(p - b->data);
	if (!b->len) {
		c->left = NULL;
		bury(e, b);
		return GO_ON;
	}
	if (!conn_blocked(e, c))
		conn_enqueue(e, c);
	return OVER;
}

static void turn_at_end(struct engine *e, struct conn *c)
{
	if (e->turn_msgs)
		conn_enqueue(e, c); /* their replies leave before the next turn */
	else if (!c->out_len && !c->n_detached) /* else drain() or unblock() queue it again */
		kill_conn(e, c);
}

/* Where the next bytes go: `straight` of them to the end of the record under way, then up to `bite` into the region. */
struct aim { struct iovec iov[2]; size_t k, straight, bite; };

/* false: no memory for the record. */
static bool aim_at(struct engine *e, struct conn *c, struct aim *a)
{
	size_t room = REGION - e->region_pos, most = bite_size(e), bite = room < most ? room : most;
	a->k = a->straight = a->bite = 0;
	if (c->frag_left) {
		if (!(c->rec && c->rec->cap > c->have) && !rec_room(e, c, 1))
			return false;
		a->straight = c->rec->cap - c->have;
		a->straight = a->straight < c->frag_left ? a->straight : c->frag_left;
		a->iov[a->k++] = (struct iovec){ c->rec->data + c->have, a->straight };
		if (c->frag_left >= LARGE && bite > OVERSHOOT)
			bite = OVERSHOOT;
	}
	if (a->straight == c->frag_left) {
		a->iov[a->k++] = (struct iovec){ e->region + e->region_pos, bite };
		a->bite = bite;
	}
	return true;
}

/* `in` bytes were received straight into the record. */
static int take_straight(struct engine *e, struct conn *c, size_t in)
{
	c->have += (u32)in;
	c->frag_left -= (u32)in;
	return !c->frag_left && c->last && record_done(e, c) ? BAD : GO_ON;
}

/* n bytes were received into the region. */
static int take_region(struct engine *e, struct conn *c, size_t n)
{
	const u8 *p = e->region + e->region_pos, *end = p + n, *q = take(e, c, p, end);
	if (c->dead)
		return OVER;
	if (!q)
		return BAD;
	if (q > p)
		e->region_pos += (n + 7) & ~(size_t)7; /* calls of this batch point there */
	if (q == end)
		return GO_ON;
	struct buf *b = in_new(e, (size_t)(end - q));
	if (!b)
		return BAD;
	b->len = (size_t)(end - q);
	memcpy(b->data, q, b->len);
	c->left = b;
	if (!conn_blocked(e, c))
		conn_enqueue(e, c);
	return OVER;
}

/* One recv(), and what it brought. */
static int receive(struct engine *e, struct conn *c, size_t *got)
{
	struct aim a;
	if (!aim_at(e, c, &a))
		return BAD;
	struct msghdr mh = { .msg_iov = a.iov, .msg_iovlen = a.k };
	ssize_t n = a.straight ? recvmsg(c->fd, &mh, MSG_DONTWAIT) : recv(c->fd, a.iov[0].iov_base, a.bite, MSG_DONTWAIT);
	if (n < 0 && errno == EINTR)
		return GO_ON;
	if (n < 0) {
		if (errno != EAGAIN)
			kill_conn(e, c);
		return OVER;
	}
	if (n == 0) {
		c->eof = 1;
		conn_arm(e, c);
		conn_enqueue(e, c);
		return OVER;
	}
	size_t all = (size_t)n, in = all < a.straight ? all : a.straight;
	*got += all;
	conn_touch(e, c);
	int r = in ? take_straight(e, c, in) : GO_ON;
	if (r == GO_ON)
		r = take_region(e, c, all - in);
	return r == GO_ON && all < a.straight + a.bite ? OVER : r;
}

/* One turn of a connection: first what is left from the last one, then the socket. */
static int turn_until(struct engine *e, struct conn *c)
{
	size_t got = 0;
	int r = c->left ? take_left(e, c) : GO_ON;
	if (r == GO_ON && c->eof) {
		turn_at_end(e, c);
		return OVER;
	}
	while (r == GO_ON && !turn_over(e, c) && got < BITE && REGION - e->region_pos >= REGION_MIN)
		r = receive(e, c, &got);
	return r;
}

void turn_conn(struct engine *e, struct conn *c)
{
	if (conn_blocked(e, c)) {
		conn_arm(e, c);
		return;
	}
	if (turn_until(e, c) != BAD)
		return;
	e->count.badrecord++;
	if (e->pub.out_conn == c->id && e->pub.out_gen == c->gen)
		flush_tcp(e); /* answers to what came before */
	if (!c->dead)
		kill_conn(e, c);
}
