/* Drives the engine with random clients, honest and hostile, in one process; built with the address and undefined behaviour
 * sanitizers by test_fuzz.py.
 *
 *   fuzz_rpc SEED STEPS      exit 0, or a message and abort()
 *
 * Honest clients: every call that must be answered is answered exactly once with its own bytes, however it was cut into
 * fragments and writes.  Hostile ones: anything; the process must live, and in the end all memory budgets are back to 0. */
#include "../../oncrpc/engine.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PROG = 100003, CLIENTS = 24, OUTSTANDING = 64, STREAM = 1 << 18, MAX_ARGS = 60000, RECORD = 70000 };
enum { P_NULL, P_ECHO, P_LATER, P_THREAD, P_BIG, P_DROP, P_AGAIN, P_HOLE, P_DENY, P_HANGUP, P_RAW, N_PROCS };

struct client {
	int fd, evil, udp;
	u32 next_xid, n_out;
	u32 xids[OUTSTANDING], sums[OUTSTANDING], lens[OUTSTANDING], procs[OUTSTANDING];
	u8 tx[STREAM], rx[STREAM];
	size_t tx_len, rx_len;
};

static struct client clients[CLIENTS];
static struct rpc_engine *eng;
static struct call *later[4096];
static u32 n_later;
static u64 state;
static int port, uport, failed_detach;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct call *thread_queue[4096];
static u32 n_thread;
static int thread_stop;

static u32 rnd(u32 n)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return n ? (u32)(state >> 11) % n : 0;
}

static void die(const char *what)
{
	fprintf(stderr, "fuzz_rpc: %s\n", what);
	abort();
}

static u32 sum(const u8 *p, size_t n)
{
	u32 h = 2166136261u;
	while (n--)
		h = (h ^ *p++) * 16777619u;
	return h;
}

/* ---- server */

static void echo(struct call *c)
{
	size_t n = (size_t)(c->end - c->arg);
	if (reply_open(c, n + 4)) {
		c->eng->drop(c);
		return;
	}
	memcpy(c->rep, c->arg, n);
	c->rep += n;
	reply_close(c);
}

static void *worker(void *unused)
{
	(void)unused;
	for (;;) {
		pthread_mutex_lock(&lock);
		struct call *d = n_thread ? thread_queue[--n_thread] : NULL;
		int stop = thread_stop;
		pthread_mutex_unlock(&lock);
		if (d) {
			size_t n = (size_t)(d->end - d->arg);
			if (reply_open(d, n)) /* room: larger than asked for */
				die("no memory");
			memcpy(d->rep, d->arg, n);
			d->rep += n;
			d->state = 1;
			d->eng->complete(d);
		} else if (stop) {
			return NULL;
		}
	}
}

static void serve(struct call *c)
{
	struct call *d;
	switch (c->row) {
	case P_NULL: rpc_null(c); break;
	case P_ECHO: echo(c); break;
	case P_AGAIN:
		if (reply_open(c, 100000))
			die("no memory");
		put_u64(c, 7);
		echo(c);
		break;
	case P_LATER: case P_BIG: case P_THREAD:
		d = c->eng->detach(c, c->row == P_BIG ? 300000 : rnd(200));
		if (!d) {
			failed_detach++;
			echo(c);
		} else if (c->row == P_THREAD) {
			pthread_mutex_lock(&lock);
			thread_queue[n_thread++] = d;
			pthread_mutex_unlock(&lock);
		} else {
			later[n_later++] = d;
		}
		break;
	case P_DROP: rpc_drop(c); break;
	case P_DENY: rpc_deny(c, rnd(6)); break;
	case P_HANGUP: rpc_hangup(c); break;
	case P_RAW: {
		u8 reply[28] = { 0 };
		reply[7] = 1;
		rpc_reply_raw(c, reply, sizeof reply - 4);
		break;
	}
	default: die("a row that does not exist");
	}
}

static void poll_once(int wait)
{
	int n = rpc_poll(eng, wait);
	if (n > 0)
		n &= RPC_MORE - 1;
	if (n < 0)
		die("rpc_poll");
	for (int i = 0; i < n; i++)
		serve(rpc_call_at(eng, (u32)i));
	for (int i = 0; i < rpc_n_finished(eng); i++) {
		struct call *d = rpc_finished_at(eng, (u32)i);
		if (d->state == 1)
			reply_close(d);
		else
			echo(d);
	}
	while (n_later && rnd(3)) {
		u32 k = rnd(n_later);
		struct call *d = later[k];
		later[k] = later[--n_later];
		if (rnd(2))
			d->eng->complete(d);
		else
			echo(d); /* ended at once, without complete() */
	}
}

/* ---- clients */

static void put(u8 **p, u32 v) { v = htonl(v); memcpy(*p, &v, 4); *p += 4; }

static void make_call(struct client *c)
{
	static u8 msg[RECORD];
	u8 *p = msg;
	u32 proc = rnd(N_PROCS), n;
	if (!c->evil && (c->n_out == OUTSTANDING || proc == P_HANGUP))
		return;
	switch (rnd(8)) {
	case 0: n = rnd(MAX_ARGS / 4) * 4; break;
	case 1: case 2: n = rnd(2000) * 4; break;
	default: n = rnd(30) * 4;
	}
	u32 xid = c->next_xid++;
	put(&p, xid); put(&p, 0); put(&p, 2); put(&p, PROG); put(&p, 3); put(&p, proc);
	u32 gids = rnd(3) ? 0 : rnd(17), name = rnd(3) ? 4 : rnd(64) * 4;
	if (rnd(8)) {
		put(&p, 1); put(&p, 20 + name + 4 * gids); put(&p, rnd(3)); put(&p, name);
		memset(p, 'n', name);
		p += name;
		put(&p, rnd(rnd(2) ? 3 : 100000)); put(&p, rnd(5)); put(&p, gids);
		for (u32 i = 0; i < gids; i++)
			put(&p, rnd(100));
	} else {
		put(&p, 0); put(&p, 0);
	}
	put(&p, 0); put(&p, 0);
	for (u32 i = 0; i < n; i++)
		p[i] = (u8)rnd(256);
	u32 check = sum(p, n);
	p += n;
	u32 len = (u32)(p - msg);
	if (c->evil && rnd(3) == 0)
		for (u32 i = rnd(6); i--;)
			msg[rnd(rnd(2) ? 80 : len) % len] = (u8)rnd(256);
	if (c->tx_len + 2 * len + 32768 > STREAM)
		return;
	for (u32 at = 0; at < len || at == 0;) { /* fragments */
		u32 part = rnd(4) ? len - at : rnd(len - at + 1);
		u32 mark = htonl(part | (at + part == len ? 0x80000000u : 0));
		if (c->evil && rnd(40) == 0)
			mark = rnd(0xffffffffu);
		memcpy(c->tx + c->tx_len, &mark, 4);
		memcpy(c->tx + c->tx_len + 4, msg + at, part);
		c->tx_len += 4 + part;
		at += part;
		if (at == len && part)
			break;
		if (c->tx_len + len - at + 8192 > STREAM)
			die("stream buffer");
	}
	if (c->evil && rnd(10) == 0)
		c->tx_len -= rnd((u32)(c->tx_len < 50 ? c->tx_len : 50));
	if (!c->evil && proc != P_DROP) {
		c->xids[c->n_out] = xid;
		c->sums[c->n_out] = check;
		c->lens[c->n_out] = n;
		c->procs[c->n_out++] = proc;
	}
}

static void send_some(struct client *c)
{
	size_t n = rnd(3) ? c->tx_len : rnd((u32)c->tx_len + 1);
	ssize_t k = send(c->fd, c->tx, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (k <= 0)
		return;
	memmove(c->tx, c->tx + k, c->tx_len - (size_t)k);
	c->tx_len -= (size_t)k;
}

static void check_reply(struct client *c, const u8 *p, size_t n)
{
	if (n < 12)
		die("a short reply");
	u32 xid = get_u32(p), i;
	for (i = 0; i < c->n_out && c->xids[i] != xid; i++)
		;
	if (i == c->n_out)
		die("a reply to no call, or a second one");
	u32 proc = c->procs[i], accept = get_u32(p + 20);
	if (get_u32(p + 4) != 1 || get_u32(p + 8) != 0)
		die("denied");
	if (proc == P_HOLE ? accept != 3 : proc == P_DENY ? 0 : accept != 0)
		die("wrong accept_stat");
	if (proc == P_ECHO || proc == P_LATER || proc == P_THREAD || proc == P_BIG || proc == P_AGAIN)
		if (n - 24 != c->lens[i] || sum(p + 24, n - 24) != c->sums[i])
			die("another call's bytes");
	c->n_out--;
	c->xids[i] = c->xids[c->n_out];
	c->sums[i] = c->sums[c->n_out];
	c->lens[i] = c->lens[c->n_out];
	c->procs[i] = c->procs[c->n_out];
}

static void close_client(struct client *c)
{
	if (rnd(3) == 0) {
		struct linger l = { 1, 0 }; /* RST */
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	}
	close(c->fd);
	c->fd = -1;
}

static void recv_some(struct client *c)
{
	ssize_t k = recv(c->fd, c->rx + c->rx_len, rnd(2) ? STREAM - c->rx_len : rnd((u32)(STREAM - c->rx_len)), MSG_DONTWAIT);
	if (k == 0 && !c->evil && c->rx_len < STREAM / 2)
		k = recv(c->fd, c->rx + c->rx_len, STREAM - c->rx_len, MSG_DONTWAIT);
	if (k < 0)
		return;
	if (k == 0) {
		if (!c->evil)
			die("closed without reason");
		close_client(c);
		return;
	}
	c->rx_len += (size_t)k;
	size_t at = 0;
	while (c->rx_len - at >= 4) {
		u32 mark = get_u32(c->rx + at), len = mark & 0x7fffffff;
		if (c->rx_len - at < 4 + len)
			break;
		if (!c->evil)
			check_reply(c, c->rx + at + 4, len);
		at += 4 + len;
	}
	memmove(c->rx, c->rx + at, c->rx_len - at);
	c->rx_len -= at;
}

static void open_client(struct client *c)
{
	memset(c, 0, sizeof *c);
	c->evil = rnd(2);
	c->next_xid = rnd(1u << 30);
	if (rnd(4) == 0) { /* a unix socket */
		int sv[2];
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv))
			die("socketpair");
		c->fd = sv[0];
		if (rpc_attach(eng, sv[1], RPC_CONN, NULL, 0) < 0)
			die("rpc_attach");
		return;
	}
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((u16)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(c->fd, (void *)&a, sizeof a)) {
		close(c->fd);
		c->fd = -1;
	}
}

static void datagram(int fd)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((u16)uport), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static struct client scratch;
	scratch.evil = 1;
	scratch.tx_len = 0;
	make_call(&scratch);
	if (scratch.tx_len > 4)
		sendto(fd, scratch.tx + 4, scratch.tx_len - 4 < 60000 ? scratch.tx_len - 4 : 60000, MSG_DONTWAIT, (void *)&a, sizeof a);
	static u8 sink[70000];
	while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0)
		;
}

/* Somebody watches now and then, reads some of it, and goes without a word. */
static int watch_fd = -1;
static unsigned long watched, unseen;

static void watch_some(void)
{
	static u8 packet[256 << 10];
	ssize_t n = 0;
	if (watch_fd < 0) {
		int pair[2];
		struct rpc_trace_filter f = { .snap = 1 + rnd(4000), .by_uid = rnd(3) == 0, .uid = rnd(100), .export_id = 0 };
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
			die("socketpair");
		watch_fd = pair[1];
		if (rpc_trace_start(eng, 1 + rnd(3), 0, pair[0], &f))
			die("rpc_trace_start");
	} else if (rnd(20) == 0) {
		close(watch_fd);
		watch_fd = -1;
	} else if (rnd(20) == 0) {
		rpc_trace_stop(eng, 1 + rnd(3));
	}
	while (watch_fd >= 0 && rnd(4) && (n = recv(watch_fd, packet, sizeof packet, MSG_DONTWAIT)) > 0)
		for (ssize_t at = 0; at < n;) {
			struct rpc_trace_head h;
			memcpy(&h, packet + at, sizeof h);
			if (h.size < sizeof h || h.size > n - at || h.size % 8
			    || sizeof h + h.path_len + h.call_kept + h.reply_kept > h.size)
				die("trace record");
			watched += h.call_len != 0;
			unseen += h.lost;
			at += h.size;
		}
	if (n == 0 && watch_fd >= 0 && rnd(4) == 0) { /* stopped: nobody holds the other end */
		close(watch_fd);
		watch_fd = -1;
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	state = strtoull(argv[1], NULL, 10) * 0x9E3779B97F4A7C15ull + 1;
	long steps = atol(argv[2]);
	struct rpc_limits lim = { .max_conns = 400, .max_record = RECORD, .max_detached = 40, .quota = 5, .in_budget = 16 << 20 };
	eng = rpc_new(&lim);
	if (!eng || rpc_program(eng, PROG, 3, N_PROCS, 0) || rpc_hole(eng, PROG, 3, P_HOLE) || rpc_weight(eng, P_ECHO, 4))
		die("set-up");
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0), from = socket(AF_INET, SOCK_DGRAM, 0);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 64) || getsockname(l, (void *)&a, &len))
		die("listen");
	port = ntohs(a.sin_port);
	a.sin_port = 0;
	if (bind(u, (void *)&a, sizeof a) || getsockname(u, (void *)&a, &len))
		die("bind");
	uport = ntohs(a.sin_port);
	if (rpc_attach(eng, l, RPC_LISTEN, NULL, 0) < 0 || rpc_attach(eng, u, RPC_DGRAM, NULL, 0) < 0)
		die("attach");
	for (int i = 0; i < CLIENTS; i++)
		clients[i].fd = -1;
	pthread_t t;
	pthread_create(&t, NULL, worker, NULL);
	for (long s = 0; s < steps; s++) {
		struct client *c = &clients[rnd(CLIENTS)];
		if (c->fd < 0) {
			if (rnd(4) == 0)
				open_client(c);
		} else {
			for (u32 k = rnd(4); k--;)
				make_call(c);
			if (rnd(4))
				send_some(c);
			if (rnd(3))
				recv_some(c);
			if (c->fd >= 0 && rnd(c->evil ? 50 : 400) == 0 && (c->evil || c->n_out == 0 || rnd(4) == 0))
				close_client(c);
		}
		if (rnd(6) == 0)
			datagram(from);
		if (rnd(300) == 0)
			rpc_stop_reading(eng, (int)rnd(2));
		if (rnd(8) == 0)
			watch_some();
		if (rnd(2))
			poll_once(0);
	}
	/* every honest client gets the rest */
	rpc_stop_reading(eng, 0);
	for (long turn = 0, busy = 1; busy; turn++) {
		busy = 0;
		for (int i = 0; i < CLIENTS; i++) {
			struct client *c = &clients[i];
			if (c->fd >= 0 && !c->evil && (c->tx_len || c->n_out)) {
				busy = 1;
				send_some(c);
				recv_some(c);
			} else if (c->fd >= 0) {
				close_client(c);
			}
		}
		poll_once(1);
		if (turn > 20000)
			die("some calls are never answered");
	}
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].fd >= 0)
			close_client(&clients[i]);
	for (int i = 0; i < 200 || rpc_count(eng)->detached_now; i++) {
		poll_once(1);
		if (i > 20000)
			die("calls are left");
	}
	pthread_mutex_lock(&lock);
	thread_stop = 1;
	pthread_mutex_unlock(&lock);
	pthread_join(t, NULL);
	const struct rpc_counters *n = rpc_count(eng);
	if (n->conns || n->partial || n->pending_conns || n->in_bytes || n->out_bytes || n->detached_bytes) {
		fprintf(stderr, "conns %lu partial %lu pending %lu in %lu out %lu detached %lu\n", n->conns, n->partial,
			n->pending_conns, n->in_bytes, n->out_bytes, n->detached_bytes);
		die("something is left");
	}
	printf("calls %lu denied %lu badauth %lu garbage %lu badrecord %lu accepted %lu detached %lu (%d not)\n", n->calls, n->denied,
	       n->badauth, n->garbage, n->badrecord, n->accepted, n->detached, failed_detach);
	printf("watched %lu not seen %lu\n", watched, unseen);
	if (steps > 1000 && !watched)
		die("no call was ever watched");
	rpc_free(eng);
	if (watch_fd >= 0)
		close(watch_fd);
	close(from);
	return 0;
}
