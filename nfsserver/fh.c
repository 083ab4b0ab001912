/* fh.c: file handles and the objects behind them.
 *
 * A handle is signed: nothing in it is believed before the MAC was compared (in constant time), except the export id, which
 * says whether a password is part of the MAC.  Layout, v3:
 *
 *   kernel scheme   1, flags, type, n, expid[4], fsid[8], n bytes of the kernel's handle, mac[8]
 *   path scheme     1, flags|1, depth, n, expid[4], proof[4], ino[8], depth bytes of chain, mac[8]       (n = 12 + depth)
 *   removable root  1, flags|4, 0, 0, expid[4], 0[8], mac[8]                              (removable.c)
 *   v2, 32 bytes    2, flags, type, n, expid[4], 16 bytes of the kernel's handle padded with 0, mac[8]
 *
 * The path scheme serves where kernel handles do not work (no capability, user namespace, overlay): each chain byte is a hash of
 * one component's inode on the way from the export's root, as unfsd does it; `proof` is a hash of the kernel handle, or of the
 * birth time where there is none, so that a reused inode number is STALE.
 *
 * Objects are cached by handle with an O_PATH descriptor; a hit costs a hash and a memcmp, which includes the MAC.  An object
 * whose link count is 0 is STALE and let go, so that its space is freed.  Only the loop's thread comes here.
 */
#include "vnode.h"
#include <dirent.h>
#include <sched.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

struct worker W;

#define MAX_HANDLE 40           /* FH_MAX - 16 - FH_MAC: bytes of a kernel handle that fit */
#define ACL_SEEN 1024           /* bytes of an ACL that are compared: 127 entries, of which ext4 has room for some 30 in an inode */
#define MAX_DEPTH (FH_MAX - 20 - FH_MAC)

struct kernel_handle { struct file_handle h; u8 room[128]; };

/* ---- SipHash-2-4 (Aumasson, Bernstein): a keyed hash for short input. */

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND(a, b, c, d) do { \
	a += b; b = ROTL(b, 13); b ^= a; a = ROTL(a, 32); \
	c += d; d = ROTL(d, 16); d ^= c; \
	a += d; d = ROTL(d, 21); d ^= a; \
	c += b; b = ROTL(b, 17); b ^= c; c = ROTL(c, 32); } while (0)

struct sip { u64 a, b, c, d; };

static struct sip sip_absorb(const u64 key[2], const void *data, size_t n, u64 wide)
{
	struct sip s = { key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull ^ wide, key[0] ^ 0x6c7967656e657261ull,
			 key[1] ^ 0x7465646279746573ull };
	const u8 *p = data;
	size_t left = n;
	u64 m;
	for (; left >= 8; left -= 8, p += 8) {
		memcpy(&m, p, 8);
		s.d ^= m;
		ROUND(s.a, s.b, s.c, s.d);
		ROUND(s.a, s.b, s.c, s.d);
		s.a ^= m;
	}
	m = (u64)n << 56;
	for (size_t i = 0; i < left; i++)
		m |= (u64)p[i] << (8 * i);
	s.d ^= m;
	ROUND(s.a, s.b, s.c, s.d);
	ROUND(s.a, s.b, s.c, s.d);
	s.a ^= m;
	return s;
}

static u64 sip_squeeze(struct sip *s)
{
	for (int i = 0; i < 4; i++)
		ROUND(s->a, s->b, s->c, s->d);
	return s->a ^ s->b ^ s->c ^ s->d;
}

u64 siphash(const u64 key[2], const void *data, size_t n)
{
	struct sip s = sip_absorb(key, data, n, 0);
	s.c ^= 0xff;
	return sip_squeeze(&s);
}

/* The variant with 128 bits of output. */
void siphash128(const u64 key[2], const void *data, size_t n, u64 out[2])
{
	struct sip s = sip_absorb(key, data, n, 0xee);
	s.c ^= 0xee;
	out[0] = sip_squeeze(&s);
	s.b ^= 0xdd;
	out[1] = sip_squeeze(&s);
}

static u64 mac_of(const u8 *fh, size_t n, u64 salt)
{
	u64 key[2] = { W.key[0] ^ salt, W.key[1] };
	return siphash(key, fh, n);
}

static int mac_differs(const u8 *at, u64 mac)
{
	u8 want[FH_MAC], diff = 0;
	memcpy(want, &mac, FH_MAC);
	for (int i = 0; i < FH_MAC; i++)
		diff |= at[i] ^ want[i];
	return diff;
}

static void seal(u8 *fh, size_t body, u64 salt)
{
	u64 mac = mac_of(fh, body, salt);
	memcpy(fh + body, &mac, FH_MAC);
}

const char *procpath(int fd, char buf[32])
{
	char *p = buf + 31;
	*p = 0;
	do
		*--p = '0' + fd % 10;
	while ((fd /= 10));
	return p;
}

/* ---- The table of objects: chained hash, LRU list of all, free list. */

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
	if (W.lru_head != o) {
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
	b->rfd = b->wfd = -1;
}

void obj_drop(i32 o)
{
	struct obj *b = &W.objs[o];
	if (!b->used || b->pins)
		return;
	i32 *p = &W.hash[b->hash % N_OBJ_HASH];
	while (*p != o)
		p = &W.objs[*p].next;
	*p = b->next;
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

/* Lets go of the object that nobody used for longest; 0: there is none that may go. */
static int obj_drop_oldest(void)
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
static u32 objs_allowed(u32 exports)
{
	u64 others = exports + W.row[S_CONNECTIONS] + W.row[S_FDS_READ] + W.row[S_FDS_WRITE];
	u64 left = W.max_files > others + MIN_OBJS ? W.max_files - others : MIN_OBJS;
	return left < W.max_objs ? (u32)left : W.max_objs;
}

static i32 obj_new(const u8 *fh, u32 len)
{
	u32 allowed = objs_allowed(W.n_exps);
	for (u32 i = 0; W.n_objs >= allowed && i < 2 && obj_drop_oldest(); i++) /* two: so that it becomes fewer, bit by bit */
		;
	if (W.obj_free < 0 && W.objs_used < W.max_objs) { /* never used before: memory that nobody touched costs nothing */
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
static void obj_fill(i32 o, i32 exp, i32 fs, int fd, const struct stat *st)
{
	struct obj *b = &W.objs[o];
	b->exp = exp;
	b->fs = fs;
	b->expid = W.exps[exp].id;
	b->exp_gen = W.generation;
	b->fd = fd;
	b->ino = st->st_ino;
	b->type = (u8)((st->st_mode & S_IFMT) >> 12);
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

/* Makes room for another data descriptor: those of objects that others were used after are closed, a few at a time. */
void spare_data(void)
{
	static u32 hand;
	for (u32 i = 0; i < 512 && W.objs_used && W.row[S_FDS_READ] + W.row[S_FDS_WRITE] >= W.max_data; i++) {
		hand = (hand + 1) % W.objs_used;
		struct obj *b = &W.objs[hand];
		if (b->used && !b->pins && b->touched != W.now_s)
			obj_close_data((i32)hand);
	}
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

/* ---- File systems. */

i32 fs_of_dev(u64 dev)
{
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].dev == dev && W.fs[i].mntfd >= 0 && !W.fs[i].removable)
			return (i32)i;
	return -1;
}

static int kernel_handle_of(int fd, const char *name, struct kernel_handle *k, int *mntid)
{
	k->h.handle_bytes = sizeof k->room;
	if (name_to_handle_at(fd, name, &k->h, mntid, *name ? 0 : AT_EMPTY_PATH))
		return errno;
	return k->h.handle_bytes > MAX_HANDLE || (unsigned)k->h.handle_type > 255 ? EOVERFLOW : 0;
}

/* Does a kernel handle come back as the same object here?  Only trying tells (capability, user namespace, overlay, FUSE). */
static int round_trip(int mntfd)
{
	struct kernel_handle k;
	struct stat a, b;
	int mntid, fd;
	if (kernel_handle_of(mntfd, "", &k, &mntid) || fd_stat(mntfd, &a))
		return 0;
	fd = open_by_handle_at(mntfd, &k.h, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int same = !fd_stat(fd, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
	close(fd);
	return same;
}

/* Which mount it is, and by which scheme its handles are made. */
void fs_probe(struct filesystem *f, int path_scheme)
{
	struct kernel_handle k;
	f->mntid = -1;
	kernel_handle_of(f->mntfd, "", &k, &f->mntid);
	f->path_scheme = path_scheme || !round_trip(f->mntfd);
}

/* A file system from a directory on it.  `fd` is kept.  fsid: 8 bytes or NULL (see fsid.c).  Returns its place or -errno. */
i32 fs_add(int fd, const u8 *fsid, int path_scheme)
{
	struct stat st;
	struct statfs sf;
	if (fd_stat(fd, &st) || fstatfs(fd, &sf))
		return -errno;
	i32 i = fs_of_dev(st.st_dev);
	if (i >= 0 && !fsid && W.fs[i].path_scheme >= path_scheme) {
		close(fd);
		return i;
	}
	if (i < 0) {
		for (i = 0; i < (i32)W.n_fs && (W.fs[i].mntfd >= 0 || W.fs[i].removable); i++)
			;
		if (i == N_FS)
			return -ENFILE;
		W.n_fs += i == (i32)W.n_fs;
		W.fs[i] = (struct filesystem){ .dev = st.st_dev, .mntfd = fd };
	} else if (W.fs[i].mntfd != fd) {
		close(fd);
		fd = W.fs[i].mntfd;
	}
	struct filesystem *f = &W.fs[i];
	u64 id = fs_identity(fd, st.st_dev, &sf), fixed[2] = { 0x6e66737376632d31ull, (u64)sf.f_type }, hashed = siphash(fixed, &id, 8);
	memcpy(f->fsid, fsid ? (const void *)fsid : (const void *)&hashed, 8);
	memcpy(f->handle_id, f->fsid, 8);
	fs_probe(f, path_scheme);
	return i;
}

static i32 fs_of_fsid(const u8 *fsid)
{
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].mntfd >= 0 && !memcmp(W.fs[i].handle_id, fsid, 8))
			return (i32)i;
	return -1;
}

/* Lets go of file systems that neither an export nor an object lies on, so that they can be unmounted.  How many there were. */
u32 vn_release_fs(void)
{
	u8 needed[N_FS] = { 0 };
	u32 released = 0;
	for (u32 i = 0; i < W.n_exps; i++)
		needed[W.exps[i].fs] = 1;
	for (u32 i = 0; i < W.objs_used; i++)
		if (W.objs[i].used)
			needed[W.objs[i].fs] = 1;
	for (u32 i = 0; i < W.n_fs; i++)
		if (W.fs[i].mntfd >= 0 && !W.fs[i].removable && !needed[i]) {
			close(W.fs[i].mntfd);
			W.fs[i].mntfd = -1;
			released++;
		}
	return released;
}

/* ---- Exports: a new table is put together beside the old one and takes its place at commit. */

static struct export *next_exps;
static u32 next_n;

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

static void exp_free(struct export *e, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		if (e[i].rootfd >= 0 && !e[i].borrowed)
			close(e[i].rootfd);
		free(e[i].path);
		free(e[i].index);
	}
	free(e);
}

int exp_begin(u32 n)
{
	exp_free(next_exps, next_n);
	next_n = 0;
	next_exps = calloc(n + 1ul, sizeof *next_exps); /* one more: for objects whose export is gone */
	return next_exps ? 0 : ENOMEM;
}

/* The -index file of the export that was put last.  0 or an errno. */
int exp_index(const char *name)
{
	struct export *e = next_n ? &next_exps[next_n - 1] : NULL;
	if (!e)
		return EINVAL;
	e->index = strdup(name);
	return e->index ? 0 : ENOMEM;
}

/* Nothing is opened, nor need anything be there. */
static int put_removable(u32 id, u32 flags, const char *path, u64 salt, u32 row)
{
	i32 fs = removable_fs(path);
	char *copy = strdup(path);
	if (fs < 0 || !copy) {
		free(copy);
		return fs < 0 ? ENFILE : ENOMEM;
	}
	next_exps[next_n++] = (struct export){ .id = id, .flags = flags, .fs = fs, .rootfd = -1, .salt = salt, .row = row, .path = copy,
					       .is_dir = 1 };
	return 0;
}

/* Must be called in ascending order of ids.  Returns 0 or an errno (the export is left out). */
int exp_put(u32 id, u32 flags, const char *path, const u8 *fsid, u64 salt, u32 row)
{
	struct stat st;
	if (W.root)
		ident_root();
	if (flags & EX_REMOVABLE)
		return put_removable(id, flags, path, salt, row);
	int fd = open(path, O_PATH | O_CLOEXEC), dirfd;
	if (fd < 0)
		return errno;
	if (fd_stat(fd, &st)) {
		close(fd);
		return errno;
	}
	while (W.n_objs > objs_allowed(next_n) && obj_drop_oldest())
		;
	int is_dir = S_ISDIR(st.st_mode);
	if (!is_dir && !(S_ISREG(st.st_mode) && flags & EX_REGULAR)) {
		close(fd);
		return EINVAL; /* nfssvc(2): not a directory */
	}
	dirfd = open(path, (is_dir ? O_DIRECTORY : 0) | O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (dirfd < 0) {
		int e = errno;
		close(fd);
		return e;
	}
	i32 fs = fs_add(dirfd, fsid, !!(flags & EX_PATHFH));
	if (fs < 0) {
		close(fd);
		close(dirfd);
		return -fs;
	}
	char *copy = strdup(path);
	if (!copy) {
		close(fd);
		return ENOMEM;
	}
	/* A root that stands keeps its descriptor: two tables of 10,000 exports would not fit into 20,000 files. */
	i32 old = exp_find(id);
	u8 borrowed = old >= 0 && !(W.exps[old].flags & EX_REMOVABLE) && W.exps[old].rootfd >= 0 && W.exps[old].root_dev == st.st_dev
		      && W.exps[old].root_ino == st.st_ino;
	if (borrowed) {
		close(fd);
		fd = W.exps[old].rootfd;
	}
	next_exps[next_n++] = (struct export){ .id = id, .flags = flags, .fs = fs, .rootfd = fd, .root_dev = st.st_dev, .root_ino = st.st_ino,
					       .salt = salt, .row = row, .path = copy, .is_dir = (u8)is_dir, .borrowed = borrowed };
	return 0;
}

/* Places in the table are another's now.  An object whose export went goes, too; a call in the pool may still answer with its
 * attributes, for which there is an empty export behind the last one.  Rights under the new export are the gate's to look at. */
static void obj_move(i32 o)
{
	struct obj *b = &W.objs[o];
	b->exp = exp_find(b->expid);
	if (b->exp >= 0)
		return;
	b->exp = (i32)W.n_exps;
	obj_drop(o);
}

void exp_commit(u32 generation)
{
	vn_release_removable();
	for (u32 i = 0; i < next_n; i++)
		if (next_exps[i].borrowed) {
			W.exps[exp_find(next_exps[i].id)].rootfd = -1;
			next_exps[i].borrowed = 0;
		}
	exp_free(W.exps, W.n_exps);
	W.exps = next_exps;
	W.n_exps = next_n;
	next_exps = NULL;
	next_n = 0;
	W.generation = generation;
	W.row[S_GENERATION] = generation;
	vn_forget_grants();
	for (u32 i = 0; i < W.objs_used; i++)
		if (W.objs[i].used)
			obj_move((i32)i);
}

/* ---- Minting. */

static size_t put_head(u8 *fh, u32 version, u32 flags, u32 type, u32 n, u32 expid)
{
	expid = htonl(expid);
	fh[0] = (u8)version;
	fh[1] = (u8)flags;
	fh[2] = (u8)type;
	fh[3] = (u8)n;
	memcpy(fh + 4, &expid, 4);
	return 8;
}

static u8 mint_kernel(const struct export *e, const struct filesystem *f, const struct kernel_handle *k, u8 *fh)
{
	size_t n = put_head(fh, 1, e->salt ? FH_PASSWORD : 0, (u32)k->h.handle_type, k->h.handle_bytes, e->id);
	memcpy(fh + n, f->handle_id, 8);
	memcpy(fh + n + 8, k->h.f_handle, k->h.handle_bytes);
	n += 8 + k->h.handle_bytes;
	seal(fh, n, e->salt);
	return (u8)(n + FH_MAC);
}

static u8 chain_byte(u64 ino)
{
	u64 fixed[2] = { 0x636861696e, 0 };
	return (u8)siphash(fixed, &ino, 8);
}

/* What tells an inode from a later one of the same number: its kernel handle, or its birth time. */
static u32 proof_of(int fd, const struct stat *st)
{
	struct kernel_handle k;
	struct statx sx;
	int mntid;
	u64 fixed[2] = { 0x70726f6f66, st->st_dev };
	if (!kernel_handle_of(fd, "", &k, &mntid))
		return (u32)siphash(fixed, k.h.f_handle, k.h.handle_bytes);
	u64 birth[2] = { 0, 0 };
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) && sx.stx_mask & STATX_BTIME) {
		birth[0] = (u64)sx.stx_btime.tv_sec;
		birth[1] = sx.stx_btime.tv_nsec;
	}
	return (u32)siphash(fixed, birth, sizeof birth);
}

static u8 mint_path(const struct export *e, const u8 *chain, u32 depth, int fd, const struct stat *st, u8 *fh)
{
	u32 proof = proof_of(fd, st);
	size_t n = put_head(fh, 1, FH_PATH | (e->salt ? FH_PASSWORD : 0), depth, 12 + depth, e->id);
	u64 ino = st->st_ino;
	memcpy(fh + n, &proof, 4);
	memcpy(fh + n + 4, &ino, 8);
	memcpy(fh + n + 12, chain, depth);
	n += 12 + depth;
	seal(fh, n, e->salt);
	return (u8)(n + FH_MAC);
}

static u8 mint_removable(const struct export *e, u8 *fh)
{
	size_t n = put_head(fh, 1, FH_ROOT | (e->salt ? FH_PASSWORD : 0), 0, 0, e->id);
	memset(fh + n, 0, 8);
	seal(fh, n + 8, e->salt);
	return (u8)(n + 8 + FH_MAC);
}

/* subtree_check: is the object still below the export's root?  Its handle is one of the path scheme, so its descriptor came from a
 * walk and proc(5) knows its path, which a kernel handle's need not. */
static int strayed(const struct export *e, int fd)
{
	char buf[32], root[4097], path[4097];
	ssize_t n = readlinkat(W.procfd, procpath(e->rootfd, buf), root, sizeof root);
	ssize_t m = readlinkat(W.procfd, procpath(fd, buf), path, sizeof path);
	if (n <= 0 || m <= 0 || n == sizeof root || m == sizeof path)
		return 1;
	if (n == 1) /* "/" */
		return 0;
	return m < n || memcmp(root, path, (size_t)n) || (m > n && path[n] != '/');
}

static int is_root(i32 exp, const struct stat *st)
{
	return st->st_dev == W.exps[exp].root_dev && st->st_ino == W.exps[exp].root_ino;
}

/* Climbs from directory `fd` to the export's root.  The number of steps, or -1: it is not inside.  The bytes of the first MAX_DEPTH
 * steps go to `up`, the lowest first. */
static int climb(i32 exp, int fd, u8 up[MAX_DEPTH])
{
	struct stat st, above;
	int at = fcntl(fd, F_DUPFD_CLOEXEC, 0), depth = -1;
	for (int i = 0; at >= 0 && i < 4096 && !fd_stat(at, &st); i++) { /* 4096: PATH_MAX of one-letter names is half of it */
		if (is_root(exp, &st)) {
			depth = i;
			break;
		}
		if (i < (int)MAX_DEPTH)
			up[i] = chain_byte(st.st_ino);
		int next = openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (next < 0)
			break;
		close(at);
		at = next;
		if (fd_stat(at, &above) || (above.st_dev == st.st_dev && above.st_ino == st.st_ino))
			break;
	}
	if (at >= 0)
		close(at);
	return depth;
}

/* The chain of directory object `dir`: what its handle says, or, where that is the kernel's, found by climbing.  -1: too deep. */
static int chain_of(i32 dir, u8 chain[MAX_DEPTH])
{
	const struct obj *d = &W.objs[dir];
	u8 up[MAX_DEPTH];
	int depth = d->fh[1] & FH_PATH ? d->fh[2] : climb(d->exp, d->fd, up);
	if (depth < 0 || depth > (int)MAX_DEPTH)
		return -1;
	for (int i = 0; i < depth; i++)
		chain[i] = d->fh[1] & FH_PATH ? d->fh[20 + i] : up[depth - 1 - i];
	return depth;
}

/* An object for an O_PATH descriptor, which is taken.  `parent` gives the chain of the path scheme; -1 for an export's root. */
int obj_from_fd(i32 exp, i32 fs, i32 parent, int fd, const struct stat *st, i32 *out)
{
	const struct export *e = &W.exps[exp];
	u8 fh[FH_MAX], len, chain[MAX_DEPTH];
	if (W.fs[fs].removable && st->st_dev == e->root_dev && st->st_ino == e->root_ino) {
		len = mint_removable(e, fh);
	} else if (by_path(exp, fs)) {
		int depth = parent >= 0 ? chain_of(parent, chain) : 0;
		if (depth < 0 || depth + (parent >= 0) > (int)MAX_DEPTH) {
			close(fd);
			return ERR_NAMETOOLONG;
		}
		if (parent >= 0)
			chain[depth++] = chain_byte(st->st_ino);
		len = mint_path(e, chain, (u32)depth, fd, st, fh);
	} else {
		struct kernel_handle k;
		int mntid, err = kernel_handle_of(fd, "", &k, &mntid);
		if (err) {
			close(fd);
			return err == EOVERFLOW ? ERR_NOTSUPP : status_of(err);
		}
		len = mint_kernel(e, &W.fs[fs], &k, fh);
	}
	i32 o = obj_find(fh, len);
	if (o >= 0) {
		close(fd);
		obj_touch(o);
		*out = o;
		return 0;
	}
	if ((o = obj_new(fh, len)) < 0) {
		close(fd);
		return ERR_JUKEBOX;
	}
	obj_fill(o, exp, fs, fd, st);
	*out = o;
	return 0;
}

/* The object of an export's root. */
int vn_root(i32 exp, i32 *out)
{
	struct stat st;
	int status = removable_attach(&W.exps[exp]);
	if (status)
		return status;
	int fd = fcntl(W.exps[exp].rootfd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return status_of(errno);
	if (fd_stat(fd, &st)) {
		close(fd);
		return ERR_STALE;
	}
	return obj_from_fd(exp, W.exps[exp].fs, -1, fd, &st, out);
}

int obj_is_root(i32 o)
{
	struct stat st;
	return W.objs[o].ino == W.exps[W.objs[o].exp].root_ino && !fd_stat(W.objs[o].fd, &st) && is_root(W.objs[o].exp, &st);
}

/* Is `fd` inside the export?  Only ".." asks, after a directory may have been moved out of the export.  The climb is ours, not the
 * caller's, who need not be able to search all directories above. */
static int inside(struct call *c, i32 exp, int fd)
{
	u8 up[MAX_DEPTH];
	if (W.root && ident_root())
		return 0;
	int found = climb(exp, fd, up) >= 0;
	return ident_become(c->ident) ? 0 : found;
}

/* Looks `name` up in directory `dir` as the identity in force.  *st has the object's attributes.  0 or nfsstat3. */
int obj_from_name(struct call *c, i32 dir, const char *name, i32 *out, struct stat *st)
{
	struct obj *d = &W.objs[dir];
	i32 exp = d->exp, fs = d->fs;
	int dotdot = name[0] == '.' && name[1] == '.' && !name[2], fd = opened_take(c);
	if (name[0] == '.' && !name[1]) {
		*out = dir;
		return obj_stat(dir, st);
	}
	if (dotdot && obj_is_root(dir)) {
		*out = dir;
		return obj_stat(dir, st);
	}
	if (!by_path(exp, fs) && !dotdot && fd == NOT_OPENED) { /* a cached object takes two system calls and no descriptor */
		struct kernel_handle k;
		u8 fh[FH_MAX];
		int mntid, err = kernel_handle_of(d->fd, name, &k, &mntid);
		if (err && err != EOVERFLOW && err != EOPNOTSUPP)
			return status_of(err);
		if (!err && mntid == W.fs[fs].mntid) {
			u8 len = mint_kernel(&W.exps[exp], &W.fs[fs], &k, fh);
			i32 o = obj_find(fh, len);
			if (o >= 0 && W.objs[o].exp_gen == W.generation && !obj_stat(o, st)) {
				obj_touch(o);
				*out = o;
				return 0;
			}
		}
	}
	if (fd == NOT_OPENED)
		fd = openat(d->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	else if (fd < 0)
		errno = -fd;
	if (fd < 0)
		return status_of(errno);
	if (fd_stat(fd, st)) {
		int e = errno;
		close(fd);
		return status_of(e);
	}
	if (dotdot && !inside(c, exp, fd)) {
		close(fd);
		return ERR_STALE;
	}
	if (st->st_dev != W.fs[fs].dev) {
		if (!(W.exps[exp].flags & EX_CROSSMNT) && !(dotdot && (fs = fs_of_dev(st->st_dev)) >= 0)) {
			close(fd);
			return ERR_ACCES; /* a file system is mounted here, and the export does not cross (crossmnt) */
		}
		if ((fs = fs_of_dev(st->st_dev)) < 0) {
			int e = W.root ? ident_root() : 0;
			char buf[32];
			int mnt = e ? -1 : openat(W.procfd, procpath(fd, buf), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
			if (mnt < 0 || (fs = fs_add(mnt, NULL, W.fs[d->fs].path_scheme)) < 0) {
				if (mnt >= 0)
					close(mnt);
				close(fd);
				return ERR_ACCES;
			}
			if ((e = ident_become(c->ident))) {
				close(fd);
				return ERR_JUKEBOX;
			}
		}
	}
	i32 parent = dir;
	if (dotdot && by_path(exp, fs)) { /* the chain of a parent is ours without its last byte */
		u8 fh[FH_MAX], chain[MAX_DEPTH];
		int depth = chain_of(dir, chain);
		if (depth < 0) {
			close(fd);
			return ERR_STALE;
		}
		u8 len = mint_path(&W.exps[exp], chain, depth ? (u32)depth - 1 : 0, fd, st, fh);
		i32 o = obj_find(fh, len);
		if (o < 0 && (o = obj_new(fh, len)) >= 0) {
			obj_fill(o, exp, fs, fd, st);
			*out = o;
			return 0;
		}
		close(fd);
		*out = o;
		return o < 0 ? ERR_JUKEBOX : 0;
	}
	return obj_from_fd(exp, fs, parent, fd, st, out);
}

/* The cached object of a kernel handle found in directory `dir`; -1: none is. */
i32 obj_of_kernel_handle(i32 dir, const struct file_handle *h)
{
	struct kernel_handle k;
	u8 fh[FH_MAX];
	if (h->handle_bytes > MAX_HANDLE)
		return -1;
	memcpy(&k.h, h, sizeof *h + h->handle_bytes);
	return obj_find(fh, mint_kernel(&W.exps[W.objs[dir].exp], &W.fs[W.objs[dir].fs], &k, fh));
}

/* Handle and attributes of `name` without a descriptor: the length of the handle, or 0 where it takes obj_from_name() (the path
 * scheme, another mount, an error).  The two look-ups are not atomic: the caller has a way to know that no name changed. */
u8 name_to_fh(i32 dir, const char *name, u8 *fh, i32 *o, struct stat *st)
{
	struct obj *d = &W.objs[dir];
	struct kernel_handle k;
	int mntid;
	if (by_path(d->exp, d->fs) || kernel_handle_of(d->fd, name, &k, &mntid) || mntid != W.fs[d->fs].mntid)
		return 0;
	u8 len = mint_kernel(&W.exps[d->exp], &W.fs[d->fs], &k, fh);
	*o = obj_find(fh, len);
	if (*o >= 0 && W.objs[*o].exp_gen == W.generation && !fd_stat(W.objs[*o].fd, st) && st->st_nlink)
		return len;
	*o = -1;
	return fstatat(d->fd, name, st, AT_SYMLINK_NOFOLLOW) || (u64)st->st_dev != W.fs[d->fs].dev ? 0 : len;
}

int fs_is_readonly(i32 o)
{
	struct statfs sf;
	return !fstatfs(W.objs[o].fd, &sf) && sf.f_flags & 1; /* ST_RDONLY */
}

/* ---- Opening what a handle names. */

struct linux_dirent { u64 ino; int64_t off; u16 len; u8 type; char name[]; };

/* Walks the chain of the path scheme below `at` (taken).  Returns an O_PATH descriptor or -1. */
static int walk(const struct export *e, int at, const u8 *chain, u32 depth, u64 ino, u32 proof)
{
	struct stat st;
	if (!depth) {
		if (!fd_stat(at, &st) && st.st_ino == ino && proof_of(at, &st) == proof)
			return at;
		close(at);
		return -1;
	}
	char buf[32];
	int list = openat(W.procfd, procpath(at, buf), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC), found = -1;
	u8 *room = list < 0 ? NULL : malloc(32768);
	for (long n; found < 0 && room && (n = syscall(SYS_getdents64, list, room, 32768)) > 0;)
		for (long pos = 0; found < 0 && pos < n;) {
			struct linux_dirent *d = (void *)(room + pos);
			pos += d->len;
			if (d->name[0] == '.' && (!d->name[1] || (d->name[1] == '.' && !d->name[2])))
				continue;
			int maybe_mount = d->type == DT_DIR && e->flags & EX_CROSSMNT;
			if (chain_byte(d->ino) != chain[0] && !maybe_mount)
				continue;
			if (depth > 1 && d->type != DT_DIR && d->type != DT_UNKNOWN)
				continue;
			int next = openat(at, d->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			if (next < 0)
				continue;
			if (fd_stat(next, &st) || chain_byte(st.st_ino) != chain[0]
			    || (st.st_dev != e->root_dev && !(e->flags & EX_CROSSMNT)))
				close(next);
			else
				found = walk(e, next, chain + 1, depth - 1, ino, proof);
		}
	free(room);
	if (list >= 0)
		close(list);
	close(at);
	return found;
}

/* -b of unfsd: every directory of the file system below the export's root, for an object that moved. */
static int search_all(const struct export *e, int at, u64 ino, u32 proof, int depth)
{
	char buf[32];
	struct stat st;
	int list = openat(W.procfd, procpath(at, buf), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC), found = -1;
	u8 *room = list < 0 || depth > 128 ? NULL : malloc(32768); /* 128 levels: descriptors stay open on the way down */
	for (long n; found < 0 && room && (n = syscall(SYS_getdents64, list, room, 32768)) > 0;)
		for (long pos = 0; found < 0 && pos < n;) {
			struct linux_dirent *d = (void *)(room + pos);
			pos += d->len;
			if ((d->name[0] == '.' && (!d->name[1] || (d->name[1] == '.' && !d->name[2])))
			    || (d->ino != ino && d->type != DT_DIR && d->type != DT_UNKNOWN))
				continue;
			int next = openat(at, d->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			if (next < 0)
				continue;
			if (!fd_stat(next, &st) && st.st_ino == ino && proof_of(next, &st) == proof)
				found = next;
			else if (S_ISDIR(st.st_mode) && st.st_dev == e->root_dev)
				found = search_all(e, next, ino, proof, depth + 1);
			if (found != next)
				close(next);
		}
	free(room);
	if (list >= 0)
		close(list);
	return found;
}

static int open_path_scheme(const struct export *e, const u8 *fh)
{
	u32 proof;
	u64 ino;
	memcpy(&proof, fh + 8, 4);
	memcpy(&ino, fh + 12, 8);
	int fd = walk(e, fcntl(e->rootfd, F_DUPFD_CLOEXEC, 0), fh + 20, fh[2], ino, proof);
	if (fd < 0 && e->flags & EX_BRUTEFORCE)
		fd = search_all(e, e->rootfd, ino, proof, 0);
	return fd;
}

/* Any thread. */
int open_kernel_scheme(int mntfd, u32 type, const u8 *bytes, u32 n)
{
	struct kernel_handle k;
	k.h.handle_bytes = n;
	k.h.handle_type = (int)type;
	memcpy(k.h.f_handle, bytes, n);
	int fd, tries = 0;
	do /* ENOMEM is also what it says of an inode number that is being given to a new file at this moment */
		fd = open_by_handle_at(mntfd, &k.h, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	while (fd < 0 && errno == ENOMEM && ++tries < 100 && !sched_yield());
	return fd;
}

/* Shape and MAC.  0, ERR_BADHANDLE, ERR_STALE (good once, but the export is gone).  *exp: its place. */
static int verify(const u8 *fh, u32 len, i32 *exp)
{
	u32 expid;
	if (len < 8 + FH_MAC || (fh[0] == 2 ? len != 32 : fh[0] != 1))
		return ERR_BADHANDLE;
	memcpy(&expid, fh + 4, 4);
	*exp = exp_find(ntohl(expid));
	u32 body = len - FH_MAC;
	if (mac_differs(fh + body, mac_of(fh, body, *exp >= 0 ? W.exps[*exp].salt : 0)))
		return *exp < 0 && fh[1] & FH_PASSWORD ? ERR_STALE : ERR_BADHANDLE;
	if (*exp < 0)
		return ERR_STALE;
	/* From here on it is our own handle; lengths were ours too, yet they are what bounds the copies below. */
	if (fh[0] == 1 && fh[1] & FH_PATH)
		return fh[3] + 8u == body && fh[2] <= MAX_DEPTH && fh[3] == 12 + fh[2] ? 0 : ERR_BADHANDLE;
	if (fh[0] == 1)
		return fh[3] <= MAX_HANDLE && 16u + fh[3] == body ? 0 : ERR_BADHANDLE;
	return fh[3] <= 16 ? 0 : ERR_BADHANDLE;
}

static int open_handle(struct call *c, const u8 *fh, u32 len, i32 *out)
{
	i32 exp, fs;
	struct stat st;
	int fd, status = verify(fh, len, &exp);
	if (status)
		return status;
	struct export *e = &W.exps[exp];
	if (W.root && ident_root())
		return ERR_JUKEBOX;
	if ((status = removable_attach(e)))
		return status;
	if (W.fs[e->fs].absent && !(fh[1] & FH_ROOT))
		return ERR_STALE;
	if (e->flags & EX_SUBTREE && !(fh[1] & (FH_PATH | FH_ROOT)))
		return ERR_STALE; /* from before the option: it does not tell where the object lies */
	if (fh[1] & FH_ROOT) {
		fs = e->fs;
		fd = fcntl(e->rootfd, F_DUPFD_CLOEXEC, 0);
	} else if (fh[1] & FH_PATH) {
		fs = e->fs;
		fd = open_path_scheme(e, fh);
	} else {
		fs = memcmp(W.fs[e->fs].handle_id, fh + 8, 8) ? fs_of_fsid(fh + 8) : e->fs; /* two copies of one file system share a UUID */
		if (fs < 0)
			return e->flags & EX_CROSSMNT ? V_FS : ERR_STALE;
		if (fs != e->fs && !(e->flags & EX_CROSSMNT))
			return ERR_STALE;
		if ((status = wait_for_handle(c, fs, fh[2], fh + 16, fh[3])))
			return status;
		fd = opened_take(c);
		if (fd < 0 && fd != NOT_OPENED)
			errno = -fd;
		else if (fd < 0)
			fd = open_kernel_scheme(W.fs[fs].mntfd, fh[2], fh + 16, fh[3]);
	}
	if (fd < 0)
		return fh[1] & FH_PATH || errno == ESTALE || errno == EINVAL || errno == ENOENT ? ERR_STALE : status_of(errno);
	if (fd_stat(fd, &st) || !st.st_nlink) {
		close(fd);
		return ERR_STALE;
	}
	if (fh[1] & FH_PATH && W.fs[e->fs].dev != st.st_dev && (fs = fs_of_dev(st.st_dev)) < 0)
		fs = e->fs;
	i32 o = obj_new(fh, len);
	if (o < 0) {
		close(fd);
		return ERR_JUKEBOX;
	}
	obj_fill(o, exp, fs, fd, &st);
	*out = o;
	return 0;
}

/* A version 2 handle says the same as one of version 3 in fewer bytes: a file has one object, whichever way it is named. */
static int fh3_of_fh2(const u8 *fh2, u8 fh[FH_MAX], u32 *len)
{
	i32 exp;
	int status = verify(fh2, 32, &exp);
	if (status)
		return status;
	memcpy(fh, fh2, 8);
	fh[0] = 1;
	if (fh2[1] & FH_ROOT)
		memset(fh + 8, 0, 8);
	else
		memcpy(fh + 8, W.fs[W.exps[exp].fs].handle_id, 8);
	memcpy(fh + 16, fh2 + 8, fh2[3]);
	seal(fh, 16u + fh2[3], W.exps[exp].salt);
	*len = 16u + fh2[3] + FH_MAC;
	return 0;
}

/* nfs_fh3 at *pp -> object.  0, nfsstat3, or V_*.  The export of a cached object is looked up again after each reload. */
int gate_fh(struct call *c, const u8 **pp, i32 *out)
{
	const u8 *p = *pp;
	if (garbage(c, p, 4))
		return V_GARBAGE;
	u32 len = get_u32(p);
	if (len > FH_MAX || garbage(c, p + 4, (len + 3) & ~3u))
		return V_GARBAGE;
	p += 4;
	*pp = p + ((len + 3) & ~3u);
	if (!len)
		return public_root(out);
	if (len < 8 + FH_MAC)
		return ERR_BADHANDLE;
	u8 fh[FH_MAX];
	if (p[0] == 2 && len == 32) {
		int bad = fh3_of_fh2(p, fh, &len);
		if (bad)
			return bad;
		p = fh;
	}
	i32 o = obj_find(p, len);
	if (o >= 0) {
		struct obj *b = &W.objs[o];
		W.row[S_FH_HITS]++;
		if (b->exp_gen != W.generation) {
			i32 e = exp_find(b->expid);
			if (e < 0 || verify(p, len, &e)
			    || (W.exps[e].fs != b->fs && !(W.exps[e].flags & EX_CROSSMNT))) {
				obj_drop(o);
				return ERR_STALE;
			}
			b->exp = e;
			b->exp_gen = W.generation;
		}
		int status = removable_attach(&W.exps[b->exp]);
		if (status)
			return status;
		if (W.exps[b->exp].flags & EX_SUBTREE && strayed(&W.exps[b->exp], b->fd)) {
			obj_drop(o);
			return ERR_STALE;
		}
		obj_touch(o);
		*out = o;
		return 0;
	}
	W.row[S_FH_MISSES]++;
	int status = open_handle(c, p, len, out);
	if (status == ERR_STALE)
		W.row[S_FH_STALE]++;
	return status;
}

/* The version 2 handle (32 bytes) of one of version 3 that we made: 0, or ERR_NOTSUPP where the kernel's handle is over 16 bytes, there
 * is none, or it is on another file system than the export's, for which the export id stands. */
int fh2_of_fh3(const u8 *fh, u32 len, u8 out[32])
{
	u32 expid;
	memcpy(&expid, fh + 4, 4);
	i32 exp = exp_find(ntohl(expid));
	memset(out, 0, 32);
	if (len < 24 || exp < 0 || fh[1] & FH_PATH || fh[3] > 16)
		return ERR_NOTSUPP;
	const struct filesystem *f = &W.fs[W.exps[exp].fs];
	if (!(fh[1] & FH_ROOT) && (f->removable || memcmp(fh + 8, f->handle_id, 8))) /* it would not say which medium */
		return ERR_NOTSUPP;
	memcpy(out, fh, 8);
	out[0] = 2;
	memcpy(out + 8, fh + 16, fh[3]);
	seal(out, 24, W.exps[exp].salt);
	return 0;
}

int fh2_of(i32 o, u8 out[32]) { return fh2_of_fh3(W.objs[o].fh, W.objs[o].fhlen, out); }

/* ---- What a credential may do with an object: asked of the kernel as the caller, kept while the ctime stands. */

static u64 ns_of(const struct timespec *t) { return (u64)t->tv_sec * 1000000000u + (u64)t->tv_nsec; }

/* What stands for the access ACL of a file that is open for writing: 1 for none, 0 when it cannot be told. */
static u32 acl_now(const struct obj *b)
{
	u8 acl[ACL_SEEN];
	ssize_t n = b->wfd < 0 ? -1 : fgetxattr(b->wfd, "system.posix_acl_access", acl, sizeof acl);
	if (n < 0)
		return b->wfd >= 0 && (errno == ENODATA || errno == EOPNOTSUPP);
	return (u32)siphash(W.key, acl, (size_t)n) | 2;
}

/* Does what was found out about rights still hold?  While the ctime stands; and for a second also when only our own WRITEs moved it and
 * mode, owner and ACL are the same, or a file that many users write would be asked about at each WRITE. */
static int still_true(const struct verdict *v, const struct obj *b, const struct stat *st)
{
	u64 ctime = ns_of(&st->st_ctim);
	if (v->mode != (u16)st->st_mode || v->uid != st->st_uid || v->gid != st->st_gid)
		return 0;
	if (v->ctime_ns == ctime && v->settled)
		return 1;
	return b->written_to == ctime && v->ctime_ns >= b->written_from && v->ctime_ns <= ctime && v->asked_s == W.now_s
	       && v->acl && v->acl == acl_now(b);
}

/* 1 when `want` (R_OK, W_OK, X_OK bits) is allowed to the caller of c, 0 when not, -1 when it cannot be told. */
int may(struct call *c, i32 o, const struct stat *st, int want)
{
	const struct ident *id = &W.idents[c->ident];
	struct obj *b = &W.objs[o];
	struct verdict *v = &W.verdicts[(b->serial * 0x9e3779b1u ^ id->serial * 0x85ebca6bu) >> 3 & (N_VERDICT - 1)];
	u64 ctime = ns_of(&st->st_ctim);
	if (v->obj_serial != b->serial || v->ident_serial != id->serial || !still_true(v, b, st))
		*v = (struct verdict){ .obj_serial = b->serial, .ident_serial = id->serial, .ctime_ns = ctime, .asked_s = W.now_s,
				       .uid = st->st_uid, .gid = st->st_gid, .mode = (u16)st->st_mode };
	int missing = want & ~v->known;
	if (missing) {
		struct timespec now;
		if (ident_become(c->ident))
			return -1;
		if (!v->known) /* from before the first question */
			v->acl = b->written_to == ctime ? acl_now(b) : 0;
		for (int bit = 1; bit <= 4; bit <<= 1) {
			if (!(missing & bit))
				continue;
			v->known |= (u8)bit;
			if (!syscall(SYS_faccessat2, b->fd, "", bit, AT_EACCESS | AT_EMPTY_PATH))
				v->may |= (u8)bit;
			else if (errno == EROFS) /* the operation itself shall say so */
				v->may |= (u8)bit, v->known |= V_ROFS;
			else
				v->may &= (u8)~bit;
		}
		int answer = (v->may & want) == want;
		clock_gettime(CLOCK_REALTIME, &now);
		v->settled = ns_of(&now) >= ctime + settle_ns(st); /* else a change in the same tick of the clock would not show */
		return answer;
	}
	return (v->may & want) == want;
}

/* May this thread look names up in `dir` for c's caller without changing its identity? */
static int search_known(u32 obj_serial, u32 ident_serial, u64 ctime)
{
	const struct verdict *v = &W.verdicts[(obj_serial * 0x9e3779b1u ^ ident_serial * 0x85ebca6bu) >> 3 & (N_VERDICT - 1)];
	return v->obj_serial == obj_serial && v->ident_serial == ident_serial && v->ctime_ns == ctime && v->settled && v->may & X_OK;
}

/* Puts this thread into an identity that sees directory `dir` as the caller does: the caller's own, or the one in force when both
 * may search it (what a lookup finds does not depend on who asks). */
int become_searcher(struct call *c, i32 dir, const struct stat *dst)
{
	if (!W.root || my_serial == W.idents[c->ident].serial)
		return 0;
	/* Asked for each caller once, which makes him the one in force; from then on others can go after him. */
	if (may(c, dir, dst, X_OK) == 1 && search_known(W.objs[dir].serial, my_serial, ns_of(&dst->st_ctim)))
		return 0;
	return ident_become(c->ident);
}

/* The owner's override without root: it takes a moment in which he has the right; the file is his and this process is he.  One
 * worker at a time, so that each finds the mode that it has to put back; what a local process sets meanwhile stands.  Not where
 * chmod(2) would take the setgid bit of a group that is not ours. */
static int open_as_owner(int fd, int writing, int flags)
{
	char buf[32];
	const char *path = procpath(fd, buf);
	struct stat st, now;
	shared_lock *lock = users_lock();
	int got = openat(W.procfd, path, flags), e = errno;
	mode_t right = writing ? S_IWUSR : S_IRUSR;
	if (got < 0 && e == EACCES && !fd_stat(fd, &st) && !(st.st_mode & S_ISGID) && !fchmodat(W.procfd, path, (st.st_mode & 07777) | right, 0)) {
		got = openat(W.procfd, path, flags);
		e = errno;
		if (fd_stat(fd, &now) || (now.st_mode == (st.st_mode | right) && fchmodat(W.procfd, path, st.st_mode & 07777, 0))) {
			e = errno; /* it has rights that nobody gave it: at least nothing is done under them */
			if (got >= 0)
				close(got);
			got = -1;
		}
	}
	shared_unlock(lock);
	errno = e;
	return got;
}

/* Was the file made immutable or append-only since the descriptor was opened?  The kernel looks at that when it opens a file, and
 * knfsd opens for each WRITE.  What the attributes were at a ctime holds until the next; our own writes carry it on (vn_write). */
static int sealed(struct obj *b, const struct stat *st)
{
	struct statx sx;
	u64 ctime = ns_of(&st->st_ctim);
	if (b->unsealed == ctime && b->unsealed_s == W.now_s)
		return 0;
	if (statx(b->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) || sx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
		return 1;
	b->unsealed = ctime;
	b->unsealed_s = W.now_s;
	return 0;
}

/* A WRITE of ours took the ctime from one to the other, under the file's lock. */
void obj_written(i32 o, const struct stat *pre, const struct stat *post)
{
	struct obj *b = &W.objs[o];
	u64 from = ns_of(&pre->st_ctim), to = ns_of(&post->st_ctim);
	int same = pre->st_mode == post->st_mode && pre->st_uid == post->st_uid && pre->st_gid == post->st_gid;
	if (b->unsealed == from)
		b->unsealed = to;
	if (!same || b->written_to != from)
		b->written_from = same ? from : to;
	b->written_to = to;
}

/* A data descriptor of a regular file or directory for the caller.  Rights first, then the cached one or a new one.
 * The owner may read and write his file whatever its mode (clients check at open; RFC 1813 section 4.4); who may execute may read.
 * *attributes are those from before.  0, nfsstat3. */
int obj_open(struct call *c, i32 o, int writing, int *fd, struct stat *attributes)
{
	struct obj *b = &W.objs[o];
	struct stat st;
	char buf[32];
	int status = obj_stat(o, &st);
	if (status)
		return status;
	*attributes = st;
	u32 uid = W.idents[c->ident].uid;
	int owner = st.st_uid == uid && S_ISREG(st.st_mode);
	int ok = owner || may(c, o, &st, writing ? W_OK : R_OK) == 1 || (!writing && S_ISREG(st.st_mode) && may(c, o, &st, X_OK) == 1);
	if (!ok)
		return ERR_ACCES;
	int *place = writing ? &b->wfd : &b->rfd;
	if (*place >= 0) {
		*fd = *place;
		return writing && sealed(b, &st) ? ERR_PERM : 0;
	}
	spare_data();
	int flags = (writing ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0);
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	int got = openat(W.procfd, procpath(b->fd, buf), flags);
	if (got < 0 && errno == EACCES && W.root) { /* the owner's override, or an executable: allowed above */
		if (ident_root())
			return ERR_JUKEBOX;
		got = openat(W.procfd, procpath(b->fd, buf), flags);
		int e = errno;
		if (ident_become(c->ident)) {
			if (got >= 0)
				close(got);
			return ERR_JUKEBOX;
		}
		errno = e;
	} else if (got < 0 && errno == EACCES && owner) {
		got = open_as_owner(b->fd, writing, flags);
	}
	if (got < 0) {
		if (errno == EMFILE || errno == ENFILE)
			return ERR_JUKEBOX;
		return status_of(errno);
	}
	*fd = *place = got;
	W.row[writing ? S_FDS_WRITE : S_FDS_READ]++;
	return 0;
}
