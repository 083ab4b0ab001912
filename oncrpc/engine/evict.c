/* evict.c: who has to go when connections, memory or time run out: limits against clients that take more than their share. */
#include "parts.h"

enum {
	RECORD_RATE = 4096,
	YOUNG_S = 2,
	HARD = 4,
	HOG_SHARE = 4,            /* an address with more than 1/4 of all connections makes room for its own newcomers */
	HOG_SAMPLES = 64,         /* places looked at to find one of its connections: about 4 are enough */
};

/* A connection of an address that has very many: of those met at random places the one that was idle longest. */
static struct conn *hog(struct engine *e, u32 bucket)
{
	struct conn *victim = NULL;
	for (u32 i = 0, met = 0; i < HOG_SAMPLES && met < 4; i++) {
		e->dice = e->dice * 6364136223846793005ull + 1442695040888963407ull;
		struct conn *c = e->conns[(u32)(e->dice >> 33) % e->conn_cap];
		if (!c || c->kind != RPC_CONN || c->bucket != bucket)
			continue;
		met++;
		if (!victim || c->t_active < victim->t_active)
			victim = c;
	}
	return victim;
}

/* Makes room for a newcomer (its address, if known): the connection that was idle longest, rather one that waits for
 * nothing; but who holds a large share of all connections makes room for himself. */
bool evict(struct engine *e, u32 bucket)
{
	struct conn *victim = NULL;
	u32 looked = 0;
	if (bucket != NONE && e->by_address[bucket] > e->count.conns / HOG_SHARE && e->by_address[bucket] < e->count.conns)
		victim = hog(e, bucket);
	for (u32 i = e->oldest; !victim && i != NONE && looked < 4096; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c->kind != RPC_CONN)
			continue;
		looked++;
		if (!c->n_detached && !c->out_len)
			victim = c;
	}
	for (u32 i = e->oldest; !victim && i != NONE; i = e->conns[i]->newer)
		if (e->conns[i]->kind == RPC_CONN)
			victim = e->conns[i];
	if (!victim)
		return false;
	e->count.evicted++;
	kill_conn(e, victim);
	return true;
}

/* Over the budget for unfinished records: close the one whose record has been arriving longest.  Honest ones arrive within
 * YOUNG_S, and may have up to HARD times the budget for that. */
void evict_partial(struct engine *e, struct conn *except, size_t want)
{
	struct conn *victim = NULL;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c != except && c->in_record && c->rec && (!victim || c->t_record < victim->t_record))
			victim = c;
	}
	bool hard = e->count.in_bytes + want > HARD * e->lim.in_budget;
	if (victim && (hard || e->now - victim->t_record > YOUNG_S * NS)) {
		e->count.evicted++;
		kill_conn(e, victim);
	}
}

void evict_stalled(struct engine *e)
{
	struct conn *victim = NULL;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		struct conn *c = e->conns[i];
		if (c->out_len && (!victim || c->t_stall < victim->t_stall))
			victim = c;
	}
	if (victim) {
		e->count.stalled++;
		kill_conn(e, victim);
	}
}

void sweep(struct engine *e)
{
	e->swept = e->now;
	if (e->starved)
		rearm_listeners(e);
	for (u32 i = e->oldest, next; i != NONE; i = next) {
		struct conn *c = e->conns[i];
		next = c->newer;
		if (c->in_record && conn_blocked(e, c)) {
			c->t_record = e->now; /* we are not reading */
		} else if (c->in_record && e->now - c->t_record > (e->lim.record_s + (u64)c->have / RECORD_RATE) * NS) {
			e->count.deadline++;
			kill_conn(e, c);
			continue;
		}
		if (c->out_len && e->now - c->t_stall > (u64)e->lim.stall_s * NS) {
			e->count.stalled++;
			kill_conn(e, c);
		}
	}
}
