/* rows.c: the rows of version 3 (procs.py) and of NFS_ACL version 3 (acl.py) for calls that need nothing decided: gate, policy of
 * their kind, one vnode operation; and the end of calls that a thread is done with.
 *
 * The loop calls these between receiving and sending, without a turn of Python, whose steps would be half of a small call's price and
 * half of what a client waits for that sends one call at a time.  Whatever a row returns but 0 it leaves to Python, whose rows say the
 * same: a caller not met before, arguments that do not decode, a file system not known, a new export table. */
#include "parts.h"

int vn_gate(struct call *c);
void vn_fail(struct call *c, u32 status);
int vn_done(struct call *c);
int drc_begin(struct call *c);

/* Errors are answered here; what is answered, or will be by another, is done. */
static int left(struct call *c, int status)
{
	if (status > 0)
		vn_fail(c, (u32)status);
	return status > 0 || status == V_PENDING || status == V_REPLAYED ? 0 : status;
}

static int changes(struct call *c, int op(struct call *))
{
	int status = vn_gate(c);
	if (!status)
		status = c->rights & R_READONLY ? ERR_ROFS : drc_begin(c);
	return left(c, status ? status : op(c));
}

/* A thread is done with a detached call.  0, or V_AGAIN: its row shall run again, which Python sees to. */
int row_finished(struct call *c)
{
	int status = vn_done(c);
	if (status == V_DROP) {
		drc_forget(c);
		c->eng->drop(c);
		return 0;
	}
	return left(c, status);
}

#define QUERY(name) \
	int vn_##name(struct call *c); \
	int row_##name(struct call *c) { int status = vn_gate(c); return left(c, status ? status : vn_##name(c)); }
#define CHANGE(name) \
	int vn_##name(struct call *c); \
	int row_##name(struct call *c) { return changes(c, vn_##name); }
/* It may run twice, but not on a read-only export. */
#define REPEATABLE(name) \
	int vn_##name(struct call *c); \
	int row_##name(struct call *c) \
	{ \
		int status = vn_gate(c); \
		return left(c, status ? status : c->rights & R_READONLY ? ERR_ROFS : vn_##name(c)); \
	}

QUERY(getattr)
CHANGE(setattr)
QUERY(lookup)
QUERY(access)
QUERY(readlink)
QUERY(read)
CHANGE(write)
CHANGE(create)
CHANGE(mkdir)
CHANGE(symlink)
CHANGE(mknod)
CHANGE(remove)
CHANGE(rmdir)
CHANGE(rename)
CHANGE(link)
QUERY(readdir)
QUERY(readdirplus)
QUERY(fsstat)
QUERY(fsinfo)
QUERY(pathconf)
REPEATABLE(commit)

/* NFS_ACL, version 3 (acl.c). */
QUERY(getacl)
REPEATABLE(setacl)
