/* reply.c: the end of every reply: counted, kept for retransmissions, sent; and what a result that failed holds. */
#include "parts.h"

/* Place of a status in errs_common of struct nfsrvstats, nfssvc(2). */
static u32 error_place(u32 status)
{
	static const u16 common[30] = { 0, 1, 2, 5, 6, 13, 17, 18, 19, 20, 21, 22, 27, 28, 30, 31, 63, 66, 69, 70, 71, 99, 10001, 10002,
					10003, 10004, 10005, 10006, 10007, 10008 };
	for (u32 i = 0; i < 30; i++)
		if (common[i] == status)
			return C_ERRS + i;
	return C_ERRS_UNKNOWN;
}

static void count(struct call *c, u32 status)
{
	u64 *row = W.row, *n = row + S_COUNTERS, now = clock_ns();
	cold_end(c, now);
	if (c->prog == ACL_PROGRAM && c->proc < 8)
		row[S_ACL + c->proc]++;
	if (c->prog != NFS_PROGRAM)
		return;
	n[status ? error_place(status) : C_ERRS]++;
	if (status)
		n[C_RPC_ERRS]++;
	if (c->vers == 2 && c->proc < 18)
		row[S_V2 + c->proc]++;
	if (c->vers != 3 || c->proc >= N_PROCS3)
		return;
	n[C_PROCS + c->proc]++;
	if (status)
		row[S_ERRORS_PROC + c->proc]++;
	u64 ns = now - c->t0;
	u32 bucket = ns < 2 ? 0 : 63u - (u32)__builtin_clzll(ns);
	row[S_TIME_PROC + c->proc] += ns;
	row[S_HIST + c->proc * HIST + (bucket < HIST ? bucket : HIST - 1)]++;
}

static void add(_Atomic u64 *word, u64 n) { atomic_fetch_add_explicit(word, n, memory_order_relaxed); }

/* The rows of the export and of the active user are shared with the other workers, hence atomic: two locked additions a call, or
 * more where the workers' processors fight for the row.  So runs of calls by one user on one export are added up here, and told
 * before their replies leave: who has an answer finds it counted, and a worker that dies has counted what it answered. */
static struct { u32 exp; i32 user; u64 requests, bytes_read, bytes_written; } run;

void vn_tell(void)
{
	if (!run.requests)
		return;
	_Atomic u64 *x = (_Atomic u64 *)(W.state + OFF_EXPORTS / 8 + (u64)(run.exp - 1) * EXPORT_WORDS);
	_Atomic u64 *u = run.user ? (_Atomic u64 *)(W.state + OFF_USERS / 8 + (u64)(run.user - 1) * USER_WORDS) : NULL;
	add(&x[X_REQUESTS], run.requests);
	if (run.bytes_read)
		add(&x[X_READ], run.bytes_read);
	if (run.bytes_written)
		add(&x[X_WRITTEN], run.bytes_written);
	if (u) {
		add(&u[U_REQUESTS], run.requests);
		atomic_store_explicit(&u[U_LAST], W.wall_s, memory_order_relaxed);
		if (run.bytes_read)
			add(&u[U_READ], run.bytes_read);
		if (run.bytes_written)
			add(&u[U_WRITTEN], run.bytes_written);
	}
	run.requests = run.bytes_read = run.bytes_written = 0;
}

static void count_shared(struct call *c, u64 bytes_read, u64 bytes_written)
{
	if (!c->exp)
		return;
	if (run.exp != c->exp || run.user != c->err) {
		vn_tell();
		run.exp = c->exp;
		run.user = c->err;
	}
	run.requests++;
	run.bytes_read += bytes_read;
	run.bytes_written += bytes_written;
}

/* No reply: the client asks again, and then it is tried again. */
static int vn_silent(struct call *c)
{
	drc_forget(c);
	c->eng->drop(c);
	return 0;
}

int vn_close(struct call *c, u32 status)
{
	u64 rd = !status && c->state == 1 ? c->word[3] : 0, wr = !status && c->state == 2 ? c->word[3] : 0;
	if (c->vers == 2) {
		int left = v2_result(c, status);
		if (left < 0)
			return vn_silent(c);
		status = (u32)left;
	}
	count(c, status);
	count_shared(c, rd, wr);
	if (rd)
		W.row[S_READ_BYTES] += rd;
	if (wr)
		W.row[S_WRITE_BYTES] += wr;
	if (c->drc)
		drc_store(c);
	reply_close(c);
	return 0;
}

/* What the fail arm of a result holds: p post_op_attr of obj, w wcc_data of obj, 2 wcc_data of obj and obj2, l post_op_attr of obj
 * and wcc_data of obj2 (LINK), 0 nothing. */
static const char arms[N_PROCS3 + 1] = "00wppppwwwwwww2lpppppw";

static const struct stat *stat_if(i32 o, struct stat *st)
{
	return o >= 0 && W.objs[o].used && W.objs[o].fd >= 0 && !fd_stat(W.objs[o].fd, st) ? st : NULL;
}

/* Ends the call with an error: the fail arm of its result, with the attributes of the objects that the handle gate found
 * (c->obj, c->obj2; -1 where it found none). */
void vn_fail(struct call *c, u32 status)
{
	struct stat st;
	const struct stat *a;
	if (reply_open(c, 4 + 2 * (4 + 24 + 4 + 84))) {
		vn_silent(c);
		return;
	}
	put_u32(c, status);
	char arm = c->vers != 3 ? '0' : c->prog == ACL_PROGRAM ? 'p' : c->proc < N_PROCS3 ? arms[c->proc] : '0';
	if (arm == 'p' || arm == 'l') {
		a = stat_if(c->obj, &st);
		put_post_op(c, c->obj, a);
	} else if (arm == 'w' || arm == '2') {
		a = stat_if(c->obj, &st);
		put_wcc(c, c->obj, NULL, a);
	}
	if (arm == '2' || arm == 'l') {
		a = stat_if(c->obj2, &st);
		put_wcc(c, c->obj2, NULL, a);
	}
	vn_close(c, status);
}
