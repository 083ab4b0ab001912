/* trace.c: what the RPC bridge asks about a call for those who watch it (oncrpc/trace.h): its export and its object's name.
 * Names are for the eye: nothing is decided by them, and where the kernel has forgotten a parent they are not the whole path. */
#include "parts.h"

u32 vn_trace_export(const struct call *c);
u32 vn_trace_path(const struct call *c, char *out, u32 room);

/* The id in a handle at the head of the arguments (version 2's are written as version 3's by then) of a call that did not pass the
 * gate: what it claims. */
static u32 claimed_export(const struct call *c)
{
	size_t n = (size_t)(c->end - c->arg);
	const u8 *p = c->arg;
	u32 len = n >= 4 ? get_u32(p) : 0;
	if (c->prog != NFS_PROGRAM || !c->proc || len < 8 + FH_MAC || len > FH_MAX || n - 4 < len)
		return 0;
	return get_u32(p + 8);
}

u32 vn_trace_export(const struct call *c)
{
	return c->exp && c->obj >= 0 ? W.objs[c->obj].expid : claimed_export(c);
}

/* The path of the call's object, by its descriptor; its length, 0: not known. */
u32 vn_trace_path(const struct call *c, char *out, u32 room)
{
	char number[32];
	const struct obj *b = &W.objs[c->exp && c->obj >= 0 ? c->obj : 0];
	if (!c->exp || c->obj < 0 || !b->used || b->fd < 0)
		return 0;
	ssize_t n = readlinkat(W.procfd, procpath(b->fd, number), out, room);
	return n > 0 ? (u32)n : 0;
}
