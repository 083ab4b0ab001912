/* obj.c: the table of objects: chained hash, LRU list of all, free list.
 *
 * Objects are cached by handle with an O_PATH descriptor; a hit costs a hash and a memcmp, which includes the MAC.  An object
 * whose link count is 0 is STALE and let go, so that its space is freed.  Only the loop's thread comes here.
 *
 * The root of an export uses the export's descriptor (`lent`): 10,000 exports would need as many again, and where a process may have
 * 20,000, calls for their roots in turn would open and close one each.  It is not in the LRU list, for to let it go frees nothing;
 * vn_sweep() does when it is idle.  When the export's descriptor goes with its table, it becomes the object's (obj_keep_fd).
 */
#include "fh.h"

static u32 fh_hash(const u8 *fh, u32 len)
{
	u64 v; /* the MAC: its bits are as good as random */
	memcpy(&v, fh + len - FH_MAC, 8);
	return (u32)(v ^ v >> 32);
}

i32 obj_find(const u8 *fh, u32 len)
{
	u32 h = fh_hash(fh, len);
	for (i32 o = W.hash[h % N_OBJ_HASH]; o >= 0; o = W.objs[o].next)
		if (W.objs[o].hash == h && W.objs[o].fhlen == len && !memcmp(W.objs[o].fh, fh, len))
			return o;
	return -1;
}

static void lru_unlink(i32 o)
{
	struct obj *b = &W.objs[o];
	if (b->lru_prev >= 0) W.objs[b->lru_prev].lru_next = b->lru_next; else W.lru_head = b->lru_next;
	if (b->lru_next >= 0) W.objs[b->lru_next].lru_prev = b->lru_prev; else W.lru_tail = b->lru_prev;
}

static void lru_first(i32 o)
{
	struct obj *b = &W.objs[o];
	b->lru_prev = -1;
	b->lru_next = W.lru_head;
	if (W.lru_head >= 0) W.objs[W.lru_head].lru_prev = o; else W.lru_tail = o;
	W.lru_head = o;
}

void obj_touch(i32 o)
{
	W.objs[o].touched = W.now_s;
	if (W.lru_head != o && !W.objs[o].lent) {
		lru_unlink(o);
		lru_first(o);
	}
}

/* Closes the data descriptors.  Unstable data is forced out first, for closing would lose the one report of a failed write-back:
 * that waits for the disk, hence in the pool. */
void obj_close_data(i32 o)
{
	struct obj *b = &W.objs[o];
	if (b->rfd >= 0) { close(b->rfd); W.row[S_FDS_READ]--; }
	if (b->wfd >= 0) {
		W.row[S_FDS_WRITE]--;
		if (b->dirty)
			pool_flush(b->wfd, b->fs);
		else
			close(b->wfd);
	}
	b->dirty = 0;
	b->unsynced = 0;
	b->rfd = b->wfd = -1;
}

/* The export's root uses its descriptor from now on. */
static void lend_root(i32 o, struct export *e)
{
	lru_unlink(o);
	close(W.objs[o].fd);
	W.objs[o].fd = e->rootfd;
	W.objs[o].lent = e->lent = 1;
	W.n_lent++;
}

/* What was lent is given back; `fd` is the object's own. */
void obj_keep_fd(i32 o, int fd)
{
	W.exps[W.objs[o].exp].lent = W.objs[o].lent = 0;
	W.objs[o].fd = fd;
	W.n_lent--;
	lru_first(o);
}

/* No handle finds it any more. */
static void unlist(i32 o)
{
	i32 *p = &W.hash[W.objs[o].hash % N_OBJ_HASH];
	if (W.objs[o].unlisted)
		return;
	while (*p != o)
		p = &W.objs[*p].next;
	*p = W.objs[o].next;
	W.objs[o].unlisted = 1;
}

void obj_drop(i32 o)
{
	struct obj *b = &W.objs[o];
	if (!b->used || b->pins)
		return;
	unlist(o);
	if (b->lent)
		obj_keep_fd(o, -1);
	lru_unlink(o);
	obj_close_data(o);
	if (b->fd >= 0)
		close(b->fd);
	b->used = 0;
	b->serial = ++W.obj_serial;
	b->next = W.obj_free;
	W.obj_free = o;
	W.row[S_OBJECTS] = --W.n_objs;
}

/* Its handle stands for something else from now on: calls that have it pinned go on with it, the next one opens what is there. */
void obj_retire(i32 o)
{
	if (W.objs[o].pins)
		unlist(o);
	else
		obj_drop(o);
}

/* A call that went to the pool has it no longer. */
void obj_unpin(i32 o)
{
	if (!--W.objs[o].pins && W.objs[o].unlisted)
		obj_drop(o);
}

/* Lets go of the object that nobody used for longest; 0: there is none that may go. */
int obj_drop_oldest(void)
{
	/* The two that were used last are those of the call under way, whoever else is pinned. */
	i32 first = W.lru_head, second = first < 0 ? -1 : W.objs[first].lru_next;
	for (i32 o = W.lru_tail; o >= 0; o = W.objs[o].lru_prev)
		if (!W.objs[o].pins && o != first && o != second) {
			obj_drop(o);
			return 1;
		}
	return 0;
}

/* How many objects may have a descriptor while a table of `exports` is in force: what others hold is not ours to close. */
u32 objs_allowed(u32 exports)
{
	u64 others = exports + W.row[S_CONNECTIONS] + W.row[S_FDS_READ] + W.row[S_FDS_WRITE];
	u64 least = W.max_files / 8 < MIN_OBJS ? W.max_files / 8 : MIN_OBJS;
	u64 left = W.max_files > others + least ? W.max_files - others : least;
	return left < W.max_objs ? (u32)left : W.max_objs;
}

i32 obj_new(const u8 *fh, u32 len)
{
	u32 allowed = objs_allowed(W.n_exps);
	for (u32 i = 0; W.n_objs - W.n_lent >= allowed && i < 2 && obj_drop_oldest(); i++) /* two: so that it becomes fewer, bit by bit */
		;
	if (W.obj_free < 0 && W.objs_used < W.max_objs + N_EXPORTS) { /* never used before: memory that nobody touched costs nothing */
		W.obj_free = (i32)W.objs_used++;
		W.objs[W.obj_free].next = -1;
	}
	i32 o = W.obj_free;
	if (o < 0)
		return -1;
	struct obj *b = &W.objs[o];
	W.obj_free = b->next;
	*b = (struct obj){ .fhlen = (u8)len, .used = 1, .hash = fh_hash(fh, len), .serial = ++W.obj_serial, .fd = -1, .rfd = -1, .wfd = -1 };
	memcpy(b->fh, fh, len);
	b->next = W.hash[b->hash % N_OBJ_HASH];
	W.hash[b->hash % N_OBJ_HASH] = o;
	lru_first(o);
	b->touched = W.now_s;
	W.row[S_OBJECTS] = ++W.n_objs;
	return o;
}

/* What a new object stands for; fd: O_PATH, the object's from now on. */
void obj_fill(i32 o, i32 exp, i32 fs, int fd, const struct stat *st)
{
	struct obj *b = &W.objs[o];
	struct export *e = &W.exps[exp];
	b->exp = exp;
	b->fs = fs;
	b->expid = W.exps[exp].id;
	b->exp_gen = W.generation;
	b->fd = fd;
	b->ino = st->st_ino;
	b->type = (u8)((st->st_mode & S_IFMT) >> 12);
	if (st->st_ino == e->root_ino && st->st_dev == e->root_dev && e->rootfd >= 0 && !e->lent && !(e->flags & EX_REMOVABLE))
		lend_root(o, e);
}

/* Lets go of what nobody touched for `idle_s` seconds (an idle server must not keep a file system busy), and of removed files at
 * once (their space is free only then).  Looks at `count` objects from where the last sweep ended. */
void vn_sweep(u32 now_s, u32 idle_s, u32 count)
{
	static u32 at;
	struct stat st;
	W.now_s = now_s;
	for (u32 i = 0; i < count && i < W.objs_used; i++) {
		at = (at + 1) % W.objs_used;
		struct obj *b = &W.objs[at];
		if (!b->used || b->pins)
			continue;
		if (b->fd >= 0 && !fd_stat(b->fd, &st) && !st.st_nlink)
			obj_drop((i32)at);
		else if (now_s - b->touched >= idle_s)
			obj_drop((i32)at);
	}
}

/* Makes room for another data descriptor: those of objects that others were used after are closed, a few at a time; and where all
 * descriptors together are too many, the objects that were used longest ago go. */
void spare_data(void)
{
	static u32 hand;
	for (int i = 0; i < 2 && W.n_objs > objs_allowed(W.n_exps) && obj_drop_oldest(); i++)
		;
	for (u32 i = 0; i < 512 && W.objs_used && W.row[S_FDS_READ] + W.row[S_FDS_WRITE] >= W.max_data; i++) {
		hand = (hand + 1) % W.objs_used;
		struct obj *b = &W.objs[hand];
		if (b->used && !b->pins && b->touched != W.now_s)
			obj_close_data((i32)hand);
	}
}

/* There is one connection more: what it takes is given up by objects, a few at a time. */
void vn_connected(void)
{
	spare_data();
	for (int i = 0; i < 4 && W.n_objs > objs_allowed(W.n_exps) && obj_drop_oldest(); i++)
		;
}

/* Attributes of the object; ERR_STALE when it was removed. */
int obj_stat(i32 o, struct stat *st)
{
	if (fd_stat(W.objs[o].fd, st))
		return status_of(errno);
	if (!st->st_nlink && !W.objs[o].pins) {
		W.row[S_FH_STALE]++;
		obj_drop(o);
		return ERR_STALE;
	}
	return st->st_nlink ? 0 : ERR_STALE;
}

int fh2_of(i32 o, u8 out[32]) { return fh2_of_fh3(W.objs[o].fh, W.objs[o].fhlen, out); }
