/* line.c: connections of the load, in C, so that the load's own time does not hide the server's.
 *
 * Calls are encoded once; only xids are written into them.  A group leaves in one send, from where it lies; replies are received into
 * a buffer that stays in the cache, and of each the xid, reply_stat, accept_stat and nfsstat3 are looked at.  See line.h, nfsload.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "line.h"

enum {
	BITE = 256 << 10,     /* one recv, so that it stays in the cache */
	VECTORS = 64,         /* pieces of one sendmsg; less than IOV_MAX */
	HEAD = 28,            /* xid, REPLY, MSG_ACCEPTED, verf of length 0, accept_stat, nfsstat3 */
	FIRST_SAMPLES = 1 << 16,
	EVENTS = 64,
};

struct slot { uint32_t xid; bool busy; double due_s; };

struct line {
	struct line_result result;
	int fd;
	uint32_t depth, most, n_calls, next, seq, slot_bits, n_free, least;
	bool null;
	uint8_t *calls;
	const uint64_t *starts;
	const uint8_t *tail;
	uint64_t tail_len;
	struct slot *slots;
	uint32_t *free_slots;
	size_t room;                  /* of latency_s */
	/* the reply under way */
	bool in_record, last, success;
	uint64_t skip, size;
	uint32_t slot;                /* UINT32_MAX: a stranger's */
	size_t have;
	uint8_t buf[BITE];
};

static double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t get(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return ntohl(v); }

struct line *line_new(int fd, uint32_t depth, uint32_t most, uint8_t *calls, const uint64_t *starts, uint32_t n_calls,
		      const uint8_t *tail, uint64_t tail_len, uint32_t least, int null, uint32_t seed)
{
	struct line *l = calloc(1, sizeof *l);
	if (!l)
		return NULL;
	l->fd = fd, l->depth = depth, l->most = most, l->n_calls = n_calls, l->least = least, l->null = null, l->seq = seed;
	l->calls = calls, l->starts = starts, l->tail = tail, l->tail_len = tail_len;
	l->room = FIRST_SAMPLES;
	while (1u << l->slot_bits < most)
		l->slot_bits++;
	l->slots = calloc(most, sizeof *l->slots);
	l->free_slots = calloc(most, sizeof *l->free_slots);
	l->result.latency_s = malloc(l->room * sizeof(float));
	if (!l->slots || !l->free_slots || !l->result.latency_s) {
		line_free(l);
		return NULL;
	}
	while (l->n_free < most) {
		l->free_slots[l->n_free] = l->n_free;
		l->n_free++;
	}
	return l;
}

void line_free(struct line *l)
{
	free(l->slots);
	free(l->free_slots);
	free(l->result.latency_s);
	free(l);
}

const struct line_result *line_result(const struct line *l) { return &l->result; }

static int send_all(struct line *l, struct iovec *iov, size_t n)
{
	while (n) {
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n };
		ssize_t sent = sendmsg(l->fd, &mh, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		for (; n && (size_t)sent >= iov->iov_len; iov++, n--)
			sent -= (ssize_t)iov->iov_len;
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

/* The next call gets a slot and an xid that names it; returns its record. */
static struct iovec call_made(struct line *l, double due)
{
	uint32_t i = l->next, slot = l->free_slots[--l->n_free];
	uint8_t *record = l->calls + l->starts[i];
	uint32_t xid = l->seq++ << l->slot_bits | slot, wire = htonl(xid);
	l->slots[slot] = (struct slot){ xid, true, due };
	l->result.inflight++;
	memcpy(record + 4, &wire, 4);
	l->next = i + 1 < l->n_calls ? i + 1 : 0;
	return (struct iovec){ record, l->starts[i + 1] - l->starts[i] };
}

/* Calls that lie side by side are one piece. */
static size_t add(struct iovec *iov, size_t n, struct iovec piece)
{
	if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == piece.iov_base)
		iov[n - 1].iov_len += piece.iov_len;
	else
		iov[n++] = piece;
	return n;
}

int line_send_group(struct line *l, uint32_t n, double due)
{
	if (n > l->n_free)
		return -ENOBUFS;
	struct iovec iov[VECTORS];
	size_t k = 0;
	uint32_t held = 0; /* calls in iov: none of them twice, for each holds one xid */
	while (n) {
		k = add(iov, k, call_made(l, due));
		if (l->tail_len)
			iov[k++] = (struct iovec){ (void *)(uintptr_t)l->tail, l->tail_len };
		n--;
		if (++held == l->n_calls || k + 2 > VECTORS || !n) {
			int err = send_all(l, iov, k);
			if (err)
				return err;
			k = held = 0;
		}
	}
	return 0;
}

static int send_more(struct line *l, double now)
{
	uint32_t n = l->depth - l->result.inflight;
	return n < (l->depth / 2 ? l->depth / 2 : 1) ? 0 : line_send_group(l, n, now);
}

int line_send(struct line *l) { return send_more(l, seconds_now()); }

static void refused(struct line *l, int64_t what)
{
	struct line_refusal *r = l->result.refused;
	uint32_t i = 0;
	while (i < LINE_STATUSES - 1 && r[i].count && r[i].what != what)
		i++;
	r[i].what = r[i].count && r[i].what != what ? LINE_OTHER : what;
	r[i].count++;
}

/* Whose reply is it, and is it a success?  p has the first `n` bytes of it, HEAD or all there are. */
static void judge(struct line *l, const uint8_t *p, size_t n)
{
	uint32_t xid = n >= 4 ? get(p) : 0, slot = xid & ((1u << l->slot_bits) - 1);
	l->slot = slot;
	l->success = false;
	if (n < HEAD - 4 || get(p + 4) != 1 || slot >= l->most || !l->slots[slot].busy || l->slots[slot].xid != xid) {
		l->slot = UINT32_MAX;
		refused(l, LINE_STRANGER);
	} else if (get(p + 8)) {
		refused(l, LINE_DENIED);
	} else {
		uint64_t status = (uint64_t)get(p + 20) << 32 | (n < HEAD || l->null ? 0 : get(p + 24));
		l->success = !status && (n == HEAD || l->null);
		if (!l->success)
			refused(l, status ? (int64_t)status : LINE_SHORT);
	}
}

static int record_done(struct line *l, double now)
{
	struct line_result *r = &l->result;
	l->in_record = false;
	if (l->slot == UINT32_MAX)
		return 0;
	if (l->success && l->size < l->least)
		refused(l, LINE_SHORT);
	if (r->done == l->room) {
		float *more = realloc(r->latency_s, 2 * l->room * sizeof(float));
		if (!more)
			return -ENOMEM;
		r->latency_s = more;
		l->room *= 2;
	}
	r->latency_s[r->done++] = (float)(now - l->slots[l->slot].due_s);
	r->inflight--;
	l->slots[l->slot].busy = false;
	l->free_slots[l->n_free++] = l->slot;
	return 0;
}

/* The head of a fragment, of the first one with the head of the reply.  Its bytes that were used, 0: more must come. */
static size_t fragment(struct line *l, const uint8_t *p, size_t n)
{
	if (n < 4)
		return 0;
	uint32_t mark = get(p), len = mark & 0x7fffffff, head = l->in_record ? 0 : len < HEAD ? len : HEAD;
	if (n - 4 < head)
		return 0;
	if (!l->in_record) {
		l->size = 0;
		l->in_record = true;
		judge(l, p + 4, head);
	}
	l->last = mark >> 31;
	l->size += len;
	l->skip = len - head;
	return 4 + head;
}

int line_take(struct line *l)
{
	ssize_t n;
	while ((n = recv(l->fd, l->buf + l->have, BITE - l->have, 0)) < 0 && errno == EINTR)
		;
	if (n <= 0)
		return n ? -errno : -ENOTCONN;
	double now = seconds_now();
	size_t end = l->have + (size_t)n, pos = 0;
	for (;;) {
		size_t used = end - pos < l->skip ? end - pos : l->skip;
		pos += used;
		l->skip -= used;
		if (!l->skip && l->in_record && l->last && record_done(l, now))
			return -ENOMEM;
		if (l->skip || !(used = fragment(l, l->buf + pos, end - pos)))
			break;
		pos += used;
	}
	l->have = end - pos;
	memmove(l->buf, l->buf + pos, l->have);
	return 0;
}

int line_run(struct line *l, double seconds, double *took)
{
	double begun = seconds_now(), now = begun, end = begun + seconds;
	int err = 0;
	while (!err && (now < end || l->result.inflight)) {
		if (now < end)
			err = send_more(l, now);
		if (!err)
			err = line_take(l);
		now = seconds_now(); /* what taking cost is not the next calls' latency */
	}
	*took = now - begun;
	return err;
}

/* What the lines of one epoll_wait() brought; until `end` each sends again. */
static int lines_take(const struct epoll_event *ev, int n, double end)
{
	int err = 0;
	for (int i = 0; i < n && !err; i++) {
		struct line *l = ev[i].data.ptr;
		double now;
		err = line_take(l);
		if (!err && (now = seconds_now()) < end)
			err = send_more(l, now);
	}
	return err;
}

static uint64_t in_flight(struct line *const *lines, uint32_t n)
{
	uint64_t all = 0;
	for (uint32_t i = 0; i < n; i++)
		all += lines[i]->result.inflight;
	return all;
}

static int lines_begin(int ep, struct line *const *lines, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = lines[i] };
		int err = epoll_ctl(ep, EPOLL_CTL_ADD, lines[i]->fd, &ev) ? -errno : line_send(lines[i]);
		if (err)
			return err;
	}
	return 0;
}

int lines_run(struct line *const *lines, uint32_t n, double seconds, double stall_s, double *took)
{
	struct epoll_event ev[EVENTS];
	double begun = seconds_now(), end = begun + seconds;
	int ep = epoll_create1(EPOLL_CLOEXEC), err = ep < 0 ? -errno : lines_begin(ep, lines, n);
	while (!err && (seconds_now() < end || in_flight(lines, n))) {
		int ready = epoll_wait(ep, ev, EVENTS, (int)(stall_s * 1000));
		if (ready > 0)
			err = lines_take(ev, ready, end);
		else if (!ready || errno != EINTR)
			err = ready ? -errno : -EAGAIN;
	}
	if (ep >= 0)
		close(ep);
	*took = seconds_now() - begun;
	return err;
}
