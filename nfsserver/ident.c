/* ident.c: whose ids the system calls of this thread run under.
 *
 * Identity is sticky: a switch costs 5 to 11 us, so it happens only when the next call's differs.  Raw system calls, for
 * glibc's setgroups() and setfsuid() of some versions change every thread.  setfsuid(-1) is a silent no-op, so ids of
 * 0xffffffff never come here: exports.py has mapped them to the anonymous user; ident_get() refuses them all the same.
 * fsuid other than 0 takes the file system capabilities out of the effective set by itself (capabilities(7)).
 */
#include "parts.h"
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define FEW 16 /* groups that are remembered: AUTH_SYS has no more */

__thread u32 my_serial;          /* serial of the identity in force; 1 is root, 0 is not known */
static __thread u32 my_uid, my_gid, my_n, my_gids[FEW];

#define SERIAL_ROOT 1

/* Capabilities that serving files takes; CAP_SYS_RESOURCE is never among them (else clients eat the reserved blocks). */
#define KEPT (1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_DAC_READ_SEARCH | 1ull << CAP_FOWNER | 1ull << CAP_FSETID \
	      | 1ull << CAP_SETGID | 1ull << CAP_SETUID | 1ull << CAP_MKNOD)

static int drop_capabilities(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	if (syscall(SYS_capget, &h, d))
		return errno;
	for (int cap = 0; cap < 64; cap++)
		if (!(KEPT >> cap & 1))
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EINVAL past the last capability, EPERM without SETPCAP */
	for (int i = 0; i < 2; i++) {
		u32 keep = (u32)(KEPT >> (32 * i));
		d[i].permitted &= keep;
		d[i].effective = d[i].permitted;
		d[i].inheritable = 0;
	}
	return syscall(SYS_capset, &h, d) ? errno : 0;
}

/* Raises or lowers CAP_FOWNER in this thread's effective set, beside an identity other than root's.  0, or -1 with errno. */
int ident_owner(int raised)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	if (syscall(SYS_capget, &h, d))
		return -1;
	if (raised)
		d[0].effective |= 1u << CAP_FOWNER;
	else
		d[0].effective &= ~(1u << CAP_FOWNER);
	return (int)syscall(SYS_capset, &h, d);
}

/* root: identities are switched.  Returns an errno. */
int ident_init(int root, int harden)
{
	umask(0); /* the client sends the final mode */
	if (harden) {
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		struct rlimit one = { 1, 1 }; /* 1, not 0: 0 does not stop a core pipe */
		setrlimit(RLIMIT_CORE, &one);
		int e = drop_capabilities();
		if (e)
			return e;
	}
	W.root = root;
	W.idents[0] = (struct ident){ .serial = SERIAL_ROOT, .uid = root ? 0 : geteuid(), .gid = root ? 0 : getegid() };
	W.n_idents = 1;
	W.ident_serial = SERIAL_ROOT;
	my_serial = root ? 0 : SERIAL_ROOT;
	my_uid = 0;
	return root ? ident_root() : 0;
}

static int become(u32 serial, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	my_serial = 0; /* whatever happens now: not the old one */
	if (syscall(SYS_setgroups, (long)n, gids))
		return errno;
	syscall(SYS_setfsgid, gid);
	syscall(SYS_setfsuid, uid);
	/* Neither reports a failure: asking again is the proof. */
	if ((u32)syscall(SYS_setfsuid, -1) != uid || (u32)syscall(SYS_setfsgid, -1) != gid)
		return EPERM;
	my_serial = serial;
	my_uid = uid;
	my_gid = gid;
	my_n = n;
	if (n && n <= FEW)
		memcpy(my_gids, gids, n * sizeof *gids);
	return 0;
}

int ident_root(void)
{
	if (my_serial == SERIAL_ROOT)
		return 0;
	return become(SERIAL_ROOT, 0, 0, 0, NULL);
}

int ident_become(u32 i)
{
	const struct ident *id = &W.idents[i];
	if (my_serial == id->serial || !W.root)
		return 0;
	return become(id->serial, id->uid, id->gid, id->n, id->gids);
}

static int is_keeper(const struct keeper *k, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	int found = uid == k->uid || (k->gid && gid == k->gid);
	for (u32 i = 0; k->gid && i < n; i++)
		found |= gids[i] == k->gid;
	return found;
}

/* Are the identity in force and this one alike to a file system that keeps blocks for `k`: ordinary users, and neither is k? */
int ident_is_like(const struct keeper *k, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	return W.root && my_serial && my_uid && uid && my_n <= FEW && n <= FEW && !is_keeper(k, my_uid, my_gid, my_n, my_gids)
	       && !is_keeper(k, uid, gid, n, gids);
}

/* For a pool thread, which must not look into W.idents: an identity by value. */
int ident_adopt(u32 serial, u32 uid, u32 gid, u32 n, const u32 *gids)
{
	if (my_serial == serial || !W.root)
		return 0;
	return become(serial, uid, gid, n, gids);
}

/* The place of an identity, made when it is new; the least recently made goes when the table is full.  -1: refused. */
int ident_get(u32 uid, u32 gid, u32 n, const u32 *gids)
{
	if (uid == ~0u || gid == ~0u || n > 65536)
		return -1;
	for (u32 i = 0; i < n; i++)
		if (gids[i] == ~0u)
			return -1;
	for (u32 i = W.root ? 0 : 1; i < W.n_idents; i++) {
		struct ident *id = &W.idents[i];
		if (id->uid == uid && id->gid == gid && id->n == n && (!n || !memcmp(id->gids, gids, n * sizeof *gids)))
			return (int)i;
	}
	u32 i = W.n_idents < N_IDENT ? W.n_idents++ : 1 + W.ident_clock++ % (N_IDENT - 1);
	if (W.idents[i].serial) /* a grant may name the place that changes its owner */
		vn_forget_grants();
	struct ident *id = &W.idents[i];
	u32 *copy = n ? malloc(n * sizeof *gids) : NULL;
	if (n && !copy)
		return -1;
	if (n)
		memcpy(copy, gids, n * sizeof *gids);
	free(id->gids);
	*id = (struct ident){ .serial = ++W.ident_serial, .uid = uid, .gid = gid, .n = n, .gids = copy };
	return (int)i;
}
