/* buf.c: buffers for records and replies, a few of each size kept, so that large writes do not fault in new pages. */
#include "parts.h"
#include <stdlib.h>

enum { CLASSES = 9 };

static const size_t class_size[CLASSES] = { 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, MAX_RECORD };

static int pool_class(size_t cap)
{
	int k = 0;
	while (k < CLASSES && class_size[k] < cap)
		k++;
	return k;
}

struct buf *buf_new(struct engine *e, size_t cap)
{
	int k = pool_class(cap);
	struct buf *b;
	if (k < CLASSES && e->pool[k]) {
		b = e->pool[k];
		e->pool[k] = b->next;
		e->n_pool[k]--;
	} else {
		if (k < CLASSES)
			cap = class_size[k];
		if (!(b = malloc(sizeof *b + cap)))
			return NULL;
		b->cap = cap;
	}
	b->next = NULL;
	b->off = b->len = 0;
	return b;
}

void buf_free(struct engine *e, struct buf *b)
{
	if (!b)
		return;
	int k = pool_class(b->cap);
	u32 keep = k < 6 ? 16 : 3; /* at most 16 * 252 KiB and 3 * 1.75 MiB */
	if (k < CLASSES && b->cap == class_size[k] && e->n_pool[k] < keep) {
		b->next = e->pool[k];
		e->pool[k] = b;
		e->n_pool[k]++;
	} else {
		free(b);
	}
}

/* Input buffers count against in_budget while a connection holds them. */
struct buf *in_new(struct engine *e, size_t cap)
{
	struct buf *b = buf_new(e, cap);
	if (b)
		e->count.in_bytes += b->cap;
	return b;
}

/* To be freed when no call of this batch can point into it. */
void bury(struct engine *e, struct buf *b)
{
	if (!b)
		return;
	e->count.in_bytes -= b->cap;
	b->next = e->graveyard;
	e->graveyard = b;
}

void buf_free_kept(struct engine *e)
{
	for (int k = 0; k < CLASSES; k++)
		for (struct buf *b = e->pool[k], *next; b; b = next) {
			next = b->next;
			free(b);
		}
}
