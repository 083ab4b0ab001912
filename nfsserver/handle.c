/* handle.c: file handles as bytes: layout, signature, and the kernel's handles in them.
 *
 * A handle is signed: nothing in it is believed before the MAC was compared (in constant time), except the export id, which
 * says whether a password is part of the MAC.  Layout, v3:
 *
 *   kernel scheme   1, flags, type, n, expid[4], fsid[8], n bytes of the kernel's handle, mac[8]
 *   path scheme     1, flags|1, depth, n, expid[4], proof[4], ino[8], depth bytes of chain, mac[8]       (n = 12 + depth; path.c)
 *   removable root  1, flags|4, 0, 0, expid[4], 0[8], mac[8]                              (removable.c)
 *   v2, 32 bytes    2, flags, type, n, expid[4], 16 bytes of the kernel's handle padded with 0, mac[8]
 */
#include "fh.h"
#include <sched.h>

int kernel_handle_of(int fd, const char *name, struct kernel_handle *k, int *mntid)
{
	k->h.handle_bytes = sizeof k->room;
	if (name_to_handle_at(fd, name, &k->h, mntid, *name ? 0 : AT_EMPTY_PATH))
		return errno;
	return k->h.handle_bytes > MAX_HANDLE || (unsigned)k->h.handle_type > 255 ? EOVERFLOW : 0;
}

/* Any thread. */
int open_kernel_scheme(int mntfd, u32 type, const u8 *bytes, u32 n)
{
	struct kernel_handle k;
	k.h.handle_bytes = n;
	k.h.handle_type = (int)type;
	memcpy(k.h.f_handle, bytes, n);
	int fd, tries = 0;
	do /* ENOMEM is also what it says of an inode number that is being given to a new file at this moment */
		fd = open_by_handle_at(mntfd, &k.h, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	while (fd < 0 && errno == ENOMEM && ++tries < 100 && !sched_yield());
	return fd;
}

static u64 mac_of(const u8 *fh, size_t n, u64 salt)
{
	u64 key[2] = { W.key[0] ^ salt, W.key[1] };
	return siphash(key, fh, n);
}

static int mac_differs(const u8 *at, u64 mac)
{
	u8 want[FH_MAC], diff = 0;
	memcpy(want, &mac, FH_MAC);
	for (int i = 0; i < FH_MAC; i++)
		diff |= at[i] ^ want[i];
	return diff;
}

void handle_seal(u8 *fh, size_t body, u64 salt)
{
	u64 mac = mac_of(fh, body, salt);
	memcpy(fh + body, &mac, FH_MAC);
}

/* Shape and MAC.  0, ERR_BADHANDLE, ERR_STALE (good once, but the export is gone).  *exp: its place. */
int handle_verify(const u8 *fh, u32 len, i32 *exp)
{
	u32 expid;
	if (len < 8 + FH_MAC || (fh[0] == 2 ? len != 32 : fh[0] != 1))
		return ERR_BADHANDLE;
	memcpy(&expid, fh + 4, 4);
	*exp = exp_find(ntohl(expid));
	u32 body = len - FH_MAC;
	if (mac_differs(fh + body, mac_of(fh, body, *exp >= 0 ? W.exps[*exp].salt : 0)))
		return *exp < 0 && fh[1] & FH_PASSWORD ? ERR_STALE : ERR_BADHANDLE;
	if (*exp < 0)
		return ERR_STALE;
	/* From here on it is our own handle; lengths were ours too, yet they are what bounds the copies below. */
	if (fh[0] == 1 && fh[1] & FH_PATH)
		return fh[3] + 8u == body && fh[2] <= MAX_DEPTH && fh[3] == 12 + fh[2] ? 0 : ERR_BADHANDLE;
	if (fh[0] == 1)
		return fh[3] <= MAX_HANDLE && 16u + fh[3] == body ? 0 : ERR_BADHANDLE;
	return fh[3] <= 16 ? 0 : ERR_BADHANDLE;
}

size_t handle_head(u8 *fh, u32 version, u32 flags, u32 type, u32 n, u32 expid)
{
	expid = htonl(expid);
	fh[0] = (u8)version;
	fh[1] = (u8)flags;
	fh[2] = (u8)type;
	fh[3] = (u8)n;
	memcpy(fh + 4, &expid, 4);
	return 8;
}

u8 mint_kernel(const struct export *e, const struct filesystem *f, const struct kernel_handle *k, u8 *fh)
{
	size_t n = handle_head(fh, 1, e->salt ? FH_PASSWORD : 0, (u32)k->h.handle_type, k->h.handle_bytes, e->id);
	memcpy(fh + n, f->handle_id, 8);
	memcpy(fh + n + 8, k->h.f_handle, k->h.handle_bytes);
	n += 8 + k->h.handle_bytes;
	handle_seal(fh, n, e->salt);
	return (u8)(n + FH_MAC);
}

u8 mint_removable(const struct export *e, u8 *fh)
{
	size_t n = handle_head(fh, 1, FH_ROOT | (e->salt ? FH_PASSWORD : 0), 0, 0, e->id);
	memset(fh + n, 0, 8);
	handle_seal(fh, n + 8, e->salt);
	return (u8)(n + 8 + FH_MAC);
}

/* A version 2 handle says the same as one of version 3 in fewer bytes: a file has one object, whichever way it is named. */
int fh3_of_fh2(const u8 *fh2, u8 fh[FH_MAX], u32 *len)
{
	i32 exp;
	int status = handle_verify(fh2, 32, &exp);
	if (status)
		return status;
	memcpy(fh, fh2, 8);
	fh[0] = 1;
	if (fh2[1] & FH_ROOT)
		memset(fh + 8, 0, 8);
	else
		memcpy(fh + 8, W.fs[W.exps[exp].fs].handle_id, 8);
	memcpy(fh + 16, fh2 + 8, fh2[3]);
	handle_seal(fh, 16u + fh2[3], W.exps[exp].salt);
	*len = 16u + fh2[3] + FH_MAC;
	return 0;
}

/* The version 2 handle (32 bytes) of one of version 3 that we made: 0, or ERR_NOTSUPP where the kernel's handle is over 16 bytes, there
 * is none, or it is on another file system than the export's, for which the export id stands. */
int fh2_of_fh3(const u8 *fh, u32 len, u8 out[32])
{
	u32 expid;
	memcpy(&expid, fh + 4, 4);
	i32 exp = exp_find(ntohl(expid));
	memset(out, 0, 32);
	if (len < 24 || exp < 0 || fh[1] & FH_PATH || fh[3] > 16)
		return ERR_NOTSUPP;
	const struct filesystem *f = &W.fs[W.exps[exp].fs];
	if (!(fh[1] & FH_ROOT) && (f->removable || memcmp(fh + 8, f->handle_id, 8))) /* it would not say which medium */
		return ERR_NOTSUPP;
	memcpy(out, fh, 8);
	out[0] = 2;
	memcpy(out + 8, fh + 16, fh[3]);
	handle_seal(out, 24, W.exps[exp].salt);
	return 0;
}
