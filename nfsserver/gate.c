/* gate.c: the one gate from a call to an object, a caller's rights and his identity; start of a worker.
 *
 * Every request passes vn_gate(): handle, export, host, squash.  MOUNT is no gate.  What Python decided for (peer, credential,
 * export) is kept as a grant, which a new export table throws away. */
#include "vnode.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum { R_DENIED = 0x80 };

static int grant_is(const struct grant *g, const struct call *c, u32 expid)
{
	return g->peer == c->eng->peers[c->peer].serial && g->cred == c->eng->creds[c->cred].serial && g->expid == expid;
}

/* The two places where the grant of the caller for this export may be. */
static struct grant *grant_pair(const struct call *c, u32 expid)
{
	u32 peer = c->eng->peers[c->peer].serial, cred = c->eng->creds[c->cred].serial;
	return &W.grants[(peer * 0x9e3779b1u ^ cred * 0x85ebca6bu ^ expid * 0xc2b2ae35u) >> 5 & (N_GRANT - 2)];
}

/* Has the call names in its arguments that tags may change? */
static int takes_names(const struct call *c)
{
	return c->prog == NFS_PROGRAM && (c->proc == (c->vers == 2 ? 4 : 3) || (c->proc >= (c->vers == 2 ? 9 : 8) && c->proc <= 15));
}

/* What few exports have. */
static int set_apart(const struct call *c, const struct export *e)
{
	if (e->flags & EX_OFFLINE)
		return c->vers == 2 && c->prog == NFS_PROGRAM ? ERR_STALE : ERR_JUKEBOX;
	return takes_names(c) && !host_known(c) ? V_HOST : 0;
}

/* Applies the grant for the export of object `o` to the call.  0, nfsstat3, V_GRANT. */
static int apply_grant(struct call *c, i32 o)
{
	const struct export *e = &W.exps[W.objs[o].exp];
	struct grant *g = grant_pair(c, e->id);
	int status;
	c->obj = o;
	if (!grant_is(g, c, e->id) && !grant_is(++g, c, e->id))
		return V_GRANT;
	c->obj = -1;
	if (g->rights & R_DENIED)
		return ERR_ACCES;
	if (!(g->rights & R_INSECURE_OK) && c->port >= 1024 && c->proto != RPC_LOCAL)
		return ERR_PERM;
	if (e->flags & (EX_OFFLINE | EX_CLUSTER) && (status = set_apart(c, e)))
		return status;
	c->ident = g->ident;
	c->rights = g->rights | (W.fs[e->fs].absent ? R_READONLY : 0);
	c->exp = e->row + 1;
	if (g->user && W.state[OFF_USERS / 8 + (u64)(g->user - 1) * USER_WORDS + U_STATE] != g->user_serial)
		g->user = user_row(c, e->id, &g->user_serial); /* another took the row */
	c->err = (i32)g->user;
	c->obj = o;
	return 0;
}

/* nfs_fh3 at the head of the arguments -> c->obj, c->rights, c->ident; c->arg moves behind it.  0, nfsstat3 or V_*. */
int vn_gate(struct call *c)
{
	const u8 *p = c->arg;
	i32 o;
	c->obj = c->obj2 = -1;
	if (W.generation < generation_due())
		return V_STALLED;
	int status = gate_fh(c, &p, &o);
	if (!status && !(status = apply_grant(c, o))) {
		c->word[2] = (u64)(uintptr_t)c->arg;
		c->arg = p;
		cold_begin(c, W.objs[o].fs);
		sync_begin();
	}
	return status;
}

/* Id of the export that the gate asks a grant for. */
u32 vn_expid(const struct call *c) { return W.exps[W.objs[c->obj].exp].id; }

/* Python's verdict for (peer, credential, export).  ident: place from ident_get; rights: R_* bits. */
void vn_grant(const struct call *c, u32 expid, u32 ident, u32 rights)
{
	static u32 turn;
	struct grant *g = grant_pair(c, expid);
	if (g->peer && !grant_is(g, c, expid) && (!g[1].peer || grant_is(g + 1, c, expid) || turn++ & 1))
		g++;
	*g = (struct grant){ .peer = c->eng->peers[c->peer].serial, .cred = c->eng->creds[c->cred].serial, .expid = expid, .ident = ident,
			     .rights = rights };
	if (!(rights & R_DENIED))
		g->user = user_row(c, expid, &g->user_serial);
}

/* What grants were decided from is not true any more.  The pages go back: they are zero when they are touched again. */
void vn_forget_grants(void)
{
	if (madvise(W.grants, N_GRANT * sizeof *W.grants, MADV_DONTNEED))
		memset(W.grants, 0, N_GRANT * sizeof *W.grants);
}

/* After each batch of calls. */
void vn_before_wait(void)
{
	pool_kick();
	vn_release_removable();
}

/* ---- For GETFH and FHOPEN, which have no call: identity and object by hand. */

/* Walks `path` (relative, no "..") from the export's root as `ident`.  The handle goes to out[64]; its length, or -errno. */
int vn_getfh(u32 expid, const char *path, u32 ident, int vers, u8 *out)
{
	struct call c = { .ident = ident };
	struct stat st;
	i32 exp = exp_find(expid), o;
	if (exp < 0)
		return -ESTALE;
	if (vn_root(exp, &o))
		return -ESTALE;
	while (*path) {
		char name[256];
		size_t n = strcspn(path, "/");
		if (n > 255)
			return -ENAMETOOLONG;
		memcpy(name, path, n);
		name[n] = 0;
		path += n + (path[n] == '/');
		if (!n || (n == 1 && name[0] == '.'))
			continue;
		if (W.objs[o].type != S_IFDIR >> 12)
			return -ENOTDIR;
		if (ident_become(ident))
			return -EPERM;
		int status = obj_from_name(&c, o, name, &o, &st);
		if (status)
			return status == ERR_NOENT ? -ENOENT : status == ERR_NOTDIR ? -ENOTDIR : status == ERR_NAMETOOLONG ? -ENAMETOOLONG : -EACCES;
	}
	int type = W.objs[o].type;
	if (type != S_IFDIR >> 12 && !(type == S_IFREG >> 12 && W.exps[exp].flags & EX_REGULAR))
		return type == S_IFLNK >> 12 ? -EACCES : -ENOTDIR; /* what is mounted is a directory */
	if (vers == 2)
		return fh2_of(o, out) ? -EOPNOTSUPP : 32;
	memcpy(out, W.objs[o].fh, W.objs[o].fhlen);
	return W.objs[o].fhlen;
}

/* Opens a handle's regular file as `ident`; mode 1 read, 2 write, 3 both.  A new descriptor, or -errno.  *expid tells whose it is;
 * with ident -1 nothing is opened: 0 says that the handle is good. */
int vn_fhopen(const u8 *fh, u32 len, int ident, int mode, u32 *expid)
{
	u8 buf[4 + FH_MAX + 3];
	struct call c = { .arg = buf, .end = buf + 4 + ((len + 3) & ~3u), .ident = ident < 0 ? 0 : (u32)ident };
	const u8 *p = buf;
	u32 n = htonl(len);
	char name[32];
	i32 o;
	if (len > FH_MAX)
		return -EINVAL;
	memset(buf, 0, sizeof buf);
	memcpy(buf, &n, 4);
	memcpy(buf + 4, fh, len);
	int status = gate_fh(&c, &p, &o);
	if (status)
		return status == ERR_STALE ? -ESTALE : -EINVAL;
	*expid = W.objs[o].expid;
	if (ident < 0)
		return 0;
	if (W.objs[o].type != S_IFREG >> 12)
		return -EINVAL;
	if (ident_become((u32)ident))
		return -EPERM;
	int flags = (mode == 1 ? O_RDONLY : mode == 2 ? O_WRONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd = openat(W.procfd, procpath(W.objs[o].fd, name), flags);
	return fd < 0 ? -errno : fd;
}

/* ---- Start. */

static u64 rounded_down_files(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r))
		return 1024;
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	return r.rlim_cur;
}

/* Maps the state file, takes the slot, reads nothing.  Returns 0 or an errno. */
int vn_init(int state_fd, u32 slot, const u8 key[16], u32 max_objs, int root, int harden)
{
	if (slot >= N_SLOTS)
		return EINVAL;
	u64 files = rounded_down_files();
	if (max_objs > files / 2) /* the other half: open files, and connections */
		max_objs = (u32)(files / 2);
	W.max_files = files - files / 8; /* what is left is for connections that come, and for the calls' own */
	W.max_data = files / 4 > 4096 ? 4096 : (u32)(files / 4);
	void *m = mmap(NULL, STATE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
	if (m == MAP_FAILED)
		return errno;
	W.state = m;
	W.row = W.state + OFF_SLOTS / 8 + (u64)slot * SLOT_WORDS;
	W.slot = slot;
	memcpy(W.key, key, 16);
	W.objs = calloc(max_objs, sizeof *W.objs);
	W.verdicts = calloc(N_VERDICT, sizeof *W.verdicts);
	W.grants = mmap(NULL, N_GRANT * sizeof *W.grants, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	W.exps = calloc(1, sizeof *W.exps);
	W.procfd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!W.objs || !W.verdicts || W.grants == MAP_FAILED || !W.exps)
		return ENOMEM;
	if (W.procfd < 0)
		return errno;
	W.max_objs = max_objs;
	W.lru_head = W.lru_tail = -1;
	for (u32 i = 0; i < N_OBJ_HASH; i++)
		W.hash[i] = -1;
	W.obj_free = -1;
	if (W.row[S_UNSYNCED]) /* our predecessor may have taken an unread write error with it */
		verifier_change();
	static const u32 gone[] = { S_CONNECTIONS, S_UNSYNCED, S_FDS_READ, S_FDS_WRITE, S_OBJECTS, S_GENERATION };
	for (u32 i = 0; i < sizeof gone / sizeof *gone; i++)
		W.row[gone[i]] = 0;
	W.row[S_PID] = (u64)getpid();
	W.incarnation = (u32)++W.row[S_INCARNATION];
	int err = drc_init(state_fd);
	return err ? err : ident_init(root, harden);
}

u64 *vn_row(void) { return W.row; }
u64 *vn_state(void) { return W.state; }

void vn_tick(u32 now_s, u64 now_ns)
{
	W.now_s = now_s;
	W.wall_s = (u64)time(NULL);
	W.row[S_HEARTBEAT] = now_ns;
}

/* Overwrites the process's argv, so that ps(1) shows `title`. */
int vn_set_title(unsigned long start, unsigned long end, const char *title)
{
	size_t room = end - start, n = strlen(title);
	if (end <= start || n + 1 > room)
		return -1;
	memset((void *)start, 0, room);
	memcpy((void *)start, title, n);
	return 0;
}

/* The export's row in the shared table of statistics, the same in all workers.  N_EXPORTS - 1 stands for those that found no place. */
u32 exp_row(u32 expid)
{
	_Atomic u64 *table = (_Atomic u64 *)(W.state + OFF_EXPORTS / 8);
	for (u32 i = 0; i < N_EXPORTS - 1; i++) {
		u32 row = (u32)((expid + (u64)i) % (N_EXPORTS - 1));
		u64 seen = 0;
		if (atomic_compare_exchange_strong(&table[(u64)row * EXPORT_WORDS], &seen, expid) || seen == expid)
			return row;
	}
	return N_EXPORTS - 1;
}
