/* stats.h: the shared counters as nfssvc(2) tells them.  `state` is the mapped state file (state.h). */
#ifndef NFSSVC_STATS_H
#define NFSSVC_STATS_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "state.h"

#define USER_IDLE_S 7200 /* as macOS: a user is active so long after his last call */

void stats_sums(const uint64_t *state, uint64_t sums[N_COUNTERS]);                  /* struct nfsrvstats, since ZEROSTATS */
void stats_row(const uint64_t *state, unsigned slot, uint64_t words[SLOT_WORDS]);   /* one slot's row, since ZEROSTATS */
void stats_zero(uint64_t *state, uint64_t now_ns);                                  /* ZEROSTATS; one caller at a time */
uint32_t stats_usercount(const uint64_t *state, uint64_t since_s);                  /* users seen since then, CLOCK_REALTIME s */
#endif
