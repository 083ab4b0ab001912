/* attr.c: decoding of the arguments that procedures share, attributes in replies, and the end of every reply.
 * XDR: RFC 1813 sections 2.5 and 2.6. */
#include "vnode.h"
#include <sys/sysmacros.h>

/* Are fewer than `need` bytes of arguments left at p? */
int garbage(const struct call *c, const u8 *p, size_t need) { return p > c->end || (size_t)(c->end - p) < need; }

/* filename3 at *pp into name[256].  0, nfsstat3, V_GARBAGE.  Names are bytes: 1 to 255, no NUL, no '/'. */
int get_name(struct call *c, const u8 **pp, char *name)
{
	const u8 *p = *pp;
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 n = get_u32(p);
	if (n > 1 << 20 || garbage(c, p + 4, ((size_t)n + 3) & ~3u))
		return V_GARBAGE;
	p += 4;
	*pp = p + ((n + 3) & ~3u);
	if (!n)
		return ERR_ACCES;
	if (n > 255)
		return ERR_NAMETOOLONG;
	if (memchr(p, 0, n) || memchr(p, '/', n))
		return ERR_ACCES;
	memcpy(name, p, n);
	name[n] = 0;
	return 0;
}

/* bool of a union: 0 or 1, anything else does not decode. */
static int get_bool(struct call *c, const u8 **pp, u8 *out)
{
	if (garbage(c, *pp, 4))
		return -1;
	u32 v = get_u32(*pp);
	*pp += 4;
	*out = (u8)v;
	return v > 1 ? -1 : 0;
}

static int get_u32_if(struct call *c, const u8 **pp, u8 *set, u32 *out)
{
	if (get_bool(c, pp, set))
		return -1;
	if (!*set)
		return 0;
	if (garbage(c, *pp, 4))
		return -1;
	*out = get_u32(*pp);
	*pp += 4;
	return 0;
}

/* set_atime, set_mtime: DONT_CHANGE 0, SET_TO_SERVER_TIME 1, SET_TO_CLIENT_TIME 2 + nfstime3 */
static int get_time(struct call *c, const u8 **pp, u8 *how, struct timespec *t)
{
	if (garbage(c, *pp, 4))
		return -1;
	u32 v = get_u32(*pp);
	*pp += 4;
	if (v > 2)
		return -1;
	*how = (u8)v;
	*t = (struct timespec){ 0, v == 1 ? UTIME_NOW : UTIME_OMIT };
	if (v != 2)
		return 0;
	if (garbage(c, *pp, 8))
		return -1;
	*t = (struct timespec){ get_u32(*pp), get_u32(*pp + 4) };
	*pp += 8;
	return 0;
}

/* sattr3 at *pp.  0, ERR_INVAL (nanoseconds out of range), V_GARBAGE.  The size is any: objects without one are made all the same. */
int get_sattr(struct call *c, const u8 **pp, struct sattr *s)
{
	if (get_u32_if(c, pp, &s->set_mode, &s->mode) || get_u32_if(c, pp, &s->set_uid, &s->uid) || get_u32_if(c, pp, &s->set_gid, &s->gid)
	    || get_bool(c, pp, &s->set_size))
		return V_GARBAGE;
	if (s->set_size) {
		if (garbage(c, *pp, 8))
			return V_GARBAGE;
		s->size = get_u64(*pp);
		*pp += 8;
	}
	if (get_time(c, pp, &s->atime, &s->at) || get_time(c, pp, &s->mtime, &s->mt))
		return V_GARBAGE;
	if ((s->atime == 2 && s->at.tv_nsec > 999999999) || (s->mtime == 2 && s->mt.tv_nsec > 999999999))
		return ERR_INVAL;
	if ((s->set_uid && s->uid == ~0u) || (s->set_gid && s->gid == ~0u))
		return ERR_INVAL; /* chown(2) would leave it and say that it is done */
	s->mode &= 07777;
	return 0;
}

static void put_time(struct call *c, const struct timespec *t)
{
	u64 s = t->tv_sec < 0 ? 0 : t->tv_sec > 0xffffffff ? 0xffffffff : (u64)t->tv_sec; /* nfstime3 is unsigned 32 bits */
	put_u32(c, (u32)s);
	put_u32(c, (u32)t->tv_nsec);
}

/* ftype3 of S_IFMT >> 12: FIFO 7, CHR 4, DIR 2, BLK 3, REG 1, LNK 5, SOCK 6 */
static const u8 ftype[16] = { [1] = 7, [2] = 4, [4] = 2, [6] = 3, [8] = 1, [10] = 5, [12] = 6 };

void put_fattr(struct call *c, i32 o, const struct stat *st)
{
	const struct obj *b = &W.objs[o];
	u32 flags = W.exps[b->exp].flags, mode = st->st_mode & 07777, uid = st->st_uid, gid = st->st_gid;
	u64 fileid = st->st_ino;
	if (flags & (EX_READABLE_EXEC | EX_SINGLEUSER | EX_FILEID32) || c->rights & R_CLIENTS32) {
		if (flags & EX_READABLE_EXEC && S_ISREG(st->st_mode)) /* unfsd -r */
			mode |= (mode & 0111) << 2;
		if (flags & EX_SINGLEUSER) { /* unfsd -s: the server's own files are the caller's, all others root's */
			const struct rpc_cred *cr = &c->eng->creds[c->cred];
			uid = uid == geteuid() ? cr->uid : 0;
			gid = gid == getegid() ? cr->gid : 0;
		}
		if (flags & EX_FILEID32)
			fileid = (u32)(fileid ^ fileid >> 32);
	}
	put_u32(c, ftype[(st->st_mode & S_IFMT) >> 12]);
	put_u32(c, mode);
	put_u32(c, (u32)st->st_nlink);
	put_u32(c, uid);
	put_u32(c, gid);
	put_u64(c, (u64)st->st_size);
	put_u64(c, (u64)st->st_blocks * 512);
	put_u32(c, major(st->st_rdev));
	put_u32(c, minor(st->st_rdev));
	memcpy(c->rep, W.fs[b->fs].fsid, 8);
	c->rep += 8;
	put_u64(c, fileid);
	put_time(c, &st->st_atim);
	put_time(c, &st->st_mtim);
	put_time(c, &st->st_ctim);
}

/* post_op_attr; st NULL: absent */
void put_post_op(struct call *c, i32 o, const struct stat *st)
{
	put_u32(c, st != NULL);
	if (st)
		put_fattr(c, o, st);
}

/* wcc_data; pre NULL: not taken under the lock, hence absent */
void put_wcc(struct call *c, i32 o, const struct stat *pre, const struct stat *post)
{
	put_u32(c, pre != NULL);
	if (pre) {
		put_u64(c, (u64)pre->st_size);
		put_time(c, &pre->st_mtim);
		put_time(c, &pre->st_ctim);
	}
	put_post_op(c, o, post);
}

void put_fh(struct call *c, i32 o) { put_opaque(c, W.objs[o].fh, W.objs[o].fhlen); }

/* ---- The end of a reply. */

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
