/* start.c: the start of a worker, and what its loop does now and then. */
#include "parts.h"
#include <sys/mman.h>
#include <sys/resource.h>

static u64 rounded_down_files(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r))
		return 1024;
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	return r.rlim_cur;
}

#define SPARE_FILES 48 /* at least: the worker's own, connections that come, and what calls open for themselves */

/* Maps the state file, takes the slot, reads nothing.  Returns 0 or an errno. */
int vn_init(int state_fd, u32 slot, const u8 key[16], u32 max_objs, int root, int harden)
{
	if (slot >= N_SLOTS)
		return EINVAL;
	u64 files = rounded_down_files();
	if (max_objs > files / 2) /* the other half: open files, and connections */
		max_objs = (u32)(files / 2);
	W.max_files = files / 8 > SPARE_FILES ? files - files / 8 : files > 2 * SPARE_FILES ? files - SPARE_FILES : files / 2;
	W.max_data = files / 4 > 4096 ? 4096 : (u32)(files / 4);
	void *m = mmap(NULL, STATE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
	if (m == MAP_FAILED)
		return errno;
	W.state = m;
	W.row = W.state + OFF_SLOTS / 8 + (u64)slot * SLOT_WORDS;
	W.slot = slot;
	memcpy(W.key, key, 16);
	W.objs = calloc(max_objs + N_EXPORTS, sizeof *W.objs); /* pages that nobody used take no memory */
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

/* After each batch. */
void vn_before_wait(struct rpc_engine *e, u32 n_calls, u64 alone_ns)
{
	if (!syncs_here(e, n_calls, alone_ns))
		pool_kick();
	vn_release_removable();
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
