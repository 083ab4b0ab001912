/* trace.c: filter, buffer and sending of one tracer (trace.h).  Called by watch.c alone. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../trace.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* One packet: the largest record and some small ones; under the 212,992 bytes that a socket of an ordinary user holds. */
#define PACKET (192u << 10)

struct tracer {
	struct tracer *next;
	struct rpc_trace_filter f;
	u32 id, slot;
	int fd;
	u32 used, records;  /* in buf */
	u32 lost;
	u8 buf[PACKET];
};

struct tracer *trace_open(u32 id, u32 slot, int fd, const struct rpc_trace_filter *f)
{
	struct tracer *t = calloc(1, sizeof *t);
	if (!t)
		return NULL;
	t->f = *f;
	if (t->f.snap > TRACE_SNAP_MAX || !t->f.snap)
		t->f.snap = TRACE_SNAP_MAX;
	t->id = id;
	t->slot = slot;
	t->fd = fd;
	return t;
}

void trace_close(struct tracer *t)
{
	close(t->fd);
	free(t);
}

struct tracer **trace_next(struct tracer *t) { return &t->next; }
u32 trace_id(const struct tracer *t) { return t->id; }
u32 trace_snap(const struct tracer *t) { return t->f.snap; }

static bool in_net(const struct rpc_trace_filter *f, const struct rpc_peer *p)
{
	u32 whole = f->prefix / 8, rest = f->prefix % 8;
	if (p->family != f->family || memcmp(p->addr, f->addr, whole))
		return false;
	return !rest || !((p->addr[whole] ^ f->addr[whole]) >> (8 - rest));
}

bool trace_wants(const struct tracer *t, const struct rpc_peer *peer, const struct rpc_cred *cred)
{
	if (t->f.family && !in_net(&t->f, peer))
		return false;
	return !t->f.by_uid || (cred && cred->uid == t->f.uid);
}

bool trace_wants_export(const struct tracer *t, u32 export_id) { return !t->f.export_id || t->f.export_id == export_id; }

static u8 *append(u8 *at, const void *p, u32 n)
{
	if (n)
		memcpy(at, p, n);
	return at + n;
}

void trace_put(struct tracer *t, const struct rpc_trace_head *from, const void *path, const void *call, const void *reply)
{
	struct rpc_trace_head h = *from;
	h.slot = t->slot;
	h.lost = 0;
	h.call_kept = h.call_kept < t->f.snap ? h.call_kept : t->f.snap;
	h.reply_kept = h.reply_len < t->f.snap ? h.reply_len : t->f.snap;
	u32 bytes = (u32)sizeof h + h.path_len + h.call_kept + h.reply_kept;
	h.size = (bytes + 7) & ~7u;
	if (h.size > PACKET - t->used && !trace_flush(t)) {
		t->lost++;
		return;
	}
	u8 *at = append(t->buf + t->used, &h, sizeof h);
	at = append(at, path, h.path_len);
	at = append(at, call, h.call_kept);
	at = append(at, reply, h.reply_kept);
	memset(at, 0, h.size - bytes);
	t->used += h.size;
	t->records++;
}

bool trace_watched(const struct tracer *t)
{
	struct pollfd p = { .fd = t->fd };
	return poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR));
}

/* The first record of a packet carries what was lost before it. */
static void note_lost(struct tracer *t)
{
	struct rpc_trace_head h = { .size = sizeof h, .slot = t->slot };
	if (!t->used) {
		memcpy(t->buf, &h, sizeof h);
		t->used = h.size;
	}
	memcpy(t->buf + offsetof(struct rpc_trace_head, lost), &t->lost, 4);
}

bool trace_flush(struct tracer *t)
{
	if (!t->used && !t->lost)
		return true;
	if (t->lost)
		note_lost(t);
	ssize_t n;
	while ((n = send(t->fd, t->buf, t->used, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0 && errno == EINTR)
		;
	bool gone = n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM;
	t->lost = n < 0 ? t->lost + t->records : 0;
	t->used = t->records = 0;
	return !gone;
}
