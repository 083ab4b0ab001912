/* done.c: how calls end that threads have worked for.  The loop's thread. */
#include "job.h"

/* Something was opened for the call: its row runs again. */
static int opened_for(struct call *c, const struct job *j)
{
	int fd = (int)j->n;
	opened_put(c, fd >= 0 ? fd : -j->err, j->generation);
	if (j->kind == JOB_OPEN)
		close(j->fd);
	return V_AGAIN;
}

/* The procedure of a change that a thread did runs once more.  The place of the caller's identity may be another's by now. */
static int redo(struct call *c, struct job *j)
{
	if (j->err)
		return ERR_JUKEBOX;
	int ident = W.idents[c->ident].serial == j->ident ? (int)c->ident : ident_get(j->uid, j->gid, j->n_gids, j->gids);
	if (ident < 0)
		return ERR_JUKEBOX;
	c->ident = (u32)ident;
	removable_attach(&W.exps[W.objs[c->obj].exp]); /* for its file system; the object itself has stayed open */
	deed_hand(c, j->deed);
	int status = j->deed->op(c);
	deed_drop();
	return status;
}

static int finish(struct call *c, struct job *j)
{
	if (j->took_ns && j->blocked)
		was_long_in_thread(j->fs, clock_ns(), j->took_ns);
	if (j->is_sync)
		was_synced(j, clock_ns());
	if (j->kind == JOB_ENTRIES)
		return V_AGAIN;
	if (j->kind == JOB_OPEN || j->kind == JOB_NAME)
		return opened_for(c, j);
	if (j->kind == JOB_READ) {
		if (j->err)
			return j->err == ENOMEM ? ERR_JUKEBOX : status_of(j->err);
		if (j->generation != generation_due()) /* it may be revoked: the client asks again, and passes the gate again */
			return ERR_JUKEBOX;
		finish_read(c, j->offset, (u32)j->n, j->count, &j->st);
		return vn_close(c, OK);
	}
	if (j->kind == JOB_DEED)
		return redo(c, j);
	if (j->err)
		return sync_status(j->err);
	if (j->wrote && j->ch.has_pre == 1)
		obj_written(c->obj, &j->ch.pre, &j->ch.post);
	if (j->wrote)
		return finish_write(c, &j->ch, &j->w, j->n, j->write_err);
	return c->state == 3 ? finish_commit(c) : vn_close(c, OK);
}

/* With what the thread opened and no procedure took. */
static void deed_free(struct deed *w)
{
	if (w && w->made >= 0)
		close(w->made);
	free(w);
}

/* Ends a finished call.  0, the nfsstat3 that vn_fail() shall answer, V_DROP, or V_AGAIN: its row shall run. */
int vn_done(struct call *c)
{
	struct job *j = (void *)(uintptr_t)c->word[0];
	i32 o = c->obj, o2 = c->obj2;
	int status = finish(c, j); /* with its objects pinned: it may need others */
	if (o >= 0)
		obj_unpin(o);
	if (o2 >= 0)
		obj_unpin(o2);
	job_returned(j);
	deed_free(j->deed);
	free(j);
	return status;
}
