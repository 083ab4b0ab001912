/* worker.c: what every part of the worker stands on: its one struct, exports by id, errors as nfsstat3. */
#include "parts.h"

struct worker W;

const char *procpath(int fd, char buf[32])
{
	char *p = buf + 31;
	*p = 0;
	do
		*--p = '0' + fd % 10;
	while ((fd /= 10));
	return p;
}

i32 exp_find(u32 id)
{
	/* The table is sorted by id. */
	u32 lo = 0, hi = W.n_exps;
	while (lo < hi) {
		u32 mid = (lo + hi) / 2;
		if (W.exps[mid].id < id) lo = mid + 1; else hi = mid;
	}
	return lo < W.n_exps && W.exps[lo].id == id ? (i32)lo : -1;
}

/* The one table from errno to nfsstat3 is Python's (nfsserver/status.py). */
int status_of(int err) { return err >= 0 && err < 256 ? W.nfsstat[err] : ERR_IO; }

void vn_errno_table(const int *table) { memcpy(W.nfsstat, table, sizeof W.nfsstat); }

/* No change of this object from now on can hide in the tick of the clock that its ctime shows (whole seconds: see settle_ns). */
int settled(const struct stat *st)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return ns_of(&now) > ns_of(&st->st_ctim) + settle_ns(st);
}
