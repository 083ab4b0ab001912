/* send.c: bytes out.  What a connection does not take is kept with it (chain of buffers, not copied when large) until it does. */
#include "parts.h"
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void keep(struct engine *e, struct conn *c, struct buf *b)
{
	if (!c->out_len) {
		c->t_stall = e->now;
		e->count.pending_conns++;
	}
	b->next = NULL;
	if (c->out_tail)
		c->out_tail->next = b;
	else
		c->out = b;
	c->out_tail = b;
	c->out_len += b->len;
	e->count.out_bytes += b->len;
}

/* Keeps n bytes that the socket did not take. */
static void keep_rest(struct engine *e, struct conn *c, const u8 *p, size_t n, struct buf **own)
{
	struct buf *tail = c->out_tail;
	if (tail && tail->cap - tail->off - tail->len >= n) {
		memcpy(tail->data + tail->off + tail->len, p, n);
		tail->len += n;
		c->out_len += n;
		e->count.out_bytes += n;
		return;
	}
	struct buf *b;
	if (own && n >= SMALL_REPLY) {
		b = *own;
		b->off = (size_t)(p - b->data);
		*own = NULL;
	} else {
		if (!(b = buf_new(e, n))) {
			kill_conn(e, c);
			return;
		}
		memcpy(b->data, p, n);
	}
	b->len = n;
	keep(e, c, b);
	conn_arm(e, c);
	if (e->count.out_bytes > e->lim.out_budget)
		evict_stalled(e);
}

/* Sends, or keeps what the socket does not take.  *own, if given, is the buffer that holds p, and may be taken over (then
 * it becomes NULL) instead of copied. */
void send_bytes(struct engine *e, struct conn *c, const u8 *p, size_t n, struct buf **own)
{
	while (!c->out_len && n) {
		ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
				break;
			e->count.send_errors++;
			kill_conn(e, c);
			return;
		}
		p += sent;
		n -= (size_t)sent;
	}
	if (n)
		keep_rest(e, c, p, n, own);
}

/* The socket takes bytes again. */
void drain(struct engine *e, struct conn *c)
{
	while (c->out_len) {
		struct iovec iov[16];
		size_t k = 0;
		for (struct buf *b = c->out; b && k < 16; b = b->next)
			iov[k++] = (struct iovec){ b->data + b->off, b->len };
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = k };
		ssize_t sent = sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
				e->count.send_errors++;
				kill_conn(e, c);
			}
			return;
		}
		c->t_stall = e->now;
		c->out_len -= (size_t)sent;
		e->count.out_bytes -= (u64)sent;
		while (sent > 0 || (c->out && !c->out->len)) {
			struct buf *b = c->out;
			size_t n = (size_t)sent < b->len ? (size_t)sent : b->len;
			b->off += n;
			b->len -= n;
			sent -= (ssize_t)n;
			if (b->len)
				break;
			c->out = b->next;
			if (!c->out)
				c->out_tail = NULL;
			buf_free(e, b);
		}
	}
	e->count.pending_conns--;
	conn_arm(e, c);
	if (c->left || c->eof)
		conn_enqueue(e, c);
}

void rpc_before_sending(struct rpc_engine *pub, void (*hook)(void)) { ENGINE(pub)->before_sending = hook; }

void before_sending(struct engine *e)
{
	if (e->before_sending)
		e->before_sending();
}

void send_relay(struct engine *e, struct conn *c, u32 serial, const u8 *msg, size_t len)
{
	struct iovec iov[2] = { { &serial, 4 }, { (void *)(uintptr_t)msg, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	before_sending(e);
	while (sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		if (errno != EINTR) { /* full: the client's retransmission comes again */
			e->count.send_errors++;
			if (errno == EPIPE || errno == ECONNRESET)
				kill_conn(e, c);
			return;
		}
}
