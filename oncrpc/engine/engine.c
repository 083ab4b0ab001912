/* engine.c: makes and ends an engine. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	QUOTA = 64,               /* messages of one connection a turn, and how many it may be ahead of its share */
	MAX_DETACHED = 2048,      /* calls that wait for the pool */
	RECORD_S = 30,            /* for a record to arrive, and one second more for each RECORD_RATE bytes that did */
	STALL_S = 60,             /* a client that takes no byte of its replies for so long is closed */
	FD_RESERVE = 64,          /* descriptors that connections leave to everything else */
	CONN_CEILING = 65000,
};
#define IN_BUDGET (64ull << 20)        /* all unfinished records and leftovers together */
#define OUT_BUDGET (128ull << 20)      /* all replies that clients do not take */
#define DETACHED_BUDGET (256ull << 20) /* arguments and reply room of all detached calls */

static void default_limits(struct rpc_limits *l)
{
	struct rlimit rl;
	u64 fds = getrlimit(RLIMIT_NOFILE, &rl) ? 1024 : (u64)rl.rlim_cur;
	u64 most = fds > 2 * FD_RESERVE ? fds - FD_RESERVE : FD_RESERVE;
	most = most > CONN_CEILING ? CONN_CEILING : most;
	if (!l->max_conns || l->max_conns > most)
		l->max_conns = (u32)most;
	if (!l->max_record)
		l->max_record = MAX_RECORD;
	if (!l->quota || l->quota > RPC_BATCH)
		l->quota = QUOTA;
	if (!l->record_s)
		l->record_s = RECORD_S;
	if (!l->stall_s)
		l->stall_s = STALL_S;
	if (!l->max_detached || l->max_detached > MAX_DETACHED)
		l->max_detached = MAX_DETACHED;
	if (!l->in_budget)
		l->in_budget = IN_BUDGET;
	if (!l->out_budget)
		l->out_budget = OUT_BUDGET;
	if (!l->detached_budget)
		l->detached_budget = DETACHED_BUDGET;
}

struct rpc_engine *rpc_new(const struct rpc_limits *limits)
{
	struct engine *e = calloc(1, sizeof *e); /* the kernel's zero pages: tables cost memory as they fill */
	if (!e)
		return NULL;
	if (limits)
		e->lim = *limits;
	default_limits(&e->lim);
	e->ep = epoll_create1(EPOLL_CLOEXEC);
	e->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->region = malloc(REGION);
	e->pub.creds = calloc(TABLE, sizeof *e->pub.creds);
	e->pub.peers = calloc(TABLE, sizeof *e->pub.peers);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET, .data.u64 = NONE }; /* each write is told once: nobody need read them */
	if (e->ep < 0 || e->wakefd < 0 || !e->region || !e->pub.creds || !e->pub.peers
	    || epoll_ctl(e->ep, EPOLL_CTL_ADD, e->wakefd, &ev) || getrandom(e->key, sizeof e->key, 0) != sizeof e->key) {
		int err = errno;
		rpc_free(&e->pub);
		errno = err;
		return NULL;
	}
	e->kerb4_row = -1;
	e->free_head = e->queue_head = e->queue_tail = e->oldest = e->newest = NONE;
	e->batch = 2 * RECENT;
	e->pause = SPIN_PAUSE;
	e->dice = e->key[0];
	e->now = now_ns();
	table_init(&e->creds, e->pub.creds, sizeof *e->pub.creds);
	table_init(&e->peers, e->pub.peers, sizeof *e->pub.peers);
	e->pub.out_conn = NONE;
	e->pub.room = op_room;
	e->pub.close = op_close;
	e->pub.deny = op_deny;
	e->pub.deny_auth = op_deny_auth;
	e->pub.drop = op_drop;
	e->pub.detach = op_detach;
	e->pub.full = op_full;
	e->pub.complete = op_complete;
	e->pub.flush = rpc_flush;
	return &e->pub;
}

/* No thread may hold a detached call any more. */
void rpc_free(struct rpc_engine *pub)
{
	struct engine *e = ENGINE(pub);
	if (!e)
		return;
	if (e->conn_cap) {
		end_batch(e);
		for (u32 i = 0; i < e->conn_cap; i++)
			if (e->conns[i])
				kill_conn(e, e->conns[i]);
		collect_done(e);
		while (e->done_head) {
			struct detached *d = e->done_head;
			e->done_head = d->next;
			free_detached(e, d);
		}
		end_batch(e);
	}
	buf_free(e, e->out);
	buf_free(e, e->udp_out);
	buf_free(e, e->relay_out);
	buf_free_kept(e);
	for (u32 i = 0; i < e->n_programs; i++)
		free(e->programs[i].rows);
	while (e->tracers)
		end_trace(e, &e->tracers);
	if (e->ep >= 0)
		close(e->ep);
	if (e->wakefd >= 0)
		close(e->wakefd);
	free(e->region);
	free(e->udp_in);
	free(e->pub.creds);
	free(e->pub.peers);
	free(e->conns);
	free(e->gens);
	free(e->free_next);
	free(e);
}
