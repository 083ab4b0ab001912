/* stats.c: the shared counters, added up, for the control half (nfsd_master/stats.py); not part of libnfssvc.
 *
 * What a reader shows is a slot's row less its base, the row's words at the last ZEROSTATS.  Workers count on meanwhile: a word
 * never goes back, and one that was counted between two reads shows in the next answer.  The bases lie in the state file, in two
 * sets: one that is being filled is not in force, so a control half that dies in the middle leaves the old one whole, and its
 * successor goes on with either.
 */
#include "stats.h"

#define GAUGES 8 /* the first words of a row say what is, not how often */

typedef _Atomic uint64_t word;

static uint64_t load(const uint64_t *w) { return atomic_load_explicit((const word *)w, memory_order_relaxed); }
static void store(uint64_t *w, uint64_t v) { atomic_store_explicit((word *)w, v, memory_order_relaxed); }

static const uint64_t *row_of(const uint64_t *state, unsigned slot) { return state + OFF_SLOTS / 8 + (size_t)slot * SLOT_WORDS; }

static uint64_t *bases(const uint64_t *state, uint64_t set)
{
	return (uint64_t *)(uintptr_t)state + OFF_BASES / 8 + (set & 1) * N_SLOTS * SLOT_WORDS;
}

static const uint64_t *base_of(const uint64_t *state, unsigned slot)
{
	return bases(state, atomic_load((const word *)&state[H_BASE])) + (size_t)slot * SLOT_WORDS;
}

static int is_gauge(unsigned i) { return i < GAUGES || i == S_FDS_READ || i == S_FDS_WRITE || i == S_OBJECTS; }

/* Rows of slots that do not run now count too: what was answered stays answered. */
void stats_sums(const uint64_t *state, uint64_t sums[N_COUNTERS])
{
	for (unsigned i = 0; i < N_COUNTERS; i++)
		sums[i] = 0;
	for (unsigned slot = 0; slot < N_SLOTS; slot++) {
		const uint64_t *row = row_of(state, slot), *base = base_of(state, slot);
		if (!load(&row[S_INCARNATION]))
			continue; /* no worker ever had it */
		for (unsigned i = 0; i < N_COUNTERS; i++)
			sums[i] += load(&row[S_COUNTERS + i]) - base[S_COUNTERS + i];
	}
}

void stats_row(const uint64_t *state, unsigned slot, uint64_t words[SLOT_WORDS])
{
	const uint64_t *row = row_of(state, slot % N_SLOTS), *base = base_of(state, slot % N_SLOTS);
	for (unsigned i = 0; i < SLOT_WORDS; i++)
		words[i] = load(&row[i]) - (is_gauge(i) ? 0 : base[i]);
}

/* The shared rows have no base: a store is whole, and what a worker adds counts before it or after it. */
static void zero_shared(uint64_t *state)
{
	uint64_t *x = state + OFF_EXPORTS / 8, *u = state + OFF_USERS / 8;
	for (unsigned i = 0; i < N_EXPORTS; i++, x += EXPORT_WORDS) {
		if (load(&x[X_EXPID])) {
			store(&x[X_REQUESTS], 0);
			store(&x[X_READ], 0);
			store(&x[X_WRITTEN], 0);
		}
	}
	for (unsigned i = 0; i < N_USERS; i++, u += USER_WORDS) {
		if (load(&u[U_STATE])) {
			store(&u[U_REQUESTS], 0);
			store(&u[U_READ], 0);
			store(&u[U_WRITTEN], 0);
		}
	}
}

void stats_zero(uint64_t *state, uint64_t now_ns)
{
	uint64_t set = !(state[H_BASE] & 1), *base = bases(state, set);
	zero_shared(state);
	for (unsigned slot = 0; slot < N_SLOTS; slot++, base += SLOT_WORDS) {
		const uint64_t *row = row_of(state, slot);
		if (!load(&row[S_INCARNATION]))
			continue; /* row and base are both 0: the file stays sparse */
		for (unsigned i = 0; i < SLOT_WORDS; i++)
			base[i] = load(&row[i]);
	}
	store(&state[H_USERS_LOST], 0);
	store(&state[H_ZEROED], now_ns);
	atomic_store((word *)&state[H_BASE], set);
}

uint32_t stats_usercount(const uint64_t *state, uint64_t since_s)
{
	const uint64_t *u = state + OFF_USERS / 8;
	uint32_t n = 0;
	for (unsigned i = 0; i < N_USERS; i++, u += USER_WORDS)
		n += load(&u[U_STATE]) && load(&u[U_LAST]) >= since_s;
	return n;
}
