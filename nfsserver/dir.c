/* dir.c: READDIR and READDIRPLUS.
 *
 * Cookies are the file system's own d_off, which it promises to keep while other entries come and go, also over our restart; so
 * the cookie verifier is always 0.  What a directory holds is kept (`struct listing`) while its ctime stands and was older than
 * 10 ms when it was read: a file system hashes and sorts all names of a directory again for every getdents64 that starts anew.
 * Names and handles of a kept listing are exact; attributes are asked for each time.  Larger directories are read from the file
 * system, piece by piece.
 *
 * 32-bit clients (unfsd -3, NX_32BITCLIENTS, version 2) get 32-bit cookies: d_off itself below 2^31, as most file systems have it,
 * else bit 31 and the upper half, which in ext4 is the hash.  Names of one hash share a cookie, and going on from it starts at the
 * first of them, so a reply never ends between two of those. */
#include "parts.h"
#include <string.h>
#include <sys/syscall.h>

#define DIRMAX (1u << 20)    /* largest reply, as rtmax */
#define DENTS 65536u         /* bytes one getdents64 may return */
#define KEPT_BYTES 262144u   /* directories up to this size are kept: about 8,000 names */
#define KEPT_TOTAL (16u << 20) /* bytes of all kept listings: about 150,000 names with their handles */
#define SETS 128             /* a directory's listing is in the set of its serial, */
#define WAYS 4               /* in one of so many places */

struct kept_fh { u8 len; u8 fh[FH_MAX]; i32 obj; u32 obj_serial; };

struct listing {
	u32 obj_serial;
	u64 ctime_ns;
	u8 *data;                /* struct linux_dirent after one another */
	u32 len, n;
	struct kept_fh *fhs;     /* by entry; made when READDIRPLUS asks */
	u64 next_cookie;         /* where the last page ended: most clients go on there */
	u32 next_pos, next_index;
	u32 used;                /* since the clock's hand was here */
};

static struct listing kept[SETS * WAYS];
static u32 clock_hand, kept_total;
static u8 dents[DENTS];

struct page {
	struct call *c;
	i32 dir;
	int plus, search, strict, root, cache; /* search: the caller may look names up here */
	u32 limit, names;    /* bytes of the whole result, and how many names there are */
	u64 dir_ino;
	int v2, short_cookies;
	u64 pos;             /* short cookies: where the next entry stands, and the last end that a reply may have */
	u8 *good_end;
	u32 good_names;
};

/* ---- Cookies of 32 bits */

#define HASHED 0x80000000u

static u32 short_cookie(u64 off) { return off < HASHED ? (u32)off : HASHED | (u32)(off >> 32); }
static u64 long_cookie(u32 cookie) { return cookie < HASHED ? cookie : (u64)(cookie & ~HASHED) << 32; }

/* After an entry: may the reply end here?  Not where the next name has this one's cookie. */
static void note_end(struct page *pg, u64 next)
{
	if (short_cookie(next) != short_cookie(pg->pos) && short_cookie(next) != HASHED) {
		pg->good_end = pg->c->rep;
		pg->good_names = pg->names;
	}
	pg->pos = next;
}

/* ---- Entries */

/* post_op_attr and post_op_fh3 of an entry.  In a directory that is settled, and looked at again afterwards, a handle and
 * attributes from two look-ups of one name are those of one object; else it takes a descriptor. */
static void put_plus(struct page *pg, const char *name, struct kept_fh *k)
{
	struct stat st;
	struct call *c = pg->c;
	u8 room[FH_MAX], len = 0;
	const u8 *fh = room;
	i32 o = -1;
	if (!pg->search) { /* a kept handle would be more than his own look-up gives */
		put_u64(c, 0);
		return;
	}
	if (k && k->len) {
		if (k->obj >= 0 && W.objs[k->obj].serial == k->obj_serial && !fd_stat(W.objs[k->obj].fd, &st) && st.st_nlink)
			o = k->obj, len = k->len;
		else if (!fstatat(W.objs[pg->dir].fd, name, &st, AT_SYMLINK_NOFOLLOW))
			len = k->len;
		fh = k->fh;
	} else if (!(k && pg->cache) && !pg->strict && !is_dots(name)) {
		len = name_to_fh(pg->dir, name, room, &o, &st);
	}
	/* A small directory's objects are kept open: fstat() costs half of fstatat(), and the client asks for them next. */
	if (!len && !obj_from_name(c, pg->dir, name, &o, &st)) {
		len = W.objs[o].fhlen;
		fh = W.objs[o].fh;
	}
	if (!len) {
		put_u64(c, 0);
		return;
	}
	put_post_op(c, o >= 0 ? o : pg->dir, &st);
	put_u32(c, 1);
	put_opaque(c, fh, len);
	if (k && !k->len && !is_dots(name)) {
		*k = (struct kept_fh){ .len = len, .obj = o, .obj_serial = o >= 0 ? W.objs[o].serial : 0 };
		memcpy(k->fh, fh, len);
	}
}

/* One entry.  0: it does not fit. */
static int put_entry(struct page *pg, const struct linux_dirent *d, struct kept_fh *k)
{
	struct call *c = pg->c;
	u32 n = (u32)strlen(d->name), size = 4 + 8 + 4 + ((n + 3) & ~3u) + 8 + (pg->plus ? POST + 4 + FH3 : 0);
	if ((u32)(c->rep - c->res) + size + 8 > pg->limit)
		return 0;
	u64 ino = pg->root && n == 2 && is_dots(d->name) ? pg->dir_ino : d->ino; /* above the root there is nothing to name */
	if (W.exps[W.objs[pg->dir].exp].flags & EX_FILEID32)
		ino = (u32)(ino ^ ino >> 32);
	put_u32(c, 1);
	if (pg->v2)
		put_u32(c, fold32(ino));
	else
		put_u64(c, ino);
	put_opaque(c, d->name, n);
	if (!pg->v2)
		put_u64(c, pg->short_cookies ? short_cookie((u64)d->off) : (u64)d->off);
	else
		put_u32(c, short_cookie((u64)d->off));
	if (pg->plus)
		put_plus(pg, d->name, k);
	pg->names++;
	if (pg->short_cookies)
		note_end(pg, (u64)d->off);
	return 1;
}

/* ---- Kept listings */

static struct listing *set_of(u32 obj_serial) { return &kept[(obj_serial * 0x9e3779b1u >> 16) % SETS * WAYS]; }

static struct listing *find_kept(u32 obj_serial, u64 ctime_ns)
{
	struct listing *set = set_of(obj_serial);
	for (u32 i = 0; i < WAYS; i++)
		if (set[i].obj_serial == obj_serial && set[i].ctime_ns == ctime_ns && set[i].data)
			return &set[i];
	return NULL;
}

static u32 size_of(const struct listing *l) { return l->len + (l->fhs ? l->n * (u32)sizeof *l->fhs : 0); }

static void forget(struct listing *l)
{
	kept_total -= size_of(l);
	free(l->data);
	free(l->fhs);
	*l = (struct listing){ 0 };
}

/* The set's place for one more: the directory's own, a free one, one that was not used lately. */
static struct listing *place_for(u32 obj_serial)
{
	struct listing *set = set_of(obj_serial), *l = NULL;
	for (u32 i = 0; i < WAYS && !l; i++)
		l = set[i].obj_serial == obj_serial && set[i].data ? &set[i] : NULL;
	for (u32 i = 0; i < WAYS && !l; i++)
		l = set[i].data ? NULL : &set[i];
	for (u32 i = 0; i < WAYS && !l; i++)
		l = set[i].used ? NULL : &set[i];
	for (u32 i = 0; i < WAYS && !l; i++)
		set[i].used = 0;
	l = l ? l : set;
	forget(l);
	return l;
}

/* Others go until there is room for what `l` has grown to.  A clock: who was used since its last round stays. */
static void make_room(const struct listing *l)
{
	while (kept_total > KEPT_TOTAL) {
		struct listing *old = &kept[clock_hand++ % (SETS * WAYS)];
		if (old == l || !old->data)
			continue;
		if (!old->used)
			forget(old);
		else
			old->used = 0;
	}
}

/* Reads the whole directory; NULL when it is too large to keep, or on an error (the plain way will report it). */
static struct listing *keep(i32 dir, int fd, const struct stat *st)
{
	u8 *data = malloc(KEPT_BYTES);
	u32 len = 0, n = 0;
	long got = 0;
	if (!data || lseek(fd, 0, SEEK_SET) < 0)
		got = -1;
	while (got >= 0 && len < KEPT_BYTES - 1024 && (got = syscall(SYS_getdents64, fd, data + len, KEPT_BYTES - len)) > 0)
		len += (u32)got;
	if (got) {
		free(data);
		return NULL;
	}
	for (u32 pos = 0; pos < len; n++)
		pos += ((struct linux_dirent *)(data + pos))->len;
	struct listing *l = place_for(W.objs[dir].serial);
	u8 *fit = realloc(data, len ? len : 1);
	*l = (struct listing){ .obj_serial = W.objs[dir].serial, .ctime_ns = ns_of(&st->st_ctim), .data = fit ? fit : data, .len = len, .n = n };
	kept_total += len;
	make_room(l);
	return l;
}

/* Room for the entries' handles, if there is memory. */
static void make_handles(struct listing *l)
{
	if (!(l->fhs = calloc(l->n ? l->n : 1, sizeof *l->fhs)))
		return;
	kept_total += l->n * (u32)sizeof *l->fhs;
	make_room(l);
}

/* 1: the end was seen; 0: more to come; -1: that cookie is none of this directory. */
static int list_kept(struct page *pg, struct listing *l, u64 cookie)
{
	u32 pos = 0, i = 0;
	l->used = 1;
	if (cookie && cookie == l->next_cookie && !pg->short_cookies) {
		pos = l->next_pos;
		i = l->next_index;
	} else if (cookie) {
		const struct linux_dirent *d = NULL;
		int found = 0;
		while (pos < l->len && !found) {
			d = (const void *)(l->data + pos);
			pos += d->len;
			i++;
			found = pg->short_cookies ? short_cookie((u64)d->off) == short_cookie(cookie) : (u64)d->off == cookie;
		}
		if (!found)
			return -1;
	}
	pg->cache = l->n < W.max_objs / 4;
	if (pg->plus && !l->fhs)
		make_handles(l);
	while (pos < l->len) {
		const struct linux_dirent *d = (const void *)(l->data + pos);
		if (!put_entry(pg, d, pg->plus && l->fhs ? &l->fhs[i] : NULL))
			return 0;
		pos += d->len;
		i++;
		l->next_cookie = (u64)d->off;
		l->next_pos = pos;
		l->next_index = i;
	}
	return 1;
}

/* ---- From the file system */

static int list_read(struct page *pg, int fd, u64 cookie)
{
	u32 want = pg->limit / (pg->plus ? 4 : 1);
	want = want < 1024 ? 1024 : want > DENTS ? DENTS : want;
	if (lseek(fd, (off_t)cookie, SEEK_SET) < 0)
		return -1;
	for (;;) {
		long n = syscall(SYS_getdents64, fd, dents, want);
		if (n <= 0)
			return n < 0 ? -1 : 1;
		for (long pos = 0; pos < n;) {
			const struct linux_dirent *d = (const void *)(dents + pos);
			pos += d->len;
			if (!put_entry(pg, d, NULL))
				return 0;
		}
	}
}

static int list_from(struct page *pg, int fd, u64 cookie, const struct stat *st)
{
	struct listing *l = pg->strict ? NULL : find_kept(W.objs[pg->dir].serial, ns_of(&st->st_ctim));
	if (!l && !pg->strict && !cookie && st->st_size <= 2 * (off_t)KEPT_BYTES)
		l = keep(pg->dir, fd, st);
	int end = l ? list_kept(pg, l, cookie) : -1;
	return end >= 0 ? end : list_read(pg, fd, cookie);
}

static int begin(struct page *pg, const struct stat *st)
{
	struct call *c = pg->c;
	if (reply_open(c, pg->limit + 64))
		return -1;
	put_u32(c, OK);
	pg->good_names = 0;
	if (pg->v2)
		return 0;
	put_post_op(c, pg->dir, st);
	put_u64(c, 0);
	return 0;
}

/* Fills the reply from `cookie` on, again when a name changed meanwhile.  As list_from(); -2: no memory. */
static int fill(struct page *pg, int fd, u64 cookie, const struct stat *st)
{
	struct stat after;
	for (;;) {
		if (begin(pg, st))
			return -2;
		int end = list_from(pg, fd, cookie, st), err = errno;
		if (end < 0 || pg->strict || !pg->plus || (!fd_stat(fd, &after) && ns_of(&after.st_ctim) == ns_of(&st->st_ctim))) {
			errno = err;
			return end;
		}
		pg->strict = 1; /* a name changed under us */
		pg->names = 0;
		pg->pos = cookie;
	}
}

/* Before a listing: what the caller may know of the entries, and waiting for the disk.  0, nfsstat3, V_WAITS. */
static int list_ready(struct page *pg, u64 cookie, const struct stat *st)
{
	struct call *c = pg->c;
	if (pg->limit < 4 + POST + 8 + 8)
		return ERR_TOOSMALL;
	if (pg->plus && become_searcher(c, c->obj, st))
		return ERR_JUKEBOX;
	pg->search = pg->plus && may(c, c->obj, st, X_OK) == 1;
	if (!pg->strict && find_kept(W.objs[c->obj].serial, ns_of(&st->st_ctim)))
		return 0;
	return wait_for_entries(c, c->obj, cookie, pg->limit, pg->plus);
}

static int list(struct call *c, int plus, u64 cookie, u32 count)
{
	u32 short_cookies = c->vers == 2 || c->rights & R_CLIENTS32 || W.exps[W.objs[c->obj].exp].flags & EX_FILEID32;
	if (short_cookies && cookie > ~0u)
		return ERR_BAD_COOKIE;
	if (short_cookies)
		cookie = long_cookie((u32)cookie);
	struct stat st;
	int fd, status = obj_open(c, c->obj, 0, &fd, &st);
	if (status)
		return status;
	u32 most = c->proto == RPC_UDP ? UDPMAX : DIRMAX;
	struct page pg = { .c = c, .dir = c->obj, .plus = plus, .strict = !settled(&st), .limit = count > most ? most : count,
			   .root = obj_is_root(c->obj), .dir_ino = (u64)st.st_ino, .v2 = c->vers == 2,
			   .short_cookies = short_cookies != 0, .pos = cookie };
	if ((status = list_ready(&pg, cookie, &st)))
		return status;
	i32 dir = c->obj;
	W.objs[dir].pins++; /* entries may push others out of the cache */
	int end = fill(&pg, fd, cookie, &st), err = errno;
	W.objs[dir].pins--;
	if (end < 0)
		return end == -2 ? V_DROP : err == EINVAL ? ERR_BAD_COOKIE : status_of(err);
	if (!end && short_cookies) {
		c->rep = pg.good_end;
		pg.names = pg.good_names;
	}
	if (!end && !pg.names)
		return ERR_TOOSMALL;
	put_u32(c, 0);
	put_u32(c, end == 1);
	return vn_close(c, OK);
}

int vn_readdir(struct call *c)
{
	if (garbage(c, c->arg, 20))
		return V_GARBAGE;
	u64 cookie = get_u64(c->arg), verf = get_u64(c->arg + 8);
	u32 count = get_u32(c->arg + 16);
	if (!is_dir(c->obj))
		return ERR_NOTDIR;
	if ((verf && cookie) || cookie > INT64_MAX)
		return ERR_BAD_COOKIE;
	return list(c, 0, cookie, count);
}

/* Version 2: cookie and count of 32 bits, at most 8 KiB. */
int vn2_readdir(struct call *c)
{
	if (garbage(c, c->arg, 8))
		return V_GARBAGE;
	u32 count = get_u32(c->arg + 4);
	return is_dir(c->obj) ? list(c, 0, get_u32(c->arg), count > 8192 ? 8192 : count) : ERR_NOTDIR;
}

/* dircount, how much of the reply may be names, is not looked at: Linux' client sends an eighth of maxcount whatever their length,
 * which would leave half of each reply empty. */
int vn_readdirplus(struct call *c)
{
	if (garbage(c, c->arg, 24))
		return V_GARBAGE;
	u64 cookie = get_u64(c->arg), verf = get_u64(c->arg + 8);
	u32 maxcount = get_u32(c->arg + 20);
	if (!is_dir(c->obj))
		return ERR_NOTDIR;
	if (W.exps[W.objs[c->obj].exp].flags & EX_NORDIRPLUS)
		return ERR_NOTSUPP;
	if ((verf && cookie) || cookie > INT64_MAX)
		return ERR_BAD_COOKIE;
	return list(c, 1, cookie, maxcount);
}
