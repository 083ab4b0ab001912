/* siphash.c: SipHash-2-4 (Aumasson, Bernstein): a keyed hash for short input. */
#include "parts.h"

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define ROUND(a, b, c, d) do { \
	a += b; b = ROTL(b, 13); b ^= a; a = ROTL(a, 32); \
	c += d; d = ROTL(d, 16); d ^= c; \
	a += d; d = ROTL(d, 21); d ^= a; \
	c += b; b = ROTL(b, 17); b ^= c; c = ROTL(c, 32); } while (0)

struct sip { u64 a, b, c, d; };

static struct sip sip_absorb(const u64 key[2], const void *data, size_t n, u64 wide)
{
	struct sip s = { key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull ^ wide, key[0] ^ 0x6c7967656e657261ull,
			 key[1] ^ 0x7465646279746573ull };
	const u8 *p = data;
	size_t left = n;
	u64 m;
	for (; left >= 8; left -= 8, p += 8) {
		memcpy(&m, p, 8);
		s.d ^= m;
		ROUND(s.a, s.b, s.c, s.d);
		ROUND(s.a, s.b, s.c, s.d);
		s.a ^= m;
	}
	m = (u64)n << 56;
	for (size_t i = 0; i < left; i++)
		m |= (u64)p[i] << (8 * i);
	s.d ^= m;
	ROUND(s.a, s.b, s.c, s.d);
	ROUND(s.a, s.b, s.c, s.d);
	s.a ^= m;
	return s;
}

static u64 sip_squeeze(struct sip *s)
{
	for (int i = 0; i < 4; i++)
		ROUND(s->a, s->b, s->c, s->d);
	return s->a ^ s->b ^ s->c ^ s->d;
}

u64 siphash(const u64 key[2], const void *data, size_t n)
{
	struct sip s = sip_absorb(key, data, n, 0);
	s.c ^= 0xff;
	return sip_squeeze(&s);
}

/* The variant with 128 bits of output. */
void siphash128(const u64 key[2], const void *data, size_t n, u64 out[2])
{
	struct sip s = sip_absorb(key, data, n, 0xee);
	s.c ^= 0xee;
	out[0] = sip_squeeze(&s);
	s.b ^= 0xdd;
	out[1] = sip_squeeze(&s);
}
