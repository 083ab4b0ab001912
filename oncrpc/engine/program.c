/* program.c: the programs, versions and procedures that are served, and what each of their rows asks for. */
#include "parts.h"
#include <errno.h>
#include <stdlib.h>

enum {
	MAX_PROC = 256,           /* NLM, the longest, has 24 */
};

int rpc_program(struct rpc_engine *pub, u32 prog, u32 vers, u32 nproc, u32 first_row)
{
	struct engine *e = ENGINE(pub);
	if (e->n_programs == MAX_PROGRAMS || nproc > MAX_PROC || first_row > MAX_ROWS - nproc)
		return -E2BIG;
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog && e->programs[i].vers == vers)
			return -EEXIST;
	i32 *rows = malloc((nproc ? nproc : 1) * sizeof *rows);
	if (!rows)
		return -ENOMEM;
	for (u32 i = 0; i < nproc; i++)
		rows[i] = (i32)(first_row + i);
	e->programs[e->n_programs++] = (struct program){ prog, vers, nproc, rows };
	return 0;
}

int rpc_hole(struct rpc_engine *pub, u32 prog, u32 vers, u32 proc)
{
	struct engine *e = ENGINE(pub);
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog && e->programs[i].vers == vers && proc < e->programs[i].nproc) {
			e->programs[i].rows[proc] = -1;
			return 0;
		}
	return -ENOENT;
}

int rpc_weight(struct rpc_engine *pub, u32 row, u32 tail)
{
	if (row >= MAX_ROWS || tail < 4 || tail > 255)
		return -EINVAL;
	ENGINE(pub)->tails[row] = (u8)tail;
	return 0;
}

int rpc_direct(struct rpc_engine *pub, u32 row, int (*fn)(struct call *))
{
	if (row >= MAX_ROWS)
		return -EINVAL;
	ENGINE(pub)->direct[row] = fn;
	return 0;
}

void version_range(struct engine *e, u32 prog, u32 *low, u32 *high)
{
	*low = NONE;
	*high = 0;
	for (u32 i = 0; i < e->n_programs; i++)
		if (e->programs[i].prog == prog) {
			u32 v = e->programs[i].vers;
			*low = v < *low ? v : *low;
			*high = v > *high ? v : *high;
		}
}

i32 find_row(struct engine *e, u32 prog, u32 vers, u32 proc, u32 *stat)
{
	struct program *p = &e->programs[e->last_program];
	if (!e->n_programs || p->prog != prog || p->vers != vers) {
		*stat = PROG_UNAVAIL;
		p = NULL;
		for (u32 i = 0; i < e->n_programs; i++)
			if (e->programs[i].prog == prog) {
				*stat = PROG_MISMATCH;
				if (e->programs[i].vers == vers) {
					p = &e->programs[i];
					e->last_program = i;
					break;
				}
			}
		if (!p)
			return -1;
	}
	*stat = PROC_UNAVAIL;
	return proc < p->nproc ? p->rows[proc] : -1;
}
