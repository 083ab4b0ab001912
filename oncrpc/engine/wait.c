/* wait.c: waits for events: how long, and whether it pays to look for the next call before this thread sleeps. */
#include "parts.h"
#include <errno.h>
#include <sys/epoll.h>

enum {
	SPIN_NS = 60000,          /* how long to look for the next call before sleeping: going to sleep and waking cost 5 to 10 us */
	SPIN_CALLS = 2,           /* after a batch of so few; larger ones are a client that does not wait for each answer */
	SPIN_HITS = 4,            /* misses that are forgiven after as many hits */
	SPIN_PAUSE_MAX = 8192,
	MAX_WAIT_MS = 60000,
};

static int wait_ms(struct engine *e, int timeout_ms, u64 now)
{
	int wait = timeout_ms;
	if (e->queue_head != NONE || e->done_head || e->n_events)
		return 0;
	if ((e->count.partial || e->count.pending_conns || e->starved) && (wait < 0 || wait > SWEEP_MS))
		wait = SWEEP_MS;
	if (!e->deadline)
		return wait;
	u64 left = e->deadline > now ? (e->deadline - now + 999999) / 1000000 : 0;
	left = left > MAX_WAIT_MS ? MAX_WAIT_MS : left;
	return wait < 0 || (u64)wait > left ? (int)left : wait;
}

/* Did it pay to look?  A miss that nothing excuses (the client thinks longer, or needs this processor) makes for a pause, after as
 * many sleeps that were short, so that an idle server, and one that shares its processor with its client, sleeps at once. */
static void learn(struct engine *e, bool looked, bool found, bool soon)
{
	if (looked && found) {
		e->hits += e->hits < SPIN_HITS;
		e->pause = SPIN_PAUSE;
	} else if (looked && e->hits > 1) {
		e->hits--;
	} else if (looked) {
		e->hits = 0;
		e->pause_left = e->pause;
		e->pause = e->pause < SPIN_PAUSE_MAX ? e->pause * 2 : SPIN_PAUSE_MAX;
	} else if (soon && (!e->pause_left || !--e->pause_left)) {
		e->hits = 1;
	}
}

/* epoll_wait.  A client that sends one call at a time sends the next some us after its answer: where that was so lately, it is
 * looked for before this thread sleeps. */
int wait_events(struct engine *e, struct epoll_event *ev, int timeout_ms, u32 served)
{
	u64 begun = now_ns();
	int wait = wait_ms(e, timeout_ms, begun), n = 0;
	bool may_spin = wait && served && served <= SPIN_CALLS, looks = may_spin && e->hits;
	e->now = begun;
	while (looks && !n && e->now - begun < SPIN_NS) {
		n = epoll_wait(e->ep, ev, EPOLL_BATCH, 0);
		e->now = now_ns();
	}
	bool found = n > 0;
	if (!n) {
		n = epoll_wait(e->ep, ev, EPOLL_BATCH, wait);
		int err = errno;
		e->now = now_ns();
		errno = err;
	}
	if (may_spin && n > 0)
		learn(e, looks, found, e->now - begun < SPIN_NS);
	return n;
}
