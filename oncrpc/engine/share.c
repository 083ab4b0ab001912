/* share.c: how many calls a socket may take in its turn, so that those which want more than there is get alike.
 *
 * Virtual time, as in start-time fair queueing (Goyal, Vin, Cheng 1996), in PARTS of a call:
 *     e->share  what a connection that always has calls waiting is entitled to since the start: each batch adds the mean of what those
 *               in it took
 *     c->had    what the connection had of it; at least e->share (nobody saves up by being idle), at most a quota more
 * A turn brings `had` to a quota beyond `share` at the most.  So
 *     alone, or among others that take as much, `share` keeps up, and each turn may be of a whole quota;
 *     beside others that take one call a turn, one with many waiting is soon a quota ahead, and then has about one a turn;
 *     when those stop, `share` goes on twice as fast, and turns double up to a whole quota: that is six batches;
 *     beside another that calls now and then, the turns halve only as often as it calls.
 * A sixteenth is added in any case, so that those who are ahead by chance catch up, and do not have short turns for nothing.
 *
 * By calls, not by time: what a call costs is known when it has been served, and the batch is received before that.  A turn of large
 * replies ends by TURN_REPLY. */
#include "parts.h"

enum {
	PARTS = 64,               /* of a call: the mean of a batch is not a whole number */
	SURPLUS = 16,             /* `share` goes faster by this part; more, and one of two gets a third more than the other */
	LEAST_TURN = 16,          /* when so many are ready that a batch has no room for all: each send() is of several replies */
};

void share_begin(struct engine *e)
{
	u32 most = e->n_queued ? RPC_BATCH / e->n_queued : RPC_BATCH;
	most = most < LEAST_TURN ? LEAST_TURN : most;
	e->turn_most = most < e->lim.quota ? most : e->lim.quota;
	e->taken = e->takers = e->sated = 0;
}

void share_turn(struct engine *e, struct conn *c)
{
	u64 end = e->share + (u64)e->lim.quota * PARTS;
	e->turn_msgs = 0;
	e->turn_clients = 1;
	e->turn_quota = e->turn_most;
	if (c->kind != RPC_CONN) /* it stands for many clients */
		return;
	c->had = c->had < e->share ? e->share : c->had > end ? end : c->had;
	u64 may = (end - c->had) / PARTS;
	if (may < e->turn_quota)
		e->turn_quota = may ? (u32)may : 1; /* were it 0 for all, `share` would stand still */
}

void share_took(struct engine *e, struct conn *c)
{
	if (!e->turn_msgs)
		return;
	c->had += (u64)e->turn_msgs * PARTS;
	e->taken += e->turn_msgs;
	e->takers += c->kind == RPC_RELAYED ? e->turn_msgs : e->turn_clients;
	e->sated += e->turn_msgs < e->turn_quota;
}

/* waiting: sockets that were ready, but had no turn because the batch was full. */
void share_end(struct engine *e, u32 waiting)
{
	if (!e->takers)
		return;
	u64 mean = (u64)e->taken * PARTS / (e->takers + waiting);
	e->share += mean + (e->sated || waiting ? mean / SURPLUS : mean);
}
