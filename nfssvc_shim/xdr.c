/* xdr.c: the two XDR writers that the records need (RFC 4506). */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

static unsigned char *room(struct body *b, size_t n)
{
	if (b->err)
		return NULL;
	if (b->room - b->len < n) {
		size_t want = (b->len + n) * 2;
		unsigned char *data = realloc(b->data, want);
		if (!data) {
			b->err = ENOMEM;
			return NULL;
		}
		b->data = data;
		b->room = want;
	}
	unsigned char *at = b->data + b->len;
	b->len += n;
	return at;
}

void nfssvc_put_u32(struct body *b, uint32_t v)
{
	unsigned char *at = room(b, 4);
	v = htonl(v);
	if (at)
		memcpy(at, &v, 4);
}

void nfssvc_put_opaque(struct body *b, const void *data, size_t n)
{
	size_t padded = (n + 3) & ~(size_t)3;
	nfssvc_put_u32(b, (uint32_t)n);
	unsigned char *at = room(b, padded);
	if (!at)
		return;
	memset(at, 0, padded);
	if (n)
		memcpy(at, data, n);
}
