/* done.c: how calls end that threads have worked for.  The loop's thread. */
#include "job.h"

/* Something was opened for the call: its row runs again. */
static int opened_for(struct call *c, const struct job *j)
{
	int fd = (int)j->n;
	if (!j->keep && fd >= 0)
		close(fd);
	if (j->keep)
		opened_put(c, fd >= 0 ? fd : -j->err, j->generation);
	if (j->kind == JOB_OPEN)
		close(j->fd);
	return V_AGAIN;
}

static int finish(struct call *c, const struct job *j)
{
	if (j->took_ns)
		was_long(j->fs, clock_ns(), j->took_ns, j->blocked);
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
	if (j->err)
		return sync_status(j->err);
	if (j->wrote && j->ch.has_pre == 1)
		obj_written(c->obj, &j->ch.pre, &j->ch.post);
	if (j->wrote)
		return finish_write(c, &j->ch, &j->w, j->n, j->write_err);
	return c->state == 3 ? finish_commit(c) : vn_close(c, OK);
}

/* Ends a finished call.  0, the nfsstat3 that vn_fail() shall answer, V_DROP, or V_AGAIN: its row shall run. */
int vn_done(struct call *c)
{
	struct job *j = (void *)(uintptr_t)c->word[0];
	job_returned(c);
	int status = finish(c, j);
	free(j);
	return status;
}
