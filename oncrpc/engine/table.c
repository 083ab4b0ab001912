/* table.c: interned credentials and peers.  SipHash-1-3 with a key of this process: a client cannot choose collisions. */
#include "parts.h"

#define ROT(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define SIPROUND do { v0 += v1; v1 = ROT(v1, 13) ^ v0; v0 = ROT(v0, 32); v2 += v3; v3 = ROT(v3, 16) ^ v2; \
	v0 += v3; v3 = ROT(v3, 21) ^ v0; v2 += v1; v1 = ROT(v1, 17) ^ v2; v2 = ROT(v2, 32); } while (0)

u32 keyed_hash(const u64 key[2], const u8 *p, size_t n)
{
	u64 v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull;
	u64 v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull, m, end = (u64)n << 56;
	for (; n >= 8; n -= 8, p += 8) {
		memcpy(&m, p, 8);
		v3 ^= m;
		SIPROUND;
		v0 ^= m;
	}
	m = 0;
	memcpy(&m, p, n);
	m |= end;
	v3 ^= m;
	SIPROUND;
	v0 ^= m;
	v2 ^= 0xff;
	SIPROUND;
	SIPROUND;
	SIPROUND;
	m = v0 ^ v1 ^ v2 ^ v3;
	return (u32)m ^ (u32)(m >> 32);
}

void table_init(struct table *t, void *records, u32 size)
{
	t->records = records;
	t->size = size;
	t->serial = 1;
	memset(t->head, 0xff, sizeof t->head);
	memset(t->chain, 0xff, sizeof t->chain);
}

u32 record_serial(const struct table *t, u32 i)
{
	u32 v;
	memcpy(&v, t->records + (size_t)i * t->size, 4);
	return v;
}

static void unchain(struct table *t, u32 i)
{
	u32 *p = &t->head[t->hash[i] % TABLE];
	while (*p != NONE && *p != i)
		p = &t->chain[*p];
	if (*p == i)
		*p = t->chain[i];
}

/* The place of `record` (its first 4 bytes are ignored), newly made if need be; NONE when every place is held. */
u32 intern(struct engine *e, struct table *t, const void *record)
{
	const u8 *key = (const u8 *)record + 4;
	u32 h = keyed_hash(e->key, key, t->size - 4), i;
	for (i = t->head[h % TABLE]; i != NONE; i = t->chain[i])
		if (t->hash[i] == h && !memcmp(t->records + (size_t)i * t->size + 4, key, t->size - 4)) {
			t->used[i] = e->batch;
			return i;
		}
	if (t->serial == NONE) /* serials are never used twice: rpc_poll() ends the worker, 4 * 10^9 strangers later */
		return NONE;
	/* The clock: the first that neither this batch nor a detached call holds.  Recently used: one more lap. */
	for (u32 lap = 0; lap < 2 * TABLE; lap++) {
		i = t->hand;
		t->hand = (t->hand + 1) % TABLE;
		if (t->pins[i] || t->used[i] == e->batch || (lap < TABLE && t->used[i] && t->used[i] + RECENT > e->batch))
			continue;
		if (record_serial(t, i))
			unchain(t, i);
		memcpy(t->records + (size_t)i * t->size + 4, key, t->size - 4);
		u32 serial = t->serial++;
		memcpy(t->records + (size_t)i * t->size, &serial, 4);
		t->hash[i] = h;
		t->chain[i] = t->head[h % TABLE];
		t->head[h % TABLE] = i;
		t->used[i] = e->batch;
		return i;
	}
	return NONE;
}
